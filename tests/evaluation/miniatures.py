"""Miniatures of published sets, written as their publishers write them; nothing of the package is used."""

import io
import json
import tarfile

import numpy as np
from PIL import Image

COLOURS = ("red", "green", "blue", "yellow", "white", "black", "orange")


def picture(seed, size=(40, 28), kind="PNG") -> bytes:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (4, 5, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(buffer, kind)
    return buffer.getvalue()


def array(values) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(values))
    return buffer.getvalue()


def write_shards(folder, samples, a_tar=5, classes=(), templates=(), kind=""):
    """clip_benchmark's layout; `samples` are dicts of ending -> bytes."""
    (folder / "test").mkdir(parents=True)
    tars = [samples[start : start + a_tar] for start in range(0, len(samples), a_tar)]
    number = 0
    for name, tar_samples in enumerate(tars):
        with tarfile.open(folder / "test" / f"{name}.tar", "w") as tar:
            for sample in tar_samples:
                for ending, data in sample.items():
                    member = tarfile.TarInfo(f"s{number:07d}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
                number += 1
    (folder / "test" / "nshards.txt").write_text(f"{len(tars)}\n")
    if classes:
        (folder / "classnames.txt").write_text("\n".join(classes) + "\n")
        (folder / "zeroshot_classification_templates.txt").write_text("\n".join(templates) + "\n")
    if kind:
        (folder / "dataset_type.txt").write_text(kind + "\n")
    return folder


TEMPLATES = ("a photo of a {c}.", "a bad picture of the {c}", "{c}")


def classification(folder, count=23, classes=COLOURS):
    labels = np.random.default_rng(1).integers(0, len(classes), count)
    kinds = ("webp", "png", "jpg")
    samples = [
        {kinds[i % 3]: picture(i, kind={"jpg": "JPEG"}.get(kinds[i % 3], kinds[i % 3].upper())), "cls": b"%d" % label}
        for i, label in enumerate(labels)
    ]
    write_shards(folder, samples, classes=classes, templates=TEMPLATES)
    return labels


def multilabel(folder, count=17, classes=COLOURS):
    targets = np.random.default_rng(2).integers(0, 2, (count, len(classes)))
    samples = [{"webp": picture(i, kind="WEBP"), "npy": array(row)} for i, row in enumerate(targets)]
    write_shards(folder, samples, classes=classes, templates=TEMPLATES[:1], kind="multilabel")
    return targets


def retrieval(folder, count=14):
    rng = np.random.default_rng(3)
    captions = [[f"{image} {i} {COLOURS[rng.integers(7)]}" for i in range(5 + (image == 3))] for image in range(count)]
    samples = [{"jpg": picture(100 + i, kind="JPEG"), "txt": "\n".join(own).encode()} for i, own in enumerate(captions)]
    write_shards(folder, samples, kind="retrieval")
    return captions


def sugar_crepe(folder, parts, pairs=6):
    (folder / "val2017").mkdir(parents=True)
    written = {}
    for image in range(4):
        (folder / "val2017" / f"{image:012d}.jpg").write_bytes(picture(200 + image, kind="JPEG"))
    for number, part in enumerate(parts):
        rows = {}
        for i in range(pairs):
            first, second = COLOURS[(i + number) % 7], COLOURS[(i + number + 1) % 7]
            negative = f"a {second} dog and a {first} cat" if part.startswith("swap") else f"a {second} dog alone"
            rows[str(i + (i > 2))] = {  # keys have gaps
                "filename": f"{(i + number) % 4:012d}.jpg",
                "caption": f"a {first} dog and a {second} cat" + " " * (i == 1),
                "negative_caption": negative,
            }
        (folder / f"{part}.json").write_text(json.dumps(rows))
        written[part] = list(rows.values())
    return written


def winoground(examples=5):
    """Rows as the hub's Parquet files have them."""
    return [
        {
            "id": i,
            "image_0": {"bytes": picture(300 + 2 * i), "path": f"ex_{i}_img_0.png"},
            "image_1": {"bytes": picture(301 + 2 * i), "path": f"ex_{i}_img_1.png"},
            "caption_0": f"{COLOURS[i]} on {COLOURS[i + 1]}",
            "caption_1": f"{COLOURS[i + 1]} on {COLOURS[i]}",
            "tag": "Object",
        }
        for i in range(examples)
    ]


def aro(folder, kind, names, size=(40, 28)):
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for i, name in enumerate(names):
        (folder / "images" / f"{i}.jpg").write_bytes(picture(400 + i, size, "JPEG"))
        first, second = COLOURS[i % 7], COLOURS[(i + 1 + i % 3) % 7]
        row = {"image_path": f"{i}.jpg", "bbox_x": 3, "bbox_y": 2, "bbox_w": 20 + i % 5, "bbox_h": 17}
        row |= {"true_caption": f"the {first} is {name} {second}", "false_caption": f"the {second} is {name} {first}"}
        rows.append(row | ({"relation_name": name} if kind == "relation" else {"attributes": name.split()}))
    (folder / f"visual_genome_{kind}.json").write_text(json.dumps(rows))
    return rows
