"""What all rows together tell: copies of earlier rows, and rows that are unlike the rest of their component.

Rows count in the order of the components' names, then of their files. A copy is a row that could be left out: the first
of several equal rows is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from marin_sft.data.files import Json
from marin_sft.data.lint.findings import LONGER_CHOSEN, SAMPLES
from marin_sft.data.lint.near import near_earlier
from marin_sft.data.lint.rows import Rows
from marin_sft.data.lint.words import script_names

_ONE_SCRIPT = 0.9  # the share of rows from which on a component counts as written in one script
_FAR = 3.5  # modified z-scores, the usual bound of Iglewicz and Hoaglin (1993)
_TIMES = 8.0  # how many times longer or shorter than the median an outlier is at least
_ENOUGH = 50  # rows to tell what is usual
_MESSAGES = {
    "duplicate_rows": "equal to another row",
    "duplicate_prompts": "the same prompt as another row",
    "near_duplicate_prompts": "nearly the prompt of another row",
    "swapped_pairs": "another row has chosen and rejected swapped",
}


class Seen(NamedTuple):
    """A finding about a row, by positions in all rows; `other`: the earlier row that it repeats, else -1."""

    row: int
    message: str
    other: int = -1


class Counted(NamedTuple):
    """A finding in one component. rows: how many. first: a few of them. within: how many repeat a row of the same
    component; None for what is no copy."""

    rows: int
    first: list[Seen]
    within: int | None = None


class Copies(NamedTuple):
    """Rows that repeat another, ascending, and for each the earliest such row.

    within: of each component, how many repeat a row of it. across: component of the copy, that of the row which is
    repeated, and how many.
    """

    rows: np.ndarray
    others: np.ndarray
    within: np.ndarray
    across: list[tuple[int, int, int]]


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
        """By finding, those of `_MESSAGES`."""
        rows = self.rows
        first_row, last_row = _earlier(rows.row_keys)
        first_prompt, last_prompt = _earlier(rows.prompt_keys)
        equal = np.flatnonzero(first_row >= 0)
        again = np.flatnonzero((first_row < 0) & (first_prompt >= 0) & (rows.sizes[:, 0] > 0))
        new = np.flatnonzero(_earlier(rows.user_keys)[0] < 0)  # another system turn alone makes no near-duplicate
        near = near_earlier(rows.sketches, new, similarity, self.groups)
        near_pairs = [(row, other) for row, others in sorted(near.items()) for other in others.values()]
        return {
            "duplicate_rows": self._copies(np.tile(equal, 2), np.concatenate([first_row[equal], last_row[equal]])),
            "duplicate_prompts": self._copies(
                np.tile(again, 2), np.concatenate([first_prompt[again], last_prompt[again]])
            ),
            "near_duplicate_prompts": self._copies(*np.array(near_pairs, np.int64).reshape(-1, 2).T),
            "swapped_pairs": self._copies(*self._swapped()),
        }

    def _copies(self, rows: np.ndarray, others: np.ndarray) -> Copies:
        """Of pairs of a row and an earlier one; a row may be in several."""
        order = np.lexsort((others, rows))
        distinct, first = np.unique(rows[order], return_index=True)
        count = len(self.names)
        pairs = np.unique(rows * count + self.groups[others])  # of a row and a component
        own, of = self.groups[pairs // count], pairs % count
        kinds, sizes = np.unique((own * count + of)[own != of], return_counts=True)
        return Copies(
            distinct,
            others[order][first],
            np.bincount(own[own == of], minlength=count),
            [(int(kind // count), int(kind % count), int(size)) for kind, size in zip(kinds, sizes, strict=True)],
        )

    def copies_in(self, group: int, finding: str, copies: Copies) -> Counted:
        """Those of one component."""
        start, stop = np.searchsorted(copies.rows, self.bounds[group : group + 2])
        some = slice(start, min(stop, start + SAMPLES))
        pairs = zip(copies.rows[some].tolist(), copies.others[some].tolist(), strict=True)
        first = [Seen(row, _MESSAGES[finding], other) for row, other in pairs]
        return Counted(int(stop - start), first, int(copies.within[group]))

    def _swapped(self) -> tuple[np.ndarray, np.ndarray]:
        """Pairs that are an earlier pair with its sides swapped, and that earlier one."""
        keys, swapped = self.rows.row_keys, self.rows.swapped_keys
        pairs = np.flatnonzero(swapped)
        order = pairs[np.argsort(keys[pairs], kind="stable")]
        if not len(order):
            return pairs, pairs
        other = order[np.minimum(np.searchsorted(keys[order], swapped[pairs]), len(order) - 1)]
        same = (keys[other] == swapped[pairs]) & (other < pairs)
        return pairs[same], other[same]

    def outliers(self, group: int) -> tuple[dict[str, Counted], Json]:
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


def _script_outliers(scripts: np.ndarray, start: int) -> tuple[Counted, Json]:
    counts = np.bincount(scripts, minlength=1)
    written = counts[1:].sum()
    names = script_names()
    facts = {names[i]: int(counts[i]) for i in np.argsort(-counts, kind="stable") if counts[i]}
    if not written or written < _ENOUGH or counts[1:].max() < _ONE_SCRIPT * written:
        return Counted(0, []), facts
    usual = int(counts[1:].argmax()) + 1
    others = np.flatnonzero((scripts != usual) & (scripts != 0))
    text = f"while {counts[usual] / written:.1%} of the component are {names[usual]}"
    first = [Seen(start + int(row), f"mostly {names[scripts[row]]}, {text}") for row in others[:SAMPLES]]
    return Counted(len(others), first), facts


def _length_outliers(sizes: np.ndarray, start: int) -> tuple[Counted, Json]:
    """By the logarithm of their length: the median absolute deviation is not moved by the outliers themselves. Those
    that are farthest from the median come first."""
    found = np.zeros(len(sizes), bool)
    facts: Json = {}
    texts: dict[int, tuple[float, str]] = {}
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
        found[there[far]] = True
        for row in there[far][np.argsort(-np.abs(away[far]), kind="stable")][:SAMPLES].tolist():
            how_far = abs(float(np.log(lengths[row]) - np.log(median)))
            text = f"{name} of {lengths[row]:,} characters; the median is {median:,.0f}"
            texts[row] = max(texts.get(row, (0.0, "")), (how_far, text))
    first = sorted(texts, key=lambda row: (-texts[row][0], row))[:SAMPLES]
    return Counted(int(np.count_nonzero(found)), [Seen(start + row, texts[row][1]) for row in first]), facts


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
