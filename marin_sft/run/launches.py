"""Recorded launches: when, which script, and the result of each step."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections import Counter
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from marin_sft.errors import DamagedFile, UserError
from marin_sft.execution.catalog import in_parallel
from marin_sft.execution.differences import difference_text
from marin_sft.execution.documents import JsonObject
from marin_sft.execution.process import ProcessIdentity
from marin_sft.execution.record import Launch, read_begin, read_end, read_launches
from marin_sft.execution.store import Store
from marin_sft.execution.tables import duration_text, print_lines, print_table
from marin_sft.execution.terminal import first_lines, visible
from marin_sft.nearest import nearest_text

_COLOURS = {"done": "green", "failed": "bold red", "running": "bold cyan", "refused": "yellow", "damaged": "bold red"}
_LOOKED_AT = 20  # launches


def summaries(store: Store, limit: int) -> list[JsonObject]:
    """The newest launches, newest first."""
    return in_parallel(store, lambda launch: _summary(store, launch), read_launches(store)[:limit])


def _summary(store: Store, launch: Launch) -> JsonObject:
    try:
        end = read_end(store, launch)
        status = status_of(None if end else read_begin(store, launch), end)
    except DamagedFile:  # the details of the launch name the file
        end, status = None, "damaged"
    return _summary_of(launch, status, end)


def _summary_of(launch: Launch, status: str, end: JsonObject | None) -> JsonObject:
    return {
        **named(launch),
        "status": status,
        "results": dict(Counter(result["result"] for result in end["results"])) if end else {},
    }


def named(launch: Launch) -> JsonObject:
    """What the name of a launch tells."""
    return {"run": launch.name, "time": _time(launch), "script": launch.script}


def status_of(begin: JsonObject | None, end: JsonObject | None) -> str:
    """done, failed, interrupted or refused; killed if its process is gone; else running, or not ended."""
    if end is not None:
        return end["status"]
    owner = ProcessIdentity(**begin["owner"]) if begin and begin["owner"] else None
    if owner is None or not owner.in_sight:
        return f"not ended{f' on {owner.host}' if owner else ''}"
    return "killed" if owner.is_gone() else "running"


def _time(launch: Launch) -> str:
    return f"{launch.name[:10]} {launch.name[11:13]}:{launch.name[13:15]}:{launch.name[15:17]}"


def print_summaries(console: Console, store: Store, launches: list[JsonObject]) -> None:
    if not launches:
        console.print(Text(f"No launches are recorded under {store.prefix}"))
        return
    rows = [
        (launch["time"], coloured_status(launch["status"]), _counts_text(launch["results"]), launch["run"][23:])
        for launch in launches
    ]
    print_table(console, ("when, UTC", "status", "results", "run"), rows)


def _counts_text(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {result}" for result, count in counts.items())


def coloured_status(status: str) -> Text:
    return Text(status, style=_COLOURS.get(status, "yellow"))


def find_launch(store: Store, text: str) -> Launch:
    """The newest launch of a script of this name, else the newest whose name contains the text. If there are several,
    says on stderr which one it is.

    Raises:
        UserError: there is no such launch; with the nearest.
    """
    launches = read_launches(store)
    found = [launch for launch in launches if text == launch.script] or [run for run in launches if text in run.name]
    if len(found) > 1:
        print(visible(f"{text}: {len(found)} launches; this is {found[0].name}, the newest"), file=sys.stderr)
    if found:
        return found[0]
    if not launches:
        raise UserError(f"no run {text!r}: none is recorded under {store.prefix}; choose another store with --prefix")
    raise UserError(f"no run {text!r} under {store.prefix}{nearest_text(text, [run.name for run in launches[:20]])}")


def command_that_runs(store: Store, step: str) -> str | None:
    """The command of the newest launch with a step of this name or directory; None: none of the newest has one."""
    for launch in read_launches(store)[:_LOOKED_AT]:
        with contextlib.suppress(DamagedFile):
            begin = read_begin(store, launch)
            if any(step in (planned["name"], planned["directory"]) for planned in begin["steps"]):
                return _command(begin["launch"])
    return None


def _command(provenance: JsonObject) -> str:
    return shlex.join(["python", *(provenance.get("argv") or [])])


def details(store: Store, launch: Launch) -> JsonObject:
    return details_of(store, launch, read_begin(store, launch))


def details_of(store: Store, launch: Launch, begin: JsonObject) -> JsonObject:
    end = read_end(store, launch)
    provenance = begin["launch"]
    plan = {item["path"]: item for item in (end["plan"] if end else [])}
    results = {result["path"]: result for result in (end["results"] if end else [])}
    steps = [_step(step["name"], store.path(step["directory"]), plan, results) for step in begin["steps"]]
    return {
        **_summary_of(launch, status_of(begin, end), end),
        "ended": end and end["time"],
        "description": begin["description"],
        "argv": provenance.get("argv"),
        "host": provenance.get("host"),
        "user": provenance.get("user"),
        "git_commit": provenance.get("git_commit"),
        "uncommitted_changes": bool(provenance.get("git_dirty") or provenance.get("git_diff")),
        "steps": steps,
    }


def _step(name: str, path: str, plan: JsonObject, results: JsonObject) -> JsonObject:
    item, result = plan.get(path, {}), results.get(path, {})
    return {
        "name": name,
        "path": path,
        **{key: item.get(key) for key in ("action", "reason", "detail", "diff")},
        **{key: result.get(key) for key in ("result", "commit", "attempt", "seconds", "error")},
    }


def print_details(console: Console, details: JsonObject) -> None:
    console.print(Text.assemble((details["run"], "bold"), " ", coloured_status(details["status"])))
    edited = " + edits" if details["uncommitted_changes"] else ""
    git = details["git_commit"] and f"{details['git_commit'][:12]}{edited}"
    ended = details["ended"] and details["ended"][:19].replace("T", " ")
    facts = {
        "command": _command(details),
        "by": f"{details['user']} on {details['host']}",
        "code": git,
        "begun": details["time"],
        "ended": ended,
        "about": details["description"],
    }
    print_facts(console, [(f"  {name}", value) for name, value in facts.items() if value])
    rows = [(step["name"], step["result"] or "-", _took(step["seconds"]), _why(step)) for step in details["steps"]]
    print_table(console, ("step", "result", "took", "why"), rows, "step")
    for step in details["steps"]:
        if step["error"]:
            console.print(Text(f"\n{step['name']} failed: {first_lines(step['error'])}", style="bold red"))
            if step["attempt"]:
                console.print(Text(f"  log  {step['path']}/{step['attempt']}/.log"))


def _took(seconds: float | None) -> str:
    return duration_text(seconds) if seconds else ""


def print_facts(console: Console, facts: Iterable[tuple[str, str]]) -> None:
    """One line per fact: a label, then its text, folded in its own column unless the console does not fold lines."""
    if console.soft_wrap:
        print_lines(console, [(f"{label}  ", text) for label, text in facts])
        return
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for label, text in facts:
        grid.add_row(Text(label), Text(text))
    console.print(grid)


def _why(step: JsonObject) -> str:
    differences = [difference_text((field, old, new)) for field, old, new in step["diff"] or []]
    return f"{step['reason'] or ''} {'; '.join(differences) or step['detail'] or ''}".strip()
