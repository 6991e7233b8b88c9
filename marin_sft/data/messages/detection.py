"""Detects the shape of a row.

A null key counts as absent: columnar files fill missing keys with nulls. Then:
- A row fits a shape if it has all the keys that the shape needs.
- Of two shapes, the one that also uses the other's keys wins: messages + chosen + rejected is a preference.
- Tokens made elsewhere take precedence over all others. A bare `text` comes last, as it often repeats other keys.
- If several shapes are left and read the row the same way, any will do. If not, the row is ambiguous: name the shape.

The result depends only on the names of the keys and on whether the row is rated. Rows with the same keys, as usual in
a file, cost one decision.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence

from marin_sft.data.files import Json
from marin_sft.data.formats import ChatLmDatasetFormat
from marin_sft.data.messages.dialogues import Fields
from marin_sft.data.messages.examples import BadRow, Example
from marin_sft.data.messages.shapes import KEYS, SHAPE_BY_NAME, SHAPES, Shape, Slot, is_rated, may_be_rated
from marin_sft.data.messages.turns import without_other_keys
from marin_sft.nearest import nearest

_WHETHER_TRAINED = ("train", "weight")
_LOOKED_AT = 10  # keys of a row that fits no shape
_BOOKKEEPING = frozenset(("id", "source", "metadata"))


def read_row(row: Json, format: ChatLmDatasetFormat) -> list[Example]:
    """The examples that `row` holds, by the shape of the format or the detected one. Raises BadRow."""
    row = by_our_names(row, format)
    for key in _WHETHER_TRAINED:
        if row.get(key) in (False, 0) and not isinstance(row[key], str):
            raise BadRow("not_trained", f"the row says {key} = {row[key]!r}")
    if format.shape is not None:
        return _read(SHAPE_BY_NAME[format.shape], row, format)
    shapes = find_shapes(row, format)
    if not shapes:
        meant = _roles_as_keys(row, format) or _meant(tuple(map(str, row)), frozenset(format.named_keys))
        formats = _described(shape for shape in _candidates(format.named_keys) if not shape.of_rated_rows)
        raise BadRow("unknown_format", f"{meant}{_keys(row)} fit none of the formats {formats}")
    _check_label(row, shapes, format)
    if len(shapes) == 1:
        return _read(shapes[0], row, format)
    readings = [_reading(shape, row, format) for shape in shapes]
    if readings[0] is None or any(_said(reading) != _said(readings[0]) for reading in readings):
        raise BadRow(
            "ambiguous_format",
            f"{_keys(row)} fit several formats that read the row differently: {_described(shapes)}; name one with "
            f"shape={shapes[0].name!r}, or say with columns which keys are meant",
        )
    return readings[0]


def _check_label(row: Json, shapes: Sequence[Shape], format: ChatLmDatasetFormat) -> None:
    """Raises BadRow for a label that may rate the row as bad: training on it would do the opposite of what it says."""
    if "label" not in row or not may_be_rated(row) or format.named_keys.keys() & {"label"}:
        return
    named = frozenset(format.named_keys)
    rated = _shapes_of(KEYS.intersection(row), True, named)
    if all(shape.of_rated_rows for shape in rated):
        raise BadRow(
            "ambiguous_format",
            f"{_keys(row)}: the label {row['label']!r} may be a rating or something else; name the shape: "
            f"{rated[0].name!r} leaves out rows rated as bad, {shapes[0].name!r} ignores the label",
        )


def by_our_names(row: Json, format: ChatLmDatasetFormat) -> Json:
    """`row` without null keys, and with the format's columns under our names instead of theirs."""
    ours = format.named_keys
    if not ours:
        return {key: value for key, value in row.items() if value is not None} if None in row.values() else row
    theirs = set(ours.values())
    kept = {key: value for key, value in row.items() if value is not None and key not in theirs and key not in ours}
    return kept | {key: row[their] for key, their in ours.items() if row.get(their) is not None}


def find_shapes(row: Json, format: ChatLmDatasetFormat) -> Sequence[Shape]:
    """The shapes that `row` (by our names) may have, without those that another one covers."""
    named = frozenset(format.named_keys)
    return _shapes_of(KEYS.intersection(row), is_rated(row) or "label" in named, named)


def unused_keys(row: Json, format: ChatLmDatasetFormat) -> frozenset[str]:
    """The keys of `row` that its shape does not use, except those that `transform` adds. Empty if the format's own
    function reads the row."""
    if format.formatting_func is not None:
        return frozenset()
    keys = frozenset(key for key, value in row.items() if value is not None)
    return _unused_keys(
        keys, is_rated(row) or "label" in format.named_keys, format.shape, frozenset(format.named_keys.items())
    )


@functools.lru_cache(maxsize=1024)
def _unused_keys(
    keys: frozenset[str], rated: bool, shape: str | None, named: frozenset[tuple[str, str]]
) -> frozenset[str]:
    theirs = dict(named)
    ours = {key: key for key in keys.difference(theirs, theirs.values())}
    ours |= {our: their for our, their in theirs.items() if their in keys}
    known = KEYS.intersection(ours)
    shapes = [SHAPE_BY_NAME[shape]] if shape else _shapes_of(known, rated, frozenset(theirs))
    used = {ours[key] for found in shapes for key in _all_given(found.slots, known, frozenset(theirs))}
    return keys - used - _BOOKKEEPING


@functools.lru_cache(maxsize=1024)
def _shapes_of(keys: frozenset[str], rated: bool, named: frozenset[str]) -> tuple[Shape, ...]:
    """The shapes of rows with these keys of ours. `named`: those that the format names."""
    candidates = [shape for shape in _candidates(named) if rated or not shape.of_rated_rows]
    found = [shape for shape in candidates if all(_given(slot, keys, named) for slot in shape.needed)]
    rank = max((shape.rank for shape in found), default=0)
    found = [shape for shape in found if shape.rank == rank]
    needs = {shape.name: _all_given(shape.needed, keys, named) for shape in found}
    uses = {shape.name: _all_given(shape.slots, keys, named) for shape in found}
    return tuple(
        shape
        for shape in found
        if not any(needs[shape.name] <= uses[o.name] and not needs[o.name] <= uses[shape.name] for o in found)
    )


def _candidates(named: Iterable[str]) -> list[Shape]:
    """The shapes that know all columns that the format names."""
    return [shape for shape in SHAPES if not shape.named_only and shape.keys.issuperset(named)]


def _given(slot: Slot, keys: frozenset[str], named: frozenset[str]) -> list[str]:
    """The keys of `slot` that a row with `keys` has. Those that the format names take precedence."""
    present = [key for key in slot.keys if key in keys]
    return [key for key in present if key in named] or present


def _all_given(slots: Iterable[Slot], keys: frozenset[str], named: frozenset[str]) -> set[str]:
    return {key for slot in slots for key in _given(slot, keys, named)}


def _read(shape: Shape, row: Json, format: ChatLmDatasetFormat) -> list[Example]:
    read = shape.read(_fields(shape, row, format), format)
    return read if isinstance(read, list) else [read]


def _reading(shape: Shape, row: Json, format: ChatLmDatasetFormat) -> list[Example] | None:
    """What `shape` reads in a row; None if the row does not have that shape after all."""
    try:
        return _read(shape, row, format)
    except BadRow:
        return None


def _said(reading: list[Example] | None) -> list[object]:
    """What to compare readings by. Unusual keys of messages, which other shapes lack, do not count."""
    return [(type(example), without_other_keys(dataclasses.asdict(example))) for example in reading or ()]


def _fields(shape: Shape, row: Json, format: ChatLmDatasetFormat) -> Fields:
    fields: Fields = {}
    for slot, keys in _places(shape.name, KEYS.intersection(row), frozenset(format.named_keys)):
        if not keys:
            raise BadRow("missing_key", f"{_keys(row)}; the format {_described([shape])} lacks {'|'.join(slot.keys)}")
        if len(keys) > 1 and any(row[key] != row[keys[0]] for key in keys):
            raise BadRow(
                "ambiguous_format",
                f"{_keys(row)}: {' and '.join(keys)} say different things, the format {shape.name} expects one of "
                f"them; say which with columns={{{slot.keys[0]!r}: ...}}",
            )
        fields[slot.field] = row[keys[0]]
    return fields


@functools.lru_cache(maxsize=1024)
def _places(shape: str, keys: frozenset[str], named: frozenset[str]) -> list[tuple[Slot, list[str]]]:
    """The slots of `shape` with the keys that fill them in a row with `keys`. Empty slots only if they are needed."""
    slots, needed = SHAPE_BY_NAME[shape].slots, SHAPE_BY_NAME[shape].needed
    places = [(slot, _given(slot, keys, named)) for slot in slots]
    return [(slot, given) for slot, given in places if given or slot in needed]


def _roles_as_keys(row: Json, format: ChatLmDatasetFormat) -> str:
    """What to set for a row whose keys are the names that the format gives to roles."""
    asks, answers = format.input_field, format.output_field
    if asks not in row or answers not in row:
        return ""
    return (
        f"input_field={asks!r} and output_field={answers!r} are names of roles in a list of messages, not keys of a "
        f"row; for these keys, say columns={{'prompt': {asks!r}, 'response': {answers!r}}}. "
    )


@functools.lru_cache(maxsize=1024)
def _meant(keys: tuple[str, ...], named: frozenset[str]) -> str:
    """What the keys of a row that fits no shape may mean: similar names of ours, or the one key that a shape lacks."""
    unknown = [key for key in keys if key not in KEYS]
    near = {key: _near(key) for key in unknown[:_LOOKED_AT]}
    if any(near.values()):
        return "".join(f"{key!r}: did you mean {name!r}? " for key, name in near.items() if name)
    for shape in _candidates(named):
        lacking = [slot for slot in shape.needed if not _given(slot, frozenset(keys), named)]
        if len(lacking) == 1 < len(shape.needed) and not shape.of_rated_rows:
            wanted = lacking[0].keys
            says = f"; is it {unknown[0]!r}? Then say columns={{{wanted[0]!r}: {unknown[0]!r}}}" if unknown else ""
            return f"for {shape.name}, {'|'.join(wanted)} is missing{says}. "
    return ""


def _near(key: str) -> str | None:
    """Our key that is most like `key`. Only a few are compared: millions of rows may all have different keys."""
    like = [our for our in sorted(KEYS) if our[:1].lower() == key[:1].lower() and abs(len(our) - len(key)) < 3]
    return next(iter(nearest(key.lower(), like, cutoff=0.75)), None)


def _keys(row: Json) -> str:
    return f"the keys {sorted(map(str, row))}"[:500]


def _described(shapes: Iterable[Shape]) -> str:
    return ", ".join(f"{shape.name} ({' + '.join('|'.join(slot.keys) for slot in shape.needed)})" for shape in shapes)
