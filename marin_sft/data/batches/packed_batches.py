"""Packed rows -> arrays to train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from marin_sft.data.batches.batches import EachOnce, TrainingBatches
from marin_sft.data.batches.table import Table
from marin_sft.data.chat.alignment import TokenRow
from marin_sft.data.packing.documents import PackedRows
from marin_sft.data.packing.packed_mixture import PackedMixture
from marin_sft.data.tokenize import TRAIN, VALIDATION
from marin_sft.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Batch:
    """Arrays of shape [batch, seq_len].

    tokens: int32.
    loss_weight: float32, 1.0 at position i if token i + 1 is a trained token of the same document, else 0.0.
    segment_ids: int32, 0, 1, ... for the documents of a row, -1 for padding.
    position_ids: int32, counts from 0 in each document.
    """

    tokens: np.ndarray
    loss_weight: np.ndarray
    segment_ids: np.ndarray
    position_ids: np.ndarray

    @property
    def trained_tokens(self) -> int:
        return int(self.loss_weight.sum(dtype=np.int64))


def assemble(rows: Sequence[Sequence[TokenRow]], seq_len: int) -> Batch:
    """One row per list of documents. A document is cut at `seq_len` tokens. An empty row is all padding."""
    shape = (len(rows), seq_len)
    batch = Batch(
        tokens=np.zeros(shape, np.int32),
        loss_weight=np.zeros(shape, np.float32),
        segment_ids=np.full(shape, -1, np.int32),
        position_ids=np.zeros(shape, np.int32),
    )
    for r, documents in enumerate(rows):
        start = 0
        for segment, document in enumerate(documents):
            ids, mask = document.input_ids[:seq_len], document.mask[:seq_len]
            end = start + len(ids)
            batch.tokens[r, start:end] = ids
            batch.loss_weight[r, start : end - 1] = mask[1:]
            batch.segment_ids[r, start:end] = segment
            batch.position_ids[r, start:end] = np.arange(len(ids))
            start = end
    return batch


class _Layout:
    def __init__(self, table: Table[PackedRows]) -> None:
        self._table, self._seq_len = table, table.mixture.seq_len

    def batch(self, lines: np.ndarray, part: int, parts: int) -> Batch:
        if len(lines) % parts:
            raise ConfigError(f"batch_size={len(lines)}; expected a multiple of the {parts} parts")
        lines = np.split(lines, parts)[part]
        nothing: list[TokenRow] = []
        rows = self._table.read(
            lines, lambda rows, cache, numbers, _: rows.read(cache, numbers, self._seq_len), absent=nothing
        )
        return assemble(rows, self._seq_len)


class PackedBatches(TrainingBatches[Batch]):
    """See `TrainingBatches`.

    Raises:
        ConfigError: a mixture of pairs or without training components, or with a stop strategy that never ends.
    """

    def __init__(self, mixture: PackedMixture, batch_size: int, seed: int = 0, *, cut_epochs: bool = False) -> None:
        table = Table(mixture, PackedRows, mixture.trained, TRAIN)
        super().__init__(table, batch_size, seed, cut_epochs)
        self._layout = _Layout(table)


class ValidationBatches(EachOnce[Batch]):
    """All packed rows that one component is validated on. Raises ConfigError if there are none."""

    def __init__(self, mixture: PackedMixture, component: str, batch_size: int) -> None:
        table = Table(mixture, PackedRows, [component], VALIDATION)
        super().__init__(table, batch_size)
        self._layout = _Layout(table)
