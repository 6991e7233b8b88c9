"""`marin-sft generate`: a model's answers to a file of prompts, as rows of JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from marin_sft.data.files import Json
from marin_sft.errors import UserError
from marin_sft.evaluation import decoding
from marin_sft.evaluation.answerer import Answerer
from marin_sft.evaluation.prompt_files import FilePrompt, read_prompts
from marin_sft.evaluation.sampling import Sampling
from marin_sft.paths import file_system


@dataclass(frozen=True)
class Request:
    """What to generate. samples: answers to each prompt."""

    prompts: str
    output: str
    system: str | None
    sampling: Sampling
    samples: int
    max_new_tokens: int
    batch_size: int


def check_output(path: str, prompts: str, force: bool) -> None:
    """Raise UserError if the file may not be written. A directory for it is made when it is written."""
    filesystem, plain = file_system(path)
    if (filesystem, plain) == file_system(os.path.expanduser(prompts)):
        raise UserError(f"--output: {path} has the prompts; expected another file")
    if filesystem.isdir(plain):
        raise UserError(f"{path} is a directory; expected the name of a file to write")
    if not force and filesystem.exists(plain):
        raise UserError(f"{path}: exists already; give another name, or --force to write over it")


def generate(answerer: Answerer, request: Request, console: Console) -> Json:
    """Write a row for each answer, as soon as its batch is done. Returns how many there are.

    Raises:
        DataError: see `read_prompts`.
    """
    prompts = read_prompts(request.prompts, answerer, request.system)
    total, stopped, written = len(prompts) * request.samples, 0, 0
    filesystem, plain = file_system(request.output)
    filesystem.makedirs(os.path.dirname(plain), exist_ok=True)
    try:
        with filesystem.open(plain, "w", encoding="utf-8") as file, _bar(console) as bar:
            task = bar.add_task("answers", total=total)
            for row in _rows(answerer, request, prompts):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                stopped += row["finish"] == "stop"
                written += 1
                if written % request.batch_size == 0:
                    file.flush()
                bar.update(task, completed=written)
    except KeyboardInterrupt:
        console.print(f"{request.output}: {written} of {total} answers written before the interruption")
        raise
    return {"output": request.output, "answers": written, "stopped": stopped}


def _rows(answerer: Answerer, request: Request, prompts: Sequence[FilePrompt]) -> Iterator[Json]:
    asked = [(prompt, sample) for prompt in prompts for sample in range(request.samples)]
    rows = min(request.batch_size, decoding.rounded(len(asked)))
    for start in range(0, len(asked), rows):
        batch = asked[start : start + rows]
        answers = decoding.decode(
            answerer.model,
            [prompt.tokens for prompt, _ in batch],
            answerer.ends,
            request.max_new_tokens,
            sampling=request.sampling,
            first=start,
            rows=rows,
        )
        for (prompt, sample), answer in zip(batch, answers, strict=True):
            yield _row(answerer, prompt, sample if request.samples > 1 else None, answer)


def _row(answerer: Answerer, prompt: FilePrompt, sample: int | None, answer: list[int]) -> Json:
    stopped = decoding.has_ended(answer, answerer.ends)
    said = {"role": "assistant", "content": answerer.text(answer)}
    return {
        "line": prompt.line,
        **({} if sample is None else {"sample": sample}),
        "messages": [*prompt.messages, said],
        **({} if prompt.reference is None else {"reference": prompt.reference}),
        "finish": "stop" if stopped else "length",
        "tokens": len(answer),
    }


def _bar(console: Console) -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=console, disable=not console.is_terminal)
