"""The command line of tools.inspect, as a user meets it; what it shows is tested in tests/data/inspecting."""

import json
import subprocess
import sys

import pytest

from harmopower.data import records
from tests.data.inspecting import common as examples
from tests.training import common


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspect") / "data"
    found = [
        examples.example(
            f"{index:06d}", phrases=examples.tree(), regions=[examples.region(words="a dog", label="dog")] * (index % 3)
        )
        for index in range(10)
    ]
    found[4] = examples.example("broken", [""], image=b"junk")
    records.write(folder, {"train": found}, name="inspect")
    examples.tokenizer().save(folder / "tokenizer.json")
    return folder


def run(*arguments):
    command = [sys.executable, "-m", "tools.inspect", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_numbers_as_json_and_the_page_as_a_file(data, tmp_path):
    page = tmp_path / "page.html"
    done = run("--data", data, "--json", "--html", page, "--samples=5")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["records"] == found["examples"] == 10
    assert found["bad_records"] == {"empty_caption": 1, "image_broken": 1}
    assert found["region_labels"] == {"dog": found["regions_with"]["a span"]} == {"dog": 8}
    html = page.read_text()
    assert html.count("<article") == 5 and "<b>broken</b>" in html
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html"]


@pytest.mark.slow
def test_the_table_and_a_limit(data):
    done = run("--data", data, "--limit=4")
    assert done.returncode == 0 and "4 of 10 records" in done.stdout, done.stderr
    assert "most frequent region labels" in done.stdout and "depth of a caption's tree" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], ["--data is missing"]),
        (["--data=no/such"], ["no/such", "tools.prepare"]),
        (["--data={data}", "--split=dev"], ["dev", "train"]),
        (["--data={data}", "--html=no/such/page.html"], ["no/such", "does not exist"]),
        (["--data={data}", "--batch=0"], ["--batch needs --config"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(data, arguments, words):
    done = run(*(argument.format(data=data) for argument in arguments))
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ") and all(word in last for word in words), done.stderr


@pytest.mark.slow
def test_the_page_of_a_batch_has_its_rows(tmp_path):
    source = common.prepare(tmp_path / "data")
    config = f"from tests.training import common\ndef get_config():\n    return common.small_config({str(source)!r})\n"
    (tmp_path / "small.py").write_text(config)
    done = run(f"--config={tmp_path / 'small.py'}", "--batch=2", f"--html={tmp_path / 'page.html'}", "--json")
    assert done.returncode == 0, done.stderr
    from harmopower import runs  # with jax

    _, pipeline = runs.open_data(common.small_config(str(source)))
    html, batch = (tmp_path / "page.html").read_text(), pipeline.batch(2)
    assert all(f"<b>row {row}: {name}</b>" in html for row, name in enumerate(pipeline.ids(2)))
    assert json.loads(done.stdout)["regions"] == batch["box_valid"].sum() == html.count("<rect")
