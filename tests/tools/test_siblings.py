"""Which scores tell a scene from its siblings: shares counted by hand, and the command on a run that was trained."""

import re

import numpy as np

from harmopower import runs
from harmopower import workdir as workdirs
from tests.training import common
from tools import siblings


def test_shares_are_counted_among_siblings_and_among_all_others():
    scores = np.zeros((8, 8))
    np.fill_diagonal(scores, 1.0)
    scores[0, 3] = 2.0  # a sibling above
    scores[1, 2] = 1.0  # one as high: not told apart
    scores[2, 7] = 3.0  # another above
    assert siblings.wins(scores) == (6 / 8, 7 / 8)


def test_the_command_on_a_run(tmp_path, capsys):
    config = common.global_config(common.prepare(tmp_path / "data"), total_steps=3, evaluation__every_steps=0)
    common.train(config, tmp_path / "run")
    assert siblings.main(["--workdir", str(tmp_path / "run"), "--batches", "2"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("global", *siblings.SCORES))
    shares = [float(number) for number in re.findall(r"([\d.]+)%", shown)]
    assert len(shares) == 8 and max(shares) <= 100
    assert siblings.main(["--workdir", str(tmp_path / "run"), str(tmp_path / "nowhere")]) == 2
    shown = capsys.readouterr()
    assert "holds no run" in shown.err and not shown.out  # all are looked at before one is measured


def test_more_regions_than_can_be_scored_exactly_are_refused(tmp_path, capsys):
    config = common.global_config(common.prepare(tmp_path / "data"), data__max_boxes=16)
    tokenizer, _ = runs.open_data(config)
    workdirs.prepare(str(tmp_path / "run"), config, tokenizer, "")(0)
    assert siblings.main(["--workdir", str(tmp_path / "run")]) == 2
    assert "max_boxes 16" in capsys.readouterr().err
