import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from marin_sft.data.batches.interleaving import Interleaving

deterministic = settings(derandomize=True, deadline=None, max_examples=200)
some_weights = st.lists(
    st.one_of(st.just(0.0), st.floats(1e-6, 1.0), st.integers(1, 9).map(float)), min_size=1, max_size=9
).filter(any)


def deviation(weights, component):
    """float[places, components]: how far each count is off its exact share after each place."""
    shares = np.array(weights) / sum(weights)
    seen = np.cumsum(component[:, None] == np.arange(len(weights)), axis=0)
    return seen - shares * np.arange(1, len(component) + 1)[:, None]


@deterministic
@given(some_weights)
def test_no_prefix_is_off_by_more_than_a_row_or_so(weights):
    component, _ = Interleaving(weights).at(np.arange(3000))
    off = np.abs(deviation(weights, component)).max()
    assert off <= (1.0 if np.count_nonzero(weights) <= 3 else 1.7) + 1e-6
    assert set(component) <= set(np.flatnonzero(weights))


@deterministic
@given(some_weights, st.integers(0, 10**9))
def test_any_place_by_itself(weights, first):
    """Far from the start, and without what comes before."""
    interleaving = Interleaving(weights)
    component, before = interleaving.at(np.arange(first, first + 50))
    counts = interleaving.counts(first)
    assert counts.sum() == first
    for at, (c, n) in enumerate(zip(component.tolist(), before.tolist(), strict=True)):
        assert n == counts[c]
        counts[c] += 1
        assert (interleaving.counts(first + at + 1) == counts).all()


def test_small_weights_are_not_lost():
    weights = [1e-5, 2e-5, 1 - 3e-5]
    component, _ = Interleaving(weights).at(np.arange(1_000_000))
    assert np.bincount(component).tolist() == [10, 20, 999_970]
    assert np.abs(deviation(weights, component)).max() <= 1


def test_typical_weights_stay_within_a_row():
    for weights in ([1] * 9, [3, 1], [0.9] + [0.0125] * 8, [1, 2, 3, 5, 8, 13]):
        component, _ = Interleaving(weights).at(np.arange(5000))
        assert np.abs(deviation(weights, component)).max() < 1
