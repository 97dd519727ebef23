"""Weights between two models: `(1 - alpha) a + alpha b` (WiSE-FT, Wortsman et al. 2022, arXiv 2109.01903).

Between a published CLIP `a` and what fine-tuning made of it, `b`, lies a curve: where global measures fall and region
measures rise, some alpha may have the better of both. CLIPSelf (Wu et al. 2024, arXiv 2310.01403) fixes it at 0.7.
"""

from collections.abc import Iterable
import csv
import fnmatch
import io
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from harmopower import config as configs
from harmopower import runs
from harmopower.data.tokenize import FILE_NAME, Tokenizer
from harmopower.errors import CommandError
from harmopower.evaluation import running, tables
from harmopower.evaluation.kept import KeptIn
from harmopower.evaluation.suite import Found
from harmopower.interop import export, starting, weights
from harmopower.parallel import mesh as meshes
from harmopower.training.checkpoints import CheckpointWriter
from harmopower.training.state import TrainState

GLOBAL, REGION = "*_to_*_r1", "*box*/top1"  # recall at 1 both ways, and accuracy on boxes, of whatever suites ran
CURVE = "curve"


def alphas(words: list[str]) -> list[float]:
    """The numbers of `--alpha`: `0 0.1 ... 1` counts on in steps of the last two.

    Raises:
      CommandError: one is no number from 0 to 1, is there twice, or there is nothing to count on from.
    """
    found: list[float] = []
    for place, word in enumerate(words):
        try:
            found += _counted(found, float(words[place + 1])) if word == "..." else [float(word)]
        except (ValueError, IndexError) as error:
            raise CommandError(f"--alpha {' '.join(words)}: {word!r} cannot be read; write 0 0.1 ... 1") from error
    if not all(0 <= alpha <= 1 for alpha in found) or len(set(found)) < len(found):
        raise CommandError(f"--alpha {' '.join(words)}: each must be from 0 to 1, and once")
    return sorted(found)


def _counted(found: list[float], last: float) -> list[float]:
    width = found[-1] - found[-2]
    count = round((last - found[-1]) / width)
    return [round(found[-1] + width * step, 9) for step in range(1, count)] if width > 0 else [np.nan]


def blend(a, b, alpha: float):
    """Each parameter `(1 - alpha) a + alpha b`, to the bit `a` at 0 and `b` at 1."""
    return jax.tree.map(lambda one, other: (1 - alpha) * one + alpha * other, a, b)


class Ends:
    """Two models of one shape, understood and compared, on all devices.

    Attributes:
      config: of b, with its mesh for this machine.
      a, b: parameters.
    """

    def __init__(self, a: str, b: str, changes: dict, say=print):
        """Reads both; `b` is a workdir, `a` too, or published weights.

        Args:
          changes: settings in place of b's, of those that evaluation takes.

        Raises:
          CommandError: they do not compute the same way, have other tokenizers or other shapes.
        """
        self.config, self.tokenizer = runs.read_workdir(b, changes.get("data.tokenizer", ""))
        self.config.mesh = configs.get_config().mesh
        self.config.update_from_flattened_dict(changes)
        configs.check_values(self.config)
        _refuse_other_models(a, b, self.config, self.tokenizer)
        self.mesh = meshes.make_mesh(**self.config.mesh)
        self.model = runs.build_model(self.config, self.tokenizer)
        with jax.set_mesh(self.mesh):
            self.step, self.b = runs.load_params(b, self.model, self.mesh)
            try:
                self.a = starting.load_init(a, self.b, self.config, lambda line: say(_named(line)))
            except weights.ConversionError as error:
                raise CommandError(_named(str(error))) from error

    def write(self, output: str, points: Iterable[float], form: str = "", say=print) -> None:
        """Writes a folder a point, all of them or none: `alpha_0.30`, a workdir, or an export of that format.

        Raises:
          CommandError: `output` holds something else, or the format cannot express the model.
        """
        with weights.new_folder(output, {"points": list(points)}) as folder, jax.set_mesh(self.mesh):
            for alpha in points:
                params = blend(self.a, self.b, alpha)
                if form:
                    self._export(folder / _name(alpha), params, form)
                else:
                    self._save(folder / _name(alpha), params)
                say(f"{output}/{_name(alpha)}")

    def _save(self, folder: Path, params) -> None:
        with CheckpointWriter(str(folder)) as checkpoints:
            checkpoints.save(0, TrainState(jnp.zeros((), jnp.int32), params, ()), {})
        (folder / "config.json").write_text(configs.to_json(self.config))
        self.tokenizer.save(str(folder / FILE_NAME))

    def _export(self, folder: Path, params, form: str) -> None:
        model = export.exported_model(self.config, self.tokenizer)
        whole = jax.tree.map(np.asarray, params)
        quiet = lambda line: None  # its lines name a temporary folder
        export.export(form, model, lambda: (self.step, whole), self.tokenizer, self.config, str(folder), say=quiet)

    def check_format(self, form: str) -> None:
        """Raises ConversionError where that export cannot express the model."""
        export.check_format(form, export.exported_model(self.config, self.tokenizer), self.config.data.resize_mode)

    def evaluate(self, output: str, alpha: float) -> Found:
        """What the suites of the config find at one point; kept in its folder."""
        folder = f"{output}/{_name(alpha)}"
        keep = lambda encoder: KeptIn(folder, encoder, False)
        with jax.set_mesh(self.mesh):
            evaluate = runs.evaluation(self.config, folder, self.model, self.tokenizer, keep=keep)
            return evaluate(blend(self.a, self.b, alpha), 0) or Found()


def _refuse_other_models(a: str, b: str, config, tokenizer: Tokenizer) -> None:
    differences = [line for line in starting.differences(starting.settings_of(a), config) if "config.model." in line]
    if differences:
        raise CommandError(f"--a {a} and --b {b} do not compute the same way: {'; '.join(differences)}")
    stored = Path(a) / FILE_NAME
    if stored.exists() and Tokenizer.load(str(stored), a, config.data.clean_text).digest != tokenizer.digest:
        raise CommandError(f"--a {a} and --b {b} have different tokenizers ({FILE_NAME})")


def _named(line: str) -> str:
    line = line.replace("config.init ", "--a ").replace("of this run", "of --b")
    return line.replace("starts fresh", "is that of --b at every alpha")


def _name(alpha: float) -> str:
    return f"alpha_{alpha:.3g}" if alpha not in (0, 1) else f"alpha_{int(alpha)}"


def refuse_nothing_to_measure(config) -> None:
    """Raises CommandError where the suites of a config have nothing to measure."""
    if nothing := running.nothing_to_measure(config):
        raise CommandError(nothing)


def curve(found: dict[float, Found], patterns: tuple[str, str]) -> list[tuple[float, float, float]]:
    """For each alpha the mean of the metrics that fit the one pattern, and of those that fit the other.

    Raises:
      CommandError: no metric fits; the text lists those that there are.
    """
    rows = []
    for alpha, each in found.items():
        means = []
        for pattern in patterns:
            values = [value for name, value in each.metrics.items() if fnmatch.fnmatchcase(name, pattern)]
            if not values:
                raise CommandError(f"no metric fits {pattern!r}; there are {', '.join(each.metrics) or 'none'}")
            means.append(float(np.mean(values)))
        rows.append((alpha, *means))
    return rows


def write_tables(output: str, found: dict[float, Found]) -> list[str]:
    """All results, a column a point, as every evaluation writes them."""
    return tables.write(output, {f"alpha {alpha:g}": each for alpha, each in found.items()})


def write_curve(output: str, rows: list[tuple[float, float, float]], patterns: tuple[str, str]) -> list[str]:
    """Writes `curve.csv`, shares in 0..1, and `curve.png`."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([("alpha", *patterns), *rows])
    (Path(output) / f"{CURVE}.csv").write_text(file.getvalue())
    picture = Path(output) / f"{CURVE}.png"
    _figure(rows, patterns).savefig(picture, dpi=150, bbox_inches="tight")
    return [str(Path(output) / f"{CURVE}.csv"), str(picture)]


def _figure(rows, patterns: tuple[str, str]):
    from matplotlib.figure import Figure  # extra `docs`; without pyplot there is no window and no global state

    figure = Figure(figsize=(5, 4))
    axes = figure.add_subplot(xlabel=f"global: {patterns[0]}, in percent", ylabel=f"region: {patterns[1]}, in percent")
    axes.plot([100 * row[1] for row in rows], [100 * row[2] for row in rows], "o-")
    for alpha, x, y in rows:
        axes.annotate(f"{alpha:g}", (100 * x, 100 * y), xytext=(4, 4), textcoords="offset points")
    axes.grid(alpha=0.3)
    return figure
