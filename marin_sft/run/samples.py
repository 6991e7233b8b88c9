"""`marin-sft samples`: the answers of one evaluation, or of two side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from rich.cells import set_cell_size
from rich.console import Console
from rich.text import Text

from marin_sft.data.files import Json
from marin_sft.errors import UserError
from marin_sft.evaluation.samples import FILE, Compared, compare, is_exact, read_samples
from marin_sft.execution.catalog import read_states, step_directories
from marin_sft.execution.claims import attempt_path
from marin_sft.execution.commits import Commit
from marin_sft.execution.tables import counted
from marin_sft.nearest import nearest_text
from marin_sft.paths import names_in
from marin_sft.run.context import Context, output_in

_GUTTER = 3  # columns between two answers
_LABEL = 11  # columns before what was asked
_SHOWN = 6  # steps that an error names


@dataclass(frozen=True)
class Samples:
    """Answers to the same prompts. names: of the evaluations. only_one: prompts of one of them alone."""

    names: tuple[str, ...]
    rows: list[Compared]
    only_one: int


def find_samples(context: Context, sources: Sequence[str], of_set: str | None) -> Samples:
    """sources: one or two directories or steps. of_set: only this set of prompts."""
    found = [_output(context, source) for source in sources]
    read = [_of_set(name, read_samples(output), of_set) for name, output in found]
    rows, only_one = compare(read[0], read[1] if len(read) == 2 else None)
    if not rows:
        counts = " and ".join(
            f"{counted(len(of), 'prompt')} of {name}" for of, (name, _) in zip(read, found, strict=True)
        )
        raise UserError(f"none of the {counts} are the same; expected evaluations of the same prompts")
    return Samples(tuple(name for name, _ in found), rows, only_one)


def _of_set(name: str, rows: list[Json], of_set: str | None) -> list[Json]:
    known = sorted({row["set"] for row in rows})
    if of_set is not None and of_set not in known:
        raise UserError(f"--set {of_set}: {name} has no such set{nearest_text(of_set, known)}")
    return [row for row in rows if of_set in (None, row["set"])]


def _output(context: Context, source: str) -> tuple[str, str]:
    """The name of an evaluation for people, and its output."""
    place = os.path.expanduser(source).removesuffix(f"/{FILE}").rstrip("/")
    names = names_in(place)
    if FILE in names or "commits" not in names and (os.path.isdir(place) or "://" in place):
        return source, place
    if "commits" in names:
        return source, output_in(place)
    found, output = context.output(source)
    if FILE not in names_in(output):
        assert found.state.commit is not None
        raise UserError(f"{found.directory} has no answers to show: {_those_with_samples(context, found.state.commit)}")
    return found.directory, output


def _those_with_samples(context: Context, commit: Commit) -> str:
    """Of the inputs of a step, such as a table of exports; else of all steps."""
    store = context.store
    inputs = [used.directory for used in commit.inputs]
    for directories, what in (
        (inputs, "it was made from steps that have some"),
        (step_directories(store), "these steps have some"),
    ):
        states = read_states(store, directories)
        outputs = {d: attempt_path(store, d, of.commit.attempt) for d, of in states.items() if of.commit}
        if found := [directory for directory, output in outputs.items() if FILE in names_in(output)]:
            more = f" and {len(found) - _SHOWN} more" if found[_SHOWN:] else ""
            return f"{what}: {', '.join(found[:_SHOWN])}{more}"
    return "no step here has; `evaluate` makes some"


def samples_json(found: Samples, limit: int) -> list[Json]:
    return [
        {
            **{key: row.of[key] for key in ("set", "index", "messages", "reference")},
            "answers": [{key: answer[key] for key in ("answer", "finish", "step")} for answer in row.answers],
            "differs": row.differs,
        }
        for row in found.rows[:limit]
    ]


def print_samples(console: Console, found: Samples, limit: int) -> None:
    """Each prompt, the reference and the answers. Lines of two answers that differ have a | between them."""
    for row in found.rows[:limit]:
        _print_row(console, found, row)
    total = len(found.rows)
    if total > limit:
        console.print(f"{total - limit} more; --limit {total} shows them")
    differ = f", {sum(row.differs for row in found.rows)} answered differently" if len(found.names) > 1 else ""
    console.print(f"{counted(total, 'prompt')}{differ}")
    for number, name in enumerate(found.names):
        exact = sum(is_exact(row.answers[number]) for row in found.rows)
        console.print(Text(f"{exact} answered exactly: {name}"))
    if found.only_one:
        console.print(f"{counted(found.only_one, 'prompt')} of only one of them left out")


def _print_row(console: Console, found: Samples, row: Compared) -> None:
    mark = " differs" if row.differs else ""
    console.print(Text(f"{row.of['set']} {row.of['index']}{mark}", style="bold"))
    for message in row.of["messages"]:
        _print_labelled(console, str(message.get("role", "")), _content(message))
    _print_labelled(console, "reference", row.of["reference"])
    if len(row.answers) == 1:
        _print_labelled(console, "answer", _answer(row.answers[0]))
    else:
        _print_columns(console, found.names, row)
    console.print()


def _content(message: Json) -> str:
    return str(message.get("content") or message.get("tool_calls") or "")


def _answer(row: Json) -> str:
    return row["answer"] + (" [cut]" if row["finish"] == "length" else "")


def _print_labelled(console: Console, label: str, text: str) -> None:
    lines = _wrapped(console, text, max(10, console.width - _LABEL))
    for number, line in enumerate(lines):
        console.out(set_cell_size("" if number else label[: _LABEL - 1], _LABEL) + line, highlight=False)


def _print_columns(console: Console, names: Sequence[str], row: Compared) -> None:
    width = max(10, (console.width - _GUTTER) // 2)
    heads = [_head(name, answer, width) for name, answer in zip(names, row.answers, strict=True)]
    console.print(Text(set_cell_size(heads[0], width + _GUTTER) + heads[1], style="dim"))
    columns = [_wrapped(console, _answer(answer), width) for answer in row.answers]
    for left, right in zip_longest(*columns, fillvalue=""):
        gutter = " | " if left != right else "   "
        console.out((set_cell_size(left, width) + gutter + right).rstrip(), highlight=False)


def _head(name: str, answer: Json, width: int) -> str:
    """The end of a name, which tells more than its beginning, and the model's training step."""
    step = "" if answer["step"] is None else f", step {answer['step']}"
    whole = f"{name}{step}"
    return whole if len(whole) <= width else f"...{whole[3 - width :]}"


def _wrapped(console: Console, text: str, width: int) -> list[str]:
    lines = Text(text.expandtabs(4)).wrap(console, width)
    return [line.plain.rstrip() for line in lines] or [""]
