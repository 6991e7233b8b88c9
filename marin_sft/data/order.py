"""Which packed row comes when. Pure functions of sizes, weights and a seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from marin_sft.errors import ConfigError


def mixture_order(
    rows_per_component: Sequence[int], weights: Sequence[float], total_rows: int, seed: int, epoch: int = 0
) -> np.ndarray:
    """int64[total_rows, 2]: (component, row of it) for each place of epoch number `epoch`.

    Each epoch holds the same number of rows of each component: its share of `total_rows` by `weights`, see `shares`.
    Components are spread evenly over the epoch. A component gives its rows in passes: all of them, shuffled, then all
    of them shuffled anew; passes go on from one epoch to the next.

    Raises:
        ConfigError: no positive weight, or one for a component without rows.
    """
    for component, (rows, weight) in enumerate(zip(rows_per_component, weights, strict=True)):
        if weight > 0 and rows == 0:
            raise ConfigError(f"component {component} has weight {weight} and no rows; expected rows, or weight 0")
    counts = shares(weights, total_rows)
    order = np.empty((total_rows, 2), np.int64)
    order[:, 0] = spread(counts)
    for component, count in enumerate(counts.tolist()):
        if count:
            drawn = _drawn_rows(rows_per_component[component], epoch * count, count, (seed, component))
            order[order[:, 0] == component, 1] = drawn
    return order


def shares(weights: Sequence[float], total: int) -> np.ndarray:
    """int64[components]: `total` split in proportion to `weights`, exact to less than one (largest remainder).

    A positive weight gets at least one while there are as many places as positive weights: a small component would
    otherwise be rounded away in every epoch.
    """
    exact = np.asarray(weights, np.float64)
    if not (np.isfinite(exact).all() and (exact >= 0).all() and exact.sum() > 0):
        raise ConfigError(f"weights {list(weights)}; expected finite numbers of at least 0, and one above 0")
    exact = exact / exact.sum() * total
    counts = np.floor(exact).astype(np.int64)
    missing = total - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:missing]] += 1
    if total >= np.count_nonzero(exact):
        for component in np.flatnonzero((exact > 0) & (counts == 0)):
            counts[counts.argmax()] -= 1
            counts[component] = 1
    return counts


def spread(counts: np.ndarray) -> np.ndarray:
    """int64[sum of counts]: the component at each place, each one as evenly spaced as its count allows."""
    component = np.repeat(np.arange(len(counts)), counts)
    nth = np.arange(len(component)) - np.repeat(np.cumsum(counts) - counts, counts)
    return component[np.argsort((nth + 0.5) / counts[component], kind="stable")]


def _drawn_rows(rows: int, first: int, count: int, key: tuple[int, int]) -> np.ndarray:
    """Draws `first` to `first + count` of an endless sequence of passes over `rows` rows."""
    passes = range(first // rows, (first + count - 1) // rows + 1)
    drawn = np.concatenate([np.random.default_rng([*key, n]).permutation(rows) for n in passes])
    start = first - passes[0] * rows
    return drawn[start : start + count]
