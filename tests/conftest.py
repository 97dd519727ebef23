"""Compiled programs are shared between the tests, and with the commands that they start; shapes are checked."""

import os
import tempfile

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "harmopower-test-cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# The shapes and types that functions promise are looked at in every test of this process, when a program is traced; in
# training, and in the commands that tests start as users do, nothing looks. HARMOPOWER_CHECK_SHAPES=0 leaves it off.
if os.environ.get("HARMOPOWER_CHECK_SHAPES") != "0":
    import jaxtyping

    CHECKED = ["harmopower.features", "harmopower.models", "harmopower.objectives"]
    # Where a float is asked for, Python takes an int too (PEP 484).
    jaxtyping.install_import_hook(CHECKED, "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")
