"""What functions of models, features and objectives take for an array, beside jaxtyping's names of shapes."""

import jax
import numpy as np

AnyArray = jax.Array | np.ndarray  # NumPy's are taken wherever JAX's are; scalars are `jax.typing.ArrayLike`
