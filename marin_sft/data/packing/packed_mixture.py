"""The output of a mixture step: what is on disk, and how it is read. See `marin_sft.data.mixture`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from marin_sft.data.files import read_array, read_json, write_array
from marin_sft.data.packing.kinds import KINDS, Rows
from marin_sft.data.token_cache import TokenCache
from marin_sft.data.tokenize import DOCUMENTS, VALIDATION
from marin_sft.errors import ConfigError, DataError

R = TypeVar("R", bound=Rows)


@dataclass(frozen=True, eq=False)
class PackedMixture:
    """A mixture, whose mixture.json is read once, when it is opened.

    `path`: the output of the mixture step; `tokenized`: those of the tokenize steps, by component.
    """

    path: str
    tokenized: Mapping[str, str]
    about: Mapping[str, Any]

    @staticmethod
    def open(path: str, tokenized: Mapping[str, str]) -> PackedMixture:
        """Raises DataError when there is none."""
        return PackedMixture(path, tokenized, read_mixture(path))

    @property
    def seq_len(self) -> int:
        return int(self.about["seq_len"])

    @property
    def components(self) -> list[str]:
        """All, sorted: their places here are their numbers in batches."""
        return sorted(self.about["components"])

    @property
    def trained(self) -> list[str]:
        """The components with a weight above 0, sorted.

        Raises:
            ConfigError: there are none.
        """
        names = sorted(self.about["order"]["stages"][0]["share_of_rows"])
        if not names:
            raise ConfigError(f"{self.path}: no component has a weight above 0; this mixture is for evaluation only")
        return names

    @property
    def validated(self) -> list[str]:
        """The components with rows to validate on, sorted."""
        return [name for name in self.components if VALIDATION in self.about["components"][name]]

    def rows(self, rows: type[R], component: str, split: str) -> R:
        """The rows of one component and split.

        Raises:
            ConfigError: a mixture of another kind, or without these rows.
        """
        kind = KINDS[self.about.get("kind", DOCUMENTS)]
        if kind is not rows:
            raise ConfigError(f"{self.path}: a mixture of {kind.called}; expected one of {rows.called}")
        splits = self.about["components"].get(component, {})
        if split not in splits:
            there = {name: sorted(splits) for name, splits in self.about["components"].items()}
            raise ConfigError(f"{component!r} has no {split} {rows.rows_are} in the mixture, which has {there}")
        arrays = (read_array(_array(self.path, component, split, name)) for name in _arrays(rows))
        return rows(splits[split]["source"], *arrays)

    def cache(self, component: str, split: str) -> TokenCache:
        """Raises ConfigError when `tokenized` lacks the component."""
        if component not in self.tokenized:
            raise ConfigError(
                f"tokenized has no {component!r} (it has {sorted(self.tokenized)}); the mixture was made from it"
            )
        return TokenCache.open(f"{self.tokenized[component]}/{split}")


def read_mixture(path: str) -> dict[str, Any]:
    """The mixture.json of a mixture step's output. Raises DataError when there is none."""
    try:
        found: dict[str, Any] = read_json(f"{path}/mixture.json")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no mixture.json; expected the output of a mixture step") from error
    return found


def write_rows(path: str, component: str, split: str, rows: Rows) -> None:
    for name in _arrays(type(rows)):
        write_array(_array(path, component, split, name), getattr(rows, name))


def _arrays(rows: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(rows) if field.name != "source"]


def _array(path: str, component: str, split: str, name: str) -> str:
    return f"{path}/packs/{component}/{split}/{name}.npy"
