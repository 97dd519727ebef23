"""Tars that the real img2dataset has crawled from a server on this machine, read by `webdataset`."""

import functools
import http.server
import io
import json
import os
import shutil
import subprocess
import threading
import venv

import numpy as np
from PIL import Image
import pytest

from tests.data.readers import common


@pytest.fixture(scope="module")
def img2dataset(tmp_path_factory):
    """Python with the real img2dataset, in an environment of its own, since its pins are old."""
    folder = tmp_path_factory.mktemp("img2dataset")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    made = subprocess.run([python, "-m", "pip", "install", "-q", "img2dataset==1.47.0"], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"pip cannot install img2dataset: {made.stderr.strip().splitlines()[-1]}")
    yield python
    shutil.rmtree(folder)  # 800 MB


@pytest.fixture
def server(tmp_path):
    """Serves the folder `www` on this machine; gives its address."""
    (tmp_path / "www").mkdir()
    handler = functools.partial(_Quiet, directory=tmp_path / "www")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Says nothing."""


CRAWL = """
import sys
from img2dataset import download
if __name__ == "__main__":
    download(
        url_list=sys.argv[1], output_folder=sys.argv[2], resize_mode=sys.argv[3], input_format="csv", url_col="url",
        caption_col="caption", save_additional_columns=["alt"], output_format="webdataset", image_size=64,
        processes_count=1, thread_count=4, number_sample_per_shard=4, compute_hash="sha256", retries=0, timeout=20,
    )
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["border", "center_crop"])
def test_what_the_real_img2dataset_crawls(tmp_path, img2dataset, server, mode):
    sizes = [(80, 40), (40, 80), (64, 64), (33, 17), (100, 98), (30, 90)]
    for number, size in enumerate(sizes):
        kind = ("JPEG", "PNG", "WEBP")[number % 3]
        (tmp_path / "www" / f"{number}.img").write_bytes(_smooth(number, size, kind))
    (tmp_path / "www" / "page.img").write_text("<html>no image</html>")
    names = [*map(str, range(len(sizes))), "page", "gone"]
    rows = [f"{server}/{name}.img,{'' if name == '3' else f'Bild é {name} 猫'},alt {name}" for name in names]
    (tmp_path / "list.csv").write_text("\n".join(["url,caption,alt", *rows]) + "\n", encoding="utf-8")
    (tmp_path / "crawl.py").write_text(CRAWL)
    command = [img2dataset, tmp_path / "crawl.py", tmp_path / "list.csv", tmp_path / "crawl", mode]
    quiet = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled"}
    made = subprocess.run(command, capture_output=True, text=True, env=quiet)
    assert made.returncode == 0, made.stderr
    captions = ("--caption", "txt:0.7,json.alt:0.3")
    assert common.run(tmp_path / "out", "webdataset", "--input", tmp_path / "crawl", "--border", "cut", *captions) == 0
    found = {row["captions"][0].removesuffix(" 猫")[-1]: row for row in common.examples(tmp_path / "out")}
    assert sorted(found) == list("012345") and found["3"]["captions"] == ["alt 3"]
    summary = json.loads((tmp_path / "out" / "prepared.json").read_text())["summary"]
    assert "8 asked, 6 fetched (75.0%), 1 not downloaded, 1 not decoded or resized" in summary[0]
    assert any("HTTP Error 404" in line for line in summary)
    assert any("resize_mode=border" in line for line in summary) == (mode == "border")
    for number, (width, height) in enumerate(sizes):
        pixels = Image.open(io.BytesIO(found[str(number)]["image"])).convert("RGB")
        if mode == "border":
            scale = 64 / max(width, height)
            assert pixels.size == (round(width * scale), round(height * scale))
        else:
            assert pixels.size == (64, 64)
        # The picture fills what is left to its corners: none of them is white.
        assert max(np.asarray(pixels, int)[row, column].mean() for row in (0, -1) for column in (0, -1)) < 200


def _smooth(seed: int, size: tuple[int, int], kind: str) -> bytes:
    """An encoded picture without white."""
    small = np.random.default_rng(seed).integers(0, 160, (3, 3, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize(size, Image.Resampling.BILINEAR).save(buffer, kind)
    return buffer.getvalue()
