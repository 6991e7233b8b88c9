"""Packed rows -> arrays to train on. Any batch can be made on its own, so that a resumed run sees the same ones."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from marin_sft.data.chat import TokenRow
from marin_sft.data.mixture import read_mixture, read_packs
from marin_sft.data.order import mixture_order
from marin_sft.data.packing import Packs
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


@dataclass(frozen=True, eq=False)
class _Component:
    packs: Packs
    cache: TokenCache

    @staticmethod
    def open(mixture: str, tokenized: Mapping[str, str], name: str, split: str) -> _Component:
        if name not in tokenized:
            raise ConfigError(f"tokenized has no {name!r} (it has {sorted(tokenized)}); the mixture was made from it")
        return _Component(read_packs(mixture, name, split), TokenCache.open(f"{tokenized[name]}/{split}"))

    def read(self, rows: Sequence[int]) -> list[list[TokenRow]]:
        """The documents of each row, all in one round of reads."""
        documents = [self.packs[row] for row in rows]
        tokens = iter(self.cache.read(np.concatenate(documents)))
        return [list(itertools.islice(tokens, len(some))) for some in documents]


class PackedBatches:
    """The training batches of a mixture: endless, deterministic, each one available by its step.

    `mixture`: the output of the mixture step; `tokenized`: those of the tokenize steps, by component. An epoch is as
    many rows as the components with a weight above 0 hold together (`rows_per_epoch`); batches run on across epochs.
    """

    def __init__(self, mixture: str, tokenized: Mapping[str, str], batch_size: int, seed: int = 0) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size={batch_size}; expected at least 1")
        about = read_mixture(mixture)
        weights = {name: c["weight"] for name, c in sorted(about["components"].items()) if c["weight"] > 0}
        self.seq_len: int = about["seq_len"]
        self.batch_size = batch_size
        self.seed = seed
        self._weights = list(weights.values())
        self._components = [_Component.open(mixture, tokenized, name, "train") for name in weights]
        self.rows_per_epoch = sum(len(component.packs) for component in self._components)
        self.documents_per_epoch = sum(len(component.packs.docs) for component in self._components)
        self._orders: dict[int, np.ndarray] = {}

    def batch(self, step: int) -> Batch:
        """Batch number `step`, from 0. Depends on nothing but the mixture, the batch size and the seed."""
        places = range(step * self.batch_size, (step + 1) * self.batch_size)
        order = np.stack([self._order(place // self.rows_per_epoch)[place % self.rows_per_epoch] for place in places])
        rows: list[list[TokenRow]] = [[] for _ in places]
        for number in np.unique(order[:, 0]):
            at = np.flatnonzero(order[:, 0] == number)
            for i, documents in zip(at, self._components[number].read(order[at, 1].tolist()), strict=True):
                rows[i] = documents
        return assemble(rows, self.seq_len)

    def iterate(self, start: int = 0, stop: int | None = None, ahead: int = 2) -> Iterator[Batch]:
        """Batches `start` to `stop` (None: without end), `ahead` of them made in a background thread meanwhile."""
        steps = itertools.count(start) if stop is None else range(start, stop)
        return prefetched(self.batch, steps, ahead)

    def _order(self, epoch: int) -> np.ndarray:
        order = self._orders.get(epoch)
        if order is None:
            sizes = [len(component.packs) for component in self._components]
            order = mixture_order(sizes, self._weights, self.rows_per_epoch, self.seed, epoch)
            # A batch may span two epochs: keep the one before.
            self._orders = {**{e: kept for e, kept in self._orders.items() if e == epoch - 1}, epoch: order}
        return order


class ValidationBatches:
    """All packed rows of one component, once, in order. The last batch is filled up with rows of padding."""

    def __init__(self, mixture: str, tokenized: Mapping[str, str], component: str, batch_size: int) -> None:
        sets = validation_splits(mixture)
        if component not in sets:
            raise ConfigError(f"{component!r} has no validation rows in the mixture; those that do: {sorted(sets)}")
        self.seq_len: int = read_mixture(mixture)["seq_len"]
        self.batch_size = batch_size
        self._component = _Component.open(mixture, tokenized, component, sets[component])

    def __len__(self) -> int:
        return -(-len(self._component.packs) // self.batch_size)

    def batch(self, step: int) -> Batch:
        rows = range(step * self.batch_size, min((step + 1) * self.batch_size, len(self._component.packs)))
        found = self._component.read(rows)
        return assemble(found + [[]] * (self.batch_size - len(found)), self.seq_len)

    def __iter__(self) -> Iterator[Batch]:
        return prefetched(self.batch, range(len(self)))


def validation_splits(mixture: str) -> dict[str, str]:
    """component -> split to validate on: its validation split, or all there is of a component of weight 0."""
    components = sorted(read_mixture(mixture)["components"].items())
    validated = {name: "validation" for name, about in components if "validation" in about}
    return validated | {name: "train" for name, c in components if c["weight"] == 0 and name not in validated}


def prefetched(make: Callable[[int], Batch], steps: Iterable[int], ahead: int = 2) -> Iterator[Batch]:
    """`make(step)` for each of `steps`, up to `ahead` of them beforehand, in one background thread.

    What `make` raises is raised here, in its place. Closing the iterator ends the thread.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
    pending: deque = deque()
    try:
        for step in steps:
            pending.append(pool.submit(make, step))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
