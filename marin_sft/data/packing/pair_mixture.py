"""The part of the mixture step that is about preference data: which pairs are trained, and what is kept of each.

    {output_path}/packs/{component}/{split}/    pairs.npy, starts.npy, lengths.npy, trained.npy, prompts.npy: see
                                                `PairRows`

A row of such a mixture is a pair: nothing is packed before it is known which pairs make a batch.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from marin_sft.data.chat.alignment import TokenRow
from marin_sft.data.files import read_array, write_array
from marin_sft.data.messages.examples import BadRow
from marin_sft.data.mixture import read_mixture
from marin_sft.data.packing.pair_limits import Kept, PairLimits
from marin_sft.data.step_configs import MixtureConfig
from marin_sft.data.tokenize import PAIRS
from marin_sft.errors import ConfigError, DataError

if TYPE_CHECKING:
    from marin_sft.data.packing.selection import Selection
    from marin_sft.data.token_cache import TokenCache

_READ_AT_ONCE = 512
_REASONS = ("over_length", "no_trained_token", "identical_pair")


@dataclass(frozen=True, eq=False)
class PairRows:
    """The pairs of one component and split that are used, in the order of the token cache.

    Pair i is pair `pairs[i]` of the token cache of split `source`: its documents 2 * pairs[i], chosen, and
    2 * pairs[i] + 1, rejected. Of branch b, `lengths[i, b]` tokens from `starts[i, b]` on are used, `trained[i, b]` of
    them targets. `prompts[i]`: tokens of the prompt where it is the same in both, else 0. All int64.
    """

    source: str
    pairs: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    trained: np.ndarray
    prompts: np.ndarray

    def __len__(self) -> int:
        return len(self.pairs)

    def units(self, share_prefix: bool) -> np.ndarray:
        """int64[pairs, 2]: tokens of what has to lie in one piece in a row; 0: nothing.

        That is each branch; with `share_prefix` both branches, after the prompt that they share but for its last token,
        from which the first targets are predicted. Where nothing would be shared, each branch still.
        """
        units = self.lengths.copy()
        if share_prefix:
            shared = self.prompts >= 2
            units[shared, 0] = self.lengths[shared].sum(axis=1) - (self.prompts[shared] - 1)
            units[shared, 1] = 0
        return units


_ARRAYS = [field.name for field in dataclasses.fields(PairRows) if field.name != "source"]


def pair_limits(config: MixtureConfig) -> PairLimits:
    """Raises ConfigError when the config of a mixture of pairs asks for what they cannot have."""
    alone = {name: pack for name, pack in config.data.pack.items() if pack is not True}
    if alone:
        raise ConfigError(f"pack={alone}, and preference data, whose branches always share rows; expected pack=True")
    return PairLimits(config.seq_len, config.data.over_length, config.max_prompt_length, config.max_completion_length)


def write_pairs(config: MixtureConfig, name: str, split: str, selection: Selection) -> dict[str, Any]:
    """Write the pairs of one split; its counts. Of `truncated_...` these are pairs of which a branch is cut there.

    Raises:
        DataError: no pair is left; a branch is too long, under over_length="raise".
    """
    limits = pair_limits(config)
    counts = Counter[str]()
    rows = _rows(selection, limits, counts)
    where, of = f"{name}/{selection.source}", len(selection.chosen)
    if counts["over_length"] and limits.over_length == "raise":
        raise DataError(
            f"{where}: {counts['over_length']} of {of} pairs have a branch longer than {limits.seq_len} tokens; raise "
            "seq_len, set max_prompt_length and max_completion_length, or set over_length to 'truncate' or 'drop'"
        )
    dropped = {reason: counts[reason] for reason in _REASONS}
    if not len(rows):
        raise DataError(
            f"{where}: none of {of} pairs is left within seq_len={limits.seq_len} (dropped: {dropped}); raise seq_len, "
            "or set max_prompt_length"
        )
    for each in _ARRAYS:
        write_array(f"{config.output_path}/packs/{name}/{split}/{each}.npy", getattr(rows, each))
    return {
        "source": rows.source,
        "pairs": len(rows),
        "documents": 2 * len(rows),
        "rows": len(rows),
        "tokens": int(rows.lengths.sum()),
        "trained_tokens": int(rows.trained.sum()),
        "longest": int(rows.units(share_prefix=False).max()),
        "longest_shared": int(rows.units(share_prefix=True).max()),
        "truncated_prompts": counts["truncated_prompts"],
        "truncated_completions": counts["truncated_completions"],
        "dropped": {**dropped, **selection.left_out},
    }


def _rows(selection: Selection, limits: PairLimits, counts: Counter[str]) -> PairRows:
    """What is used of the chosen pairs. Counts those dropped, by reason, and those of which a part is cut."""
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
    return PairRows(selection.source, columns[:, 0], starts, lengths, trained, prompts=columns[:, 1])


def _read(cache: TokenCache, pairs: np.ndarray) -> Iterator[tuple[int, TokenRow, TokenRow]]:
    for first in range(0, len(pairs), _READ_AT_ONCE):
        some = pairs[first : first + _READ_AT_ONCE]
        documents = cache.read(documents_of(some))
        yield from zip(some.tolist(), documents[::2], documents[1::2], strict=True)


def documents_of(pairs: np.ndarray) -> np.ndarray:
    """int64[2 * pairs]: the numbers of their documents, chosen and rejected by turns."""
    return np.stack([2 * pairs, 2 * pairs + 1], axis=1).ravel()


def _common_prompt(both: tuple[Kept, Kept], chosen: TokenRow, rejected: TokenRow) -> int:
    first, second = (kept.of(row).input_ids[: kept.prompt] for kept, row in zip(both, (chosen, rejected), strict=True))
    return len(first) if np.array_equal(first, second) else 0


def read_pairs(path: str, component: str, split: str) -> PairRows:
    """The pairs of one component of a mixture. Raises ConfigError when the mixture is none of pairs."""
    about = read_mixture(path)
    if about.get("kind") != PAIRS:
        raise ConfigError(f"{path}: a mixture of documents; expected one of preference pairs")
    source = about["components"][component][split]["source"]
    return PairRows(source, *(read_array(f"{path}/packs/{component}/{split}/{each}.npy") for each in _ARRAYS))
