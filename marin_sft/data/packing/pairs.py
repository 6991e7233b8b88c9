"""Preference pairs as rows: which pairs are trained, and what is kept of each.

They are packed later, when it is known which pairs make up a batch.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from marin_sft.data.chat.alignment import TokenRow
from marin_sft.data.files import Json
from marin_sft.data.messages.examples import BadRow
from marin_sft.data.packing.pair_limits import Kept, PairLimits
from marin_sft.data.packing.rows import Rows
from marin_sft.data.packing.selection import Selection
from marin_sft.data.step_configs import PAIR_FIELDS, MixtureConfig
from marin_sft.data.token_cache import TokenCache
from marin_sft.data.tokenize import PAIRS
from marin_sft.errors import ConfigError, DataError

_READ_AT_ONCE = 512
_REASONS = ("over_length", "no_trained_token", "identical_pair")


@dataclass(frozen=True, eq=False)
class PairRows(Rows):
    """The pairs of one component and split that are used, in the order of the token cache. All arrays are int64.

    Pair i is pair `pairs[i]` of the token cache of split `source`: documents 2 * pairs[i], chosen, and
    2 * pairs[i] + 1, rejected. Its branch b uses `lengths[i, b]` tokens from `starts[i, b]` on, with `trained[i, b]`
    targets. `prompts[i]`: tokens of the prompt if both branches have the same one, else 0.
    """

    kind: ClassVar[str] = PAIRS
    called: ClassVar[str] = "preference pairs"
    rows_are: ClassVar[str] = "pairs"
    card: ClassVar[str] = (
        "Documents are the answers of preference pairs, of at most {seq_len} tokens with their prompt."
    )
    documents_each: ClassVar[int] = 2
    fields: ClassVar[tuple[str, ...]] = PAIR_FIELDS

    pairs: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    prompts: np.ndarray

    @classmethod
    def check(cls, config: MixtureConfig) -> None:
        alone = {name: pack for name, pack in config.data.pack.items() if pack is not True}
        if alone:
            raise ConfigError(
                f"pack={alone} with preference data, whose branches always share rows; expected pack=True"
            )
        _limits(config)

    @classmethod
    def pack(cls, config: MixtureConfig, name: str, selection: Selection) -> tuple[PairRows, Json]:
        """The counts `truncated_...` are pairs with a branch that is cut there."""
        limits, counts = _limits(config), Counter[str]()
        rows = _rows(selection, limits, counts)
        where, of = f"{name}/{selection.source}", len(selection.chosen)
        if counts["over_length"] and limits.over_length == "raise":
            raise DataError(
                f"{where}: {counts['over_length']} of {of} pairs have a branch longer than {limits.seq_len} tokens; "
                "raise seq_len, set max_prompt_length and max_completion_length, or set over_length to 'truncate' or "
                "'drop'"
            )
        dropped = {reason: counts[reason] for reason in _REASONS}
        if not len(rows):
            raise DataError(
                f"{where}: none of {of} pairs is left within seq_len={limits.seq_len} (dropped: {dropped}); raise "
                "seq_len, or set max_prompt_length"
            )
        return rows, {
            "pairs": len(rows),
            "documents": 2 * len(rows),
            "tokens": int(rows.lengths.sum()),
            "longest": int(rows.units(share_prefix=False).max()),
            "longest_shared": int(rows.units(share_prefix=True).max()),
            "truncated_prompts": counts["truncated_prompts"],
            "truncated_completions": counts["truncated_completions"],
            "dropped": dropped,
        }

    def read(self, cache: TokenCache, pairs: np.ndarray, sides: np.ndarray) -> list[TokenRow]:
        """What is used of one branch of each pair, in one round of reads."""
        starts, lengths = self.starts[pairs, sides], self.lengths[pairs, sides]
        documents = cache.read(2 * self.pairs[pairs] + sides)
        return [
            TokenRow(row.input_ids[start:end], row.mask[start:end])
            for row, start, end in zip(documents, starts.tolist(), (starts + lengths).tolist(), strict=True)
        ]

    def units(self, share_prefix: bool) -> np.ndarray:
        """int64[pairs, 2]: tokens of the units that must be contiguous in a row. 0: no unit.

        Each branch is a unit. With `share_prefix`, both branches are one unit after a shared prefix: their prompt
        without its last token, from which the first targets are predicted. Pairs with no such prefix keep two units.
        """
        units = self.lengths.copy()
        if share_prefix:
            shared = self.prompts >= 2
            units[shared, 0] = self.lengths[shared].sum(axis=1) - (self.prompts[shared] - 1)
            units[shared, 1] = 0
        return units


def _limits(config: MixtureConfig) -> PairLimits:
    return PairLimits(config.seq_len, config.data.over_length, config.max_prompt_length, config.max_completion_length)


def _rows(selection: Selection, limits: PairLimits, counts: Counter[str]) -> PairRows:
    """What is used of the selected pairs. Counts dropped pairs by reason, and pairs that are cut."""
    table = array("q")  # a line per pair; compact while it grows
    for pair, chosen, rejected in _read(selection.cache, selection.chosen):
        try:
            both = limits.keep(chosen, rejected)
        except BadRow as bad:
            counts[bad.reason] += 1
            continue
        counts["truncated_prompts"] += any(kept.prompt_is_cut for kept in both)
        counts["truncated_completions"] += any(kept.completion_is_cut for kept in both)
        line = [value for kept in both for value in (kept.start, kept.length, kept.trained)]
        table.extend([pair, _common_prompt(both, chosen, rejected), *line])
    columns = np.array(table, np.int64).reshape(-1, 8)
    starts, lengths, trained = np.moveaxis(columns[:, 2:].reshape(-1, 2, 3), -1, 0)
    return PairRows(selection.source, trained, columns[:, 0], starts, lengths, columns[:, 1])


def _read(cache: TokenCache, pairs: np.ndarray) -> Iterator[tuple[int, TokenRow, TokenRow]]:
    for first in range(0, len(pairs), _READ_AT_ONCE):
        some = pairs[first : first + _READ_AT_ONCE]
        documents = cache.read(np.stack([2 * some, 2 * some + 1], axis=1).ravel())
        yield from zip(some.tolist(), documents[::2], documents[1::2], strict=True)


def _common_prompt(both: tuple[Kept, Kept], chosen: TokenRow, rejected: TokenRow) -> int:
    first, second = (kept.of(row).input_ids[: kept.prompt] for kept, row in zip(both, (chosen, rejected), strict=True))
    return len(first) if np.array_equal(first, second) else 0
