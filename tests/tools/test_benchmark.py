"""The benchmark's command line: what it prints is complete and consistent. No times are asserted."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from harmopower.data import images, pipeline, records
from tools import benchmark, benchmark_filters, benchmark_prepare, benchmark_rows, benchmark_step, photographs

SMALL = [
    "powerset",
    "--batch",
    "8",
    "--regions",
    "3",
    "--phrases",
    "4",
    "--width",
    "16",
    "--tokens",
    "12",
    "--repeats",
    "1",
]


def test_json_holds_every_form(capsys):
    assert benchmark.main(SMALL + ["--method", "exact", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["forms"]) == set(benchmark.FORMS)
    assert all(form["seconds"] > 0 and form["temporary_bytes"] > 0 for form in result["forms"].values())
    assert result["times_faster_than"]["two_sweeps"] == 1
    assert result["share_of_step"]["counted_matmul"] == pytest.approx(
        result["operations"]["matmul"] / (benchmark.STEP_FLOPS_A_PAIR * 8)
    )


def test_other_negatives_stand_beside_the_hardest(capsys):
    """In the same run and on the same features; a form is named by what it searches for."""
    wanted = ["two_sweeps", *(f"two_sweeps {name}" for name in benchmark.MENDS)]
    assert benchmark.main(SMALL + ["--memory", "1", "--top-k", "3", "--json", "--negatives", *benchmark.MENDS]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [name for name in result["forms"] if name.startswith("two_sweeps")] == wanted
    assert all(result["forms"][name]["seconds"] > 0 and result["times_faster_than"][name] > 0 for name in wanted)


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


# --- the train step ------------------------------------------------------------------------------------------------

SCENES = str(Path(__file__).parents[2] / "configs" / "scenes.py")
TINY = [
    "step",
    "--config",
    SCENES,
    "--preset",
    "patch16-shared8-vision8x1x2-text8x1x2",
    "--vocabulary",
    "32",
    "--batch",
    "4",
    "--repeats",
    "1",
    "--set",
    "data.image_size=64",
    "--set",
    "data.context_length=8",
]


@pytest.mark.slow
def test_step_counts_and_times_every_contender(capsys):
    assert benchmark.main([*TINY, "--variants", "global", "all", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    theirs = set() if result["open_clip_left_out"] else {"open_clip"}
    assert result["steps"].keys() == {"global", "all"} | theirs
    assert theirs or "not installed" in result["open_clip_left_out"]
    for step in result["steps"].values():
        assert step["examples_per_second"] == pytest.approx(4 / step["seconds"]) and step["processor_seconds"] > 0
    alone, everything = result["steps"]["global"], result["steps"]["all"]
    assert alone["flops_over_global"] == alone["times_the_first"] == 1 < everything["flops_over_global"]
    rate = everything["flops"] / everything["seconds"]
    assert everything["utilisation"] == pytest.approx(rate / result["peak_flops"])
    assert all(step["memory_bytes"]["temporary"] > 0 for step in (alone, everything))


def test_step_prints_a_table_and_profiles(capsys, tmp_path):
    assert benchmark.main([*TINY, "--variants", "global", "--no-open-clip", "--profile", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "pairs/s" in printed and "open_clip left out: --no-open-clip" in printed and "dot" in printed
    assert benchmark_step.largest_costs(tmp_path, 1)[0][1] > 0


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--set", "model.depth=3"], "model.depth"),
        (["--set", "batch_size=many"], "batch_size=many"),
        (["--config", "nowhere.py"], "nowhere.py does not exist"),
        (["--batch", "0"], "config.batch_size 0"),
        (["--find-batch"], "set --batch"),
    ],
)
def test_step_refuses_with_one_line_and_exit_2(flags, words, capsys):
    with pytest.raises(SystemExit) as stop:
        benchmark.main([*TINY, *flags])
    assert stop.value.code == 2 and words in capsys.readouterr().err


def test_variants_switch_exactly_their_objectives_on():
    config = benchmark_step.configs.load(SCENES)
    config.objective.powerset.weight = 0.0
    for name, terms in benchmark_step.VARIANTS.items():
        objective = benchmark_step.with_objectives(config, name).objective
        assert {term for term in benchmark_step.configs.OBJECTIVES if objective[term].weight} == set(terms)
    assert config.objective.powerset.weight == 0


def test_a_random_batch_has_the_shapes_of_the_pipeline():
    config = benchmark_step.configs.load(SCENES)
    found = benchmark_step.Bench(config, 1, 64).batch()
    expected = pipeline.empty_batch(config.data, 64, region_text=True)
    assert {name: (rows.shape, rows.dtype) for name, rows in found.items()} == {
        name: (rows.shape, rows.dtype) for name, rows in expected.items()
    }


class Doubled:
    """A bench whose compiled step needs 10 bytes an example."""

    def __init__(self, batch):
        self.config, self.batch = SimpleNamespace(batch_size=batch), batch

    def resized(self, batch):
        return Doubled(batch)

    def compile(self, name):
        return SimpleNamespace(
            memory_analysis=lambda: SimpleNamespace(
                argument_size_in_bytes=4 * self.batch,
                output_size_in_bytes=2 * self.batch,
                alias_size_in_bytes=self.batch,
                temp_size_in_bytes=5 * self.batch,
            )
        )


@pytest.mark.parametrize("limit, batch", [(159, 8), (160, 16), (161, 16)])
def test_the_largest_batch_that_fits(limit, batch):
    assert benchmark_step.find_batch(Doubled(4), limit).batch == batch


def test_a_first_batch_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="batch 4 does not fit"):
        benchmark_step.find_batch(Doubled(4), 39)


def test_prepare_is_measured_against_a_bare_loop(monkeypatch, capsys):
    pytest.importorskip("skimage")
    monkeypatch.setattr(benchmark_prepare, "SIZES", {"500 x 375": (500, 375)})
    assert (
        benchmark.main(
            ["data", "--parts", "prepare", "--photographs", "2", "--samples", "3", "--repeats", "1", "--json"]
        )
        == 0
    )
    found = json.loads(capsys.readouterr().out)["prepare"]["500 x 375"]
    assert found.keys() == {"clock", "processor"}
    assert found["clock"]["ratio"] == pytest.approx(found["clock"]["prepare"] / found["clock"]["bare"])


def test_the_bare_loop_makes_what_prepare_makes():
    (photograph,) = photographs.photographs(1, (500, 375))
    assert benchmark_prepare._bare(photograph) == images.shrink(photograph, benchmark_prepare.SHORTEST_SIDE)


def test_rows_are_measured_with_the_share_of_each_stage(monkeypatch, capsys):
    pytest.importorskip("skimage")
    monkeypatch.setattr(benchmark_rows, "SIZES", ((40, 30),))
    monkeypatch.setattr(benchmark_rows, "_ROWS", 4)
    arguments = ["data", "--parts", "rows", "--photographs", "4", "--repeats", "1", "--image-size", "16"]
    assert benchmark.main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["rows"]["40 x 30"]
    assert found["per_second"].keys() == {"bare", "converted", "rows"} and min(found["per_second"].values()) > 0
    assert found["shares"].keys() == {*benchmark_rows.STAGES, "the rest"}
    assert sum(found["shares"].values()) == pytest.approx(1) and min(found["shares"].values()) > 0
    assert benchmark.main(arguments) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("40 x 30", "tokenise"))


def test_filters_are_measured_against_the_default(monkeypatch, capsys):
    pytest.importorskip("skimage")
    monkeypatch.setattr(benchmark_filters, "_SIZES", ((60, 40),))
    arguments = ["data", "--parts", "filters", "--photographs", "3", "--repeats", "1", "--image-size", "32"]
    assert benchmark.main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["filters"]["60 x 40"]
    assert found["bicubic"]["most"] == 0 < found["hamming"]["mean"] < found["box"]["mean"] < found["box"]["most"]
    assert benchmark.main(arguments) == 0
    assert "hamming" in capsys.readouterr().out


def test_opening_is_measured_to_the_first_record(capsys):
    assert benchmark.main(["data", "--parts", "open", "--records", "3000", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["open"]
    assert found.keys() == {"30", "3000"} and all(part["seconds"] > 0 for part in found.values())
    assert 0 <= int(found["3000"]["first"]) < 3000


def test_a_large_data_set_is_made_of_whole_shards_and_a_rest(tmp_path):
    benchmark_rows.write_large(tmp_path, 25, examples_per_shard=10)
    source = records.read(tmp_path, "train")
    assert [source[index]["id"] for index in (0, 9, 10, 19, 20, 24)] == ["0", "9", "0", "9", "0", "4"]
    assert len(source) == 25


def test_order_counts_the_files_of_a_batch(capsys):
    arguments = ["data", "--parts", "order", "--records", "40000", "--files", "400", "--batch", "64", "--repeats", "1"]
    assert benchmark.main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["order"]
    globally, window = found["medians"]["global"], found["medians"]["window"]
    assert found["files"] == 400 and globally["records_per_second"] > 0
    assert 50 < globally["files_touched"] <= 64  # 64 records of 400 files: 59 expected
    assert 64 / 4 < window["files_touched"] < globally["files_touched"]
    assert globally["files_opened"] < globally["files_touched"]  # some are still open
    assert benchmark.main(arguments) == 0
    assert "400 files" in capsys.readouterr().out


def test_evaluation_is_set_against_decoding_and_the_forward_pass(capsys):
    small = ["--images", "6", "--classes", "5", "--image-size", "32", "--batch", "4", "--repeats", "1"]
    assert benchmark.main(["evaluate", "--json", *small]) == 0
    result = json.loads(capsys.readouterr().out)
    seconds = {name: 6 / rate for name, rate in result["images_per_second"].items()}
    assert result["share"] == pytest.approx((seconds["decode"] + seconds["forward"]) / seconds["evaluation"])
    benchmark.SUBCOMMANDS["evaluate"].show(result, Console())
    assert "6 JPEGs, tiny at 32" in capsys.readouterr().out


def test_overlays_are_measured_against_the_same_in_the_records(capsys):
    pytest.importorskip("skimage")
    arguments = ["data", "--parts", "overlays", "--photographs", "3", "--repeats", "1", "--image-size", "16"]
    assert benchmark.main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["overlays"]
    assert found["ratio"] == pytest.approx(found["medians"]["two overlays"] / found["medians"]["records"])
    assert min(found["medians"].values()) > 0
