"""Tables of another tool's keys, and how a file is read by them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from marin_sft.errors import UserError
from marin_sft.nearest import did_you_mean
from marin_sft.run.importing.config_file import Section, shown
from marin_sft.run.importing.draft import Draft, Settings


@dataclass(frozen=True)
class Key:
    """A key that has the same meaning as a setting of ours.

    ours: the argument of `steps.sft` or `steps.dpo`. default: the tool's; None: as ours.
    kind: "number", "count", "flag", "text" or "value".
    """

    ours: str
    default: object = None
    kind: str = "number"


def read_settings(section: Section, table: Mapping[str, Key]) -> Settings:
    """The values of a table's keys, or the tool's defaults, by our names. Left out where there is neither."""
    found: Settings = {}
    for key, entry in table.items():
        value = getattr(section, entry.kind)(key, None)
        if value is not None:
            section.origins[entry.ours] = section.where(key)
        if value is not None or entry.ours not in found:
            found[entry.ours] = entry.default if value is None else value
    return {ours: value for ours, value in found.items() if value is not None}


def required(section: Section, key: str, tool: str) -> None:
    """Raise UserError where the file lacks what the tool needs."""
    if not section.has(key):
        raise UserError(f"{section.file}: no {section.name}{key}; expected one, as {tool} does")


def refuse(section: Section, reasons: Mapping[str, str]) -> None:
    """Raise UserError for keys of unsupported trainings, unless their value is false or empty."""
    for key, reason in reasons.items():
        value = section.value(key)
        if value not in (None, False, "", [], {}) and value != Section(section.file):
            raise UserError(f"{section.where(key)}: {shown(value)}: {reason}")


def leave_out(draft: Draft, section: Section, reasons: Mapping[str, str]) -> None:
    """Note keys without a counterpart, unless their value is false or empty. "steps" only refers to `eval_steps`."""
    for key, reason in reasons.items():
        if section.value(key) not in (None, False, "", 0, [], {}, "no", "steps"):
            draft.note(section, key, f"left out; {reason}")


def ignore(draft: Draft, section: Section, keys: Iterable[str]) -> None:
    """Record keys that do not change the result."""
    draft.without_effect += [f"{section.name}{key}" for key in sorted(keys) if section.has(key)]


def note_unknown(draft: Draft, section: Section, known: Iterable[str] = ()) -> None:
    """Note every key that nothing asked for."""
    names = [*section.read, *known]
    for key in section.unread():
        draft.note(section, key, f"not a key of {draft.tool} that is known here{did_you_mean(key, names)}; left out")
