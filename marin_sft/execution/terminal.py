"""Printing untrusted text, e.g. of models and hubs, on a terminal without its control characters taking effect.

Everything that the package prints goes through `visible`, on a `console.TextConsole` and in errors. Logs keep their
colours.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator

from marin_sft.errors import debugging

# C0 and C1 except newline and tab, characters that change text direction, and surrogates.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
# In logs, colours may stay, and so may the carriage returns of progress bars.
_CONTROL_OF_LOG = re.compile(
    rb"\x1b(?!\[[0-9;:]*m)|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80[\xaa-\xae]|\xe2\x81[\xa6-\xa9]"
)
_LONGEST_LINE = 1 << 20  # bytes to hold back until the line ends


def without_colours(text: str) -> str:
    """A message of a library without the colours that it put there."""
    return _COLOUR.sub("", text)


def visible(text: str) -> str:
    """The text with control characters escaped as in Python, `\\x1b`. Newlines and tabs stay."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def complain(problem: object, code: int) -> int:
    """Print an error; returns `code`."""
    if debugging() and isinstance(problem, BaseException):
        traceback.print_exception(problem)
        return code
    print(f"error: {visible(str(problem))}", file=sys.stderr)
    return code


@contextlib.contextmanager
def early_end_allowed() -> Iterator[None]:
    """Inside the block, a reader such as `head` may stop early: later output is discarded."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        print_no_more()


@contextlib.contextmanager
def libraries_print_to_stderr() -> Iterator[None]:
    """Inside the block, nothing reaches stdout, not even what libraries in other languages write there."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def print_no_more() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def write_log(chunks: Iterable[bytes]) -> None:
    """Write a log to stdout. On a terminal, without control sequences other than colours."""
    sys.stdout.flush()
    if not hasattr(sys.stdout, "buffer"):  # in a notebook
        for text in codecs.iterdecode(chunks, "utf-8", errors="replace"):
            sys.stdout.write(text)
        return
    for chunk in _harmless(chunks) if sys.stdout.isatty() else chunks:
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()


def _harmless(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        text = rest + chunk
        cut = max(text.rfind(b"\n"), text.rfind(b"\r")) + 1  # do not split a sequence
        if not cut and len(text) > _LONGEST_LINE:
            cut = len(text)
        rest = text[cut:]
        yield _CONTROL_OF_LOG.sub(_caret, text[:cut])
    yield _CONTROL_OF_LOG.sub(_caret, rest)


def _caret(found: re.Match[bytes]) -> bytes:
    return found[0].decode().encode("unicode_escape")


def first_lines(text: str, most: int = 10) -> str:
    """Of a message, and how many more there are."""
    lines = text.rstrip().splitlines()
    left = len(lines) - most
    return "\n".join([*lines[:most], *([f"and {left} more line{'' if left == 1 else 's'}"] if left > 0 else [])])


def in_one_line(text: str) -> str:
    """A message for where there is one line: its first lines, one after the other."""
    lines = [" ".join(line.split()) for line in first_lines(text).splitlines()]
    return re.sub(r"(?<=[.:;,]); ", " ", "; ".join(filter(None, lines)))
