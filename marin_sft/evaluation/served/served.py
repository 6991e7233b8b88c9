"""An export in a server that people use, compared with ours.

{output_path}/metrics.json     {"prompts", "answers_equal", "near_ties", "stopped", "prompt_ids_equal",
                                "context_length", "logprob_difference", ..., "CHECK_differ": 0 or 1}
{output_path}/answers.jsonl    a row per prompt: both answers, and what differs
{output_path}/checks.json      what was compared, and the first difference of each kind
{output_path}/server.log       what the server said
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from marin_sft import progress
from marin_sft.data.files import Json, write_json, write_json_lines, write_text
from marin_sft.errors import ExportError
from marin_sft.evaluation.decoding import has_ended
from marin_sft.evaluation.served.adapters import check_adapter
from marin_sft.evaluation.served.comparison import Answered, Served, first_difference, table
from marin_sft.evaluation.served.engines import ENGINES, TOGETHER
from marin_sft.evaluation.served.files import Files, files_of
from marin_sft.evaluation.served.ours import Ours
from marin_sft.evaluation.served.questions import Question, questions
from marin_sft.evaluation.served.server import Answer, Server, running
from marin_sft.evaluation.step_configs import ServedConfig
from marin_sft.training.models.model_directory import ModelDirectory, writing
from marin_sft.training.models.peft_directory import CONFIG as ADAPTER


def served(config: ServedConfig) -> None:
    """Load the export in the engine's own server, ask it the prompts, and compare.

    Raises:
        ConfigError: the engine's environment is not there, or the base of an adapter is not.
        ExportError: no chat template; a damaged GGUF file; an adapter that the engine cannot serve; the server does not
            start or answer; or, with `on_difference` "fail", something differs.
        DataError: a prompt is no prompt.
        TrainingError: the export is no model directory.
    """
    check(config, is_kept=True)


def check(config: ServedConfig, is_kept: bool) -> Served:
    """See `served`. is_kept: whether people find `output_path` afterwards."""
    engine = ENGINES[config.engine]
    python = engine.python(config.python)
    export = ModelDirectory(config.model)
    if export.json(ADAPTER) is not None:
        check_adapter(engine.name, export)
    ours = Ours(config, export)
    asked = questions(config, ours.renderer, min(ours.max_length, config.max_model_len or ours.max_length))
    answers = ours.answers(asked, config.max_new_tokens)
    with ExitStack() as stack:
        output = Path(stack.enter_context(writing(config.output_path)))
        local = stack.enter_context(ours.model_directory.whole())
        adapter = None if ours.adapter is None else stack.enter_context(ours.adapter.whole())
        files = files_of(local, ours.model_directory, is_trained_with=_is_trained_with(config))

        def command(port: int) -> list[str]:
            return engine.command(python, local, port, config, adapter)

        with running(engine, command, output / "server.log", is_kept, config.start_seconds) as server:
            version = server.version()
            found = _compared(config, ours, asked, answers, server, files)
        _write(str(output), found, f"{engine.name} {version}")
    print("\n".join([f"{config.model} in {engine.name} {version}:", *table(found)]))
    first = next((check for check in found.checks() if check.difference), None)
    if first is not None and config.on_difference == "fail":
        details = f"all differences are in {config.output_path}" if is_kept else "--output DIR keeps all differences"
        raise ExportError(
            f"{config.model}: {engine.name} {version} does not serve what was trained: {first.name}: "
            f"{first.difference}; {details}"
        )
    return found


def _is_trained_with(config: ServedConfig) -> bool:
    """Whether template and tokenizer are compared with those of training, not with the export's own."""
    return config.tokenizer is not None or config.chat_template is not None


def _compared(
    config: ServedConfig,
    ours: Ours,
    asked: list[Question],
    answers: list[list[int]],
    server: Server,
    files: Files,
) -> Served:
    length = server.context_length()
    expected = min(ours.max_length, config.max_model_len or ours.max_length)
    added = "".join(
        token.content for id, token in sorted(ours.tokenizer.added_tokens_decoder.items()) if id < ours.vocabulary_size
    )  # servers leave out tokens without an embedding
    _check_room(config, asked, expected, length, files)
    longest = max(len(question.ids) for question in asked) + config.max_new_tokens
    rooms = [max(1, min(config.max_new_tokens, min(length, expected) - len(question.ids))) for question in asked]
    rows: list[Answered] = []
    with ThreadPoolExecutor(TOGETHER) as threads:
        for question, ids, room, said in zip(
            asked, answers, rooms, threads.map(server.answer, asked, rooms), strict=True
        ):
            rows.append(_answered(ours, question, ids[:room], said, longest))
            progress.report(len(rows), len(asked), "prompts")
    is_trained_with = _is_trained_with(config)
    of_files: dict[str, str | None] = {f"in {name}": text for name, text in files.templates.items()}
    of_ours = "of training" if is_trained_with else "of the export"
    return Served(
        templates={of_ours: ours.template, **of_files, "in the server": server.chat_template()},
        files=files,
        is_trained_with=is_trained_with,
        added=(ours.tokenizer(added, add_special_tokens=False)["input_ids"], server.tokenize(added)),
        ends=(ours.ends, ours.listed_ends),
        lengths=(expected, length),
        answers=rows,
        tie_gap=config.tie_gap,
        logprob_tolerance=config.logprob_tolerance,
        token=lambda id: str(ours.tokenizer.decode([id])),
    )


def _check_room(config: ServedConfig, asked: list[Question], expected: int, length: int, files: Files) -> None:
    for i, question in enumerate(asked):
        if len(question.ids) >= length:
            do = files.why_other(expected, length) or "give shorter prompts, or serve it with another engine"
            raise ExportError(
                f"{config.model}: context length: the model takes {expected} tokens, in {config.engine} {length}, too "
                f"few for prompt {i + 1} of set {question.set!r}, which has {len(question.ids)}: {do}"
            )


def _answered(ours: Ours, question: Question, ids: list[int], said: Answer, room: int) -> Answered:
    gap, difference = None, 0.0
    if unknown := [id for id in (*said.prompt_ids, *said.ids) if id >= ours.vocabulary_size]:
        raise ExportError(
            f"the server has a token with id {unknown[0]}, and the model has {ours.vocabulary_size} embeddings: it "
            "serves another model; is the .gguf file, or the tokenizer, that of another export?"
        )
    if said.ids:
        # Of the server's own prompt: what it computes is compared even if the prompts differ.
        scores = ours.logprobs(said.prompt_ids, said.ids, max(room, len(said.prompt_ids) + len(said.ids)))
        own = scores[np.arange(len(said.ids)), said.ids]
        difference = float(np.abs(own - np.array(said.logprobs)).max())
        first = first_difference(ids, said.ids)
        if first is not None and first < min(len(ids), len(said.ids)) and said.prompt_ids == question.ids:
            gap = float(scores[first, ids[first]] - own[first])
    return Answered(
        set=question.set,
        prompt=question.text,
        server_prompt=said.prompt_text,
        prompt_ids=question.ids,
        server_prompt_ids=said.prompt_ids,
        ids=ids,
        server_ids=said.ids,
        text=ours.tokenizer.decode(ids),
        server_text=ours.tokenizer.decode(said.ids),
        finish="stop" if has_ended(ids, ours.ends) else "length",
        server_finish=said.finish,
        gap=gap,
        logprob_difference=difference,
    )


def _write(output: str, found: Served, engine: str) -> None:
    # Not sorted: tables show the first ones.
    write_text(f"{output}/metrics.json", json.dumps(found.metrics(), indent=2) + "\n")
    write_json_lines(f"{output}/answers.jsonl", [answer.row(found.tie_gap) for answer in found.answers])
    checks: list[Json] = [
        {"check": check.name, "compared": check.count, "difference": check.difference} for check in found.checks()
    ]
    write_json(f"{output}/checks.json", {"engine": engine, "checks": checks})
