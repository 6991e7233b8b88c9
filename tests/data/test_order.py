import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marin_sft.data.order import mixture_order, shares, spread
from marin_sft.errors import ConfigError

deterministic = settings(derandomize=True, deadline=None, max_examples=200)
weights = st.lists(st.floats(0, 1000, allow_subnormal=False), min_size=1, max_size=6).filter(lambda w: sum(w) > 1e-6)


@deterministic
@given(weights, st.integers(1, 500))
def test_shares(weights, total):
    counts = shares(weights, total)
    assert counts.sum() == total
    positive = np.array(weights) > 0
    assert (counts[~positive] == 0).all()
    if total >= positive.sum():
        assert (counts[positive] >= 1).all()
    # Exact to less than one row, and one more for each small component that was given its row.
    exact = np.array(weights) / sum(weights) * total
    assert (np.abs(counts - exact) <= 1 + ((exact < 1) & positive).sum()).all()


@deterministic
@given(st.lists(st.integers(0, 60), min_size=1, max_size=5))
def test_spread_is_even(counts):
    places = spread(np.array(counts))
    total = sum(counts)
    for component, count in enumerate(counts):
        seen = np.cumsum(places == component)
        assert total == 0 or seen[-1] == count
        if count:
            expected = (np.arange(total) + 1) * count / total
            assert np.abs(seen - expected).max() <= len(counts)


def test_one_component_is_an_epoch_each():
    epochs = [mixture_order([7], [1.0], 7, seed=3, epoch=e) for e in range(3)]
    assert all(sorted(e[:, 1].tolist()) == list(range(7)) for e in epochs)
    assert len({tuple(e[:, 1]) for e in epochs}) == 3


def test_passes_go_on_across_epochs():
    # Component 1 has 3 rows and gets 5 of 10 places: passes end within epochs.
    drawn = []
    for epoch in range(6):
        order = mixture_order([7, 3], [1, 1], 10, seed=0, epoch=epoch)
        drawn += order[order[:, 0] == 1, 1].tolist()
    assert len(drawn) == 30
    assert all(sorted(drawn[i : i + 3]) == [0, 1, 2] for i in range(0, 30, 3))


def test_seed_and_determinism():
    first = mixture_order([50, 20], [3, 1], 70, seed=1)
    assert (first == mixture_order([50, 20], [3, 1], 70, seed=1)).all()
    assert (first != mixture_order([50, 20], [3, 1], 70, seed=2)).any()
    assert (first[:, 0] == mixture_order([50, 20], [3, 1], 70, seed=2)[:, 0]).all()


def test_errors():
    with pytest.raises(ConfigError, match="no rows"):
        mixture_order([3, 0], [1, 1], 3, seed=0)
    for weights in ([0.0, 0.0], [1.0, -1.0], [float("nan"), 1.0]):
        with pytest.raises(ConfigError, match="weights"):
            mixture_order([3, 3], weights, 3, seed=0)
