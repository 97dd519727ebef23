"""One model, one process: padding, order, and compiled code that is kept."""

import dataclasses
import io

import jax
import numpy as np
from PIL import Image

from harmopower.evaluation import encoder as encoders
from harmopower.evaluation import framing, looks
from harmopower.evaluation.encoder import Encoder
from harmopower.evaluation.preparing import Row
from harmopower.evaluation.suite import Look, Prepared, Seen
from harmopower.evaluation.suites.records import RecordsTask
from harmopower.features.regions import region_weights
from harmopower.features.vectors import normalise
from harmopower.models.vision import resample_position


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


def test_padding_is_no_part_of_what_is_encoded(model_and_params, tokenizer):
    """A letterboxed image, its boxes and a square one, against the model itself, told what is padding."""
    model, params = model_and_params
    encoder = Encoder(model, params, tokenizer, 64, 16, 16, region_pooling="roi_align", resize_mode="letterbox")
    noise = np.random.default_rng(0).integers(0, 256, (40, 100, 3), np.uint8)
    own = []
    for index, pixels in enumerate((noise, noise[:, :40])):
        image, boxes, kept = encoder.view.take(png(pixels), [[0.1, 0.2, 1, 1], [0, 0, 1, 1]])
        assert kept.tolist() == [0, 1]
        own.append(Row(index, Prepared(image, boxes, None)))
    assert [row.prepared.image.shape for row in own] == [(26, 64, 3), (64, 64, 3)]
    found = encoder.encode_images(filled(encoder, own))
    frames = np.full((2, 64, 64, 3), 77, np.uint8)  # whatever the padding is
    frames[0, :26], frames[1] = own[0].prepared.image, own[1].prepared.image
    content = np.array([[26, 64], [64, 64]], np.int32)
    encoded = model.apply({"params": params}, frames, content=content, method="encode_image")
    np.testing.assert_allclose(found.images, normalise(encoded.pooled), atol=1e-4)
    for image, row in enumerate(own):
        end = np.array([[2, 4], [4, 4]][image], np.int32)
        weights = region_weights(row.prepared.boxes, model.grid, "roi_align", end)
        expected = normalise(weights @ encoded.tokens[image])
        np.testing.assert_allclose(found.regions[2 * image : 2 * image + 2], expected, atol=1e-4)


def test_rectangles_and_looks_at_them(model_and_params, tokenizer):
    """A model of 32 x 96 pixels, its own features and those of a look of another shape, against the model itself."""
    model, params = model_and_params
    wide = model.clone(image_size=32, image_width=96)
    position = resample_position(params["vision"]["position"], (4, 4), (2, 6))
    params = params | {"vision": params["vision"] | {"position": position}}
    encoder = Encoder(wide, params, tokenizer, 32, 16, 16, region_pooling="roi_align", image_width=96)
    noise = np.random.default_rng(0).integers(0, 256, (40, 100, 3), np.uint8)
    image, boxes, _ = encoder.view.take(png(noise), [[0.1, 0.2, 1, 0.7], [0, 0, 1, 1]])
    look = Look((64, 32), ("cover_full",), False)
    seen = Seen(framing.squashed(Image.fromarray(noise), look.shape, Image.Resampling.BICUBIC), boxes)
    own = filled(encoder, [Row(0, Prepared(image, boxes, None, {"high": seen}))])
    assert image.shape == (32, 96, 3) and seen.image.shape == (64, 32, 3)
    found = encoder.encode_images(own)
    encoded = wide.apply({"params": params}, image[None], method="encode_image")
    np.testing.assert_allclose(found.images, normalise(encoded.pooled), atol=1e-4)
    expected = normalise(region_weights(boxes, (2, 6), "roi_align") @ encoded.tokens[0])
    np.testing.assert_allclose(found.regions, expected, atol=1e-4)
    high = model.clone(image_size=64, image_width=32)
    position = resample_position(params["vision"]["position"], (2, 6), (4, 2))
    other = params | {"vision": params["vision"] | {"position": position}}
    tokens = high.apply({"params": other}, seen.image[None], method="encode_image").tokens[0]
    expected = normalise(region_weights(boxes, (4, 2), "cover") @ tokens)
    np.testing.assert_allclose(looks.encode(encoder, own, "high", look)["cover_full"], expected, atol=1e-4)


def png(pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


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
