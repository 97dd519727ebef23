"""Boxes of the masks that SAM and SAM 2 find when they are asked at every point of a grid.

The models are those of transformers; its own pipeline and SAM 2's processor need torchvision, so what is before and
after them is here: preprocessing as those models were trained with, and the filters of Kirillov et al. 2023 (Segment
Anything, appendix B): predicted quality, stability under another threshold, and non-maximum suppression of the boxes.
Boxes are taken from the masks as the decoder gives them, a quarter of the model's input in each direction; that is far
finer than the patches that regions are pooled over (our choice).
"""

import dataclasses
import functools
import math

import numpy as np
from PIL import Image

from harmopower.data.annotations import models, overlap
from harmopower.data.annotations.overlays import AnnotationError

CLASSES = {"sam": "SamModel", "sam2": "Sam2Model"}
_TYPES = {"sam": ("sam",), "sam2": ("sam2", "sam2_video")}  # SAM 2 is published as the image part of a video model
_POINTS_AT_ONCE = 64
_OFFSET = 1.0  # of the stability score: the mask at logit +1 against the one at -1


@dataclasses.dataclass(frozen=True)
class Filters:
    """Which masks count.

    Attributes:
      min_score: the model's own estimate of a mask's quality.
      min_stability: intersection over union of the mask at logits above +1 and above -1.
      min_area: of the mask, a share of the image.
      overlap: boxes that overlap a better one by more are dropped.
      most: boxes of an image at most, the best ones.
    """

    min_score: float
    min_stability: float
    min_area: float
    overlap: float
    most: int


class Segmenter:
    """One of the two models, and how it wants its images: `SAM` scaled and padded, `SAM 2` stretched to a square."""

    def __init__(self, kind: str, name: str, device: str):
        """Loads the model.

        Raises:
          AnnotationError: it is not there, or of another kind.
        """
        check_kind(kind, name)
        self._model = models.load(CLASSES[kind], name, device)
        self._device, self._padded = device, kind == "sam"
        config = self._model.config
        side = config.vision_config.image_size if self._padded else config.prompt_encoder_config.image_size
        self._side = int(side if isinstance(side, int) else side[0])

    def boxes(self, pictures: list[Image.Image], points: int, filters: Filters) -> list[list[tuple[float, np.ndarray]]]:
        """The boxes of each picture with their scores, the best first; `y0, x0, y1, x1` in shares of the picture.

        Args:
          pictures: upright RGB.
          points: of the grid, in each direction.
        """
        torch, _ = models.libraries()
        sizes = [self._size(picture) for picture in pictures]
        pixels = torch.stack([torch.from_numpy(self._pixels(*pair)) for pair in zip(pictures, sizes)])
        with torch.inference_mode():
            embedded = self._model.get_image_embeddings(pixels.to(self._device))
            return [self._of_picture(_row(embedded, row), size, points, filters) for row, size in enumerate(sizes)]

    def _size(self, picture: Image.Image) -> tuple[int, int]:
        """Width and height that the picture takes of the model's square."""
        if not self._padded:
            return self._side, self._side
        scale = self._side / max(picture.size)
        width, height = (max(1, int(side * scale + 0.5)) for side in picture.size)
        return width, height

    def _pixels(self, picture: Image.Image, size: tuple[int, int]) -> np.ndarray:
        """`float32 [3, S, S]`, padded at the right and below with zeros, as after the mean is taken off."""
        values = np.asarray(picture.resize(size, Image.Resampling.BILINEAR), np.float32) / 255
        square = np.zeros((self._side, self._side, 3), np.float32)
        square[: size[1], : size[0]] = (values - models.MEAN) / models.STD
        return square.transpose(2, 0, 1)

    def _of_picture(self, embedded, size, points: int, filters: Filters) -> list[tuple[float, np.ndarray]]:
        torch, _ = models.libraries()
        grid = torch.from_numpy(point_grid(points) * np.array(size, np.float32)).to(self._device)
        scores, boxes = [], []
        for some in grid.split(_POINTS_AT_ONCE):
            found = self._model(
                image_embeddings=embedded,
                input_points=some[None, :, None],
                input_labels=torch.ones((1, len(some), 1), dtype=torch.int, device=self._device),
                multimask_output=True,
            )
            logits = found.pred_masks.flatten(0, 2).float()
            good = filtered(logits, found.iou_scores.flatten().float(), self._share(size), filters)
            scores.append(good[0])
            boxes.append(good[1])
        scores, boxes = np.concatenate(scores), np.concatenate(boxes)
        kept = overlap.suppress(boxes, scores, filters.overlap, filters.most)
        return [(float(scores[index]), boxes[index]) for index in kept]

    def _share(self, size: tuple[int, int]) -> tuple[float, float]:
        """Height and width of the picture in shares of the square."""
        return size[1] / self._side, size[0] / self._side


def check_kind(kind: str, name: str) -> None:
    """Looks at a model's configuration.

    Raises:
      AnnotationError: it is not there, or the model is another one.
    """
    found = models.config_of(name).model_type
    if found not in _TYPES[kind]:
        raise AnnotationError(
            f"--source {kind}:{name}: that model is of type {found!r}, not {' or '.join(_TYPES[kind])}"
        )


@functools.lru_cache(maxsize=1)
def segmenter(kind: str, name: str, device: str) -> Segmenter:
    """The model of this process."""
    return Segmenter(kind, name, device)


def _row(embedded, row: int):
    """The embedding of one image: SAM has one tensor, SAM 2 a list of them."""
    if isinstance(embedded, (list, tuple)):
        return [level[row : row + 1] for level in embedded]
    return embedded[row : row + 1]


def point_grid(points: int) -> np.ndarray:
    """`float32 [points ** 2, 2]`, x and y in shares of the picture, each in the middle of its field."""
    middles = (np.arange(points, dtype=np.float32) + 0.5) / points
    return np.stack(np.meshgrid(middles, middles), axis=-1).reshape(-1, 2)


def filtered(logits, scores, share: tuple[float, float], filters: Filters) -> tuple[np.ndarray, np.ndarray]:
    """The masks that pass the filters, as scores `[K]` and boxes `[K, 4]` in shares of the picture.

    Args:
      logits: torch `[N, h, w]` over the model's square; inside is above 0.
      scores: torch `[N]`, the estimated quality.
      share: height and width of the picture in shares of the square, from the left upper corner.
    """
    height, width = (share[0] * logits.shape[1], share[1] * logits.shape[2])
    logits = logits[:, : math.ceil(height), : math.ceil(width)]  # what lies on the padding is no part of the picture
    inside = logits > 0
    area = inside.sum((1, 2)) / (height * width)
    stability = (logits > _OFFSET).sum((1, 2)) / (logits > -_OFFSET).sum((1, 2)).clamp(min=1)
    good = (scores >= filters.min_score) & (stability >= filters.min_stability)
    good &= (area >= filters.min_area) & inside.any(2).any(1)
    boxes = mask_boxes(inside[good]).cpu().numpy() / np.array([height, width, height, width])
    return scores[good].cpu().numpy(), boxes.clip(0, 1).astype(np.float32)


def mask_boxes(masks):
    """The boxes around masks: torch `bool [N, h, w]`, none of them empty, -> `[N, 4]`, y0, x0, y1, x1 in pixels."""
    torch, _ = models.libraries()
    edges = []
    for axis in (2, 1):
        there = masks.any(axis).int()  # by rows, then by columns
        edges.append((there.argmax(1), there.shape[1] - there.flip(1).argmax(1)))
    (top, bottom), (left, right) = edges
    return torch.stack([top, left, bottom, right], dim=1)
