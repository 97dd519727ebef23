"""Every suite finds the same numbers on any number of devices, with uneven last batches; each example counts once.

A figure may differ only where two scores lie within rounding of each other: the vectors of one device and of many
differ by at most `MARGIN`, so a score moves by at most two of them. Boxes over the same patches have the same vector
but for rounding, so phrases ranked among them flip now and then; how many do is counted, each is held to its bounds.
"""

import collections
import dataclasses
import itertools

import jax
import numpy as np
import pytest

from harmopower.data import images as decoding
from harmopower.evaluation import grounding, running
from harmopower.evaluation.encoder import Encoder
from harmopower.evaluation.suite import FEATURES
from harmopower.parallel import mesh as meshes
from tests.evaluation import miniatures
from tests.evaluation.test_encoder_multi_device import place

if jax.device_count() < 8:
    pytest.skip("run with XLA_FLAGS=--xla_force_host_platform_device_count=8", allow_module_level=True)

pytestmark = pytest.mark.slow
MARGIN, BATCH = 1e-5, 8  # the length of a difference of two unit vectors; no set but one is a multiple of 8
FLIPPED = "flickr30k_entities"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return miniatures.everything(tmp_path_factory.mktemp("everything"))


@pytest.fixture
def chosen(config, root):
    config.evaluation.suite, config.evaluation.data, config.evaluation.padded_size = miniatures.SUITES, str(root), 128
    config.evaluation.box_features, config.evaluation.batch_size = ",".join(FEATURES), BATCH
    return config


class Seen:
    """What a run saw: images that were decoded, the numbers of the examples, and the vectors of each task."""

    def __init__(self, config, model, params, tokenizer, devices, patch):
        self.decoded, self.indices, self.tasks, self.vectors = collections.Counter(), [], [], []
        decode, encode, gather = decoding.decode, Encoder.encode_images, running._encode
        patch.setattr(decoding, "decode", lambda data: (self.decoded.update([data]), decode(data))[1])
        patch.setattr(Encoder, "encode_images", lambda own, rows: self._kept(self.indices, encode(own, rows)))
        patch.setattr(running, "_encode", lambda *arguments: self._kept(self.vectors, gather(*arguments), arguments[0]))
        mesh = meshes.make_mesh(devices=jax.devices()[:devices])
        with jax.set_mesh(mesh):
            encoder = Encoder(model, place(model, params, mesh), tokenizer, 64, 16, BATCH, region_pooling="overlap")
            self.found = running.run(config, encoder)

    def _kept(self, where, value, task=None):
        where.append(value)
        self.tasks.extend([task] if task else [])
        return value

    def entities(self, margin, patch):
        """The figures of Flickr30k Entities where every right score is better by `margin`."""
        plain = grounding.before
        task, vectors = next(
            (task, vectors)
            for task, vectors in zip(self.tasks, self.vectors, strict=True)
            if type(task).__name__ == "Entities"
        )
        with patch.context() as within:
            within.setattr(grounding, "before", lambda scores, right: plain(scores + margin * right, right))
            found = task.measure(vectors)
        return {f"{FLIPPED}/{name}": value for name, value in found.metrics.items()}

    def arrays(self):
        for each in self.vectors:
            yield from (each.images, each.regions)
            yield from (own for look in each.looks.values() for own in look.values())


@pytest.fixture(scope="module")
def alone(root, model_and_params, tokenizer, data):
    """One device."""
    from harmopower.config import get_config

    config = get_config()
    config.data.source, config.data.image_size, config.data.context_length = str(data), 64, 16
    config.model.preset, config.model.pool = "tiny", "mean"
    config.evaluation.suite, config.evaluation.data, config.evaluation.padded_size = miniatures.SUITES, str(root), 128
    config.evaluation.box_features, config.evaluation.batch_size = ",".join(FEATURES), BATCH
    with pytest.MonkeyPatch.context() as patch:
        return Seen(config, *model_and_params, tokenizer, 1, patch)


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_any_number_of_devices_finds_the_same(alone, chosen, model_and_params, tokenizer, devices, monkeypatch):
    many = Seen(chosen, *model_and_params, tokenizer, devices, monkeypatch)
    for one, other in zip(alone.arrays(), many.arrays(), strict=True):
        assert one.shape == other.shape
        assert not one.size or np.linalg.norm(one - other, axis=-1).max() <= MARGIN
    one, other = alone.found.metrics, many.found.metrics
    flipped = [name for name in one if one[name] != other[name]]
    worst, best = (alone.entities(sign * 2 * MARGIN, monkeypatch) for sign in (-1, 1))
    assert len(one) > 60 and len(flipped) <= 3
    assert all(worst[name] <= min(one[name], other[name]) for name in flipped)  # a KeyError: another suite's
    assert all(best[name] >= max(one[name], other[name]) for name in flipped)
    same = dataclasses.replace(many.found, metrics=one)
    assert other.keys() == one.keys() and same == alone.found


def test_each_example_counts_once_and_each_image_is_decoded_once(alone):
    assert {name.split("/")[0] for name in alone.found.metrics} == {
        *("test", "test_unseen", "food101", "voc2007_multilabel", "flickr8k", "sugar_crepe", "winoground"),
        *("aro_relation", "coco_boxes", "flickr30k_entities", "fg_ovd"),
    }
    starts = [place for place, part in enumerate(alone.indices) if 0 in part.indices] + [len(alone.indices)]
    sizes = []
    for start, end in itertools.pairwise(starts):
        numbers = np.concatenate([part.indices for part in alone.indices[start:end]])
        np.testing.assert_array_equal(numbers, np.arange(len(numbers)))
        sizes.append(len(numbers))
    assert sizes == [len(each.facts) for each in alone.vectors] and all(size % BATCH for size in sizes[2:])
    # A picture of several sets is decoded once for each: FG-OVD's are three of COCO's, COCO's have PNGs but for one.
    assert sum(alone.decoded.values()) == sum(sizes) + 12
    assert max(alone.decoded.values()) <= 2
