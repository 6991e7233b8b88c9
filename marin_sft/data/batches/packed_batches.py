"""Packed rows -> arrays to train on. Any batch can be made on its own, so that a resumed run sees the same ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from marin_sft.data.batches.prefetch import prefetched
from marin_sft.data.batches.training_steps import TrainingSteps, check_batch_size, training_components
from marin_sft.data.chat.alignment import TokenRow
from marin_sft.data.mixture import TRAIN, VALIDATION, PackedRows, read_mixture, read_packs
from marin_sft.data.token_cache import TokenCache
from marin_sft.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Batch:
    """Arrays of shape [batch, seq_len].

    `tokens` int32. `loss_weight` float32: 1.0 at position i where token i + 1 is a trained token of the same document,
    else 0.0. `segment_ids` int32: 0, 1, ... for the documents of a row, -1 for padding. `position_ids` int32: counts
    from 0 in each document.
    """

    tokens: np.ndarray
    loss_weight: np.ndarray
    segment_ids: np.ndarray
    position_ids: np.ndarray

    @property
    def trained_tokens(self) -> int:
        return int(self.loss_weight.sum(dtype=np.int64))


def assemble(rows: Sequence[Sequence[TokenRow]], seq_len: int) -> Batch:
    """One row for each list of documents; a document is cut at `seq_len` tokens. Rows may be empty: all padding."""
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


def open_cache(tokenized: Mapping[str, str], component: str, split: str) -> TokenCache:
    """Raises ConfigError when `tokenized` lacks the component of a mixture."""
    if component not in tokenized:
        raise ConfigError(f"tokenized has no {component!r} (it has {sorted(tokenized)}); the mixture was made from it")
    return TokenCache.open(f"{tokenized[component]}/{split}")


@dataclass(frozen=True, eq=False)
class _Component:
    packs: PackedRows
    cache: TokenCache
    seq_len: int

    @staticmethod
    def open(mixture: str, tokenized: Mapping[str, str], name: str, split: str) -> _Component:
        packs = read_packs(mixture, name, split)
        cache = open_cache(tokenized, name, packs.source)
        return _Component(packs, cache, read_mixture(mixture)["seq_len"])

    def read(self, rows: np.ndarray) -> list[list[TokenRow]]:
        """The pieces of documents in each row, all in one round of reads."""
        firsts, ends = self.packs.offsets[rows], self.packs.offsets[rows + 1]
        pieces = np.concatenate([np.arange(a, b) for a, b in zip(firsts, ends, strict=True)])
        documents = self.cache.read(self.packs.docs[pieces])
        starts = self.packs.starts[pieces].tolist()
        cut = (self._cut(document, start) for document, start in zip(documents, starts, strict=True))
        return [list(itertools.islice(cut, count)) for count in (ends - firsts).tolist()]

    def _cut(self, document: TokenRow, start: int) -> TokenRow:
        end = start + self.seq_len
        return TokenRow(document.input_ids[start:end], document.mask[start:end])


class PackedBatches(TrainingSteps):
    """The training batches of a mixture: deterministic, each one available by its step.

    `mixture`: the output of the mixture step; `tokenized`: those of the tokenize steps, by component.
    `cut_epochs`, `rows_per_epoch`, `num_steps`: see `TrainingSteps`. What lacks to a full
    batch is rows of padding.

    Raises:
        ConfigError: a mixture of pairs or without training components, or whose stop strategy has no end.
    """

    def __init__(
        self, mixture: str, tokenized: Mapping[str, str], batch_size: int, seed: int = 0, *, cut_epochs: bool = False
    ) -> None:
        check_batch_size(batch_size)
        names = training_components(mixture)
        self.seq_len: int = read_mixture(mixture)["seq_len"]
        self._components = [_Component.open(mixture, tokenized, name, TRAIN) for name in names]
        sizes = {name: len(component.packs) for name, component in zip(names, self._components, strict=True)}
        super().__init__(mixture, sizes, batch_size, seed, cut_epochs)

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        """Batch number `step`, from 0: the `part`-th of `parts` equal slices of its rows.

        Depends on nothing but the arguments that these batches were made with; only the rows of the slice are read.

        Raises:
            ConfigError: a batch size that `parts` does not divide.
        """
        order = self.places(step)
        if self.batch_size % parts:
            raise ConfigError(f"batch_size={self.batch_size}; expected a multiple of the {parts} parts")
        order = order[part * len(order) // parts : (part + 1) * len(order) // parts]
        rows: list[list[TokenRow]] = [[] for _ in order]
        for number in np.unique(order[order[:, 0] >= 0, 0]):
            at = np.flatnonzero(order[:, 0] == number)
            for i, documents in zip(at, self._components[number].read(order[at, 1]), strict=True):
                rows[i] = documents
        return assemble(rows, self.seq_len)

    def trained_tokens(self, step: int) -> int:
        """Of the whole batch number `step`; nothing of it is read."""
        present = [place for place in self.places(step).tolist() if place[0] >= 0]
        return sum(int(self._components[number].packs.trained[row]) for number, row in present)

    def iterate(self, start: int = 0, stop: int | None = None, ahead: int = 2) -> Iterator[Batch]:
        """Batches `start` to `stop` (None: without end), `ahead` of them made in a background thread meanwhile."""
        steps = itertools.count(start) if stop is None else range(start, stop)
        return prefetched(self.batch, steps, ahead)


class ValidationBatches:
    """All packed rows of one component, once, in order. The last batch is filled up with rows of padding."""

    def __init__(self, mixture: str, tokenized: Mapping[str, str], component: str, batch_size: int) -> None:
        names = validation_components(mixture)
        if component not in names:
            raise ConfigError(f"{component!r} has no validation rows in the mixture; those that do: {names}")
        self.batch_size = batch_size
        self._component = _Component.open(mixture, tokenized, component, VALIDATION)
        self.seq_len = self._component.seq_len

    def __len__(self) -> int:
        return -(-len(self._component.packs) // self.batch_size)

    def batch(self, step: int) -> Batch:
        rows = np.arange(step * self.batch_size, min((step + 1) * self.batch_size, len(self._component.packs)))
        found = self._component.read(rows)
        return assemble(found + [[]] * (self.batch_size - len(found)), self.seq_len)

    def __iter__(self) -> Iterator[Batch]:
        return prefetched(self.batch, range(len(self)))


def validation_components(mixture: str) -> list[str]:
    """The components with rows to validate on, sorted."""
    return sorted(name for name, about in read_mixture(mixture)["components"].items() if VALIDATION in about)
