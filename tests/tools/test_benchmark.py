"""The benchmark's command line: what it prints is complete and consistent. No times are asserted."""
import json

import pytest

from tools import benchmark

SMALL = "powerset --batch 8 --regions 3 --phrases 4 --width 16 --tokens 12 --repeats 1".split()


def test_json_holds_every_form(capsys):
    assert benchmark.main(SMALL + ["--method", "exact", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["forms"]) == set(benchmark.FORMS)
    assert all(form["seconds"] > 0 and form["temporary_bytes"] > 0 for form in result["forms"].values())
    assert result["times_faster_than"]["two_sweeps"] == 1
    assert result["share_of_step"]["counted_matmul"] == pytest.approx(
        result["operations"]["matmul"] / (benchmark.STEP_FLOPS_A_PAIR * 8))


def test_what_is_too_large_or_lacks_the_method_is_not_run(capsys):
    benchmark.main(SMALL + ["--method", "sampled", "--memory", "0", "--json"])
    forms = json.loads(capsys.readouterr().out)["forms"]
    assert forms["dense"] == {"temporary_bytes": None, "seconds": None}
    assert forms["two_sweeps"]["temporary_bytes"] > 0 and forms["two_sweeps"]["seconds"] is None


def test_table_names_the_forms(capsys):
    assert benchmark.main(SMALL) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in benchmark.FORMS) and "H200" in printed


def test_wrong_flag_exits_2(capsys):
    with pytest.raises(SystemExit) as stop:
        benchmark.main(["powerset", "--method", "best"])
    assert stop.value.code == 2 and "invalid choice" in capsys.readouterr().err
