"""A small data set with two captions and labelled regions an image, and the command that annotates it."""

from harmopower.data import records
from tests.data.preparing.common import picture
from tools import annotate

THINGS = ("dog", "box", "couch", "person")


def example(number: int) -> dict:
    """The record of a number."""
    thing = THINGS[number % len(THINGS)]
    return {
        "id": f"photo-{number:03d}",
        "image": picture(number),
        "captions": [f"two {thing}s – näher, 犬 {number}", f"a {thing} and a sofa"],
        "phrases": [{"caption": 0, "start": 0, "end": 3, "label": "OLD"}],
        "regions": [
            {"box": [0.1, 0.2, 1 / 3, 0.9], "caption": -1, "start": -1, "end": -1, "text": "", "label": thing},
            {"box": [0.5, 0.5, 0.7, 0.9], "caption": -1, "start": -1, "end": -1, "text": "", "label": "zebra"},
        ],
    }


def data_set(folder, train: int = 23, test: int = 6):
    """Writes the data set and returns its folder."""
    records.write(folder, {"train": map(example, range(train)), "test": map(example, range(test))}, name="photos")
    return folder


def run(folder, *arguments) -> int:
    """`tools.annotate ... --data FOLDER`; returns the exit code."""
    return annotate.main([str(argument) for argument in (*arguments, "--data", folder)])
