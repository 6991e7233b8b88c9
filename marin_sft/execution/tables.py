"""Tables, durations and counts for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

Cell = str | Text
_LEAST_NAME = 20  # columns
_SHORT, _LEAST = 8, 10  # columns: cells of so many are not folded; others have room for at least so many


def print_table(
    console: Console, columns: Sequence[str], rows: Iterable[Sequence[Cell]], names: str | None = None
) -> None:
    """Print a table, folded to the console's width unless the console does not fold lines, or has no room for numbers.

    names: a column whose cells are shortened rather than folded, so that they can be found.
    """
    rows = list(rows)
    if console.soft_wrap:
        # Without rich, which takes longer to lay out a plan of a thousand steps than planning takes.
        print_lines(console, [columns, *rows])
        return
    widths = [max(map(len, map(str, cells))) for cells in zip(columns, *rows, strict=True)]
    if sum(1 + (width if width <= _SHORT else _LEAST) for width in widths) > console.width:
        print_lines(console, [columns, *rows])
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, width in zip(columns, widths, strict=True):
        table.add_column(column, overflow="fold", no_wrap=column == names or width <= _SHORT)
    longest = max(_LEAST_NAME, console.width // 2)
    for row in rows:
        table.add_row(*(shortened(str(c), longest) if of == names else c for of, c in zip(columns, row, strict=True)))
    console.print(table)


def shortened(name: str, width: int) -> str:
    """A name without its beginning, which says less than its end, if it has more than `width` columns."""
    return name if len(name) <= width else f"...{name[-max(1, width - 3) :]}"


def print_lines(console: Console, rows: Sequence[Sequence[Cell]]) -> None:
    """Print each row as one line, however long."""
    cells = [["; ".join(str(cell).splitlines()) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells)
    console.out("\n".join(lines), highlight=False)


def cost_text(cost: float) -> str:
    """`12.40`, `<0.01`."""
    return f"{cost:,.2f}" if cost >= 0.01 or cost == 0 else "<0.01"


def duration_text(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
