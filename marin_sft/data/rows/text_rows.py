"""The rows of text files, JSON and comma-separated values, read one at a time from an open binary file.

Each function yields (line, row). The row is parsed, except for JSON lines, where it is the bytes of the line:
`parsed_row` takes both. An unreadable row is a `BadRow`. A ValueError, with the line, ends the file.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, count, islice
from typing import Any, BinaryIO

from marin_sft.data.messages.examples import BadRow
from marin_sft.data.messages.shapes import KEYS
from marin_sft.data.messages.tool_calls import can_be_encoded
from marin_sft.data.rows.source_rows import Place, RawRow

_HEAD, _CHUNK = 1000, 1 << 20
_LINES_AT_ONCE = 32
_DATA_LIST = re.compile(r'\s*\{\s*"data"\s*:\s*\[')
_LIST = re.compile(r"\s*\[")
# NaN and infinities are null, as in tables: pandas writes NaN for what is missing.
_DECODER = json.JSONDecoder(parse_constant=lambda name: None)
_SPACE = re.compile(r"\s*")
# The decoder may report an error this far before the end of a text that is merely cut: `\u12`, `-Infini`.
_CUT = 16


def parsed_row(raw: object) -> object:
    if not isinstance(raw, bytes):
        return raw
    try:
        try:
            return _checked(_value_of_line(raw), b"\\ud" in raw or b"\\uD" in raw)
        except ValueError:
            # Other encodings, and lone surrogates written as bytes.
            return _checked(_DECODER.decode(raw.decode(json.detect_encoding(raw), "surrogatepass")), True)
    except (ValueError, RecursionError) as error:
        return BadRow("invalid_json", str(error))


def _value_of_line(raw: bytes) -> object:
    """The value of a usual line: UTF-8, with nothing before the value. Raises ValueError for any other."""
    text = raw.decode()
    value, end = _DECODER.raw_decode(text)
    if end != len(text) and not text[end:].isspace():
        raise ValueError("more than a value")
    return value


def _checked(row: object, escaped: bool) -> object:
    """`row`, or a BadRow if it has a lone surrogate, which no file can hold. `escaped`: whether it may have one."""
    try:
        if escaped:
            json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        return BadRow("invalid_unicode", str(error))
    return row


def json_line_rows(stream: Iterable[bytes], lines: int = 0) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, without a UTF-8 byte order mark. `lines`: how many there are before."""
    for number, line in enumerate(stream, lines + 1):
        line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if line.strip():
            yield number, line


def count_json_lines(stream: Iterable[bytes]) -> int:
    """How many rows `json_line_rows` yields, in a fraction of the time."""
    lines = iter(stream)
    first = next(lines, b"").removeprefix(codecs.BOM_UTF8)
    return bool(first.strip()) + Counter(map(bytes.isspace, lines))[False]


def json_line_places(stream: Iterable[bytes], lines_apart: int, bytes_apart: int) -> tuple[int, list[Place]]:
    """How many rows `json_line_rows` yields, in a fraction of the time; and places so many lines or bytes apart."""
    rest = iter(stream)
    places: list[Place] = []
    place = Place(0, 0, 0)
    while some := list(islice(rest, _LINES_AT_ONCE)):
        if (
            not places
            or place.lines - places[-1].lines >= lines_apart
            or place.offset - places[-1].offset >= bytes_apart
        ):
            places.append(place)
        rows = len(some) - sum(map(bytes.isspace, some)) if place.lines else count_json_lines(some)
        place = Place(place.row + rows, place.lines + len(some), place.offset + sum(map(len, some)))
    return place.row, places


def json_rows(stream: BinaryIO) -> Iterator[RawRow]:
    """A list of rows, `{"data": [...]}`, JSON lines, several JSON objects in sequence, or one object that is a row.

    In a list, elements count as lines. If the first line is a whole object, the file is JSON lines.

    Raises:
        ValueError: none of them.
    """
    head = stream.read(_HEAD).removeprefix(codecs.BOM_UTF8)
    start = head.decode(errors="replace")
    if not _LIST.match(start) and not _DATA_LIST.match(start):
        # Read to the end of the line, which may be a row. Lists are excluded: one may be a line too long for memory.
        head += stream.readline()
        lines = json_line_rows(chain(io.BytesIO(head), stream))
        number, first = next(lines, (1, b""))
        if first.lstrip().startswith(b"{") and not isinstance(parsed_row(first), BadRow):
            yield number, first
            yield from lines
            return
    scanner = _Scanner(head, stream)
    if listed := _DATA_LIST.match(scanner.text) or _LIST.match(scanner.text):
        scanner.at = listed.end()
        yield from _elements(scanner)
        if listed.re is _DATA_LIST:
            scanner.expect("}")
        scanner.expect("")
    elif scanner.peek() == "{":
        yield from _objects(scanner)
    elif scanner.peek():
        raise ValueError(f"got {start.strip()[:20]!r} first, expected a list of rows, {{'data': [...]}} or objects")


def _elements(scanner: _Scanner) -> Iterator[RawRow]:
    """The elements of a list whose bracket is open, and its closing bracket."""
    if scanner.peek() == "]":
        scanner.expect("]")
        return
    for number in count(1):
        yield number, scanner.value()
        if scanner.peek() != ",":
            scanner.expect("]")
            return
        scanner.expect(",")


def _objects(scanner: _Scanner) -> Iterator[RawRow]:
    number, first = scanner.line_here(), scanner.value()
    # A single dialogue is a row; an object with a list of rows under an unknown key is not.
    if not scanner.peek() and not (isinstance(first, BadRow) or KEYS.intersection(first)):
        raise ValueError(
            f"got one JSON object, expected a list of rows or several objects; if it is a row, put it on one line; "
            f"its keys are {list(first)[:10]}"
        )
    yield number, first
    while scanner.peek():
        yield scanner.line_here(), scanner.value()


class _Scanner:
    """Reads JSON values from a text of any length, with little more than one value in memory."""

    def __init__(self, head: bytes, stream: BinaryIO) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogatepass")
        self._stream = stream
        self._line = 1
        self._ended = False
        self.text = self._decoder.decode(head)
        self.at = 0
        self._more()

    def line_here(self) -> int:
        return self._line + self.text.count("\n", 0, self.at)

    def peek(self) -> str:
        """The next character that is not a space. Empty at the end."""
        while True:
            self.at = _SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]  # matches anything
            if self.at < len(self.text) or self._ended:
                return self.text[self.at : self.at + 1]
            self._more()

    def expect(self, character: str) -> None:
        if (got := self.peek()) != character:
            raise ValueError(f"line {self.line_here()}: got {got or 'the end'!r}, expected {character or 'the end'!r}")
        self.at += len(character)

    def value(self) -> Any:
        """The next value, or a BadRow if no file could hold it.

        Raises:
            ValueError: not JSON.
        """
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
                # A number may continue after the end of the text so far.
                if end < len(self.text) or self._ended:
                    source = self.text[self.at : end]
                    row = _checked(value, "\\u" in source or not can_be_encoded(source))
                    self.at = end
                    return row
            except json.JSONDecodeError as error:
                cut = error.pos >= len(self.text) - _CUT or error.msg.startswith("Unterminated string")
                if self._ended or not cut:
                    line = self._line + self.text.count("\n", 0, error.pos)
                    raise ValueError(f"line {line}: not JSON ({error.msg})") from error
            except RecursionError as error:
                raise ValueError(f"line {self.line_here()}: the value is nested too deep") from error
            self._more()

    def _more(self) -> None:
        """Read as much again as there is, so that a large value is parsed again only a few times."""
        chunk = self._stream.read(max(_CHUNK, len(self.text) - self.at))
        self._line = self.line_here()
        self.text = self.text[self.at :] + self._decoder.decode(chunk, final=not chunk)
        self.at = 0
        self._ended = not chunk


def prompt_lines(stream: BinaryIO) -> Iterator[RawRow]:
    """A row with a prompt for each line that is not blank."""
    for line, raw in enumerate(stream, 1):
        try:
            prompt = raw.decode("utf-8-sig" if line == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            yield line, BadRow("invalid_utf8", f"expected UTF-8: {error}")
            continue
        if prompt:
            yield line, {"prompt": prompt}


def csv_rows(stream: BinaryIO) -> Iterator[RawRow]:
    return _separated_rows(stream, ",")


def tsv_rows(stream: BinaryIO) -> Iterator[RawRow]:
    return _separated_rows(stream, "\t")


def _separated_rows(stream: BinaryIO, delimiter: str) -> Iterator[RawRow]:
    """The rows below the header, by the line they begin on. Values are strings, with their spaces.

    Raises:
        ValueError: two columns with the same name, a header that is not UTF-8, or a quote that is never closed.
    """
    csv.field_size_limit(2**31 - 1)  # for the whole process; the default refuses texts of 128 KiB
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise ValueError(f"line 1: no header ({error})") from error
    try:
        "".join(header).encode()
    except UnicodeEncodeError as error:
        raise ValueError("line 1: the header is not UTF-8; save the file in UTF-8") from error
    if len(set(header)) < len(header):
        raise ValueError(f"line 1: got columns {header}, expected each name once")
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end of data" in str(error):
                raise ValueError(f"line {line}: the row has a quote that is never closed") from error
            yield line, BadRow("invalid_csv", str(error))
            continue
        if fields:
            yield line, _row_of_fields(header, fields)


def _row_of_fields(header: list[str], fields: list[str]) -> dict[str, str] | BadRow:
    if len(fields) != len(header):
        return BadRow("invalid_csv", f"got {len(fields)} values, expected {len(header)}, one for each column")
    try:
        "".join(fields).encode()
    except UnicodeEncodeError as error:
        return BadRow("invalid_utf8", f"character {error.start}: a byte that is not UTF-8")
    return dict(zip(header, fields, strict=True))
