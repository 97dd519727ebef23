"""One example to one row of a batch: a caption, a crop and the regions are drawn, and all of it becomes arrays.

`Batch` is a dict of NumPy arrays, its leading axis the `b` examples of this host:

    image       uint8   [b, H, W, 3]
    content     int32   [b, 2]        rows and columns of pixels that are not padding; only with `padded`
    tokens      int32   [b, T]
    phrases     bool    [b, K, T]     which tokens belong to which phrase; the first one is the root
    boxes       float32 [b, M, 4]     normalised y0, x0, y1, x1 after the crop, in shares of H and W
    box_valid   bool    [b, M]
    box_phrase  int32   [b, M]        index into phrases, -1 for none
    box_group   int32   [b, M]        equal for equal texts (CRC-32, lower case), 0 for regions without text
    box_tokens  int32   [b, R, S]     the texts alone of the first R regions (all of them unless `max_region_texts`
                                      says less); only with `region_text` or `alone_text`; 0 for none
    box_alone   bool    [b, R]        the region has a text but no phrase; only with `alone_text`
    cut         bool    [b]           the caption is longer than T tokens
    weight      float32 [b]           0 for a record that cannot be used; the rest of its row is zero, box_phrase -1

What the text of a region is, and which of several, region_texts.py says.
"""

from collections.abc import Sequence
import dataclasses
from typing import NamedTuple
import zlib

import numpy as np

from harmopower.data import images, records, region_texts, tokenize, transforms

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Options:
    """How examples become arrays; the fields of `config.data` of the same names.

    `regions` is `boxes` (stored), `random` (PowerCLIP-R, drawn on the patch grid) or `mixed` (stored, topped up with
    random ones to `max_boxes`); METHOD section 2. `grid` is the rows and columns of patches, needed for random regions.
    `region_text`: the texts of all regions are encoded alone; `alone_text`: at least those of regions without a phrase.
    `padded`: some data set of the run is letterboxed, this one or another.
    """

    image_size: int
    context_length: int
    max_phrases: int
    max_boxes: int
    regions: str = "boxes"
    region_text_length: int = 16
    min_crop_area: float = 1.0
    crop_aspect: str = "relative"
    resize_mode: str = "squash"
    resize_filter: str = "bicubic"
    region_text: bool = False
    alone_text: bool = False
    label_prompt: str = "{}"
    region_text_choice: str = "first"
    max_region_texts: int = 0
    max_region_crops: int = 0
    grid: tuple[int, int] | None = None
    padded: bool = False
    image_width: int = 0

    @property
    def shape(self) -> transforms.Shape:
        """H and W."""
        return transforms.shape_of(self)

    @property
    def text_rows(self) -> int:
        """R, how many regions of an image have their texts encoded alone."""
        return min(self.max_region_texts or self.max_boxes, self.max_boxes)

    @property
    def draws_regions(self) -> bool:
        """Whether it matters which regions come first: only these have their texts, or their crops, encoded."""
        return any(0 < few < self.max_boxes for few in (self.max_region_texts, self.max_region_crops))

    def __post_init__(self):
        if self.regions not in ("boxes", "random", "mixed"):
            raise ValueError(f"config.data.regions is {self.regions!r}; it must be boxes, random or mixed")
        if self.resize_mode not in transforms.RESIZE_MODES:
            known = ", ".join(transforms.RESIZE_MODES)
            raise ValueError(f"config.data.resize_mode is {self.resize_mode!r}; it must be one of {known}")
        if self.resize_mode == "letterbox" and not self.padded:
            raise ValueError("config.data.resize_mode is 'letterbox', so batches must say what is padding: padded=True")
        if self.regions != "boxes" and self.grid is None:
            raise ValueError(f"config.data.regions {self.regions!r} needs the model's patch grid, but grid is None")
        if self.context_length < 3:
            raise ValueError(f"config.data.context_length is {self.context_length}; start, end and a token need 3")
        if not 0 < self.min_crop_area <= 1:
            raise ValueError(f"config.data.min_crop_area is {self.min_crop_area}; it must be above 0 and at most 1")


def empty_rows(rows: int, options: Options) -> Batch:
    """Rows without content: their shapes and types."""
    boxes, length = options.max_boxes, options.context_length
    batch = {
        "image": np.zeros((rows, *options.shape, 3), np.uint8),
        "tokens": np.zeros((rows, length), np.int32),
        "phrases": np.zeros((rows, options.max_phrases, length), bool),
        "boxes": np.zeros((rows, boxes, 4), np.float32),
        "box_valid": np.zeros((rows, boxes), bool),
        "box_phrase": np.full((rows, boxes), -1, np.int32),
        "box_group": np.zeros((rows, boxes), np.int32),
        "cut": np.zeros(rows, bool),
        "weight": np.zeros(rows, np.float32),
    }
    if options.region_text or options.alone_text:
        batch["box_tokens"] = np.zeros((rows, options.text_rows, options.region_text_length), np.int32)
    if options.padded:
        batch["content"] = np.zeros((rows, 2), np.int32)
    if options.alone_text:
        batch["box_alone"] = np.zeros((rows, options.text_rows), bool)
    return batch


def make_rows(
    examples: Sequence[dict],
    rngs: Sequence[np.random.Generator],
    tokenizer: tokenize.Tokenizer,
    options: Sequence[Options],
) -> tuple[Batch, dict[str, str]]:
    """Makes rows of a batch: draws a caption, a crop and the regions of each example.

    In two stages, all pictures and then all words: a picture is larger than a processor's caches, and what words need
    would have to be fetched anew behind each one (docs/benchmarks.md, "Rows").

    Args:
      examples: what is to be in the rows.
      rngs: of each example, for all that is drawn.
      tokenizer: for captions and region texts.
      options: of each example; shapes are those of the first.

    Returns:
      `Batch`, and of each record that cannot be used the id and what is wrong; its row is that of `empty_rows`.
    """
    batch, problems, drawn = empty_rows(len(examples), options[0]), {}, []
    for row, (example, rng, own) in enumerate(zip(examples, rngs, options, strict=True)):
        try:
            picture = _draw_picture(batch["image"][row], example, rng, own)
        except records.RecordError as error:
            problems[example["id"]] = str(error)
        else:
            drawn.append((row, picture))
    for row, picture in drawn:
        values = {name: array[row : row + 1] for name, array in batch.items()}
        _fill_words(values, examples[row], picture, rngs[row], tokenizer, options[row])
    return batch, problems


class _Picture(NamedTuple):
    """What was drawn for a picture: the number of the caption, the window, and the pixels that it fills."""

    caption: int
    window: transforms.Window
    content: transforms.Shape


def _draw_picture(pixels: np.ndarray, example: dict, rng, options: Options) -> _Picture:
    """Fills in the picture."""
    problems = records.check(example, decode_image=False)
    if problems:
        raise records.RecordError("; ".join(problems))
    caption = int(rng.integers(len(example["captions"])))
    image = _decode(example)
    window = _draw_window(rng, image.size, options)
    content = transforms.content_of(image.size, window, options.shape, options.resize_mode)
    resized = transforms.crop_and_resize(image, window, content, options.resize_filter)
    pixels[: content[0], : content[1]] = resized
    return _Picture(caption, window, content)


def _fill_words(row: Batch, example: dict, picture: _Picture, rng, tokenizer, options: Options) -> None:
    """Fills in all that is not the picture; arrays have a leading axis of one, which numbers need to be written to."""
    caption, text = picture.caption, example["captions"][picture.caption]
    tokens, offsets = tokenizer.encode(text, options.context_length)
    boxes, regions = _draw_regions(example, picture, rng, options)
    spans = [(phrase["start"], phrase["end"]) for phrase in example["phrases"] if phrase["caption"] == caption]
    row["phrases"][0], box_phrase = _link(offsets, spans, regions, options)
    prompts = region_texts.prompts(options.label_prompt)
    texts = [region_texts.text_of(region, text, prompts, rng) for region in regions]
    row["tokens"][0] = tokens
    row["boxes"][0, : len(boxes)] = boxes
    row["box_valid"][0, : len(boxes)] = True
    row["box_phrase"][0, : len(box_phrase)] = box_phrase
    row["box_group"][0, : len(texts)] = [_group(text.same) for text in texts]
    row["cut"][0] = offsets.max() < len(text.rstrip())
    row["weight"][0] = 1
    if options.padded:
        row["content"][0] = picture.content
    if options.region_text or options.alone_text:
        row["box_tokens"][0] = _region_tokens([text.words for text in texts], tokenizer, options)
    if options.alone_text:
        alone = (np.array([bool(text.words) for text in texts], bool) & (box_phrase < 0))[: options.text_rows]
        row["box_alone"][0, : len(alone)] = alone


def _decode(example: dict):
    try:
        return images.decode(example["image"])
    except records.RecordError as error:
        raise records.RecordError(f"record {example['id']}: {error}") from error


def _draw_window(rng: np.random.Generator, size: tuple[int, int], options: Options) -> transforms.Window:
    if options.min_crop_area < 1 and options.crop_aspect == "absolute":
        return transforms.absolute_window(rng, options.min_crop_area, size)
    if options.min_crop_area < 1:
        return transforms.random_window(rng, options.min_crop_area)
    return transforms.fixed_window(size, options.shape, options.resize_mode)


def _draw_regions(example: dict, picture: _Picture, rng, options: Options) -> tuple[np.ndarray, list[dict]]:
    """Returns at most `max_boxes` boxes in the frame, and the regions of the stored ones, which come first."""
    boxes, regions = np.zeros((0, 4), np.float32), []
    if options.regions != "random":
        regions = region_texts.regions_of(example, picture.caption, options.region_text_choice, rng)
        stored = [region["box"] for region in regions]
        boxes, kept = transforms.move_boxes(stored, picture.window, options.shape, picture.content)
        chosen = np.flatnonzero(kept)
        if len(chosen) > options.max_boxes or options.draws_regions:
            chosen = rng.permutation(chosen)[: options.max_boxes]
        boxes, regions = boxes[chosen], [regions[index] for index in chosen]
    if options.regions != "boxes":
        assert options.grid is not None  # `Options` has looked
        missing = options.max_boxes - len(boxes)
        axes = zip(picture.content, options.grid, options.shape, strict=True)
        filled = [-(-pixels * patches // side) for pixels, patches, side in axes]
        boxes = np.concatenate([boxes, random_boxes(rng, missing, options.grid, filled)])
    return boxes, regions


def random_boxes(rng: np.random.Generator, count: int, grid: tuple[int, int], filled=None) -> np.ndarray:
    """Draws boxes of whole patches, as PowerCLIP-R (METHOD section 2).

    Per side, the centre patch is uniform over the grid and the length uniform over 1 to all patches; what leaves the
    grid is cut, so at least the centre patch stays.

    Args:
      rng: source of randomness.
      count: number of boxes.
      grid: rows and columns of patches.
      filled: those of them that are not padding, over which is drawn; None: all.

    Returns:
      `float32 [count, 4]`, normalised y0, x0, y1, x1.
    """
    sides = np.asarray(filled or grid)
    centre = rng.integers(sides, size=(count, 2))
    length = rng.integers(1, sides + 1, size=(count, 2))
    start = centre - (length - 1) // 2
    corners = [start.clip(0), np.minimum(start + length, sides)]
    return (np.concatenate(corners, axis=1) / np.tile(grid, 2)).astype(np.float32)


def _link(offsets: np.ndarray, spans: list, regions: list[dict], options: Options) -> tuple[np.ndarray, np.ndarray]:
    """Returns the phrases of the row and, for each stored region, the phrase that names it."""
    spanned = [index for index, region in enumerate(regions) if region["caption"] >= 0]
    linked = [(regions[index]["start"], regions[index]["end"]) for index in spanned]
    phrases, rows = tokenize.phrase_masks(offsets, spans, linked, options.max_phrases)
    box_phrase = np.full(len(regions), -1, np.int32)
    box_phrase[spanned] = rows
    return phrases, box_phrase


def _group(text: str) -> int:
    checksum = zlib.crc32(text.lower().encode()) if text else 0
    return checksum - (1 << 32) if checksum >= 1 << 31 else checksum


def _region_tokens(texts: list[str], tokenizer: tokenize.Tokenizer, options: Options) -> np.ndarray:
    tokens = np.zeros((options.text_rows, options.region_text_length), np.int32)
    for row, text in zip(tokens, texts, strict=False):
        if text:
            row[:] = tokenizer.encode(text, options.region_text_length)[0]
    return tokens
