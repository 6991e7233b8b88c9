"""`marin-sft import`: the file is written, and what differs is said."""

from __future__ import annotations

import os
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from marin_sft.errors import UserError
from marin_sft.execution.terminal import visible
from marin_sft.run.importing.draft import Draft
from marin_sft.run.importing.tools import import_config


@dataclass(frozen=True)
class Written:
    draft: Draft
    output: str


def write_experiment(config: str, output: str, force: bool) -> Written:
    """Write the experiment for the YAML `config` to `output`.

    Raises:
        UserError: see `import_config`; or a file that is there, without `force`; or no such directory.
    """
    if os.path.exists(output) and not force:
        raise UserError(f"{output}: is there already; give another -o, or --force to write over it")
    directory = os.path.dirname(output)
    if directory and not os.path.isdir(directory):
        raise UserError(f"{output}: expected a file in a directory that exists; there is no {directory}")
    imported = import_config(config, output)
    with open(output, "w", encoding="utf-8") as file:
        file.write(imported.source)
    return Written(imported.draft, output)


def imported_json(written: Written) -> dict[str, object]:
    draft = written.draft
    notes = [{"line": note.line, "key": note.key, "text": note.text} for note in draft.sorted_notes()]
    return {
        "experiment": written.output,
        "tool": draft.tool,
        "config": draft.file,
        "differences": notes,
        "without_effect": draft.without_effect,
    }


def print_imported(console: Console, written: Written) -> None:
    draft = written.draft
    console.print(Text(visible(f"{written.output}: {draft.kind.upper()}, from {draft.file} of {draft.tool}")))
    notes = draft.sorted_notes()
    if notes:
        console.print(f"Differences from {draft.tool}, also listed in the file:")
    for note in notes:
        where = f"{draft.file}:{note.line}: " if note.line else ""
        console.print(Text(visible(f"- {where}{note}")))
    if draft.without_effect:
        console.print(Text(visible(f"Without effect here: {', '.join(draft.without_effect)}")))
    console.print(
        Text(visible(f"Next: marin-sft preview {written.output}    # the text of a few rows, and what is trained"))
    )
    console.print(Text(visible(f"      python {written.output} --dry_run")))
