"""`marin-sft generate`: a model's answers to a file of prompts, as rows of JSON."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from marin_sft.data.files import Json
from marin_sft.data.rows.row_files import PROMPTS, find_files
from marin_sft.disk import is_local
from marin_sft.errors import UserError
from marin_sft.evaluation import decoding
from marin_sft.evaluation.answerer import Answerer
from marin_sft.evaluation.prompt_files import FilePrompt, read_prompts
from marin_sft.evaluation.sampling import Sampling
from marin_sft.paths import file_system
from marin_sft.run.answer_file import state_of_files, writing


@dataclass(frozen=True)
class Request:
    """What to generate. models: the directories of the model, and of an adapter's base. samples: answers to each
    prompt."""

    models: tuple[str, ...]
    prompts: str
    output: str
    system: str | None
    sampling: Sampling
    samples: int
    max_new_tokens: int
    batch_size: int


def check(request: Request, force: bool) -> None:
    """Before a model is loaded. A directory for the output is made when it is written.

    Raises:
        UserError: the output may not be written.
        DataError: there is no file of prompts.
    """
    output = request.output
    filesystem, plain = file_system(output)
    if (filesystem, plain) == file_system(request.prompts):
        raise UserError(f"--output: {output} has the prompts; expected another file")
    if filesystem.isdir(plain):
        raise UserError(f"{output} is a directory; expected the name of a file to write")
    above = plain
    while is_local(filesystem) and not os.path.lexists(above := os.path.dirname(above)):
        pass
    if is_local(filesystem) and not (os.path.isdir(above) and os.access(above, os.W_OK)):
        what = "may not be written to" if os.path.isdir(above) else "is no directory"
        raise UserError(f"--output: {above} {what}; expected a file in a directory of yours, got {output}")
    if not force and filesystem.exists(plain):
        raise UserError(f"{output}: exists already; give another name, or --force to write over it")
    find_files([request.prompts], PROMPTS)


def generate(answerer: Answerer, request: Request, console: Console) -> Json:
    """Write a row for each answer. Goes on where an earlier, interrupted call for the same answers was. Returns how
    many there are.

    Raises:
        DataError: see `read_prompts`.
    """
    prompts = read_prompts(request.prompts, answerer, request.system)
    asked = [(prompt, sample) for prompt in prompts for sample in range(request.samples)]
    with writing(request.output, _identity(request, prompts)) as part, _bar(console) as bar:
        if part.rows:
            here = f"{len(part.rows)} of {len(asked)} answers are in {part.path}; going on from there"
            console.print(here, soft_wrap=True)
        task = bar.add_task("answers", total=len(asked), completed=len(part.rows))
        try:
            for row in _rows(answerer, request, asked, len(part.rows)):
                part.add(row)
                bar.update(task, completed=len(part.rows))
        except KeyboardInterrupt:
            done = f"{len(part.rows)} of {len(asked)} answers"
            where = (
                f"are in {part.path}; the same command goes on from there" if part.kept else "were made, and are lost"
            )
            console.print(f"interrupted: {done} {where}", soft_wrap=True)
            raise
    return {
        "output": request.output,
        "answers": len(part.rows),
        "stopped": sum(row["finish"] == "stop" for row in part.rows),
    }


def _identity(request: Request, prompts: Sequence[FilePrompt]) -> Json:
    """What the answers depend on."""
    return {
        "models": [(model, state_of_files(model)) for model in request.models],
        "prompts": [(prompt.file, prompt.line, prompt.reference, prompt.tokens) for prompt in prompts],
        "sampling": repr((request.sampling, request.samples, request.max_new_tokens)),
    }


def _rows(answerer: Answerer, request: Request, asked: Sequence[tuple[FilePrompt, int]], begin: int) -> Iterator[Json]:
    rows = min(request.batch_size, decoding.rounded(len(asked)))
    for start in range(begin, len(asked), rows):
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
        **({} if prompt.file is None else {"file": prompt.file}),
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
