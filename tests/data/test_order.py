"""Order and mixture: every record once an epoch, weights kept, a pure function of seed and position."""

import collections
from fractions import Fraction
import itertools

import grain
import pytest

from harmopower.data.order import Mixture, Order, source_seed


@pytest.mark.parametrize("groups", [1, 7, 64, 103])
@pytest.mark.parametrize("shuffle", ["global", "window"])
def test_every_group_once_an_epoch_and_each_epoch_anew(groups, shuffle):
    order = Order(groups, 5, shuffle, block=4, blocks=3)
    epochs = [tuple(order[epoch * groups + place] for place in range(groups)) for epoch in range(3)]
    assert all(sorted(epoch) == list(range(groups)) for epoch in epochs)
    assert groups < 7 or len(set(epochs)) == 3
    assert groups < 7 or epochs[0] != tuple(Order(groups, 6, shuffle, block=4, blocks=3)[i] for i in range(groups))


def test_global_is_the_shuffle_of_grain():
    expected = grain.MapDataset.range(23).seed(5).shuffle().repeat()
    assert [Order(23, 5)[i] for i in range(70)] == [expected[i] for i in range(70)]


def test_a_window_reads_few_runs_of_records_and_mixes_them():
    """1,003 groups in blocks of 10, 5 a window: each window is 5 runs of neighbours, from all over the data."""
    order = Order(1003, 5, "window", block=10, blocks=5)
    epoch = [order[place] for place in range(1003)]
    windows = [epoch[start : start + 50] for start in range(0, 1003, 50)]
    for window in windows[:-1]:
        ordered = sorted(window)
        assert sum(b - a > 1 for a, b in itertools.pairwise(ordered)) <= 5  # and once more at the end of the data
        assert window != ordered
        assert ordered[-1] - ordered[0] > 200
    starts = {min(window) for window in windows}
    again = [order[1003 + place] for place in range(1003)]
    assert len(starts & {min(again[start : start + 50]) for start in range(0, 1003, 50)}) < len(starts) / 2


def test_a_look_up_far_away_needs_no_others():
    order = Order(10**9, 0, "window")
    assert 0 <= order[3 * 10**9 + 12345] < 10**9
    assert order[3 * 10**9 + 12345] == Order(10**9, 0, "window")[3 * 10**9 + 12345]


def test_weights_hold_over_every_stretch():
    weights = tuple(map(Fraction, ("0.5", "0.3", "0.15", "0.05")))
    mixture = Mixture(tuple(Order(1000 + k, k) for k in range(4)), weights)
    sources = [mixture._turn(place)[0] for place in range(30_000)]
    for start in range(0, 20_000, 997):
        counts = collections.Counter(sources[start : start + 10_000])
        assert all(abs(counts[k] - 10_000 * w) <= 100 * w for k, w in enumerate(weights))


def test_epochs_of_each_source_are_complete():
    orders = (Order(30, source_seed(5, 0)), Order(7, source_seed(5, 1)), Order(12, source_seed(5, 2)))
    mixture = Mixture(orders, (Fraction(3), Fraction(1), Fraction(2)))
    found = [mixture[position] for position in range(600)]
    for source, order in enumerate(orders):
        records = [record for which, record in found if which == source]
        assert records == [order[place] for place in range(len(records))]
        assert len(records) > 2 * order.groups


def test_one_source_is_its_order_and_groups_stay_together():
    mixture = Mixture((Order(6, 5), Order(4, 9)), (Fraction(1), Fraction(1)), group_size=4)
    for start in range(0, 80, 4):
        found = [mixture[position] for position in range(start, start + 4)]
        assert len({source for source, _ in found}) == 1
        assert [record - found[0][1] for _, record in found] == [0, 1, 2, 3] and found[0][1] % 4 == 0
    alone = Mixture((Order(23, 5),))
    assert [alone[i] for i in range(50)] == [(0, Order(23, 5)[i]) for i in range(50)]
    assert source_seed(5, 0) == 5
