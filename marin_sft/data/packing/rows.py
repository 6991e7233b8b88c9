"""What a mixture holds of one component and split, for any kind of data."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from marin_sft.data.files import Json, narrow, read_array, write_array
from marin_sft.data.packing.selection import Selection
from marin_sft.data.step_configs import MixtureConfig


@dataclass(frozen=True, eq=False)
class Rows(ABC):
    """Arrays that point into the token cache of split `source`. They are int64, or int32 if read as `small`.

    `trained` [rows, ...]: trained tokens of each.

    Each kind of data is a class of rows, listed in `KINDS`:

    kind: its name in stats.json and mixture.json.
    called, rows_are: what messages call the data and its rows.
    card: the sentence for a model card, with {seq_len} to fill in.
    documents_each: how many consecutive documents belong together.
    fields: the fields of `MixtureConfig` that are only for this kind.
    """

    kind: ClassVar[str]
    called: ClassVar[str]
    rows_are: ClassVar[str]
    card: ClassVar[str]
    documents_each: ClassVar[int] = 1
    fields: ClassVar[tuple[str, ...]] = ()

    source: str
    trained: np.ndarray

    def __len__(self) -> int:
        return len(self.trained)

    @classmethod
    @abstractmethod
    def check(cls, config: MixtureConfig) -> None:
        """Raises ConfigError if `config` has values that this kind of rows does not allow."""

    @classmethod
    @abstractmethod
    def pack(cls, config: MixtureConfig, name: str, selection: Selection) -> tuple[Self, Json]:
        """The rows to train on from the selected documents of component `name`, and their counts.

        Raises:
            DataError: no row is left, or something is too long with over_length="raise".
        """

    @classmethod
    def load(cls, directory: str, source: str, small: bool = False) -> Self:
        """small: as int32 where that is enough."""
        arrays = (read_array(f"{directory}/{name}.npy") for name in cls._arrays())
        return cls(source, *map(narrow, arrays) if small else arrays)

    def write(self, directory: str) -> None:
        for name in self._arrays():
            write_array(f"{directory}/{name}.npy", getattr(self, name))

    @classmethod
    def _arrays(cls) -> list[str]:
        return [field.name for field in dataclasses.fields(cls) if field.name != "source"]
