"""The console for all output meant for people."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from marin_sft.execution.terminal import print_no_more, visible

_WIDE = 10_000  # columns


class TextConsole(Console):
    """Prints text as it is: markup is not interpreted, control characters are escaped."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=self._shown(segment.text))

    def out(self, *objects: Any, **options: Any) -> None:
        super().out(*(self._shown(str(item)) for item in objects), **options)

    def on_broken_pipe(self) -> None:
        """A launch continues when nobody reads its output any more."""
        self.quiet = True
        print_no_more()

    def _shown(self, text: str) -> str:
        text, encoding = visible(text), self.encoding
        return text if encoding.startswith("utf") else text.encode(encoding, "backslashreplace").decode(encoding)


def make_console(plain_width: int = _WIDE) -> Console:
    """A console as wide as the terminal. Without one, lines are neither folded nor cut, so that they can be searched;
    plain_width: folds prose to that many columns."""
    return TextConsole() if sys.stdout.isatty() else TextConsole(soft_wrap=plain_width >= _WIDE, width=plain_width)
