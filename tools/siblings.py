"""Which score of a trained model tells a scene from its siblings, the same words bound otherwise: global or of subsets?

    python -m tools.siblings --workdir runs/quickstart --batches 16

For every row of batches that hold four siblings each: how often its own pair scores above those with its three
siblings (chance 25 %), and above all others of the batch, both ways, in percent. The global score is the cosine of
image and caption; the others are of the powerset term (METHOD section 6), over subsets by `nla` and exactly, and over
single regions. Batches are those of the run's own data that it would have seen next; nothing is written.
"""

import argparse
import itertools
import sys

import jax
import numpy as np

from harmopower import command, runs
from harmopower.data import records
from harmopower.data.scenes.builder import GROUP_SIZE
from harmopower.data.tokenize import TokenizerError
from harmopower.errors import CommandError, UserError
from harmopower.objectives.powerset import dense_scores
from harmopower.objectives.subsets import MAX_EXACT_REGIONS
from harmopower.parallel import mesh as meshes
from harmopower.training import step as steps

SCORES = {
    "subsets, nla, zeta 0.75": {"method": "nla", "zeta": 0.75},
    "subsets, exact": {"method": "exact"},
    "single regions": {"method": "single"},
}


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code, 2 for errors of the user."""
    options = _parser().parse_args(arguments)
    try:
        for workdir in options.workdir:  # before minutes go into the first one
            _check(workdir)
        for workdir in options.workdir:
            show(workdir, measure(workdir, options.batches))
    except (UserError, TokenizerError, records.DataSourceError, OSError) as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return getattr(error, "exit_code", 2)
    return 0


def _check(workdir: str) -> None:
    config, _ = runs.read_workdir(workdir)
    if config.data.max_boxes > MAX_EXACT_REGIONS:
        raise CommandError(
            f"--workdir {workdir} has config.data.max_boxes {config.data.max_boxes}, but exact scores take at most "
            f"{MAX_EXACT_REGIONS} regions; leave it out"
        )


def measure(workdir: str, batches: int) -> dict[str, tuple[float, float]]:
    """Of each score the two shares of `wins`, means over the batches and both ways.

    Raises:
      UserError: the folder holds no run, its data are gone, or its batches cannot hold whole groups of siblings.
    """
    config, tokenizer = runs.read_workdir(workdir)
    config.data.group_size = GROUP_SIZE
    config.objective.powerset.weight = 1.0  # any above 0, so that its features are gathered
    mesh = meshes.make_mesh(**config.mesh)
    model = runs.build_model(config, tokenizer)
    _, params = runs.load_params(workdir, model, mesh)
    _, pipeline = runs.open_data(config)
    encode = jax.jit(lambda batch: steps.encode(model, params, batch, config))
    shares: dict[str, list] = {}
    with jax.set_mesh(mesh):
        for batch in itertools.islice(pipeline.iterate(config.total_steps), batches):
            for name, scores in _scores(encode(batch)).items():
                shares.setdefault(name, []).extend(wins(np.asarray(way)) for way in (scores, scores.T))
    return {name: tuple(np.mean(found, axis=0)) for name, found in shares.items()}


def _scores(features) -> dict[str, jax.Array]:
    """Every score of all pairs of a batch, `[images, texts]`."""
    own = features.own["powerset"]
    sides = features.regions, features.region_mask, own["phrases"], own["mask"]
    return {"global": features.image @ features.text.T} | {
        name: dense_scores(*sides, score_norm="mean", **how) for name, how in SCORES.items()
    }


def wins(scores: np.ndarray) -> tuple[float, float]:
    """The shares of rows whose own score is above all of the row's siblings, and above all others; a tie is not above.

    Args:
      scores: `[B, B]`, own pairs on the diagonal; each `GROUP_SIZE` consecutive rows are siblings.
    """
    rows = np.arange(len(scores))
    group = rows // GROUP_SIZE
    related = group[:, None] == group
    own = np.diag(scores)
    hardest = lambda candidates: np.where(candidates, scores, -np.inf).max(1)
    siblings = related & (rows[:, None] != rows)
    return float((own > hardest(siblings)).mean()), float((own > hardest(~related)).mean())


def show(workdir: str, shares: dict[str, tuple[float, float]]) -> None:
    """A line a score, below its workdir."""
    print(f"{workdir}: own pair above its siblings, above all others")
    for name, (siblings, others) in shares.items():
        print(f"  {name:24} {siblings:6.1%} {others:6.1%}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.siblings", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", nargs="+", required=True, help="runs on the embedded scenes")
    parser.add_argument(
        "--batches", type=command.positive, default=16, help="how many are measured (default %(default)s)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
