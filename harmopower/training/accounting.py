"""What a step costs, counted from the config, and what share of the hardware's peak it reaches.

Counted are matrix products, two operations a multiply-add: the patch embedding, the four products of every block, both
products of the attention in full (also where it is causal), the projections. Norms, activations, softmax, embedding
look-ups and the optimizer count nothing. So counts open_clip (docs/model_profile.csv): its 41.09 GFLOP forward a pair
of ViT-B/16, 35.13 for the image and 5.96 for the text, are `forward_flops`, where a tower projects its pooled vector
alone.

A train step counts as three times its forward pass, which is the custom and little more than the truth (pixels need no
gradient). Two sums of it are told apart: *model* FLOPs are what the method asks for, whatever the settings, and
utilisation is measured by them; *hardware* FLOPs add what is computed again (`model.remat=full`, `accumulate`, the
losses' tiles). A tower counts its backward pass as far down as its lowest block with a trained parameter
(`optimizer.groups`); of what is frozen above that, the weights' gradient is counted all the same.
"""

from typing import NamedTuple

import numpy as np

from harmopower.models import clip, presets, vision
from harmopower.objectives import total
from harmopower.objectives.objective import Sizes
from harmopower.training import groups, teacher
from harmopower.training import state as states


class Chip(NamedTuple):
    """Dense bfloat16 operations a second, memory in bytes (both by data sheet), and what jax calls it."""

    peak_flops: float
    memory: float
    device_kinds: tuple[str, ...]


CHIPS = {
    "a100": Chip(312e12, 80e9, ("NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe", "NVIDIA A100-SXM4-40GB")),
    "h100": Chip(989e12, 80e9, ("NVIDIA H100 80GB HBM3",)),  # SXM; the PCIe card is slower and not here
    "h200": Chip(989e12, 141e9, ("NVIDIA H200",)),
    "b200": Chip(2250e12, 180e9, ("NVIDIA B200",)),
    "v4": Chip(275e12, 32e9, ("TPU v4",)),
    "v5e": Chip(197e12, 16e9, ("TPU v5 lite", "TPU v5e")),
    "v5p": Chip(459e12, 95e9, ("TPU v5", "TPU v5p")),
    "v6e": Chip(918e12, 32e9, ("TPU v6 lite", "TPU v6e")),
}


def peak_flops(device_kind: str) -> float | None:
    """Dense bfloat16 operations a second of a chip that calls itself so (`jax.Device.device_kind`); None: unknown."""
    return next((chip.peak_flops for chip in CHIPS.values() if device_kind in chip.device_kinds), None)


# --- operations ----------------------------------------------------------------------------------------------------


def forward_flops(config) -> float:
    """Operations of both towers forward for one image-text pair, up to the pooled vectors."""
    return image_flops(config) + text_flops(config, config.data.context_length)


def image_flops(config, whole: bool = False) -> float:
    """Operations of the image tower forward for one image; `whole`: with the patches that `patch_dropout` drops."""
    preset = presets.get(config.model.preset)
    patches = _grid_patches(config) if whole else _patches(config)
    embedding = 2 * patches * 3 * preset.patch_size**2 * preset.vision.width
    return embedding + _blocks(preset.vision, patches + 1) + 2 * preset.vision.width * preset.shared


def text_flops(config, length: int, projected: int = 1) -> float:
    """Operations of the text tower forward for one text of `length` tokens, padding included, of which some project."""
    preset = presets.get(config.model.preset)
    return _blocks(preset.text, length) + 2 * projected * preset.text.width * preset.shared


def _blocks(tower: presets.Tower, tokens: int) -> float:
    """A block has 12 weights a channel pair: 3 for query, key, value, 1 for their output, 4 + 4 for the MLP."""
    return tower.layers * (24 * tokens * tower.width**2 + 4 * tokens**2 * tower.width)


def _patches(config) -> int:
    dropout = config.model.patch_dropout
    return vision.kept_patches(clip.grid(config), dropout) if dropout else _grid_patches(config)


def _grid_patches(config) -> int:
    rows, columns = clip.grid(config)
    return rows * columns


def step_flops(config, hardware: bool = False, alone_text: bool = False) -> dict[str, float]:
    """Operations of one train step over the global batch, all devices together, by part.

    Args:
      config: the run's settings.
      hardware: what is computed, instead of what the method asks for.
      alone_text: the data have regions with a text and no span (`Pipeline.alone_text`); no config says so.

    Returns:
      `towers`: both towers up to the pooled vectors. `tokens`: the projection of all tokens, the value path, and the
      pooling of regions and phrases. `region_texts`: the passes over the regions' own texts, or over their crops.
      And the losses that are switched on, by their names in `config.objective`.
    """
    again = 1 if hardware and config.accumulate > 1 else 0  # the features of every slice are computed twice
    remat = 1 if hardware and config.model.remat == "full" else 0
    back = {tower: trained * (2 + remat) for tower, trained in trained_shares(config).items()}
    towers = (1 + again + back["vision"]) * image_flops(config)
    towers += (1 + again + back["text"]) * text_flops(config, config.data.context_length)
    texts = _region_texts(config, again, back["text"], alone_text) + _crops(config, hardware)
    parts = {"towers": towers, "tokens": _tokens(config, again), "region_texts": texts}
    losses = total.loss_flops(config.objective, sizes(config), hardware)
    counted = {name: config.batch_size * value for name, value in parts.items()} | losses
    return {name: value for name, value in counted.items() if value}


def trained_shares(config) -> dict[str, float]:
    """The share of each tower, counted in blocks from its output, through which its backward pass goes."""
    if not config.optimizer.groups:
        return dict.fromkeys(groups.TOWERS, 1.0)
    model = clip.from_config(config, clip.VOCABULARY, clip.VOCABULARY - 1, total.scales(config.objective))
    shapes = states.shapes(model)
    reach = {tower: groups.depth(config.optimizer, shapes, tower) for tower in groups.TOWERS}
    layers = {"vision": model.preset.vision.layers, "text": model.preset.text.layers}
    return {tower: min(max(deepest, 0) / layers[tower], 1.0) for tower, deepest in reach.items()}


def sizes(config) -> Sizes:
    """What the objectives count their work from."""
    return Sizes(
        batch=config.batch_size,
        regions=config.data.max_boxes,
        phrases=config.data.max_phrases,
        tokens=config.data.context_length,
        width=presets.get(config.model.preset).shared,
        text_rows=text_rows(config),
    )


def text_rows(config, alone_text: bool = False) -> int:
    """How many regions of an image have their texts encoded alone (data/rows.py); 0 where no objective asks."""
    data, needed = config.data, total.active(config.objective).region_text or alone_text
    return min(data.max_region_texts or data.max_boxes, data.max_boxes) if needed else 0


def _tokens(config, again: int) -> float:
    """What reading single tokens adds to a pair; pooling by masks and boxes needs one gradient, not two."""
    preset, needs = presets.get(config.model.preset), total.active(config.objective)
    patches, length, shared = _patches(config), config.data.context_length, preset.shared
    projection = value = 0
    if needs.regions or config.model.pool == "mean":
        projection += 2 * patches * preset.vision.width * shared
    if needs.phrases or clip.text_pool(config) == "mean":
        projection += 2 * (length - 1) * preset.text.width * shared
    if config.model.dense == "value" and needs.regions:  # the last block without attention, and its projection
        value = (patches + 1) * (24 * preset.vision.width**2 + 2 * preset.vision.width * shared)
    members = config.data.max_boxes * patches * needs.regions
    members += sum(objective.pooled(sizes(config)) for objective in total.switched_on(config.objective))
    return (3 + again) * (projection + value) + (2 + again) * 2 * members * shared


def _region_texts(config, again: int, back: float, alone_text: bool) -> float:
    """What the regions' own texts cost a pair."""
    length = config.data.region_text_length
    reads_tokens = clip.text_pool(config) == "mean" or alone_text
    texts = (
        text_rows(config, alone_text)
        / config.data.region_text_every
        * text_flops(config, length, projected=length if reads_tokens else 1)
    )
    return (1 + again + back) * texts


def _crops(config, hardware: bool) -> float:
    """What the crops cost a pair: their forward pass alone, once; of the hardware the last chunk is filled up."""
    needs, count = total.active(config.objective), teacher.crop_rows(config.data)
    if not needs.crops:
        return 0.0
    filled = -count % min(needs.crop_chunk or count, count) if hardware else 0
    config = config.copy_and_resolve_references()
    if needs.crop_size:
        config.data.image_size, config.data.image_width = needs.crop_size, 0
    return (count + filled) * image_flops(config, whole=True)


# --- rates ---------------------------------------------------------------------------------------------------------


class Throughput:
    """Turns the moments at which steps were seen to be done into the rates of a row of metrics."""

    def __init__(self, config, devices: int, device_kind: str, alone_text: bool = False):
        """Counts the step's work once.

        Args:
          config: the run's settings.
          devices: chips of the run, of all processes.
          device_kind: what jax calls one of them; an unknown one has no utilisation.
          alone_text: see `step_flops`.
        """
        self._batch, self._devices = config.batch_size, devices
        self._flops = sum(step_flops(config, alone_text=alone_text).values())
        self._peak = peak_flops(device_kind)
        self._last = None
        self._seconds: list[float] = []
        self._waited = 0.0

    @property
    def step_flops(self) -> float:
        """Model FLOPs of a step, all devices together."""
        return self._flops

    def restart(self, now: float) -> None:
        """Begins to count again at `now`, after what was no training."""
        self._last = now

    def step_done(self, now: float) -> None:
        """A step was seen to be done at `now`, seconds of any clock."""
        if self._last is None:
            self._waited = 0.0  # the first step compiles; the clock starts after it
        else:
            self._seconds.append(now - self._last)
        self._last = now

    def waited(self, seconds: float) -> None:
        """The loop waited so long for a batch."""
        self._waited += seconds

    def row(self) -> dict[str, float]:
        """The rates since the last row, and begins the next one; zeros where no step has been timed.

        Returns:
          `examples_per_second` over all chips and `..._per_chip`; `step_seconds_p50` and `_p95`; `data_wait_share`, the
          share of the time that the loop waited for batches; and, of a known chip, `model_flops_utilization`: model
          FLOPs a second over the dense bfloat16 peak.
        """
        steps, seconds = len(self._seconds), max(sum(self._seconds), 1e-9)
        examples = steps * self._batch / seconds
        middle, slow = np.percentile(self._seconds or [0.0], [50, 95])
        values = {
            "examples_per_second": examples,
            "examples_per_second_per_chip": examples / self._devices,
            "step_seconds_p50": float(middle),
            "step_seconds_p95": float(slow),
            "data_wait_share": min(self._waited / seconds, 1.0) if steps else 0.0,
        }
        if self._peak:
            values["model_flops_utilization"] = steps * self._flops / (seconds * self._devices * self._peak)
        self._seconds, self._waited = [], 0.0
        return values
