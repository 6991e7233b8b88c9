"""Which documents (or pairs, or other groups of documents) of a component are trained, and which are validated."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from marin_sft.data.data_configs import LmDataConfig
from marin_sft.data.token_cache import TokenCache
from marin_sft.data.tokenize import TRAIN, VALIDATION
from marin_sft.errors import DataError

_READ_AT_ONCE = 1024


@dataclass(frozen=True, eq=False)
class Selection:
    """Documents `chosen`, int64[chosen] and ascending, of the token cache of split `source`. `left_out`: by reason.

    If several documents belong together, as in a pair, the numbers are those of pairs.
    """

    source: str
    cache: TokenCache
    chosen: np.ndarray
    left_out: dict[str, int] = field(default_factory=dict)


def select(
    data: LmDataConfig, name: str, directory: str, there: Sequence[str], documents_each: int, kind: str
) -> dict[str, Selection]:
    """What is used of component `name`, by split. Its tokenization in `directory` has the splits `there`.

    documents_each: how many consecutive documents belong together. Then groups, called `kind`, are counted.

    Raises:
        DataError: no train split to train on, or too few documents to hold some out for validation.
    """
    held_out = data.num_validation_sequences.get(name, 0)
    if held_out and VALIDATION in there:
        raise DataError(f"num_validation_sequences names {name!r}, which has a validation split; expected one without")
    if name not in data.training:
        # Validated on its validation split, else on all of it.
        return {VALIDATION: _whole(directory, VALIDATION if VALIDATION in there else TRAIN, documents_each)}
    if TRAIN not in there:
        raise DataError(f"component {name!r} has a weight above 0 and no train split; expected weight 0")
    train = _whole(directory, TRAIN, documents_each)
    if data.validation_fraction and not held_out and VALIDATION not in there:
        held_out = max(round(data.validation_fraction * len(train.chosen)), 1)
    most = data.max_documents.get(name, len(train.chosen))
    validated = {VALIDATION: _whole(directory, VALIDATION, documents_each)} if VALIDATION in there else {}
    if not held_out and most >= len(train.chosen):
        return {TRAIN: train, **validated}
    kept_out, kept = _lowest_hashes(_hashes(train.cache, documents_each), held_out, most)
    if not len(kept):
        raise DataError(
            f"validation of {name!r} on {held_out} takes {len(kept_out)} of {len(train.chosen)} {kind} (copies stay "
            "together) and leaves none to train on; expected fewer"
        )
    if held_out:
        validated = {VALIDATION: Selection(TRAIN, train.cache, kept_out)}
    left_out = {"max_documents": len(train.chosen) - len(kept) - len(kept_out)}
    return {TRAIN: Selection(TRAIN, train.cache, kept, left_out), **validated}


def _whole(directory: str, split: str, documents_each: int) -> Selection:
    cache = TokenCache.open(f"{directory}/{split}")
    return Selection(split, cache, np.arange(len(cache) // documents_each, dtype=np.int64))


def _lowest_hashes(hashes: np.ndarray, held_out: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the `held_out` lowest of `hashes`, and of the next `most`."""
    by_hash = np.argsort(hashes, kind="stable")
    # Equal documents have equal hashes: no copy of a validated document is trained.
    first = int(np.searchsorted(hashes[by_hash], hashes[by_hash[held_out - 1]], side="right")) if held_out else 0
    return np.sort(by_hash[:first]), np.sort(by_hash[first : first + most])


def _hashes(cache: TokenCache, documents_each: int) -> np.ndarray:
    """uint64: hashes of the token ids of each document, or of each group of documents."""
    hashes = np.empty(len(cache), np.uint64)
    for start in range(0, len(cache), _READ_AT_ONCE):
        rows = cache.read(range(start, min(start + _READ_AT_ONCE, len(cache))))
        hashes[start : start + len(rows)] = _hash_each([row.input_ids for row in rows])
    return hashes if documents_each == 1 else _hash_each(hashes.reshape(-1, documents_each))


def _hash_each(arrays: Iterable[np.ndarray]) -> np.ndarray:
    digests = [hashlib.blake2b(array.tobytes(), digest_size=8).digest() for array in arrays]
    return np.frombuffer(b"".join(digests), "<u8")
