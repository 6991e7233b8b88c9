"""Preference pairs -> arrays to train on.

The branches of a batch's pairs are packed into rows. The two of a pair may be in different rows, so numbers say which
belong together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from marin_sft.data.batches.batches import EachOnce, TrainingBatches
from marin_sft.data.batches.pair_table import PairTable, Run
from marin_sft.data.batches.row_sizes import choose_sizes, rows_needed, size_for
from marin_sft.data.packing.packed_mixture import PackedMixture
from marin_sft.data.packing.packs import Packs, pack
from marin_sft.data.tokenize import TRAIN, VALIDATION
from marin_sft.errors import ConfigError

_PLACES_AT_ONCE = 2**13
_PAIRS_TO_LOOK_AT = 2**15  # several epochs of a small mixture, as each has another order


@dataclass(frozen=True, eq=False)
class PairBatch:
    """P pairs in each of M micro-batches, in R rows of L tokens.

    tokens, segment_ids (-1 for padding), position_ids: int32[M, R, L].
    completion: int32[M, R, L]. At position i, 2p (chosen) or 2p + 1 (rejected) if token i + 1 is a target of that
        branch of pair p of the micro-batch, else -1.
    lengths: int32[M, 2P], targets of each completion.
    pairs: int64[M, P, 2], (number of the component in `components` of the batches, number of the pair in the packed
        list of the component). -1 for an absent pair.
    branch: int32[M, R, L], None if no prefix is shared. A token attends to earlier tokens of its segment in branch 0 or
        in its own branch. In a segment of two branches, branch 0 is the prompt without its last token. Branches 1
        (chosen) and 2 (rejected) are that last token with each completion; both continue the positions of the prefix.
        A segment of one branch is all 0.
    """

    tokens: np.ndarray
    segment_ids: np.ndarray
    position_ids: np.ndarray
    completion: np.ndarray
    lengths: np.ndarray
    pairs: np.ndarray
    branch: np.ndarray | None = None

    @property
    def trained_tokens(self) -> int:
        """Of the whole batch, even in a slice of it."""
        return int(self.lengths.sum(dtype=np.int64))


class _Layout:
    """Makes batches of lines of a table.

    lines: the batches to choose `sizes` for, some at a time, int64[batches, batch_size].
    only_full: of these, only batches without absent pairs, if there are any: a smaller batch fits where they do.
    """

    def __init__(
        self,
        table: PairTable,
        lines: Iterable[np.ndarray],
        batch_size: int,
        micro_batches: int,
        rows_multiple: int,
        share_prefix: bool,
        only_full: bool,
    ) -> None:
        if micro_batches < 1 or batch_size % micro_batches:
            raise ConfigError(f"micro_batches={micro_batches}; expected a divisor of batch_size={batch_size}")
        if rows_multiple < 1:
            raise ConfigError(f"rows_multiple={rows_multiple}; expected at least 1")
        self.table, self.micro_batches, self.rows_multiple = table, micro_batches, rows_multiple
        self.share_prefix = share_prefix
        found = [(self._needed(some), some.min(axis=1) >= 0) for some in lines]
        needed, full = (np.concatenate(parts) for parts in zip(*found, strict=True))
        self.sizes = choose_sizes(needed[full] if only_full and full.any() else needed, rows_multiple)

    def _needed(self, lines: np.ndarray) -> np.ndarray:
        """int64[batches]: the rows that the largest micro-batch of each needs."""
        units = self.table.units[self._micro_batches(lines)].reshape(len(lines) * self.micro_batches, -1)
        return rows_needed(units, self.table.row_length).reshape(len(lines), self.micro_batches).max(axis=1)

    def batch(self, lines: np.ndarray, part: int, parts: int) -> PairBatch:
        if self.rows_multiple % parts:
            raise ConfigError(f"rows_multiple={self.rows_multiple}; expected a multiple of the {parts} parts")
        micro = self._micro_batches(lines)
        packed = [_packed(self.table, some) for some in micro]
        size = size_for(max(len(packs) for packs, _ in packed), self.sizes, self.rows_multiple)
        rows = range(part * size // parts, (part + 1) * size // parts)
        shape = (self.micro_batches, len(rows), self.table.row_length)
        batch = PairBatch(
            tokens=np.zeros(shape, np.int32),
            segment_ids=np.full(shape, -1, np.int32),
            position_ids=np.zeros(shape, np.int32),
            completion=np.full(shape, -1, np.int32),
            lengths=self.table.trained[micro].reshape(self.micro_batches, -1).astype(np.int32),
            pairs=self.table.numbers(micro),
            branch=np.zeros(shape, np.int32) if self.share_prefix else None,
        )
        self._fill(batch, micro, packed, rows)
        return batch

    def _micro_batches(self, lines: np.ndarray) -> np.ndarray:
        """int64[..., micro_batches, pairs] of int64[..., batch_size], with about as many tokens in each micro-batch.

        All get as many rows as the one that needs most. The sum of losses does not depend on the split, except for
        losses over all pairs of a micro-batch (see `dpo_losses.dpo_loss`).
        """
        whole: np.ndarray = lines[..., None, :]
        if self.micro_batches == 1:
            return whole
        # Longest first, dealt back and forth: 0 1 2 2 1 0 0 1 ...
        places = np.argsort(-self.table.units[lines].sum(axis=-1), axis=-1, kind="stable")
        dealt = places.reshape(*lines.shape[:-1], -1, self.micro_batches)
        dealt[..., 1::2, :] = dealt[..., 1::2, ::-1].copy()
        return np.take_along_axis(whole, np.sort(dealt.swapaxes(-1, -2), axis=-1), axis=-1)

    def _fill(self, batch: PairBatch, micro: np.ndarray, packed: list[tuple[Packs, np.ndarray]], rows: range) -> None:
        """Write the units of `rows`, and read only these."""
        places = [
            (m, row - rows.start, segment, unit)
            for m, (packs, present) in enumerate(packed)
            for row in range(rows.start, min(rows.stop, len(packs)))
            for segment, unit in enumerate(present[packs[row]].tolist())
        ]
        units = np.array([(micro[m, unit // 2], unit % 2) for m, _, _, unit in places], np.int64).reshape(-1, 2)
        ends: dict[tuple[int, int], int] = {}  # of what is written in each row
        for (m, row, segment, unit), runs in zip(places, self.table.runs(units), strict=True):
            for run in runs:
                start = ends.get((m, row), 0)
                end = ends[m, row] = start + run.end - run.start
                _write(batch, (m, row, slice(start, end)), run, segment, unit // 2)


def _packed(table: PairTable, lines: np.ndarray) -> tuple[Packs, np.ndarray]:
    """The units of a micro-batch in rows, and the number of each unit: 2p or 2p + 1 for its p-th pair."""
    lengths = table.units[lines].ravel()
    present = np.flatnonzero(lengths)
    return pack(lengths[present], table.row_length), present


def _write(batch: PairBatch, at: tuple[int, int, slice], run: Run, segment: int, pair: int) -> None:
    batch.tokens[at] = run.tokens.input_ids[run.start : run.end]
    batch.segment_ids[at] = segment
    batch.position_ids[at] = np.arange(run.start, run.end)
    # The last token of a run predicts nothing: another branch follows, or the end.
    targets = run.tokens.mask[run.start + 1 : run.end].astype(bool)
    batch.completion[at][:-1][targets] = 2 * pair + run.side
    if batch.branch is not None:
        batch.branch[at] = run.branch


class PairBatches(TrainingBatches[PairBatch]):
    """The training batches of a mixture of preference pairs: see `TrainingBatches`.

    A slice of a batch has all of `lengths` and `pairs`.

    Args:
        batch_size: pairs in a step.
        micro_batches: how many micro-batches a step has, each with as many pairs and about as many tokens.
        rows_multiple: the number of rows is a multiple of this.
        share_prefix: both branches of a pair share one copy of their prompt, if it is the same.

    Attributes:
        row_sizes: the numbers of rows R that batches may have: a few, chosen for little padding from the batches of at
            least one epoch. A later batch that needs more gets the next multiple of `rows_multiple`.
        row_length: L, the longest branch of the mixture (with `share_prefix`, the longest unit), rounded up to a
            multiple of 64, but at most `seq_len` unless a unit is longer.

    Raises:
        ConfigError: a mixture of documents or without training components, or with a stop strategy that never ends.
    """

    _table: PairTable

    def __init__(
        self,
        mixture: PackedMixture,
        batch_size: int,
        seed: int = 0,
        *,
        micro_batches: int = 1,
        rows_multiple: int = 1,
        share_prefix: bool = False,
        cut_epochs: bool = False,
    ) -> None:
        super().__init__(PairTable(mixture, mixture.trained, TRAIN, share_prefix), batch_size, seed, cut_epochs)
        lines = self._first_lines()
        layout = _Layout(self._table, lines, batch_size, micro_batches, rows_multiple, share_prefix, only_full=True)
        self._layout, self.row_sizes, self.row_length = layout, layout.sizes, self._table.row_length

    def tokens(self, step: int) -> int:
        """Tokens of both completions in batch number `step`, each with its prompt, even if rows share it."""
        return int(self._table.tokens[self.lines(step)].sum())

    def _first_lines(self) -> Iterator[np.ndarray]:
        """int64[batches, batch_size], until all steps of an epoch, or of several if it is short."""
        steps = self.num_steps or -(-max(self.rows_per_epoch, _PAIRS_TO_LOOK_AT) // self.batch_size)
        at_once = max(_PLACES_AT_ONCE // self.batch_size, 1)
        for first in range(0, steps, at_once):
            yield self.lines(first, min(at_once, steps - first)).reshape(-1, self.batch_size)


class PairValidation(EachOnce[PairBatch]):
    """All pairs of one component and split, for validation or for values computed once per pair.

    An absent pair has -1 in `pairs`, 0 in `lengths`, and no tokens. Other arguments are as for `PairBatches`.

    Raises:
        ConfigError: the component has no such split in the mixture, or the mixture is of documents.
    """

    def __init__(
        self,
        mixture: PackedMixture,
        component: str,
        batch_size: int,
        *,
        split: str = VALIDATION,
        micro_batches: int = 1,
        rows_multiple: int = 1,
        share_prefix: bool = False,
    ) -> None:
        table = PairTable(mixture, [component], split, share_prefix)
        super().__init__(table, batch_size)
        self._layout = _Layout(
            table, [self._lines], batch_size, micro_batches, rows_multiple, share_prefix, only_full=False
        )
