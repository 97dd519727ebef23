"""What the numbers of the steps say about the run: bad updates, objectives without a pair or collapsed, bad records.

All of it is judged by metrics, which are sums over the global batch and so the same on every process: what one process
concludes all conclude at the same step, without asking each other.
"""

import collections
from collections.abc import Callable, Iterable
import json
import math
import os

from harmopower.errors import UserError

_NEEDS = {
    "lexeme_region": "a region with a span, a text or a label",
    "global_region": "a region with a span, a text or a label (any region, where mode is crop)",
    "powerset": "both a region and a phrase of two tokens or more",
}
_NAMED = 5  # ids in the line of a bad update; its file has all of them
# A triplet loss on the hardest negative has a trivial solution, all scores equal: own and hardest are then so many
# margins apart and so many rows have a loss (issue 16: 0.99 where it had fallen into it, 0.41 and less where it lived).
COLLAPSED_GAP, COLLAPSED_ACTIVE = 0.1, 0.95
FILE_NAME = "skipped_updates.jsonl"


class NonFiniteError(RuntimeError):
    """Too many updates in a row had a loss or gradient that is infinite or no number; names the step and the terms."""


class DeadObjectiveError(UserError):
    """An objective has had nothing to compare for many steps; its text names the term, the key and what is missing."""

    exit_code = 65


class Watch:
    """Follows the metrics of every step of this process, in order.

    Attributes:
      skipped: updates that were not applied since `take_skipped`.
      seen, bad: examples of all processes so far, and how many of them could not be used.
    """

    def __init__(self, config, workdir: str, say: Callable[[str], None] | None, ids: Callable[[int], Iterable[str]]):
        """Begins to count at 0.

        Args:
          workdir: where the ids of the records of skipped updates are written, by the process whose `say` is given.
          say: takes a line for the person who watches; None for a process that writes nothing.
          ids: gives the ids of the records of the batch that leads to a step.
        """
        self._config, self._say, self._ids = config, say, ids
        self._path = os.path.join(workdir, FILE_NAME)
        self._bad_updates, self._without_pair = 0, {}
        self._recent: dict[str, collections.deque] = {}  # gap, active and spread of the last steps, by term
        self._collapsed: set[str] = set()
        self.skipped = self.seen = self.bad = 0

    def see(self, step: int, values: dict[str, float]) -> None:
        """Takes the metrics of a step.

        Raises:
          NonFiniteError: so many updates in a row were skipped that the run cannot go on.
          DeadObjectiveError: a term of weight above 0 has had no pair for too long.
        """
        self.seen += self._config.batch_size
        self.bad += int(values["bad_records"])
        self._see_update(step, values)
        for name, value in values.items():
            if name.endswith("/pairs"):
                self._see_pairs(step, name.removesuffix("/pairs"), value)
            if name.endswith("/gap"):
                self._see_gap(step, name.removesuffix("/gap"), values)

    def take_skipped(self) -> int:
        """The updates skipped since this was last asked."""
        taken, self.skipped = self.skipped, 0
        return taken

    def _see_update(self, step: int, values: dict[str, float]) -> None:
        if not values["skipped_updates"]:
            self._bad_updates = 0
            return
        self._bad_updates += 1
        self.skipped += 1
        broken = ", ".join(f"{name} = {value}" for name, value in values.items() if not math.isfinite(value))
        if self._say:
            self._tell(self._say, step, broken)
        limit = self._config.optimizer.max_bad_updates
        if self._bad_updates >= limit:
            raise NonFiniteError(f"step {step}: {broken}; that were {limit} bad updates in a row, none was applied")

    def _tell(self, say: Callable[[str], None], step: int, broken: str) -> None:
        ids = list(self._ids(step - 1))
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "broken": broken, "ids": ids}) + "\n")
        more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
        say(f"step {step}: update skipped, {broken}; records {', '.join(ids[:_NAMED])}{more} (all in {FILE_NAME})")

    def _see_pairs(self, step: int, name: str, pairs: float) -> None:
        self._without_pair[name] = 0 if pairs else self._without_pair.get(name, 0) + 1
        limit, key = self._config.log.dead_after, f"config.objective.{name}.weight"
        if limit and self._without_pair[name] >= limit:
            raise DeadObjectiveError(
                f"step {step}: {name} has had no pair for {limit} steps (config.log.dead_after): no record had "
                f"{_NEEDS.get(name, 'what it compares')}; set {key} ({self._config.objective[name].weight}) to 0, or "
                "config.data.source to data that have it"
            )

    def _see_gap(self, step: int, name: str, values: dict[str, float]) -> None:
        """Says once that a triplet term has fallen into its trivial solution, and again only if it had left it.

        Judged by means over the last `log.dead_after` steps after the warm-up: in a run that had collapsed, gaps of
        single steps lay around the limit, 0.01 to 0.04, and hardly ever so many of them in a row below it.
        """
        term, limit = self._config.objective[name], self._config.log.dead_after
        if not limit or step <= term.warmup_steps:
            return
        recent = self._recent.setdefault(name, collections.deque(maxlen=limit))
        recent.append([values[f"{name}/{key}"] for key in ("gap", "active", "spread")])
        gap, active, spread = (sum(column) / limit for column in zip(*recent, strict=True))
        near = COLLAPSED_GAP * term.margin
        alike = len(recent) == limit and abs(gap) <= near and active > COLLAPSED_ACTIVE
        if term.get("negatives") == "semi_hard":  # the nearest below the own pair is near in any large batch
            alike = alike and spread < term.margin
        # Left only twice as far away: a run whose mean of active lay around its limit said so five times in 300 steps.
        if abs(gap) > 2 * near or 1 - active > 2 * (1 - COLLAPSED_ACTIVE):
            self._collapsed.discard(name)
        if not alike or name in self._collapsed:
            return
        self._collapsed.add(name)
        others = f", choose other config.objective.{name}.negatives" if "negatives" in term else ""
        if self._say:
            self._say(
                f"step {step}: {name} has collapsed: over {limit} steps (config.log.dead_after) own pairs have scored "
                f"within a tenth of config.objective.{name}.margin ({term.margin}) of their hardest negatives (means: "
                f"gap {gap:.3g}, active {active:.2f}, spread of all scores {spread:.3g}); "
                f"config.objective.{name}.weight ({term.weight}) brings nothing now: lower it{others}, or raise "
                f"config.objective.{name}.warmup_steps ({term.warmup_steps}); see docs/powerset.md"
            )
