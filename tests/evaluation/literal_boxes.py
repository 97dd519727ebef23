"""The three box protocols as their authors' programs compute them, in plain NumPy, Pillow and PyTorch.

Written from wusize/CLIPSelf (1c7fe9c), Timsty1/FineCLIP (8095da3) and 360CVGroup/FG-CLIP (branch v1.0); nothing of the
package is used. `tokens(pixels, dense)` is the model: uint8 [n, S, S, 3] -> [n, grid * grid, D], as projected.
"""

import json
import math

import numpy as np
from PIL import Image
import torch


def load(folder, kind):
    content = json.loads((folder / "annotations" / f"{kind}_val2017.json").read_text())
    categories = sorted(content["categories"], key=lambda row: row["id"])
    return sorted(content["images"], key=lambda row: row["id"]), content["annotations"], categories


def article_prompts(name, templates):
    article = "an" if name[0] in "aeiou" else "a"
    name = name.replace("_", " ").replace("/", " or ").lower()
    texts = [template.format(name, article=article) for template in templates]
    return ["This is " + text if text.startswith("a") or text.startswith("the") else text for text in texts]


def resize_longest(image, size):
    width, height = image.size
    scale = size / float(max(height, width))
    new_height, new_width = round(height * scale), round(width * scale)
    out = np.zeros((size, size, 3), np.uint8)
    out[:new_height, :new_width] = np.asarray(image.resize((new_width, new_height), Image.BICUBIC).convert("RGB"))
    return out


def resize_max(image, size):
    width, height = image.size
    scale = size / float(max(height, width))
    new_height, new_width = round(height * scale), round(width * scale)
    out = np.zeros((size, size, 3), np.uint8)
    top, left = (size - new_height) // 2, (size - new_width) // 2
    resized = np.asarray(image.resize((new_width, new_height), Image.BICUBIC).convert("RGB"))
    out[top : top + new_height, left : left + new_width] = resized
    return out


def mask_to_grid(mask, grid):
    height, width = mask.shape
    scale = grid / float(max(height, width))
    size = [round(height * scale), round(width * scale)]
    values = torch.from_numpy(mask).float()[None, None]
    small = torch.nn.functional.interpolate(values, size=size, mode="bicubic", align_corners=False)[0, 0].numpy()
    out = np.zeros((grid, grid), bool)
    out[: size[0], : size[1]] = small > 0.0
    return out


def panoptic(folder, side, grid, crop_size):
    """Per image: pixels padded and squashed, boxes x0 y0 x1 y1 for both, masks, crops, labels, things."""
    images, annotations, categories = load(folder, "panoptic")
    label_of = {row["id"]: label for label, row in enumerate(categories)}
    thing_of = {row["id"]: row["isthing"] for row in categories}
    segments_of = {row["image_id"]: row["segments_info"] for row in annotations}
    most = min(max(map(len, segments_of.values())), 100)
    for row in images:
        image = Image.open(folder / "val2017" / row["file_name"])
        name = row["file_name"].replace("jpg", "png")
        png = np.array(Image.open(folder / "annotations" / "panoptic_val2017" / name), np.uint32)
        ids = png[..., 0] + 256 * png[..., 1] + 65536 * png[..., 2]
        width, height = image.size
        own = {"boxes": [], "masks": [], "squashed_masks": [], "crops": [], "labels": [], "things": []}
        for segment in segments_of.get(row["id"], [])[:most]:
            thing = thing_of[segment["category_id"]]
            if thing > 0:
                x, y, w, h = segment["bbox"]
                x0, y0, x1, y1 = enlarged((x, y, w, h), width, height)
            else:
                ys, xs = np.where(ids == segment["id"])
                x0, y0, x1, y1 = xs.min(), ys.min(), xs.max(), ys.max()
                x, y, w, h = x0, y0, x1 - x0, y1 - y0
            if w * h < 8**2 or w * h > 1024**2:
                continue
            own["boxes"].append([x, y, x + w, y + h])
            own["crops"].append(resize_max(image.convert("RGB").crop((x0, y0, x1, y1)), crop_size))
            own["masks"].append(mask_to_grid(ids == segment["id"], grid))
            own["squashed_masks"].append(mask_to_squashed(ids == segment["id"], crop_size // 16))
            own["labels"].append(label_of[segment["category_id"]])
            own["things"].append(thing)
        own["boxes"] = np.array(own["boxes"], float).reshape(-1, 4)
        scale = side / max(width, height)
        own["padded_boxes"] = own["boxes"] * scale / side
        own["squashed_boxes"] = own["boxes"] / [width, height, width, height]
        own["padded"] = resize_longest(image, side)
        own["squashed"] = np.asarray(image.resize((crop_size, crop_size), Image.BILINEAR).convert("RGB"))
        yield own


def instances(folder, size):
    images, annotations, categories = load(folder, "instances")
    label_of = {row["id"]: label for label, row in enumerate(categories)}
    for row in images:
        image = Image.open(folder / "val2017" / row["file_name"]).convert("RGB")
        own = [part for part in annotations if part["image_id"] == row["id"]]
        boxes = np.array([part["bbox"] for part in own], float).reshape(-1, 4)
        masks = [instance_mask(part["segmentation"], image.height, image.width) for part in own]
        crops = [resize_max(image.crop(enlarged(box, *image.size)), size) for box in boxes]
        boxes[:, 2:] += boxes[:, :2]
        yield {
            "squashed": np.asarray(image.resize((size, size))),
            "squashed_boxes": boxes / [*image.size, *image.size],
            "squashed_masks": [mask_to_squashed(mask, size // 16) for mask in masks],
            "crops": crops,
            "labels": [label_of[part["category_id"]] for part in own],
        }


def enlarged(box, width, height):
    x, y, w, h = box
    cx, cy = x + w * 0.5, y + h * 0.5
    return max(cx - w * 0.75, 0), max(cy - h * 0.75, 0), min(cx + w * 0.75, width), min(cy + h * 0.75, height)


def mask_to_squashed(mask, grid):
    """A patch counts where a pixel of the mask has a piece of it."""
    height, width = mask.shape
    out = np.zeros((grid, grid), bool)
    for row in range(grid):
        for column in range(grid):
            rows = slice(row * height // grid, -(-(row + 1) * height // grid))
            columns = slice(column * width // grid, -(-(column + 1) * width // grid))
            out[row, column] = mask[rows, columns].any()
    return out


def instance_mask(segmentation, height, width):
    """By the middles of the pixels, each by itself."""
    if isinstance(segmentation, dict):
        return run_mask(segmentation["counts"], height, width)
    out = np.zeros((height, width), bool)
    y, x = np.mgrid[:height, :width] + 0.5
    for polygon in segmentation:
        inside = np.zeros((height, width), bool)
        xs, ys = polygon[0::2], polygon[1::2]
        for i in range(len(xs)):
            j = i - 1
            between = (ys[i] > y) != (ys[j] > y)
            if ys[i] != ys[j]:
                inside ^= between & (x >= xs[i] + (xs[j] - xs[i]) * (y - ys[i]) / (ys[j] - ys[i]))
        out |= inside
    return out


def run_mask(counts, height, width):
    if isinstance(counts, str):
        numbers, p = [], 0
        while p < len(counts):
            x, k, more = 0, 0, True
            while more:
                c = ord(counts[p]) - 48
                x += (c % 32) * 32**k
                more, p, k = c >= 32, p + 1, k + 1
                if not more and c % 32 >= 16:
                    x -= 32**k
            numbers.append(x + numbers[-2] if len(numbers) > 2 else x)
        counts = numbers
    flat = [pixel for place, count in enumerate(counts) for pixel in [place % 2 == 1] * count]
    return np.array(flat).reshape(width, height).T


def roi_weights(box, grid):
    """1 x 1 RoIAlign, aligned, adaptive, as the weights of the cells."""
    x0, y0, x1, y1 = np.asarray(box, float) * grid - 0.5
    rows, columns = math.ceil(y1 - y0), math.ceil(x1 - x0)
    weights = np.zeros((grid, grid))
    for i in range(rows):
        for j in range(columns):
            y, x = y0 + (i + 0.5) * (y1 - y0) / rows, x0 + (j + 0.5) * (x1 - x0) / columns
            if not (-1 <= y <= grid and -1 <= x <= grid):
                continue
            y, x = min(max(y, 0), grid - 1), min(max(x, 0), grid - 1)
            for row in {int(y), min(int(y) + 1, grid - 1)}:
                for column in {int(x), min(int(x) + 1, grid - 1)}:
                    weights[row, column] += (1 - abs(y - row)) * (1 - abs(x - column)) / (rows * columns)
    return weights.reshape(-1)


def area_weights(box, grid):
    x0, y0, x1, y1 = np.asarray(box, float) * grid
    across = [max(min(x1, cell + 1) - max(x0, cell), 0) for cell in range(grid)]
    down = [max(min(y1, cell + 1) - max(y0, cell), 0) for cell in range(grid)]
    return np.array([[a * b for a in across] for b in down]).reshape(-1)


def weights(mode, box, mask, grid):
    if mode == "mask":
        return mask.reshape(-1).astype(float)
    if mode == "roi_align":
        return roi_weights(box, grid)
    found = area_weights(box, grid)
    return (found > 1e-6) if mode == "cover" else found


def unit(vectors):
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def class_means(top, labels, among):
    labels = np.array(labels)
    kept = [label for label in range(labels.max() + 1) if (among & (labels == label)).any()]
    return float(np.mean([top[among & (labels == label)].mean() for label in kept]))
