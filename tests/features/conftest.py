"""Lets the tests of this folder import the oracle of the objectives."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "objectives"))
