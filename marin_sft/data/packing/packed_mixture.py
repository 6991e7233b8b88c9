"""Reads the output of a mixture step, see `marin_sft.data.mixture`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from marin_sft.data.files import Json, read_json
from marin_sft.data.packing.documents import PackedRows
from marin_sft.data.packing.pairs import PairRows
from marin_sft.data.packing.rows import Rows
from marin_sft.data.token_cache import TokenCache
from marin_sft.data.tokenize import DOCUMENTS, VALIDATION
from marin_sft.errors import ConfigError, DataError

R = TypeVar("R", bound=Rows)
KINDS: dict[str, type[Rows]] = {rows.kind: rows for rows in (PackedRows, PairRows)}


@dataclass(frozen=True, eq=False)
class PackedMixture:
    """A mixture on disk.

    path: the output of the mixture step.
    tokenized: the outputs of the tokenize steps, by component.
    about: the content of mixture.json, read once.
    """

    path: str
    tokenized: Mapping[str, str]
    about: Json

    @staticmethod
    def open(path: str, tokenized: Mapping[str, str]) -> PackedMixture:
        """Raises DataError if there is no mixture."""
        try:
            return PackedMixture(path, tokenized, read_json(f"{path}/mixture.json"))
        except FileNotFoundError as error:
            raise DataError(f"{path}: no mixture.json; expected the output of a mixture step") from error

    @property
    def kind(self) -> type[Rows]:
        return KINDS[self.about.get("kind", DOCUMENTS)]

    @property
    def seq_len(self) -> int:
        return int(self.about["seq_len"])

    @property
    def components(self) -> list[str]:
        """All components, sorted. Batches number them in this order."""
        return sorted(self.about["components"])

    @property
    def trained(self) -> list[str]:
        """The components with a weight above 0, sorted. Raises ConfigError if there are none."""
        names = sorted(self.about["order"]["stages"][0]["share_of_rows"])
        if not names:
            raise ConfigError(f"{self.path}: no component has a weight above 0; this mixture is for evaluation only")
        return names

    @property
    def validated(self) -> list[str]:
        """The components with rows to validate on, sorted."""
        return [name for name in self.components if VALIDATION in self.about["components"][name]]

    def rows(self, rows: type[R], component: str, split: str, small: bool = False) -> R:
        """The rows of one component and split. small: see `Rows.load`.

        Raises:
            ConfigError: the mixture is of another kind, or lacks these rows.
        """
        if self.kind is not rows:
            raise ConfigError(f"{self.path}: a mixture of {self.kind.called}; expected one of {rows.called}")
        splits = self.about["components"].get(component, {})
        if split not in splits:
            there = {name: sorted(splits) for name, splits in self.about["components"].items()}
            raise ConfigError(f"{component!r} has no {split} {rows.rows_are} in the mixture, which has {there}")
        return rows.load(rows_path(self.path, component, split), splits[split]["source"], small)

    def cache(self, component: str, split: str) -> TokenCache:
        """Raises ConfigError if `tokenized` lacks the component."""
        if component not in self.tokenized:
            raise ConfigError(
                f"tokenized has no {component!r} (it has {sorted(self.tokenized)}); the mixture was made from it"
            )
        return TokenCache.open(f"{self.tokenized[component]}/{split}", keep_near=True)


def rows_path(path: str, component: str, split: str) -> str:
    return f"{path}/packs/{component}/{split}"
