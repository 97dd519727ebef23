"""Examples by hand, and a tokenizer for them."""

import io

import numpy as np
from PIL import Image

from harmopower.data.tokenize import Tokenizer

CAPTION = "a dog on a red sofa, asleep"


def picture(size=(64, 48), seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def span(caption, words, label="NP", number=0):
    start = caption.index(words)
    return {"caption": number, "start": start, "end": start + len(words), "label": label}


def region(box=(0.1, 0.2, 0.5, 0.6), words="", text="", label="", caption=CAPTION):
    place = {"caption": -1, "start": -1, "end": -1}
    place |= {k: v for k, v in span(caption, words).items() if k in place} if words else {}
    return {"box": np.array(box, np.float32), **place, "text": text, "label": label}


def example(name="000001", captions=(CAPTION,), phrases=(), regions=(), image=None):
    image = picture() if image is None else image
    lists = {"phrases": list(phrases), "regions": list(regions), "negatives": []}
    return {"id": name, "image": image, "captions": list(captions), **lists}


def tree(caption=CAPTION):
    spans = {caption: "S", "a dog": "NP", "on a red sofa": "PP", "a red sofa": "NP"}
    return [span(caption, words, label) for words, label in spans.items()]


def tokenizer():
    return Tokenizer.train([CAPTION] * 4, 300)
