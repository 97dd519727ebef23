"""Every pinned package has a wheel for each Python that we run on, so that an installation compiles nothing."""

import pathlib
import subprocess
import sys

import pytest

PINS = pathlib.Path(__file__).parents[1] / "constraints.txt"
WITHOUT_A_WHEEL = "promise"  # pure Python, built in a second
OTHERS = [f"3.{minor}" for minor in range(11, 15) if minor != sys.version_info.minor]


@pytest.mark.slow
@pytest.mark.parametrize("python", OTHERS)
def test_every_pin_has_a_wheel(python, tmp_path):
    pins = [line for line in PINS.read_text().splitlines() if line and not line.startswith(("#", WITHOUT_A_WHEEL))]
    assert len(pins) > 50
    (tmp_path / "pins.txt").write_text("\n".join(pins))
    download = ["download", "--quiet", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command = [sys.executable, "-m", "pip", *download, f"--python-version={python}", f"--dest={tmp_path / 'wheels'}"]
    try:
        found = subprocess.run([*command, f"--requirement={tmp_path / 'pins.txt'}"], capture_output=True, text=True)
        assert found.returncode == 0, found.stderr[-2000:]
    finally:
        for wheel in (tmp_path / "wheels").glob("*"):  # gigabytes that pytest would keep
            wheel.unlink()
