"""The embedded scenes: `test`, and `test_unseen` with colour-shape pairs that training never showed."""

from harmopower.evaluation.suites.records import RecordsSuite

SUITE = RecordsSuite("scenes", ("test", "test_unseen"))
