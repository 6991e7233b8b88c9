"""`marin-sft lint`: what is wrong with rows, as a table with samples."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from marin_sft import progress
from marin_sft.data.chat.special_tokens import special_tokens
from marin_sft.data.files import Json
from marin_sft.data.lint.findings import FINDINGS, SAMPLE_ROWS
from marin_sft.data.lint.lint import check_findings, findings_in, write_findings
from marin_sft.data.tokenizer import load_tokenizer, load_tokenizer_by_name
from marin_sft.errors import UserError
from marin_sft.execution.tables import counted
from marin_sft.execution.terminal import visible
from marin_sft.paths import local_path
from marin_sft.run.context import Context
from marin_sft.run.lint_request import read_request

_INDENT = 4


def lint_rows(context: Context) -> None:
    """Print what is wrong with the rows that the arguments name.

    Raises:
        UserError: no such data, or the output cannot be written.
        DataError: unreadable rows, or more findings than --fail_above allows.
    """
    arguments, console = context.arguments, context.console
    place = arguments.output and local_path(arguments.output)
    if place and os.path.lexists(place) and not os.path.isdir(place):
        raise UserError(f"-o {arguments.output}: not a directory; expected one, or a name for a new one")
    with tempfile.TemporaryDirectory() as scratch:
        config = read_request(context, scratch)
        special: frozenset[str] = frozenset()
        if arguments.tokenizer is not None:
            special = special_tokens(load_tokenizer_by_name(arguments.tokenizer))
        elif config.tokenizer is not None:
            special = special_tokens(load_tokenizer(config.tokenizer))
        with progress.listening(_show_progress):
            report, samples = findings_in(config, special)
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)
    if arguments.output is not None:
        try:
            write_findings(arguments.output, report, samples)
        except OSError as error:
            raise UserError(f"-o {arguments.output}: cannot be written: {error.strerror or error}") from error
    context.say({**report, "samples": samples}, lambda: print_findings(console, report, samples, arguments.samples))
    where = f"{arguments.output}/{SAMPLE_ROWS}" if arguments.output else "the table above"
    check_findings(config.fail_above, report, samples, where)


def print_findings(console: Console, report: Json, samples: list[Json], most: int) -> None:
    """Each finding with its rows by component; of each, up to `most` samples."""
    for finding, about in FINDINGS.items():
        found = {
            name: one["findings"][finding] for name, one in report["components"].items() if finding in one["findings"]
        }
        if found:
            console.print(Text(finding, style="bold yellow") + Text(f"  {about}", style="default not bold"))
        for name, one in found.items():
            rows = counted_rows(one["count"])
            console.print(Text(f"  {name}  {rows}, {one['share']:.2%}{_copies(one)}"))
            of = [s for s in samples if (s["component"], s["finding"]) == (name, finding)]
            for sample in of[:most]:
                _print_sample(console, sample)
    for line in _facts(report):
        console.print(Text(line))


def counted_rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def _copies(one: Json) -> str:
    """Of copies: how many are of a row of the same component; a row may also be a copy of one in another."""
    within = one.get("within", one["count"])
    return f", {within:,} of them within it" if within != one["count"] else ""


def _print_sample(console: Console, sample: Json) -> None:
    what, other = sample["message"], sample.get("other")
    if other is not None:
        elsewhere = "" if other["component"] == sample["component"] else f"{other['component']} "
        what = f"as {elsewhere}{other['file']}:{other['line']}"
    _print_line(console, f"{sample['file']}:{sample['line']}  {what}", "dim")
    if sample["text"].strip():
        _print_line(console, f"  {' '.join(sample['text'].split())}", "")


def _print_line(console: Console, text: str, style: str) -> None:
    line = Text(" " * _INDENT + visible(text), style=style)
    line.truncate(console.width, overflow="ellipsis")
    console.print(line, soft_wrap=True)


def _facts(report: Json) -> Iterator[str]:
    """What is no finding: copies across components, test sets, the lengths of pairs, and how many rows there were."""
    for one in report["across"]:
        yield f"{counted_rows(one['count'])} of {one['component']}: {one['finding']} of {one['of']}"
    for name, one in report["test_sets"].items():
        yield f"test set {name}: {one['leaked']:,} of {one['prompts']:,} prompts are in the rows"
    for name, component in report["components"].items():
        if bias := component.get("length_bias"):
            unequal = max(1, bias["longer"] + bias["shorter"])
            yield (
                f"{name}: chosen answers have {bias['chosen_mean']:,.0f} characters on average, rejected ones "
                f"{bias['rejected_mean']:,.0f}; the chosen one is longer in {bias['longer'] / unequal:.0%} of the pairs"
            )
        if component["textless"]:
            yield f"{name}: {counted_rows(component['textless'])} of ready tokens have no text and were not looked at"
    clean = not any(component["findings"] for component in report["components"].values())
    total = f"{counted_rows(report['rows'])} in {counted(len(report['components']), 'component')}"
    yield f"{total}: nothing was found" if clean else total


def _show_progress(news: progress.Progress) -> None:
    if sys.stderr.isatty():
        print(f"\r{visible(news.text())}\033[K", end="", file=sys.stderr, flush=True)
