"""Why a step last ran or was cached, and the differences between two steps, from the records alone.

Whether the source has changed since then is only known to a plan of the script, which has the current source.
"""

from __future__ import annotations

import json
from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from marin_sft.errors import UserError
from marin_sft.execution.attempt_record import read_record
from marin_sft.execution.catalog import Found, comparable_commits, location, step_directories, step_name
from marin_sft.execution.claims import attempt_path, claim_numbers
from marin_sft.execution.commits import Commit, Consumed
from marin_sft.execution.consumption import Consumption
from marin_sft.execution.differences import (
    difference_text,
    field_of_content,
    field_of_input,
    input_name,
    leaf_differences,
    with_names,
)
from marin_sft.execution.documents import JsonObject
from marin_sft.execution.identity import Payload
from marin_sft.execution.record import Launch, read_begin, read_end, read_launches
from marin_sft.execution.step_state import StepState, read_state
from marin_sft.execution.store import Store
from marin_sft.execution.terminal import first_lines
from marin_sft.run.launches import print_facts, status_of
from marin_sft.run.status import state_name

_LAUNCHES = 200  # the most launches to look back at
_SIBLINGS = 50


def explain(store: Store, found: Found) -> JsonObject:
    """Everything that is known about a step, as JSON."""
    state, directory = found.state, found.directory
    commit = state.commit
    last, made = _launches_of(store, directory, commit)
    return {
        "name": step_name(directory),
        "path": store.path(directory),
        "state": state_name(state),
        "output": attempt_path(store, directory, commit.attempt) if commit else None,
        "commit": commit and {"number": commit.number, "attempt": commit.attempt, "time": commit.time},
        "last_launch": last,
        "made_by": made,
        "nearest": _nearest(store, directory, commit.payload) if commit else None,
        "inputs": _inputs(store, commit) if commit else [],
        "failure": _failure(store, directory, state),
        "pending": _pending(state),
        "settings": commit.settings if commit else {},
        "source": commit.source if commit else None,
    }


def _launches_of(store: Store, directory: str, commit: Commit | None) -> tuple[JsonObject | None, JsonObject | None]:
    """The newest launch of the step, and the one that made its output."""
    place, last, made = location(store, directory), None, None
    for launch in read_launches(store)[:_LAUNCHES]:
        seen = _seen_by(store, launch, place)
        if seen is None:
            continue
        last = last or seen
        if commit is None:
            break
        if seen["result"] == "ran" and seen["attempt"] == commit.attempt:
            made = seen
            break
    return last, made


def _seen_by(store: Store, launch: Launch, place: str) -> JsonObject | None:
    begin = read_begin(store, launch)
    if not any(location(store, step["directory"]) == place for step in begin["steps"]):
        return None
    end = read_end(store, launch)
    item = _at(store, place, end["plan"] if end else [])
    result = _at(store, place, end["results"] if end else [])
    return {
        "run": launch.name,
        "status": status_of(begin, end),
        **{key: item.get(key) for key in ("action", "reason", "detail", "diff")},
        **{key: result.get(key) for key in ("result", "attempt", "error")},
    }


def _at(store: Store, place: str, items: list[JsonObject]) -> JsonObject:
    return next((item for item in items if location(store, item["path"]) == place), {})


def _nearest(store: Store, directory: str, payload: Payload) -> JsonObject | None:
    """The committed step of the same name that differs in the fewest fields."""
    name = step_name(directory)
    others = [d for d in step_directories(store) if step_name(d) == name and d != directory][:_SIBLINGS]
    payloads = {d: commit.payload for d, commit in comparable_commits(store, others).items()}
    if not payloads:
        return None
    nearest = min(payloads, key=lambda d: len(leaf_differences(payloads[d], payload)))
    return {"path": store.path(nearest), "diff": differences(store, payloads[nearest], payload)}


def _inputs(store: Store, commit: Commit) -> list[JsonObject]:
    """The inputs of the output, and whether each has changed since."""
    return [
        {**asdict(used), "name": step_name(used.directory), "now": _state_of_input(store, used)}
        for used in commit.inputs
    ]


def _state_of_input(store: Store, used: Consumed) -> str:
    state = read_state(store, used.directory)
    now = state.commit
    if now is None:
        return "not committed yet" if used.parts and state.claim else "gone"
    digests = {now.digest, now.result}
    if used.parts:
        digests = {Consumption(store).digest_of_parts(used.directory, now.attempt, used.parts)}
    if (used.digest in digests) if used.digest else (now.number == used.commit):
        return "unchanged"
    return "newer output" if now.number > used.commit else "another output"


def _failure(store: Store, directory: str, state: StepState) -> JsonObject | None:
    if state.failure is None or state.claim is None:
        return None
    log = f"{attempt_path(store, directory, state.claim.number)}/.log"
    return {"attempt": state.claim.number, **asdict(state.failure), "log": log}


def _pending(state: StepState) -> str | None:
    """A forced rerun that has not been committed."""
    if state.commit is None or state.claim is None:
        return None
    attempt = f"forced rerun: attempt {state.claim.number}"
    stands = f"commit {state.commit.number} stands"
    if state.failure is not None:
        return f"{attempt} failed, {stands}; --force_run again continues it"
    return f"{attempt} is running, {stands}" if state.running else f"{attempt} was interrupted, {stands}"


def payload_of_step(store: Store, found: Found) -> Payload:
    """The payload of the step's identity, from its commit, else from the record of an attempt that ended.

    Raises:
        UserError: there is neither.
    """
    if found.state.commit is not None:
        return found.state.commit.payload
    for number in reversed(claim_numbers(store, found.directory)):
        record = read_record(store, found.directory, number)
        if record is not None:
            return record.payload
    raise UserError(
        f"{found.directory}: no attempt has ended yet, so there is nothing to compare; see marin-sft status"
    )


def differences(store: Store, old: Payload, new: Payload) -> list[list[object]]:
    """The fields in which two identities differ, as [field, old, new], with inputs by directory name."""
    heads = [[key, old[key], new[key]] for key in ("schema", "kind", "version") if old[key] != new[key]]
    old_config, new_config = (_with_inputs(payload["config"], payload.get("inputs")) for payload in (old, new))
    fields = leaf_differences(old_config, new_config)
    names: dict[str, str] = {}
    if "$input" in repr(fields):
        names = {directory[-10:]: directory for directory in step_directories(store)}
    for field, *values in fields:
        of_input, of_file = field_of_input(field), field_of_content(field)
        if of_file is not None:  # commits do not keep where the file was
            heads.append([f"{of_file} content", *values])
        elif of_input is None:
            heads.append([field, *(with_names(value, names) for value in values)])
        else:
            heads.append([of_input, *(input_name(value, names) for value in values)])
    return heads


def _with_inputs(config: object, inputs: object) -> object:
    """Schema 1 referred to inputs by their index in a list of fingerprints."""
    if not isinstance(inputs, list) or not isinstance(config, dict | list):
        return config
    if isinstance(config, list):
        return [_with_inputs(item, inputs) for item in config]
    return {key: inputs[value] if key == "$input" else _with_inputs(value, inputs) for key, value in config.items()}


def print_explanation(console: Console, store: Store, facts: JsonObject) -> None:
    console.print(Text.assemble((facts["path"].removeprefix(f"{store.prefix}/"), "bold"), f"  {facts['state']}"))
    print_facts(console, _lines(facts))


def _lines(facts: JsonObject) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    if facts["commit"]:
        commit = facts["commit"]
        made = facts["made_by"]
        lines.append(("output", f"commit {commit['number']}, attempt {commit['attempt']}, of {_when(commit['time'])}"))
        lines.append(("made", f"by launch {made['run']}: {_reason(made)}" if made else "by a launch without a record"))
    if facts["last_launch"] and facts["last_launch"] != facts["made_by"]:
        last = facts["last_launch"]
        lines.append(("last", f"launch {last['run']} ({last['result'] or last['status']}): {_reason(last)}"))
    if facts["nearest"]:
        lines.append(("nearest", facts["nearest"]["path"].rpartition("/")[2]))
        lines += [("", difference_text((f, old, new))) for f, old, new in facts["nearest"]["diff"]]
    lines += [("input", f"{i['directory']}, commit {i['commit']}: {i['now']}") for i in facts["inputs"]]
    if any(i["now"] == "newer output" for i in facts["inputs"]):
        lines.append(("next", "the next launch reruns it: an input has a newer, different output"))
    if facts["failure"]:
        failure = facts["failure"]
        lines.append(("failed", f"attempt {failure['attempt']}: {first_lines(failure['error'])}"))
        lines += [("at", failure["location"])] if failure["location"] else []
        lines.append(("log", failure["log"]))
    if facts["pending"]:
        lines.append(("pending", facts["pending"]))
    if facts["source"]:
        lines.append(("source", "to see whether it has changed since: marin-sft plan SCRIPT"))
    return lines


def _reason(seen: JsonObject) -> str:
    diff = "; ".join(difference_text((field, old, new)) for field, old, new in seen["diff"] or [])
    reason = f"{seen['reason'] or ''} {diff or seen['detail'] or ''}".strip()
    return reason or "its plan is not known yet, since it has not ended"


def _when(time: str) -> str:
    return f"{time[:10]} {time[11:19]} UTC"


def print_differences(console: Console, old: str, new: str, found: list[list[object]]) -> None:
    console.print(Text(f"- {old}\n+ {new}"))
    for field, before, after in found:
        console.print(Text(f"{field}", style="bold"))
        console.print(Text(f"  - {_shown(before)}", style="red"))
        console.print(Text(f"  + {_shown(after)}", style="green"))
    if not found:
        console.print("no differences")


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
