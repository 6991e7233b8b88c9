"""Samples of findings that only all rows together show: their texts are read once more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from marin_sft.data.chat.special_tokens import pattern_of
from marin_sft.data.files import Json
from marin_sft.data.formats import LmDatasetFormat
from marin_sft.data.lint.findings import excerpt, sample
from marin_sft.data.lint.rows import row_findings
from marin_sft.data.rows.row_files import read_span
from marin_sft.data.rows.source_rows import SourceRow, Span

_NO_TOKENS = pattern_of(frozenset())
_NEAR = 2000  # rows between two that are worth reading in one go


class RowName(NamedTuple):
    """A row by its component and its number in it."""

    component: str
    number: int


class Wanted(NamedTuple):
    """A finding to show."""

    finding: str
    message: str
    row: RowName
    other: RowName | None


def samples_of(
    wanted: Sequence[Wanted], spans: Mapping[str, Sequence[Span]], formats: Mapping[str, LmDatasetFormat]
) -> list[Json]:
    """`spans`, `formats`: the rows of each component."""
    names = {one.row for one in wanted} | {one.other for one in wanted if one.other}
    rows: dict[RowName, Json] = {}
    for component in sorted({name.component for name in names}):
        numbers = sorted(name.number for name in names if name.component == component)
        for number, source in _read(spans[component], numbers):
            rows[RowName(component, number)] = _shown(source, formats[component])
    return [_sample(one, rows) for one in wanted]


def _sample(one: Wanted, rows: Mapping[RowName, Json]) -> Json:
    row = rows[one.row]
    where = {"component": one.row.component, "file": row["file"], "line": row["line"]}
    side = "answer" if one.message.startswith("answer") else "prompt"
    if one.other is None:
        return sample(one.finding, where, one.message, row[side])
    other = rows[one.other]
    about = {"component": one.other.component, "file": other["file"], "line": other["line"]}
    return sample(one.finding, where, one.message, row[side], {**about, "text": excerpt(other[side])})


def _shown(source: SourceRow, format: LmDatasetFormat) -> Json:
    said = row_findings(source.row, format, _NO_TOKENS)[0]
    texts = {"prompt": said[0].prompt, "answer": said[0].answer or ""} if said else {"prompt": "", "answer": ""}
    return {"file": source.file.name, "line": source.line, **texts}


def _read(spans: Sequence[Span], numbers: Sequence[int]) -> Iterator[tuple[int, SourceRow]]:
    """The rows with these numbers, ascending, counted over all `spans`."""
    before = 0
    for span in spans:
        size = span.stop - span.start
        inside = [number - before for number in numbers if before <= number < before + size]
        for some in _runs(inside):
            part = span.part(span.start + some[0], span.start + some[-1] + 1)
            asked = set(some)
            for number, source in enumerate(read_span(part), some[0]):
                if number in asked:
                    yield before + number, source
        before += size


def _runs(numbers: Iterable[int]) -> Iterator[list[int]]:
    """Ascending numbers, in runs without large gaps."""
    run: list[int] = []
    for number in numbers:
        if run and number - run[-1] > _NEAR:
            yield run
            run = []
        run.append(number)
    if run:
        yield run
