"""What the importer of a tool finds out, and the experiment file is written from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from marin_sft.run.importing.config_file import Section, shown
from marin_sft.run.importing.rows import Rows
from marin_sft.run.python_source import Call

Settings = dict[str, Any]
"""Arguments of ours, by name."""


@dataclass(frozen=True, order=True)
class Note:
    """What the experiment does otherwise than the tool. line: of the key; 0: of something that the file leaves out."""

    line: int
    key: str
    value: str
    text: str

    def __str__(self) -> str:
        return f"{self.key}{self.value and ': '}{self.value}: {self.text}"


@dataclass
class Draft:
    """tool: as people write it. kind: "sft" or "dpo".

    model, tokenizer, reference: a hub id or a directory; None: the model's own, and the model.
    micro_batch, accumulate: examples on a device at once, and how often before an update. devices: None: not said.
    mixture, training: arguments of `steps.mixture`, and of `steps.sft` or `steps.dpo`.
    lora: arguments of `LoraConfig`; None: all weights are trained.
    definitions: source of functions and constants of this experiment alone, by name.
    without_effect: keys on which the result does not depend.
    """

    tool: str
    config: Section
    kind: str = "sft"
    model: str = ""
    tokenizer: str | None = None
    reference: str | None = None
    training_rows: list[Rows] = field(default_factory=list)
    held_out_rows: list[Rows] = field(default_factory=list)
    seq_len: int = 0
    micro_batch: int = 1
    accumulate: int = 1
    devices: int | None = None
    batch_keys: tuple[str, str] = ("", "")
    mixture: Settings = field(default_factory=dict)
    training: Settings = field(default_factory=dict)
    lora: Settings | None = None
    trackers: list[Call] = field(default_factory=list)
    definitions: dict[str, str] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    without_effect: list[str] = field(default_factory=list)

    def note(self, section: Section, key: str, text: str) -> None:
        """A key of the file that has no counterpart, or another meaning."""
        value = section.value(key)
        known = "" if isinstance(value, Section | list) else shown(value)
        self.notes.append(Note(section.lines[key], f"{section.name}{key}", known, text))

    def note_default(self, key: str, text: str) -> None:
        """A key that the file leaves out, and what becomes of that."""
        self.notes.append(Note(0, f"{key} (not given)", "", text))

    def define(self, name: str, source: Callable[[str], str]) -> str:
        """The name under which the file defines `source(name)`: `name`, or one with a number. Equal ones are one."""
        names = [name, *(f"{name}_{i}" for i in range(2, len(self.definitions) + 2))]
        for free in names:
            if self.definitions.setdefault(free, source(free)) == source(free):
                return free
        raise AssertionError(names)

    def sorted_notes(self) -> list[Note]:
        return sorted(set(self.notes))

    @property
    def file(self) -> str:
        return self.config.file
