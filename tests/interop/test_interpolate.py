"""Weights between two models: the ends to the bit, what lies between, and what does not fit is refused first."""

from pathlib import Path
import re

from interop_models import nested, random_params, settings, tokenizer, write_run
import numpy as np
import pytest

from harmopower import interpolation
from harmopower.data.tokenize import Tokenizer
from harmopower.errors import CommandError
from harmopower.evaluation.suite import Found
from harmopower.interop import names, starting
from harmopower.training.checkpoints import Checkpoints
from tools import interpolate

SMALL = "patch8-shared8-vision8x1x1-text8x1x1"


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """Two runs: another seed, and of the second one a temperature more."""
    folder = tmp_path_factory.mktemp("ends")
    config = settings(SMALL)
    first = random_params(config, seed=1)
    write_run(folder / "a", config, first)
    config.objective.lexeme_region.temperature = "own"
    second = random_params(config, seed=2)
    assert len(second) == len(first) + 1
    write_run(folder / "b", config, second)
    return folder, first, second


def run(ends, *more, a="a", b="b"):
    folder = ends[0]
    return interpolate.main([f"--a={folder / a}", f"--b={folder / b}", *more])


def stored(folder):
    checkpoints = Checkpoints(str(folder))
    return checkpoints.restore_params(0, {n: np.zeros(s, "f4") for n, s in checkpoints.param_shapes(0).items()})


def test_the_ends_are_the_models_to_the_bit_and_the_middle_lies_between(ends, tmp_path, capsys):
    _, first, second = ends
    output = tmp_path / "between"
    assert run(ends, "--alpha", "0", "0.5", "...", "1", f"--output={output}") == 0
    told = capsys.readouterr().out
    assert "is that of --b at every alpha" in told and sorted(p.name for p in output.iterdir()) == [
        "alpha_0",
        "alpha_0.5",
        "alpha_1",
        "harmopower.json",
    ]
    zero, half, one = (stored(output / f"alpha_{name}") for name in ("0", "0.5", "1"))
    assert zero.keys() == second.keys()
    for name, value in second.items():
        np.testing.assert_array_equal(one[name], value)
        np.testing.assert_array_equal(zero[name], first.get(name, value))
        np.testing.assert_allclose(half[name], (np.float64(first.get(name, value)) + value) / 2, rtol=1e-6, atol=1e-8)
    config, _ = interpolation.runs.read_workdir(str(output / "alpha_0.5"))
    assert config.objective.lexeme_region.temperature == "own"
    loaded = names.flat(starting.load_init(str(output / "alpha_0.5"), nested(second), config, lambda line: None))
    np.testing.assert_array_equal(loaded["vision/projection"], half["vision/projection"])


@pytest.mark.parametrize(
    "words, expected",
    [(["0", "0.1", "...", "1"], [step / 10 for step in range(11)]), (["0.7"], [0.7]), (["1", "0"], [0, 1])],
)
def test_alphas(words, expected):
    np.testing.assert_allclose(interpolation.alphas(words), expected, rtol=1e-9)


@pytest.mark.parametrize("words", ["half", "-0.1", "1.5", "nan", "0 0", "...", "0 ... 1", "0 1 ...", "1 0.5 ... 0"])
def test_what_is_no_alpha_is_refused(words):
    with pytest.raises(CommandError, match="--alpha"):
        interpolation.alphas(words.split())


def test_what_does_not_fit_is_refused_before_anything_is_written(ends, tmp_path, capsys):
    folder = ends[0]
    wide = settings("patch8-shared8-vision16x1x1-text8x1x1")
    write_run(folder / "wide", wide, random_params(wide))
    gelu = settings(SMALL, activation="gelu")
    write_run(folder / "gelu", gelu, random_params(gelu))
    write_run(folder / "words", settings(SMALL), random_params(settings(SMALL)))
    Tokenizer.train(["other words are here"], tokenizer().vocab_size).save(str(folder / "words" / "tokenizer.json"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    new = f"--output={tmp_path / 'new'}"
    for more, a, words in (
        ([new, "--alpha", "0.5"], "wide", "--a .*wide does not fit config.model.preset and tokenizer of --b"),
        ([new, "--alpha", "0.5"], "gelu", "do not compute the same way: config.model.activation: 'gelu'"),
        ([new, "--alpha", "0.5"], "words", "have different tokenizers"),
        ([new, "--alpha", "0.5"], "none", "none does not exist"),
        ([new, "--alpha", "2"], "a", "each must be from 0 to 1"),
        ([f"--output={tmp_path / 'full'}", "--alpha", "0.5"], "a", "holds something else"),
    ):
        assert run(ends, *more, a=a) == 2
        error = capsys.readouterr().err
        assert re.search(words, error) and error.count("\n") == 1, error
    assert [path.name for path in tmp_path.iterdir()] == ["full"] and len(list((tmp_path / "full").iterdir())) == 1


def test_the_curve_is_of_the_metrics_that_fit(tmp_path):
    found = {
        alpha: Found({"t/retrieval/image_to_text_r1": 0.6, "t/retrieval/text_to_image_r1": 0.4, "t/boxes/top1": alpha})
        for alpha in (0.0, 0.5)
    }
    patterns = interpolation.GLOBAL, interpolation.REGION
    rows = interpolation.curve(found, patterns)
    assert rows == [(0.0, 0.5, 0.0), (0.5, 0.5, 0.5)]
    with pytest.raises(CommandError, match="no metric fits 'x'; there are t/retrieval/image_to_text_r1"):
        interpolation.curve(found, ("x", "*"))
    pytest.importorskip("matplotlib")
    table, picture = interpolation.write_curve(str(tmp_path), rows, patterns)
    assert Path(table).read_text().splitlines()[1:] == ["0.0,0.5,0.0", "0.5,0.5,0.5"]
    assert Path(picture).read_bytes()[:4] == b"\x89PNG"
