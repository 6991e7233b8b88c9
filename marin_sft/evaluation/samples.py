"""Answers of a model to prompts, kept as rows to look at, and the rows of two models side by side. Light: no JAX.

{output_path}/samples.jsonl   {"set", "index": the prompt's number in its set, from 0, "step": training steps of the
                               model, if its directory tells, "messages": the prompt, "reference", "answer",
                               "finish": "stop", or "length" for an answer that was cut}
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from marin_sft.data.files import Json, open_file, write_json_lines
from marin_sft.data.messages.examples import Message
from marin_sft.errors import DataError

FILE = "samples.jsonl"
_PERIODIC = re.compile(r"/hf/step-(\d+)/?$")
_KEYS = {"set", "index", "step", "messages", "reference", "answer", "finish"}


def write_samples(
    output_path: str, model: str, prompts: Sequence[Sequence[Message]], results: Sequence[Mapping[str, Any]]
) -> None:
    """results: rows of generations.jsonl, one per prompt."""
    found = _PERIODIC.search(model)
    step = int(found[1]) if found else None
    seen: Counter[str] = Counter()
    rows = []
    for messages, result in zip(prompts, results, strict=True):
        rows.append(
            {
                "set": result["set"],
                "index": seen[result["set"]],
                "step": step,
                "messages": messages,
                "reference": result["reference"],
                "answer": result["generation"],
                "finish": result["finish"],
            }
        )
        seen[result["set"]] += 1
    write_json_lines(f"{output_path}/{FILE}", rows)


def read_samples(output_path: str) -> list[Json]:
    """The rows of an evaluation's output.

    Raises:
        DataError: there are none, or not such rows.
    """
    path = f"{output_path}/{FILE}"
    try:
        with open_file(path, "rb") as file:
            lines = file.read().splitlines()
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: no such file; expected the output of an `evaluate` step, run by this version or a later one"
        ) from error
    rows = [_row(path, number, line) for number, line in enumerate(lines, 1)]
    if not rows:
        raise DataError(f"{path}: no rows, expected at least one")
    return rows


def _row(path: str, number: int, line: bytes) -> Json:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}:{number}: {error}; expected a row of JSON. Run the evaluation again") from error
    if not isinstance(row, dict) or not row.keys() >= _KEYS:
        raise DataError(f"{path}:{number}: got {str(row)[:200]}, expected {', '.join(sorted(_KEYS))}")
    return row


@dataclass(frozen=True)
class Compared:
    """A prompt, and the answers of one or two models to it."""

    of: Json
    answers: tuple[Json, ...]

    @property
    def differs(self) -> bool:
        return len({answer["answer"] for answer in self.answers}) > 1


def compare(one: Iterable[Json], other: Iterable[Json] | None) -> tuple[list[Compared], int]:
    """The prompts that all have, in the order of the first, and how many prompts only one of them has."""
    first = {_prompt_of(row): row for row in one}
    if other is None:
        return [Compared(row, (row,)) for row in first.values()], 0
    second = {_prompt_of(row): row for row in other}
    both = [Compared(row, (row, second[prompt])) for prompt, row in first.items() if prompt in second]
    return both, len(first) + len(second) - 2 * len(both)


def _prompt_of(row: Json) -> str:
    """What makes two rows the same question: also the place, since a set may have a prompt several times."""
    return json.dumps([row["set"], row["index"], row["messages"], row["reference"]], sort_keys=True)


def is_exact(row: Json) -> bool:
    return bool(row["answer"].strip() == row["reference"].strip())
