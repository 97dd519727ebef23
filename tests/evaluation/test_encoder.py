"""One model, one process: padding, order, and compiled code that is kept."""

import dataclasses

import jax
import numpy as np

from harmopower.evaluation import encoder as encoders
from harmopower.evaluation.encoder import Encoder
from harmopower.evaluation.preparing import Row
from harmopower.evaluation.suites.records import RecordsTask
from harmopower.features.regions import region_weights
from harmopower.features.vectors import normalise


def rows(encoder, data, indices):
    task = RecordsTask(data, "test", [], 8)
    return [Row(index, task.prepare(task.source[index], encoder.view)) for index in indices]


def filled(encoder, own):
    return own + [Row(-1, None)] * (encoder.share.count - len(own))


def test_a_batch_does_not_depend_on_its_padding_and_comes_in_order(encoder, model_and_params, data):
    own = rows(encoder, data, [3, 0, 1, 2])
    whole = encoder.encode_images(filled(encoder, own))
    assert list(whole.indices) == [0, 1, 2, 3] and whole.images.shape == (4, 128)
    counts = [len(row.prepared.boxes) for row in sorted(own)]
    assert len(whole.regions) == sum(counts)
    np.testing.assert_allclose(np.linalg.norm(whole.regions, axis=-1), 1, atol=1e-5)
    last = encoder.encode_images(filled(encoder, [Row(-1, None), Row(7, None, "broken"), own[0]]))
    assert list(last.indices) == [3]
    np.testing.assert_allclose(whole.images[-1:], last.images, atol=1e-5)
    np.testing.assert_allclose(whole.regions[-counts[-1] :], last.regions, atol=1e-5)
    model, params = model_and_params
    encoded = model.apply({"params": params}, own[0].prepared.image[None], method="encode_image")
    weights = region_weights(own[0].prepared.boxes, model.grid, "overlap")
    np.testing.assert_allclose(last.regions, normalise(weights @ encoded.tokens[0]), atol=1e-4)


def test_a_batch_without_a_usable_example_is_empty(encoder):
    found = encoder.encode_images([Row(-1, None)] * encoder.share.count)
    assert len(found.indices) == 0 and found.images.shape == found.regions.shape == (0, 128)


def test_new_parameters_change_the_result_without_compiling_again(encoder, model_and_params, tokenizer):
    texts = ["a red circle", "a blue square"] * encoder.share.batch_size
    before, compiled = encoder.encode_texts(texts), encoders._text_features._cache_size()
    model, params = model_and_params
    # Negated parameters are another function; an equal model, rebuilt, must find the compiled code.
    equal, negated = dataclasses.replace(model, parent=None), jax.tree.map(lambda leaf: -leaf, params)
    other = Encoder(equal, negated, tokenizer, encoder.view.image_size, 16, encoder.share.batch_size)
    assert np.abs(other.encode_texts(texts) - before).max() > 0.01
    assert encoders._text_features._cache_size() == compiled
    np.testing.assert_allclose(before[:2], before[-2:], atol=1e-5)
