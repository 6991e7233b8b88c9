"""What an importer reads from a YAML, and what the experiment file is written from."""

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
    """A difference between the experiment and the tool's training. line: of the key; 0: the file says nothing."""

    line: int
    key: str
    value: str
    text: str

    def __str__(self) -> str:
        return f"{self.key}{self.value and ': '}{self.value}: {self.text}"


@dataclass
class Draft:
    """tool: its name. kind: "sft" or "dpo".

    model, tokenizer, reference: a hub id or a directory. None: the model's own tokenizer, the model as the reference.
    micro_batch, accumulate: the tool's examples per device and its accumulation steps; batch_keys: their keys.
    devices: None: the file does not say.
    mixture, training: arguments of `steps.mixture`, and of `steps.sft` or `steps.dpo`.
    lora: arguments of `LoraConfig`. None: train all weights.
    definitions: source of functions and constants that only this experiment has, by name.
    without_effect: keys that do not change the result.
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
        """Note a difference about a key of the file."""
        value = section.value(key)
        known = "" if isinstance(value, Section | list) else shown(value)
        self.notes.append(Note(section.lines[key], f"{section.name}{key}", known, text))

    def note_default(self, key: str, text: str) -> None:
        """Note a difference about a key that the file leaves out."""
        self.notes.append(Note(0, f"{key} (not given)", "", text))

    def define(self, name: str, source: Callable[[str], str]) -> str:
        """Add the definition `source(name)`. Returns its name: `name`, with a number if that is taken by another."""
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
