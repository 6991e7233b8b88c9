"""What gc would remove or has removed, and what keeps a step; for people and as JSON."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from marin_sft.execution.documents import JsonObject
from marin_sft.execution.gc import Collected
from marin_sft.execution.reachability import Garbage, Reachability
from marin_sft.execution.store import Store
from marin_sft.execution.tables import counted, print_table
from marin_sft.run.status import print_stores


def reasons_json(store: Store, found: Reachability, directory: str) -> dict[str, object]:
    """The roots that keep the step; none if it is garbage."""
    return {"path": store.path(directory), "kept_by": list(found.kept.get(directory, ()))}


def print_reasons(console: Console, facts: JsonObject) -> None:
    console.print(Text(facts["path"], style="bold"))
    for reason in facts["kept_by"]:
        console.print(Text(f"  kept by {reason}"))
    if not facts["kept_by"]:
        console.print("  kept by nothing: gc --delete removes it")


def garbage_json(store: Store, garbage: Garbage) -> dict[str, object]:
    return {
        "path": store.path(garbage.directory),
        "whole": garbage.whole,
        "attempts": list(garbage.attempts),
        "bytes": garbage.bytes,
    }


def collected_json(store: Store, collected: Collected) -> dict[str, object]:
    return {
        "path": store.path(collected.directory),
        "whole": collected.whole,
        "result": collected.result,
        "attempts": collected.attempts,
        "bytes": collected.bytes,
        "detail": collected.detail,
    }


def print_garbage(console: Console, store: Store, found: Reachability) -> None:
    garbage = [*found.unfinished, *found.garbage]
    if garbage:
        rows = [(size_text(item.bytes), _what(item.whole, len(item.attempts)), item.directory) for item in garbage]
        print_table(console, ("size", "what", "step"), rows)
    for directory, path in found.unreadable.items():
        console.print(Text(f"left {directory} ({path} cannot be read)"))
    total = size_text(sum(item.bytes for item in garbage))
    steps = counted(sum(item.whole for item in garbage), "step")
    console.print(f"{steps} and {_parts(garbage)}, {total}, would be removed; {counted(len(found.kept), 'step')} kept")
    print_stores(console, store, found.stores)
    if garbage:
        console.print("Nothing was removed; use gc --delete to remove it.")


def _parts(garbage: Iterable[Garbage]) -> str:
    return counted(sum(len(item.attempts) for item in garbage if not item.whole), "superseded attempt")


def _what(whole: bool, attempts: int) -> str:
    return "step" if whole else counted(attempts, "attempt")


def print_collected(console: Console, collected: Collected) -> None:
    what = "" if collected.whole or not collected.attempts else f": {_what(False, collected.attempts)}"
    detail = f" ({collected.detail})" if collected.detail else ""
    size = f", {size_text(collected.bytes)}" if collected.bytes else ""
    console.print(Text(f"{collected.result} {collected.directory}{what}{size}{detail}"))


def print_total(console: Console, collected: list[Collected]) -> None:
    removed = [item for item in collected if item.result == "removed"]
    rescued, failed = (sum(item.result == result for item in collected) for result in ("rescued", "failed"))
    total = size_text(sum(item.bytes for item in removed))
    console.print(f"{len(removed)} removed, {total}; {rescued} rescued, {failed} failed")


def size_text(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
