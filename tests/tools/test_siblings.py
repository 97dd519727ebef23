"""Which scores tell a scene from its siblings: shares counted by hand, and the command on a run that was trained."""

import re

import numpy as np

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
    assert siblings.main(["--workdir", str(tmp_path / "nowhere")]) == 2
    assert "holds no run" in capsys.readouterr().err
