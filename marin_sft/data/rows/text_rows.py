"""The rows of files that are text: JSON and comma-separated values. Given an open binary file, one row at a time.

Each function yields (line, row), the row either parsed or, of JSON lines, as the bytes of its line: `parsed_row` makes
the row of both. A row that is unreadable by itself is a `BadRow`; a ValueError, with the line, ends the file.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, count
from typing import Any, BinaryIO

from marin_sft.data.messages.examples import BadRow
from marin_sft.data.messages.shapes import KEYS
from marin_sft.data.messages.tool_calls import can_be_encoded

RawRow = tuple[int, object]
_HEAD, _CHUNK = 1000, 1 << 20
_DATA_LIST = re.compile(r'\s*\{\s*"data"\s*:\s*\[')
_LIST = re.compile(r"\s*\[")
# NaN and infinities are null, as in tables: pandas writes NaN for what is missing.
_DECODER = json.JSONDecoder(parse_constant=lambda name: None)
_SPACE = re.compile(r"\s*")
# How far before the end of the text a JSON value that is merely cut there can be called wrong: `\u12`, `-Infini`.
_CUT = 16


def parsed_row(raw: object) -> object:
    if not isinstance(raw, bytes):
        return raw
    try:
        try:
            return _checked(_value_of_line(raw), b"\\ud" in raw or b"\\uD" in raw)
        except ValueError:
            # Other encodings, and halves of surrogate pairs that are written as bytes.
            return _checked(_DECODER.decode(raw.decode(json.detect_encoding(raw), "surrogatepass")), True)
    except (ValueError, RecursionError) as error:
        return BadRow("invalid_json", str(error))


def _value_of_line(raw: bytes) -> object:
    """The value of a line as it should be: UTF-8 with nothing before the value. Raises ValueError for any other."""
    text = raw.decode()
    value, end = _DECODER.raw_decode(text)
    if end != len(text) and not text[end:].isspace():
        raise ValueError("more than a value")
    return value


def _checked(row: object, escaped: bool) -> object:
    """`row`, or a BadRow if it has half of a surrogate pair, which no file can hold. `escaped`: it may have."""
    try:
        if escaped:
            json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        return BadRow("invalid_unicode", str(error))
    return row


def json_line_rows(stream: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank; a mark at the beginning that says UTF-8 is left out."""
    for number, line in enumerate(stream, 1):
        line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if line.strip():
            yield number, line


def count_json_lines(stream: Iterable[bytes]) -> int:
    """How many rows `json_line_rows` gives, for a fraction of its time."""
    lines = iter(stream)
    first = next(lines, b"").removeprefix(codecs.BOM_UTF8)
    return bool(first.strip()) + Counter(map(bytes.isspace, lines))[False]


def json_rows(stream: BinaryIO) -> Iterator[RawRow]:
    """One list of rows, `{"data": [...]}`, JSON lines, or JSON objects one after another, or one that is a row.

    In a list, elements count as lines. If the first line is an object by itself, the file is JSON lines.

    Raises:
        ValueError: neither of them.
    """
    head = stream.read(_HEAD).removeprefix(codecs.BOM_UTF8)
    start = head.decode(errors="replace")
    if not _LIST.match(start) and not _DATA_LIST.match(start):
        # To the end of a line: it may be a row, and a list may be one line that is too long for memory.
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
    # A file with one dialogue is one row; one with a list of rows under a name of its own is not.
    if not scanner.peek() and not (isinstance(first, BadRow) or KEYS.intersection(first)):
        raise ValueError(
            f"got one JSON object, expected a list of rows or several; if it is a row, put it on one line; its "
            f"keys are {list(first)[:10]}"
        )
    yield number, first
    while scanner.peek():
        yield scanner.line_here(), scanner.value()


class _Scanner:
    """JSON values one after another from a text of any length, of which little more than one value is in memory."""

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
        """The next character that is no space; empty at the end."""
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
            ValueError: no JSON.
        """
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
                # A number may go on where the text so far ends.
                if end < len(self.text) or self._ended:
                    source = self.text[self.at : end]
                    row = _checked(value, "\\u" in source or not can_be_encoded(source))
                    self.at = end
                    return row
            except json.JSONDecodeError as error:
                cut = error.pos >= len(self.text) - _CUT or error.msg.startswith("Unterminated string")
                if self._ended or not cut:
                    line = self._line + self.text.count("\n", 0, error.pos)
                    raise ValueError(f"line {line}: no JSON ({error.msg})") from error
            except RecursionError as error:
                raise ValueError(f"line {self.line_here()}: no row of data is nested so deep") from error
            self._more()

    def _more(self) -> None:
        """Read on, as much again as there is: what is parsed again and again is then parsed a few times at most."""
        chunk = self._stream.read(max(_CHUNK, len(self.text) - self.at))
        self._line = self.line_here()
        self.text = self.text[self.at :] + self._decoder.decode(chunk, final=not chunk)
        self.at = 0
        self._ended = not chunk


def csv_rows(stream: BinaryIO) -> Iterator[RawRow]:
    return _separated_rows(stream, ",")


def tsv_rows(stream: BinaryIO) -> Iterator[RawRow]:
    return _separated_rows(stream, "\t")


def _separated_rows(stream: BinaryIO, delimiter: str) -> Iterator[RawRow]:
    """Rows under the header, by the line they begin on; values are strings, spaces and all.

    Raises:
        ValueError: two columns of one name, a header that is no UTF-8, or a quote that is never closed.
    """
    csv.field_size_limit(2**31 - 1)  # of the whole process; the default refuses a text of 128 KiB
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise ValueError(f"line 1: no header ({error})") from error
    try:
        "".join(header).encode()
    except UnicodeEncodeError as error:
        raise ValueError("line 1: the header has bytes that are no UTF-8: save the file again in UTF-8") from error
    if len(set(header)) < len(header):
        raise ValueError(f"line 1: got columns {header}, expected a name only once")
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
        return BadRow("invalid_utf8", f"character {error.start}: a byte that is no UTF-8")
    return dict(zip(header, fields, strict=True))
