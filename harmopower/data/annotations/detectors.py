"""Open-vocabulary detectors of transformers: where in an image is what a text names.

Both are asked the same way: images, and for each of them texts; out come boxes with the number of the text and a score.
Boxes are y0, x0, y1, x1 in shares of the upright image.
"""

from collections.abc import Iterator, Sequence
import functools
from typing import NamedTuple

import numpy as np
from PIL import Image

from harmopower.data.annotations import models, overlap
from harmopower.data.annotations.overlays import AnnotationError

NAMES = {"grounding-dino": "IDEA-Research/grounding-dino-tiny", "owlv2": "google/owlv2-base-patch16-ensemble"}
_OVERLAP = 0.5  # two boxes of one text that overlap by more show one thing (our choice)


class Found(NamedTuple):
    """A box that shows what text number `text` names."""

    text: int
    score: float
    box: np.ndarray


class Request(NamedTuple):
    """One pass of the model: an image, and some of its texts."""

    image: int
    texts: list[int]


class Detector:
    """What the two have in common."""

    model_class: str
    processor_class: str

    def __init__(self, name: str, device: str):
        """Loads the model, its tokenizer and its image processor.

        Raises:
          AnnotationError: something is not there.
        """
        _, transformers = models.libraries()
        self._device, self._model = device, models.load(self.model_class, name, device)
        # The processors that need only Pillow: the others want torchvision, and their pixels differ a little.
        kind = getattr(transformers, self.processor_class + "Pil", None) or getattr(transformers, self.processor_class)
        try:
            self._processor = kind.from_pretrained(name)
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise AnnotationError(
                f"{name!r} lacks its tokenizer or image processor: {' '.join(str(error).split())[:300]}"
            ) from error

    def locate(
        self, pictures: Sequence[Image.Image], texts: Sequence[Sequence[str]], threshold: float, most: int
    ) -> list[list[Found]]:
        """What was found in each picture, the best of each text first.

        Args:
          pictures: upright RGB.
          texts: of each picture.
          threshold: least score.
          most: boxes of a text at most; of those that overlap the best counts.
        """
        torch, _ = models.libraries()
        requests = [Request(number, some) for number, of in enumerate(texts) for some in self._together(of)]
        found: list[list[Found]] = [[] for _ in pictures]
        for start in range(0, len(requests), max(1, len(pictures))):
            some = requests[start : start + len(pictures)]
            with torch.inference_mode():
                answers = self._ask(
                    [pictures[one.image] for one in some], [[texts[one.image][i] for i in one.texts] for one in some]
                )
            for request, (scores, boxes) in zip(some, answers):
                shares = self._in_shares(boxes, pictures[request.image].size)
                for column, text in enumerate(request.texts):
                    found[request.image] += _best(text, scores[:, column], shares, threshold, most)
        return found

    def _together(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """Which texts of an image can be asked for in one pass."""
        if texts:
            yield list(range(len(texts)))

    def _ask(self, pictures: list, texts: list[list[str]]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each picture scores `[queries, texts]` and boxes `[queries, 4]`: centre x, y, width, height, as the model
        gives them."""
        raise NotImplementedError

    def _in_shares(self, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Corners in shares of an image of that width and height."""
        del size
        return corners(boxes)

    def _pixels(self, pictures: list) -> dict:
        return dict(self._processor(images=pictures, return_tensors="pt").to(self._device))


def corners(boxes: np.ndarray) -> np.ndarray:
    """Boxes of centre x, y, width, height as y0, x0, y1, x1."""
    x, y, width, height = boxes.T
    return np.stack([y - height / 2, x - width / 2, y + height / 2, x + width / 2], axis=1)


def _best(text: int, scores: np.ndarray, boxes: np.ndarray, threshold: float, most: int) -> list[Found]:
    boxes = boxes.clip(0, 1).astype(np.float32)
    good = np.flatnonzero((scores >= threshold) & (boxes[:, 2:] - boxes[:, :2] > 1e-5).all(axis=1))
    kept = good[overlap.suppress(boxes[good], scores[good], _OVERLAP, most)]
    return [Found(text, float(scores[index]), boxes[index]) for index in kept]


class GroundingDino(Detector):
    """Liu et al. 2023: the texts of an image are one prompt, `a dog. a red sofa.`; the best token scores."""

    model_class, processor_class = "GroundingDinoForObjectDetection", "GroundingDinoImageProcessor"

    def _together(self, texts: Sequence[str]) -> Iterator[list[int]]:
        room = self._model.config.max_text_len - 2
        group, used = [], 0
        for number, text in enumerate(texts):
            tokens = len(self._tokenizer(_plain(text), add_special_tokens=False)["input_ids"]) + 1
            if group and used + tokens > room:
                yield group
                group, used = [], 0
            group.append(number)
            used += tokens
        if group:
            yield group

    def _ask(self, pictures: list, texts: list[list[str]]) -> list[tuple[np.ndarray, np.ndarray]]:
        prompts, spans = zip(*map(prompt, texts))
        limit = self._model.config.max_text_len
        tokens = self._tokenizer(
            list(prompts),
            padding=True,
            truncation=True,
            max_length=limit,
            return_offsets_mapping=True,
            return_tensors="pt",
        )
        offsets = tokens.pop("offset_mapping").numpy()
        answer = self._model(**self._pixels(pictures), **tokens.to(self._device))
        scores, boxes = answer.logits.float().sigmoid().cpu().numpy(), answer.pred_boxes.float().cpu().numpy()
        return [
            (np.stack([_span_score(scores[row], offsets[row], span) for span in spans[row]], axis=1), boxes[row])
            for row in range(len(pictures))
        ]


def prompt(texts: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """One prompt of several texts, each ended by a point, and the characters of each."""
    joined, spans = "", []
    for text in map(_plain, texts):
        spans.append((len(joined), len(joined) + len(text)))
        joined += text + ". "
    return joined.strip(), spans


def _plain(text: str) -> str:
    """Points and question marks divide the texts of a prompt, so there are none within one."""
    return " ".join(text.lower().replace(".", " ").replace("?", " ").split())


def _span_score(scores: np.ndarray, offsets: np.ndarray, span: tuple[int, int]) -> np.ndarray:
    """The best of a text's tokens for each query; 0 where all of it was cut."""
    inside = np.flatnonzero(np.maximum(offsets[:, 0], span[0]) < np.minimum(offsets[:, 1], span[1]))
    return scores[:, inside].max(axis=1, initial=0.0)


class Owlv2(Detector):
    """Minderer et al. 2023: every text is a query of its own."""

    model_class, processor_class = "Owlv2ForObjectDetection", "Owlv2ImageProcessor"

    def _ask(self, pictures: list, texts: list[list[str]]) -> list[tuple[np.ndarray, np.ndarray]]:
        torch, _ = models.libraries()
        length = self._model.config.text_config.max_position_embeddings
        most = max(map(len, texts))
        flat = [text for some in texts for text in some]
        encoded = self._tokenizer(flat, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        # Rows of zeros stand for queries that are not there: the model masks them.
        ids, attention = (torch.zeros((len(texts), most, length), dtype=torch.long) for _ in range(2))
        there = torch.arange(most)[None] < torch.tensor([len(some) for some in texts])[:, None]
        ids[there], attention[there] = encoded["input_ids"], encoded["attention_mask"]
        answer = self._model(
            **self._pixels(pictures),
            input_ids=ids.flatten(0, 1).to(self._device),
            attention_mask=attention.flatten(0, 1).to(self._device),
        )
        scores, boxes = answer.logits.float().sigmoid().cpu().numpy(), answer.pred_boxes.float().cpu().numpy()
        return [(scores[row][:, : len(some)], boxes[row]) for row, some in enumerate(texts)]

    def _in_shares(self, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """The model saw the image in a square, at its left upper corner."""
        width, height = (max(size) / side for side in size)
        return corners(boxes) * np.array([height, width, height, width])


_KINDS = {"grounding-dino": GroundingDino, "owlv2": Owlv2}


def kind_of(name: str) -> type[Detector]:
    """Which of the two a model is.

    Raises:
      AnnotationError: neither, or it is not there.
    """
    found = models.config_of(NAMES.get(name, name)).model_type
    if found not in _KINDS:
        raise AnnotationError(f"model {name!r} is of type {found!r}; detectors are {', '.join(_KINDS)}")
    return _KINDS[found]


@functools.lru_cache(maxsize=1)
def detector(name: str, device: str) -> Detector:
    """The detector of this process; `name` is one of `NAMES`, a folder or a name on the hub."""
    return kind_of(name)(NAMES.get(name, name), device)
