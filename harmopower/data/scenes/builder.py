"""The embedded data set: rendered scenes with captions, boxes, parse trees and, for testing, hard negatives.

    from harmopower.data.scenes import builder as scenes
    scenes.prepare("data/scenes", train=20_000, test=1024, test_unseen=512, image_size=64, seed=0)

An example is a function of (seed, split, index) alone. In `train`, `GROUP_SIZE` consecutive examples are siblings: the
same words but for the binding of colours and places to the things. The test splits hold independent scenes: several
things first (their first `DISTINCT` captions are false of each other's scenes, so retrieval has one right answer),
later some with one thing, for classification. `test_unseen` uses only the (colour, shape) pairs that the other splits
never show. All our choice.
"""

from collections.abc import Iterator
import concurrent.futures
import functools
import multiprocessing
import os
from pathlib import Path

import numpy as np

from harmopower.data import orphans, records, trees
from harmopower.data.scenes import drawing, grammar, world

SPLITS = ("train", "test", "test_unseen")
GROUP_SIZE = 4
DISTINCT = 256
SINGLE_EVERY = 5  # from DISTINCT on, two test scenes of five hold one thing
# Between things alike in shape a direction binds colours to places only: the easiest case, and a step to the others.
TRAIN_KINDS = {"single": 0.12, "alike": 0.28, "related": 0.4, "both": 0.06, "several": 0.14}
TEST_KINDS = {"related": 0.8, "both": 0.06, "several": 0.14}
CLASSES = tuple(f"{colour} {shape}" for colour, shape in world.ALL_PAIRS)

_CHUNK = 250  # examples a task: small enough to balance, large enough to send
_POOL_FROM = 500  # below this many examples a process pool takes longer to start than it saves


# ---- One example ----


def make_example(split: str, index: int, *, seed: int = 0, image_size: int = 64) -> records.Example:
    """The `index`-th example of a split (see `records` for its fields); only test splits carry negatives."""
    scene, statement, order, rng = _plan(split, index, _attempt(split, index, seed), seed)
    image, visible = drawing.draw(scene, image_size, rng)
    tree = grammar.tree(statement)
    caption = grammar.text(tree)
    spans = grammar.entity_spans(tree)
    phrases = trees.spans_from_penn(grammar.penn(tree), caption)
    regions = [
        {
            "box": drawing.visible_box(visible[i]),
            "caption": 0,
            "start": spans[place][0],
            "end": spans[place][1],
            "text": "",
            "label": scene.things[i].label,
        }
        for place, i in enumerate(order)
    ]
    return {
        "id": f"{split}-{index:06d}",
        "image": drawing.encode(image),
        "captions": [caption],
        "phrases": [{"caption": 0, "start": start, "end": end, "label": label} for start, end, label in phrases],
        "regions": regions,
        "negatives": _negatives(split, statement, scene, rng),
    }


def pairs_of(split: str) -> tuple[tuple[str, str], ...]:
    """The (colour, shape) pairs that a split shows."""
    return world.UNSEEN_PAIRS if split == "test_unseen" else world.SEEN_PAIRS


def _negatives(split, statement, scene, rng):
    if split == "train":
        return []
    # The unseen pairs are a permutation: no attribute could be replaced within them.
    pairs = world.ALL_PAIRS if split == "test_unseen" else world.SEEN_PAIRS
    found = grammar.negatives(statement, scene, pairs, rng)
    return [{"caption": 0, "kind": kind, "text": text} for kind, text in found]


def _plan(split, index, attempt, seed):
    """Everything about an example but its pixels: scene, statement, order of mention, the generator to go on with."""
    rng = _generator(seed, split, index, attempt)
    if split == "train":
        group = _generator(seed, split, index // GROUP_SIZE, -1)
        base = world.sample(group, _choose(TRAIN_KINDS, group), pairs_of(split))
        draft = world.sibling(base, index % GROUP_SIZE, rng, pairs_of(split))
    else:
        kind = "single" if index >= DISTINCT and index % SINGLE_EVERY < 2 else _choose(TEST_KINDS, rng)
        draft = world.sample(rng, kind, pairs_of(split))
    scene = world.lay_out(draft, rng)
    return scene, *grammar.describe(scene, rng), rng


def _generator(seed, split, index, attempt):
    return np.random.default_rng((seed, SPLITS.index(split), index, attempt + 1))


def _choose(weights, rng):
    return str(rng.choice(list(weights), p=list(weights.values())))


# ---- Test scenes that can be told apart ----


def _attempt(split, index, seed):
    """Which draw of a test scene counts: the first that no earlier one of the retrieval candidates can be taken for."""
    return 0 if split == "train" or index >= DISTINCT else _distinct_attempts(split, seed)[index]


@functools.cache
def _distinct_attempts(split, seed, tries=100):
    chosen, plans = [], []
    for index in range(DISTINCT):
        for attempt in range(tries):
            scene, statement, *_ = _plan(split, index, attempt, seed)
            if not any(_alike(scene, statement, *plan) for plan in plans):
                break
        plans.append((scene, statement))
        chosen.append(attempt)
    return tuple(chosen)


def _alike(scene, statement, other_scene, other_statement):
    return statement.may_be_true_of(other_scene) or other_statement.may_be_true_of(scene)


# ---- The data set ----


def metadata(image_size: int, seed: int) -> dict:
    """What is stored with the data set."""
    return {
        "classes": list(CLASSES),
        "colours": list(world.COLOURS),
        "shapes": list(world.SHAPES),
        "unseen": [" ".join(pair) for pair in world.UNSEEN_PAIRS],
        "group_size": GROUP_SIZE,
        "image_size": image_size,
        "seed": seed,
    }


def make_examples(split: str, count: int, seed: int, image_size: int, processes=None) -> Iterator[records.Example]:
    """Yields the first `count` examples of a split in order, made by so many worker processes (None = one a core)."""
    processes = processes or os.cpu_count() or 1
    tasks = [(split, start, min(start + _CHUNK, count), seed, image_size) for start in range(0, count, _CHUNK)]
    if processes == 1 or count < _POOL_FROM:
        for task in tasks:
            yield from _make_range(task)
        return
    # Spawn, not fork: the parent may hold the threads of an accelerator runtime, which do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(processes, context, orphans.end_with_parent) as pool:
        for made in pool.map(_make_range, tasks):
            yield from made


def _make_range(task):
    split, start, end, seed, image_size = task
    return [make_example(split, index, seed=seed, image_size=image_size) for index in range(start, end)]


def prepare(
    directory,
    *,
    train: int = 20_000,
    test: int = 1024,
    test_unseen: int = 512,
    image_size: int = 64,
    seed: int = 0,
    processes: int | None = None,
) -> Path:
    """Makes the data set in `directory`, without a tokenizer; `tools.prepare scenes` makes both, and resumes.

    Args:
      directory: the folder that `data.source` will name; created if need be.
      train, test, test_unseen: examples a split; 0 leaves a split out.
      image_size: side of the pictures in pixels.
      seed: the same seed gives the same records, whatever the number of processes.
      processes: worker processes; None = one a core.

    Returns:
      the directory.
    """
    counts = {"train": train, "test": test, "test_unseen": test_unseen}
    made = {name: make_examples(name, count, seed, image_size, processes) for name, count in counts.items() if count}
    records.write(directory, made, name="scenes", metadata=metadata(image_size, seed))
    return Path(directory)
