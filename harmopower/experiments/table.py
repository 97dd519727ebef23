"""A table of runs, variants x data x seeds, as a small Python file under `configs/experiments/` states it:

    from harmopower.experiments.table import Data, Table, Variant

    def get_table():
        return Table(
            config="configs/scenes.py",
            seeds=(0, 1, 2),
            data={"scenes": Data({"data.source": "runs/data/scenes"}, prepare="scenes --output runs/data/scenes")},
            variants={"clip": {"objective.lexeme_region.weight": 0.0}, "lrc": {}},
            baselines=("clip",),
            measures={"boxes": "test/boxes/top1"},
        )

A variant is a dict of settings over those of `config`; what the data say goes over it, what `common` says below both.
Everything is checked before anything runs, with the name of the run that it is about.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import hashlib
import json
import os
import re
import runpy

from harmopower import config as configs
from harmopower import runs as parts
from harmopower.errors import CommandError, ConfigError
from harmopower.settings import FREE

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")  # it becomes a folder
# What the same definition may differ in, because it changes no number; the seed is part of a run's name.
_NOT_COMPARED = ("seed", "log.", "checkpoint.", "evaluation.every_steps", "evaluation.batch_size")

# Columns of tables whose runs are evaluated as `configs/scenes.py` says; see `Table.measures`.
QUICKSTART_MEASURES = {
    "R@1": "test/retrieval/*_r1",
    "boxes": "test/boxes/top1",
    "composition": "test/composition/mean",
    "unseen R@1": "test_unseen/retrieval/*_r1",
    "unseen boxes": "test_unseen/boxes/top1",
    "unseen composition": "test_unseen/composition/mean",
}


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row of the table, where a plain dict of settings does not say it all.

    Attributes:
      changes: settings over those of the table's config.
      start: the variant, above it in the table, from whose weights (same data, same seed) it starts.
      between: `(a, b, alpha)`: no training, but `(1 - alpha) a + alpha b` of two variants above it (tools.interpolate).
    """

    changes: Mapping[str, object] = dataclasses.field(default_factory=dict)
    start: str = ""
    between: tuple[str, str, float] | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """The variants whose weights it needs."""
        return self.between[:2] if self.between else (self.start,) if self.start else ()


@dataclasses.dataclass(frozen=True)
class Data:
    """What the runs are trained and measured on.

    Attributes:
      changes: settings, among them `data.source`.
      prepare: words for `python -m tools.prepare`, which makes the data where they are missing.
      by_hand: in its place, commands for the user, where we do not fetch what is needed.
      variants: names of those that run on it; empty for all.
    """

    changes: Mapping[str, object]
    prepare: str = ""
    by_hand: str = ""
    variants: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Run:
    """One variant on one data set with one seed.

    Attributes:
      changes: all settings over those of the config file, without `init`.
      needs: names of the runs whose weights it needs: the one that it starts from, or both of `alpha`.
      alpha: of weights in between; None for a run that is trained.
      steps: of its training; in between those of the second.
      settings: what defines it, see `_settings`.
      definition: a hash of them and of its needs'.
    """

    variant: str
    data: str
    seed: int
    changes: dict
    needs: tuple[str, ...]
    alpha: float | None
    steps: int
    settings: dict
    definition: str

    @property
    def name(self) -> str:
        """Such as `scenes/clip/seed0`."""
        return run_name(self.variant, self.data, self.seed)


def run_name(variant: str, data: str, seed: int) -> str:
    """How a run is called in rows, in patterns and on the screen."""
    return f"{data}/{variant}/seed{seed}"


@dataclasses.dataclass(frozen=True)
class Table:
    """See above.

    Attributes:
      config: the config file that the variants change.
      variants: name -> dict of settings, or `Variant`.
      data: name -> `Data`.
      baselines: variants against which differences are taken; the first one's counted FLOPs are the budget.
      measures: column -> pattern of metrics, or several; where more than one fits, their mean. Shares of 1.
      watched: column -> a metric of training, shown as it is at the end of a run.
      common: settings of all runs, below those of data and variants.
    """

    config: str
    variants: Mapping[str, Mapping | Variant]
    data: Mapping[str, Data]
    baselines: Sequence[str]
    measures: Mapping[str, str | Sequence[str]]
    seeds: Sequence[int] = (0, 1, 2)
    watched: Mapping[str, str] = dataclasses.field(default_factory=dict)
    common: Mapping[str, object] = dataclasses.field(default_factory=dict)

    def variant(self, name: str) -> Variant:
        """The variant of that name, a plain dict as one."""
        found = self.variants[name]
        return found if isinstance(found, Variant) else Variant(found)

    def variants_on(self, data: str) -> list[str]:
        """The variants that run on these data, in the table's order."""
        return [name for name in self.variants if name in (self.data[data].variants or self.variants)]

    def patterns(self, measure: str) -> tuple[str, ...]:
        """The patterns of a column."""
        found = self.measures[measure]
        return (found,) if isinstance(found, str) else tuple(found)

    def runs(self, seeds: Sequence[int] = (), changes: Mapping[str, object] | None = None) -> dict[str, Run]:
        """All runs by name, each after those that it needs, seed by seed: a table that is stopped has whole seeds.

        Args:
          seeds: in place of the table's.
          changes: settings over all others.

        Raises:
          ConfigError: a run's config cannot be; the text names the run.
        """
        found: dict[str, Run] = {}
        for seed in seeds or self.seeds:
            for data in self.data:
                for variant in self.variants_on(data):
                    name = run_name(variant, data, seed)
                    found[name] = _named(name, lambda v=variant, d=data, s=seed: self._run(v, d, s, changes, found))
        return found

    def _run(self, variant: str, data: str, seed: int, changes: Mapping | None, earlier: dict[str, Run]) -> Run:
        own = self.variant(variant)
        needs = tuple(run_name(name, data, seed) for name in own.needs)
        made_of = [earlier[name].definition for name in needs]
        if own.between:
            weights = {"between": " and ".join(own.between[:2]), "alpha": own.between[2]}
            steps = earlier[needs[1]].steps
            digest = _digest(weights, made_of)
            return Run(variant, data, seed, {}, needs, own.between[2], steps, weights, digest)
        all_changes = {**self.common, **self.data[data].changes, **own.changes, **(changes or {}), "seed": seed}
        config = _checked(self.config, all_changes, own.start)
        settings = _settings(config, all_changes)
        digest = _digest(settings, made_of)
        return Run(variant, data, seed, all_changes, needs, None, config.total_steps, settings, digest)


def load(path: str | os.PathLike) -> Table:
    """The table of a file; what it says of itself is checked, its runs are by `Table.runs`.

    Raises:
      CommandError: there is no such file, it has no `get_table()`, fails, or contradicts itself.
    """
    if not os.path.isfile(path):
        raise CommandError(f"{path} does not exist; tables are files such as configs/experiments/evidence.py")
    try:
        table = runpy.run_path(os.fspath(path))["get_table"]()
    except KeyError as error:
        raise CommandError(f"{path} has no get_table()") from error
    except Exception as error:  # whatever the user's file, which is run here, can raise
        raise CommandError(f"{path}: {type(error).__name__}: {error}") from error
    for problem in _problems(table):
        raise CommandError(f"{path}: {problem}")
    return table


def _problems(table: Table):
    for kind, names in (("variants", table.variants), ("data", table.data), ("measures", table.measures)):
        if not names:
            yield f"there are no {kind}"
        if kind != "measures":
            yield from (f"{kind}: {name!r} may hold letters, digits and _.+- only" for name in names if not _fits(name))
    if not table.seeds or len(set(table.seeds)) < len(table.seeds):
        yield f"seeds {tuple(table.seeds)}: there must be at least one, each once"
    for name in table.baselines or ("",):
        if name not in table.variants:
            yield f"baselines: {name!r} is no variant; there are {', '.join(table.variants)}"
    for data in table.data:
        yield from _problems_of_data(table, data)
    above: set[str] = set()
    for name in table.variants:
        own = table.variant(name)
        yield from (f"{name} needs {need!r}, which must stand above it" for need in own.needs if need not in above)
        if own.between and (own.changes or own.start or not 0 <= own.between[2] <= 1):
            yield f"{name} lies between two others: it has an alpha from 0 to 1 and no settings of its own"
        above.add(name)


def _problems_of_data(table: Table, data: str):
    on = table.variants_on(data)
    for name in table.data[data].variants:
        if name not in table.variants:
            yield f"data {data!r}: {name!r} is no variant; there are {', '.join(table.variants)}"
    for name in table.baselines:
        if name not in on:
            yield f"data {data!r}: {name!r}, a baseline, must be among their variants"
    for name in on:
        yield from (
            f"data {data!r}: {name} needs {need!r}, which is not among their variants"
            for need in table.variant(name).needs
            if need not in on
        )


def _fits(name: str) -> bool:
    return bool(_NAME.fullmatch(name))


def _named(name: str, make: Callable[[], Run]) -> Run:
    try:
        return make()
    except (ConfigError, TypeError, ValueError) as error:  # the latter two from ml_collections, of a value's type
        raise ConfigError(f"{name}: {' '.join(str(error).split())}") from error


def _checked(path: str, changes: Mapping[str, object], start: str):
    """The config of a file with changes, checked as far as it can be without data, devices and starting weights."""
    config = configs.load(path)
    for key in changes:
        configs.check_key(key)
        if key == "init":
            raise ConfigError("config.init is set by the table; say Variant(start=NAME)")
    config.update_from_flattened_dict(dict(changes))
    if start:
        config.init = start  # the path is not known yet; the name tells the definition, and some settings need one
    configs.validate(config, devices=1)
    parts.check(config, platform="gpu" if config.model.attention == "cudnn" else "cpu")
    if not config.total_steps:
        raise ConfigError("config.total_steps is 0; a table compares at equal steps, so say how many")
    if not config.data.source:
        raise ConfigError("config.data.source is empty; the table's data must name it")
    return config


def _settings(config, said: Mapping[str, object]) -> dict:
    """What defines a run: what the table says of it, and how its config differs from the defaults.

    Not the whole config, so that a setting that is added tomorrow makes no other run of it; and not the differences
    alone, so that a default that changes tomorrow does.
    """
    defaults, found = configs.flat(configs.get_config().to_dict()), configs.flat(config.to_dict())
    compared = (key for key in found if not key.startswith(_NOT_COMPARED) and configs.SETTINGS[key].resumed != FREE)
    return {key: found[key] for key in sorted(compared) if key in said or found[key] != defaults[key]}


def _digest(settings: dict, made_of: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps([settings, *made_of], sort_keys=True).encode()).hexdigest()[:12]
