"""What a mixture can hold: documents, or preference pairs. A kind is a class of rows; to add one, write it and list it.

A kind says how what was tokenized is selected and packed, which arrays hold the rows, and reads their tokens. How rows
become the arrays of a batch is a `Layout`, see batches/batches.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np

from marin_sft.data.data_configs import LmDataConfig
from marin_sft.data.packing.documents import PackedRows
from marin_sft.data.packing.pairs import PairRows
from marin_sft.data.packing.selection import Selection
from marin_sft.data.tokenize import DOCUMENTS, TRAIN, VALIDATION
from marin_sft.errors import DataError

Packer: TypeAlias = "Callable[[str, Selection], tuple[Rows, dict[str, Any]]]"
"""From a component's name and what is used of it to its rows and their counts. Raises DataError when no row is left."""


class Rows(Protocol):
    """The rows of one component and split: a dataclass of `source` and int64 arrays, which are written as they are.

    `kind`: the name in the stats of a tokenization and in mixture.json. `called`, `rows_are`: what messages call what
    is tokenized, and what is packed. `documents_each`: how many documents after one another belong together. `fields`:
    those of `MixtureConfig` that are for this kind alone.
    """

    kind: ClassVar[str]
    called: ClassVar[str]
    rows_are: ClassVar[str]
    documents_each: ClassVar[int]
    fields: ClassVar[tuple[str, ...]]

    def __init__(self, source: str, *arrays: np.ndarray) -> None: ...

    @property
    def source(self) -> str:
        """The split of the token cache that the rows point into."""
        ...

    @property
    def trained(self) -> np.ndarray:
        """int64[rows, ...]: trained tokens."""
        ...

    def __len__(self) -> int: ...

    @staticmethod
    def packer(data: LmDataConfig, seq_len: int, fields: Mapping[str, Any]) -> Packer:
        """`fields`: the values of those of this kind. Raises ConfigError for what rows of this kind cannot have."""
        ...


KINDS: Mapping[str, type[Rows]] = {rows.kind: rows for rows in (PackedRows, PairRows)}


def kind_of(stats: Mapping[str, Mapping[str, Any]]) -> type[Rows]:
    """What components hold, from the stats of their tokenize steps.

    Raises:
        DataError: they do not all hold the same.
    """
    names: dict[str, list[str]] = {}
    for name, about in stats.items():
        found = (about[split]["kind"] for split in (TRAIN, VALIDATION) if "kind" in about.get(split, {}))
        names.setdefault(next(found, DOCUMENTS), []).append(name)
    if len(names) > 1:
        documents = names.pop(DOCUMENTS, [])
        held = [f"{some} hold {KINDS[kind].called}" for kind, some in sorted(names.items())]
        raise DataError(
            f"components {', '.join([*held, *([f'and {documents} single documents'] if documents else [])])}; expected "
            "the same in all: make a mixture of each kind"
        )
    return KINDS[next(iter(names))]
