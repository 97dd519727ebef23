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


CATEGORIES = (
    *((1, "person", 1), (2, "traffic_light", 1), (5, "sneakers/shoes", 1), (7, "elephant", 1), (9, "dining table", 1)),
    *((100, "wall-brick", 0), (120, "sky-other-merged", 0), (130, "grass-merged", 0), (199, "window-blind", 0)),
)


def coco(folder, count=200):
    """val2017 in COCO's layout: panoptic and instances, with segments of all sizes, crowds, grey and slim images."""
    rng = np.random.default_rng(7)
    for name in ("val2017", "annotations/panoptic_val2017"):
        (folder / name).mkdir(parents=True)
    categories = [{"id": number, "name": name, "isthing": thing} for number, name, thing in CATEGORIES]
    panoptic = {"images": [], "annotations": [], "categories": categories}
    instances = {"images": [], "annotations": [], "categories": [c for c in categories[::-1] if c["isthing"]]}
    for number in range(count):
        width, height = (int(side) for side in rng.integers(24, 100, 2))
        if number == 3:
            width, height = 90, 99
        image = {"id": 3 * number + 1, "file_name": f"{number:012d}.jpg", "width": width, "height": height}
        pixels = rng.integers(0, 256, (5, 6, 3), np.uint8)
        picture = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
        picture.convert("L" if number % 50 == 7 else "RGB").save(folder / "val2017" / image["file_name"], "JPEG")
        ids, segments = _segments(rng, width, height, tiles=number == 3, giant=number == 5)
        png = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
        Image.fromarray(png).save(folder / "annotations" / "panoptic_val2017" / f"{number:012d}.png")
        panoptic["images"].append(image)
        instances["images"].append(image)
        if number != 11:  # an image may have no annotation at all
            name = f"{number:012d}.png"
            panoptic["annotations"].append({"image_id": image["id"], "file_name": name, "segments_info": segments})
        for segment in segments:
            if segment["category_id"] < 100 and segment["bbox"][2] < 1000:
                whole = [float(value) for value in segment["bbox"]]
                own = {"id": len(instances["annotations"]) + 1, "image_id": image["id"], "bbox": whole}
                own["segmentation"] = _segmentation(ids == segment["id"], whole, len(instances["annotations"]))
                instances["annotations"].append(segment | own)
    for name, content in (("panoptic", panoptic), ("instances", instances)):
        content["images"] = content["images"][::-1]  # in no order
        (folder / "annotations" / f"{name}_val2017.json").write_text(json.dumps(content))
    return panoptic, instances


def _segmentation(mask, box, number):
    """Polygons with corners between pixels; of every fourth runs of pixels as numbers, or packed as text."""
    if number % 4 == 3:
        height, width = mask.shape
        counts = runs(mask)
        return {"size": [height, width], "counts": packed(counts) if number % 8 == 7 else counts}
    (x, y, w, h), rng = box, np.random.default_rng(number)
    corners = [[[x, y + h / 3], [x + w / 2, y], [x + w, y + h * 0.7], [x + w / 3, y + h]]]
    if number % 4 == 1:  # a second part, and one that crosses itself
        corners += [rng.uniform((x, y), (x + w, y + h), (5, 2)).round(2).tolist()]
    return [np.round(part, 2).reshape(-1).tolist() for part in corners]


def runs(mask):
    """COCO's run lengths: down the columns, out first."""
    flat = mask.T.reshape(-1)
    counts, inside = [0], False
    for pixel in flat:
        if pixel != inside:
            counts.append(0)
            inside = not inside
        counts[-1] += 1
    return counts


def packed(counts):
    """As pycocotools writes them: differences to the run before the last, five bits a character, the lowest first."""
    text = ""
    for place, count in enumerate(counts):
        left, more = count - (counts[place - 2] if place > 2 else 0), True
        while more:
            bits, left = left % 32, left // 32
            more = not ((left == 0 and bits < 16) or (left == -1 and bits >= 16))
            text += chr(48 + bits + 32 * more)
    return text


def _segments(rng, width, height, tiles=False, giant=False):
    """The map of ids and what is said of them; ids need three bytes, and the same ones come in every image."""
    ids, segments = np.zeros((height, width), np.int64), []
    boxes = [(x, y, 9, 9) for y in range(0, 99, 9) for x in range(0, 90, 9)] if tiles else [(0, 0, width, height)]
    for _ in range(0 if tiles else int(rng.integers(1, 7))):
        w, h = (int(rng.integers(2, side + 1)) for side in (width, height))
        boxes.append((int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1)), w, h))
    for place, (x, y, w, h) in enumerate(boxes):
        ids[y : y + h, x : x + w] = 70_001 + 257 * place
    for place in range(len(boxes)):
        rows, columns = np.nonzero(ids == 70_001 + 257 * place)
        if not len(rows):
            continue
        x, y = int(columns.min()), int(rows.min())
        box = [x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1]
        category = int(CATEGORIES[rng.integers(len(CATEGORIES))][0])
        crowd = int(rng.integers(8) == 0)
        if giant and place == 1:
            category, box = 1, [0, 0, 1030, 1030]
        segment = {"id": 70_001 + 257 * place, "category_id": category, "iscrowd": crowd, "bbox": box}
        segments.append(segment | {"area": len(rows)})
    return ids, segments


def entities(folder, images=6):
    """Flickr30k Entities as published; chains with several boxes, none, and one that is nothing to be seen."""
    rng = np.random.default_rng(5)
    for name in ("Sentences", "Annotations", "flickr30k-images"):
        (folder / name).mkdir(parents=True)
    written = []
    for image in range(images):
        name, (width, height) = str(1000 + image), (40 + 7 * image, 60 - 5 * image)
        (folder / "flickr30k-images" / f"{name}.jpg").write_bytes(picture(700 + image, (width, height), "JPEG"))
        chains, objects = {}, []
        for chain in range(4):
            for _ in range((2, 1, 0, 3)[(chain + image) % 4]):
                w, h = (int(value) for value in rng.integers(15, 28, 2))  # within one patch boxes would be the same
                x, y = (int(rng.integers(1, side - length)) for side, length in ((width, w), (height, h)))
                chains.setdefault(str(chain + 10), []).append((x, y, x + w, y + h))
                corners = zip(("xmin", "ymin", "xmax", "ymax"), (x, y, x + w, y + h), strict=True)
                box = "".join(f"<{side}>{value}</{side}>" for side, value in corners)
                objects.append(f"<object><name>{chain + 10}</name><bndbox>{box}</bndbox></object>")
        objects.append("<object><name>10</name><nobndbox>1</nobndbox><scene>1</scene></object>")
        (folder / "Annotations" / f"{name}.xml").write_text(f"<annotation>{''.join(objects)}</annotation>")
        phrases = [(f"{COLOURS[(image + i) % 7]} thing {i}", str(10 + i)) for i in range(4)]
        marked = [
            (f"[/EN#{chain}/other {words}]", f"[/EN#{phrases[(i + 1) % 4][1]}/scene place {i}]")
            for i, (words, chain) in enumerate(phrases)
        ]
        lines = [f"{thing} stands by [/EN#0/notvisual it] in {place} ." for thing, place in marked]
        (folder / "Sentences" / f"{name}.txt").write_text("\n".join([*lines, "nothing is marked here ."]) + "\n")
        own = [(words, chain) for words, chain in phrases]
        own = [pair for i, each in enumerate(own) for pair in (each, (f"place {i}", phrases[(i + 1) % 4][1]))]
        written.append((name, (width, height), chains, own))
    (folder / "test.txt").write_text("\n".join(name for name, *_ in written) + "\n")
    (folder / "UNRELATED_CAPTIONS").write_text("1001 1\n")
    return written


def fg_ovd(folder, rows=5):
    """Two of FG-OVD's files, with rows of one image in both, a tie by equal texts, and fewer negatives."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for number, name in enumerate(("h_attributes", "shuffle_negatives")):
        written[name] = [
            {
                "img_path": f"val2017/{(i + number) % 3:012d}.jpg",
                "bbox": [1.5 + i, 2.0, 9.25, 11.0 + i],
                "pos_expression": [f"A {COLOURS[i]} pipe {number}."],
                "neg_expression": [f"A {COLOURS[(i + j) % 7]} pipe {number}." for j in range(0 if i == 4 else 1, 7)],
            }
            for i in range(rows)
        ]
        lines = "\n".join(json.dumps(row) for row in written[name])
        (folder / f"{name}_llava.jsonl").write_text(lines + "\n")
    return written


def everything(root):
    """A miniature of every set of the suites that have data of their own, as `evaluation.data`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    classification(root / "food101")
    multilabel(root / "voc2007_multilabel")
    retrieval(root / "flickr8k")
    sugar_crepe(root / "sugar_crepe", ["add_att", "swap_obj"])
    (root / "winoground").mkdir()
    pq.write_table(pa.Table.from_pylist(winoground()), root / "winoground" / "test.parquet")
    aro(root / "aro", "relation", ["behind", "eating", "eating", "wearing", "riding"] * 2)
    coco(root / "coco", 13)
    entities(root / "flickr30k_entities", 7)
    fg_ovd(root / "fg_ovd")
    return root


SUITES = "scenes,zero_shot,retrieval,composition,boxes,grounding"
