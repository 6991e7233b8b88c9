"""The differences between two configs, field by field, and their text for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Difference = tuple[str, object, object]


class _Absent(str):
    """A distinct type, so that no config value is mistaken for it."""


ABSENT = _Absent("(absent)")
"""In a difference: the side that lacks the field."""


def leaf_differences(old: object, new: object, path: str = "") -> list[Difference]:
    """The leaves in which two canonical values differ, as (field, old, new); `ABSENT` if one lacks the leaf."""
    if isinstance(old, dict) and isinstance(new, dict) and _tags(old) == _tags(new):
        keys = [*old, *(key for key in new if key not in old)]
        pairs = [(f"{path}.{key}".lstrip("."), old.get(key, ABSENT), new.get(key, ABSENT)) for key in keys]
    elif isinstance(old, list) and isinstance(new, list):
        pad = max(len(old), len(new))
        pairs = [
            (f"{path}[{i}]", *pair) for i, pair in enumerate(zip(_padded(old, pad), _padded(new, pad), strict=True))
        ]
    else:
        return [] if type(old) is type(new) and old == new else [(path, old, new)]
    return [difference for field, a, b in pairs for difference in leaf_differences(a, b, field)]


def _tags(value: Mapping[str, object]) -> set[str]:
    """The tags of a mapping, which say what it stands for: a file is compared with a file, not with a step."""
    return {key for key in value if key.startswith("$") and not key.startswith("$$")}


def _padded(items: Sequence[object], length: int) -> list[object]:
    return [*items, *[ABSENT] * (length - len(items))]


def with_names(value: object, names: Mapping[str, str]) -> object:
    """A canonical value with the names of input directories instead of fingerprints.

    names: directories by the first ten digits of the fingerprint.
    """
    if isinstance(value, list):
        return [with_names(item, names) for item in value]
    if not isinstance(value, dict):
        return value
    if "$input" not in value:
        return {key: with_names(item, names) for key, item in value.items()}
    directory = input_name(value["$input"], names)
    return f"{directory}/{value['name']}" if value.get("name") else directory


def field_of_input(field: str) -> str | None:
    """The field whose input step has another identity; None if the difference is of another sort."""
    before, _, last = field.rpartition(".")
    return before if last == "$input" else None


def field_of_content(field: str) -> str | None:
    """The field whose local files have another content; None if the difference is of another sort."""
    before, _, last = field.rpartition(".")
    return before if last == "$content" else None


def input_name(fingerprint: object, names: Mapping[str, str]) -> str:
    short = str(fingerprint)[:10]
    return names.get(short, short)


def difference_text(difference: Difference, limit: int = 40) -> str:
    """`learning_rate 0.001 -> 0.002`, or `runs[2] added`."""
    field, old, new = difference
    if old == ABSENT and isinstance(new, dict | list):
        return f"{field} added"
    if new == ABSENT and isinstance(old, dict | list):
        return f"{field} removed"
    short = [text if len(text) <= limit else f"{text[:limit]}..." for text in (_text(old), _text(new))]
    return f"{field} {short[0]} -> {short[1]}"


def _text(value: object) -> str:
    return value if isinstance(value, str) and value.isprintable() else repr(value)
