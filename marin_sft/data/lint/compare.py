"""What all rows together tell: copies of earlier rows, and rows that are unlike the rest of their component.

Rows count in the order of the components' names, then of their files. A copy is a row that could be left out: the first
of several equal rows is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from marin_sft.data.files import Json
from marin_sft.data.lint.findings import LONGER_CHOSEN
from marin_sft.data.lint.near import near_earlier
from marin_sft.data.lint.rows import Rows
from marin_sft.data.lint.words import script_names

_ONE_SCRIPT = 0.9  # the share of rows from which on a component counts as written in one script
_FAR = 3.5  # modified z-scores, the usual bound of Iglewicz and Hoaglin (1993)
_TIMES = 8.0  # how many times longer or shorter than the median an outlier is at least
_ENOUGH = 50  # rows to tell what is usual


class Seen(NamedTuple):
    """A finding about a row, by positions in all rows; `other`: the earlier row that it repeats, else -1."""

    row: int
    message: str
    other: int = -1


class Copies(NamedTuple):
    """Findings about copies. within: rows that repeat one of their own component. across: how many, by component of the
    copy and of the row that is repeated."""

    seen: list[Seen]
    within: dict[str, int]
    across: dict[tuple[str, str], int]


class Together:
    """The rows of all components, one after the other. bounds: where each component begins, and the end.

    The lists of rows are emptied, which saves memory.
    """

    def __init__(self, components: Mapping[str, list[Rows]]) -> None:
        self.names = list(components)
        counts = [sum(len(part.numbers) for part in parts) for parts in components.values()]
        self.bounds = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        together: list[Rows] = []
        for parts in components.values():
            together += parts
            parts.clear()
        self.rows = Rows.together(together)
        self.groups = np.repeat(np.arange(len(counts)), counts)

    def name_of(self, row: int) -> tuple[str, int]:
        """The component of a row, and its number in it."""
        return self.names[int(self.groups[row])], int(self.rows.numbers[row])

    def copies(self, similarity: float) -> dict[str, Copies]:
        rows = self.rows
        first_row, last_row = _earlier(rows.row_keys)
        first_prompt, last_prompt = _earlier(rows.prompt_keys)
        again = (first_row < 0) & (first_prompt >= 0) & (rows.sizes[:, 0] > 0)
        swapped = self._swapped()
        new = np.flatnonzero(_earlier(rows.user_keys)[0] < 0)  # another system turn alone makes no near-duplicate
        near = near_earlier(rows.sketches, new, similarity, self.groups)
        pairs = {
            "duplicate_rows": self._pairs(np.flatnonzero(first_row >= 0), first_row, last_row),
            "duplicate_prompts": self._pairs(np.flatnonzero(again), first_prompt, last_prompt),
            "near_duplicate_prompts": {row: set(others.values()) for row, others in sorted(near.items())},
            "swapped_pairs": self._pairs(np.flatnonzero(swapped >= 0), swapped, swapped),
        }
        words = {
            "duplicate_rows": "equal to another row",
            "duplicate_prompts": "the same prompt as another row",
            "near_duplicate_prompts": "nearly the prompt of another row",
            "swapped_pairs": "another row has chosen and rejected swapped",
        }
        return {name: self._copies(found, words[name]) for name, found in pairs.items()}

    def _pairs(self, rows: np.ndarray, first: np.ndarray, last: np.ndarray) -> dict[int, set[int]]:
        return {int(row): {int(first[row]), int(last[row])} for row in rows}

    def _copies(self, found: Mapping[int, set[int]], words: str) -> Copies:
        seen, within, across = [], dict.fromkeys(self.names, 0), dict[tuple[str, str], int]()
        for row, others in found.items():
            own = int(self.groups[row])
            groups = {int(self.groups[other]) for other in others}
            within[self.names[own]] += own in groups
            for group in sorted(groups - {own}):
                pair = self.names[own], self.names[group]
                across[pair] = across.get(pair, 0) + 1
            seen.append(Seen(row, words, min(others)))
        return Copies(seen, within, across)

    def _swapped(self) -> np.ndarray:
        """For each row, an earlier one with its sides swapped, else -1."""
        keys, swapped = self.rows.row_keys, self.rows.swapped_keys
        pairs = np.flatnonzero(swapped)
        order = pairs[np.argsort(keys[pairs], kind="stable")]
        found = np.full(len(keys), -1, np.int64)
        if len(order):
            at = np.minimum(np.searchsorted(keys[order], swapped[pairs]), len(order) - 1)
            other = order[at]
            same = (keys[other] == swapped[pairs]) & (other < pairs)
            found[pairs[same]] = other[same]
        return found

    def outliers(self, group: int) -> tuple[dict[str, list[Seen]], Json]:
        """Of one component: rows unlike the others, and what is usual in it."""
        start, stop = self.bounds[group : group + 2]
        scripts, script_facts = _script_outliers(self.rows.scripts[start:stop], int(start))
        lengths, length_facts = _length_outliers(self.rows.sizes[start:stop], int(start))
        found = {"script_outliers": scripts, "length_outliers": lengths}
        return found, {"scripts": script_facts, "lengths": length_facts, **_length_bias(self.rows.sizes[start:stop])}


def _earlier(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each key, where it came first and where it came last before; -1 if it is new."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    first = np.searchsorted(ordered, ordered)
    again = np.flatnonzero(first < np.arange(len(keys)))
    found = np.full((2, len(keys)), -1, np.int64)
    found[0, order[again]] = order[first[again]]
    found[1, order[again]] = order[again - 1]
    return found[0], found[1]


def _script_outliers(scripts: np.ndarray, start: int) -> tuple[list[Seen], Json]:
    counts = np.bincount(scripts, minlength=1)
    written = counts[1:].sum()
    names = script_names()
    facts = {names[i]: int(counts[i]) for i in np.argsort(-counts, kind="stable") if counts[i]}
    if not written or written < _ENOUGH or counts[1:].max() < _ONE_SCRIPT * written:
        return [], facts
    usual = int(counts[1:].argmax()) + 1
    others = np.flatnonzero((scripts != usual) & (scripts != 0))
    text = f"while {counts[usual] / written:.1%} of the component are {names[usual]}"
    return [Seen(start + int(row), f"mostly {names[scripts[row]]}, {text}") for row in others], facts


def _length_outliers(sizes: np.ndarray, start: int) -> tuple[list[Seen], Json]:
    """By the logarithm of their length: the median absolute deviation is not moved by the outliers themselves."""
    found: dict[int, tuple[float, str]] = {}
    facts: Json = {}
    for column, name in enumerate(("prompt", "answer", "rejected")):
        lengths = sizes[:, column]
        there = np.flatnonzero(lengths > 0)
        if not len(there):
            continue
        median = float(np.median(lengths[there]))
        facts[name] = {"median": median, "longest": int(lengths.max()), "mean": round(float(lengths[there].mean()), 1)}
        if len(there) < _ENOUGH or name == "rejected":
            continue
        away = np.log(lengths[there]) - np.log(median)
        spread = np.where(away > 0, _spread(away[away >= 0]), _spread(away[away <= 0]))
        far = (0.6745 * np.abs(away) > _FAR * spread) & (np.abs(away) > np.log(_TIMES))
        for row, how_far in zip(there[far].tolist(), np.abs(away[far]).tolist(), strict=True):
            text = f"{name} of {lengths[row]:,} characters; the median is {median:,.0f}"
            found[row] = max(found.get(row, (0.0, "")), (how_far, text))
    far_first = sorted(found, key=lambda row: (-found[row][0], row))
    return [Seen(start + row, found[row][1]) for row in far_first], facts


def _spread(away: np.ndarray) -> float:
    """The median distance from the median, of one side: short answers spread otherwise than long ones."""
    return float(np.median(np.abs(away)))


def _length_bias(sizes: np.ndarray) -> Json:
    """Of pairs: the mean characters of both sides, and how often the chosen one is longer."""
    pairs = sizes[sizes[:, 2] >= 0]
    if not len(pairs):
        return {}
    chosen, rejected = pairs[:, 1].astype(np.int64), pairs[:, 2].astype(np.int64)
    longer, shorter = int((chosen > rejected).sum()), int((chosen < rejected).sum())
    means = {"chosen_mean": round(float(chosen.mean()), 1), "rejected_mean": round(float(rejected.mean()), 1)}
    bias = {"pairs": len(pairs), **means, "longer": longer, "shorter": shorter}
    return {"length_bias": bias, LONGER_CHOSEN: longer / len(pairs)}
