"""Checks that committed outputs are unchanged, by reading every file or asking the store for its checksum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.text import Text

from marin_sft.errors import DamagedFile, UserError
from marin_sft.execution.catalog import in_parallel, step_directories, step_name
from marin_sft.execution.claims import attempt_path
from marin_sft.execution.commits import committed_files, output_digest
from marin_sft.execution.step_state import read_state
from marin_sft.execution.store import FileInfo, Store
from marin_sft.execution.tables import Cell, counted, print_table
from marin_sft.nearest import nearest_text
from marin_sft.run.status import matches

Result = Literal["ok", "changed", "gone", "unverifiable"]

_COLOURS = {"ok": "green", "changed": "bold red", "gone": "bold red", "unverifiable": "yellow"}
_SHOWN = 5  # files of one output


@dataclass(frozen=True)
class Verified:
    """The check of one output.

    result: `unverifiable` if the output has no digest because it is large, and its names and sizes are unchanged.
    files: how files have changed, by path.
    """

    name: str
    output: str
    result: Result
    files: dict[str, str]

    @property
    def damaged(self) -> bool:
        return self.result in ("changed", "gone")


def verify_outputs(store: Store, pattern: str | None) -> list[Verified]:
    """The newest committed outputs of all steps, or of those that `pattern` matches as in `read_statuses`.

    Raises:
        UserError: the pattern matches no step; with the nearest name.
    """
    known = step_directories(store)
    chosen = [directory for directory in known if pattern is None or matches(directory, pattern)]
    if not chosen and pattern is not None:
        names = sorted({step_name(directory) for directory in known})
        raise UserError(f"no step matches {pattern!r} under {store.prefix}{nearest_text(pattern, names)}")
    return [verified for verified in in_parallel(store, lambda d: _verify(store, d), chosen) if verified is not None]


def _verify(store: Store, directory: str) -> Verified | None:
    """None if nothing is committed."""
    try:
        commit = read_state(store, directory).commit
    except DamagedFile as error:
        return Verified(step_name(directory), store.path(directory), "changed", {"commit": str(error)})
    if commit is None:
        return None
    output = attempt_path(store, directory, commit.attempt)
    result, files = _compared(store, output, commit.digest)
    return Verified(step_name(directory), output, result, files)


def _compared(store: Store, output: str, digest: str | None) -> tuple[Result, dict[str, str]]:
    if not store.names(output):
        return "gone", {}
    try:
        found = store.files(output)
    except OSError as error:
        return "changed", {output: f"cannot be read: {error}"}
    if digest is not None and output_digest(found) == digest:
        return "ok", {}
    committed = committed_files(store, output)
    if digest is not None and output_digest(committed) != digest:
        return "changed", {".files.json": "does not match the commit"}
    files = changes(committed, found)
    return ("unverifiable" if digest is None and not files else "changed"), files


def changes(files: list[FileInfo], files_now: list[FileInfo]) -> dict[str, str]:
    """What is no longer as it was committed, by path."""
    committed, found = {file.path: file for file in files}, {file.path: file for file in files_now}
    changes = {path: "gone" for path in committed if path not in found}
    changes |= {path: "added" for path in found if path not in committed}
    for path in committed.keys() & found.keys():
        old, new = committed[path], found[path]
        if old.size != new.size:
            changes[path] = f"{old.size:,} bytes when committed, {new.size:,} now"
        elif old.digest != new.digest:
            changes[path] = "other contents"
    return dict(sorted(changes.items()))


def verified_json(verified: Verified) -> dict[str, object]:
    return {"name": verified.name, "output": verified.output, "result": verified.result, "files": verified.files}


def print_verified(console: Console, store: Store, outputs: list[Verified]) -> None:
    if outputs:
        print_table(console, ("result", "output"), [_row(store, verified) for verified in outputs])
    counts = {result: sum(verified.result == result for verified in outputs) for result in _COLOURS}
    shown = ", ".join(f"{count} {result}" for result, count in counts.items() if count)
    console.print(Text(f"{counted(len(outputs), 'output')} under {store.prefix}{': ' if shown else ''}{shown}"))
    if any(verified.damaged for verified in outputs):
        console.print("To rerun a step, use --force_run of the experiment.")


def _row(store: Store, verified: Verified) -> tuple[Cell, ...]:
    output = Text(verified.output.removeprefix(f"{store.prefix}/"))
    for path, change in list(verified.files.items())[:_SHOWN]:
        output.append(f"\n  {path}: {change}", style="dim")
    if len(verified.files) > _SHOWN:
        output.append(f"\n  and {counted(len(verified.files) - _SHOWN, 'file')} more", style="dim")
    return Text(verified.result, style=_COLOURS[verified.result]), output
