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
from pathlib import Path

import numpy as np

from marin_sft import progress
from marin_sft.data.files import Json, write_json, write_json_lines, write_text
from marin_sft.errors import ExportError
from marin_sft.evaluation.decoding import has_ended
from marin_sft.evaluation.served.comparison import Answered, Served, first_difference, table
from marin_sft.evaluation.served.engines import ENGINES, TOGETHER
from marin_sft.evaluation.served.ours import Ours
from marin_sft.evaluation.served.questions import Question, questions
from marin_sft.evaluation.served.server import Answer, Server, running
from marin_sft.evaluation.step_configs import ServedConfig
from marin_sft.training.models.model_directory import ModelDirectory, writing


def served(config: ServedConfig) -> None:
    """Load the export in the engine's own server, ask it the prompts, and compare.

    Raises:
        ConfigError: the engine's environment is not there.
        ExportError: no chat template; the server does not start or answer; or, with `on_difference` "fail", something
            differs.
        DataError: a prompt is no prompt.
        TrainingError: the export is no model directory.
    """
    engine = ENGINES[config.engine]
    python = engine.python(config.python)
    export = ModelDirectory(config.model)
    ours = Ours(config, export)
    asked = questions(config, ours.renderer, min(ours.max_length, config.max_model_len or ours.max_length))
    answers = ours.answers(asked, config.max_new_tokens)
    with writing(config.output_path) as output, export.whole() as local:
        with running(engine, python, local, Path(output, "server.log"), config) as server:
            version = server.version()
            found = _compared(config, ours, asked, answers, server, _files(ours, Path(local)))
        _write(output, found, f"{engine.name} {version}")
    print("\n".join([f"{config.model} in {engine.name} {version}:", *table(found)]))
    first = next((check for check in found.checks() if check.difference), None)
    if first is not None and config.on_difference == "fail":
        raise ExportError(
            f"{config.model}: {engine.name} {version} does not serve what was trained: {first.name}: "
            f"{first.difference}; all differences are in {config.output_path}"
        )


def _files(ours: Ours, local: Path) -> dict[str, str | None]:
    """The chat template by the file that has it: servers read either."""
    found: dict[str, str | None] = {}
    if (local / "chat_template.jinja").exists():
        found["in chat_template.jinja"] = (local / "chat_template.jinja").read_text(encoding="utf-8")
    stored = (ours.export.json("tokenizer_config.json") or {}).get("chat_template")
    if isinstance(stored, list):
        stored = {named["name"]: named["template"] for named in stored}.get("default")
    if stored is not None:
        found["in tokenizer_config.json"] = stored
    return found


def _compared(
    config: ServedConfig,
    ours: Ours,
    asked: list[Question],
    answers: list[list[int]],
    server: Server,
    files: dict[str, str | None],
) -> Served:
    length = server.context_length()
    expected = min(ours.max_length, config.max_model_len or ours.max_length)
    added = "".join(
        token.content for id, token in sorted(ours.tokenizer.added_tokens_decoder.items()) if id < ours.vocabulary_size
    )  # servers leave out tokens without an embedding
    _check_room(config, asked, expected, length)
    longest = max(len(question.ids) for question in asked) + config.max_new_tokens
    rooms = [max(1, min(config.max_new_tokens, min(length, expected) - len(question.ids))) for question in asked]
    rows: list[Answered] = []
    with ThreadPoolExecutor(TOGETHER) as threads:
        for question, ids, room, said in zip(
            asked, answers, rooms, threads.map(server.answer, asked, rooms), strict=True
        ):
            rows.append(_answered(ours, question, ids[:room], said, longest))
            progress.report(len(rows), len(asked), "prompts")
    return Served(
        templates={"of training": ours.template, **files, "in the server": server.chat_template()},
        added=(ours.tokenizer(added, add_special_tokens=False)["input_ids"], server.tokenize(added)),
        ends=(ours.ends, ours.listed_ends),
        lengths=(expected, length),
        answers=rows,
        tie_gap=config.tie_gap,
        logprob_tolerance=config.logprob_tolerance,
        token=lambda id: str(ours.tokenizer.decode([id])),
    )


def _check_room(config: ServedConfig, asked: list[Question], expected: int, length: int) -> None:
    for i, question in enumerate(asked):
        if len(question.ids) >= length:
            raise ExportError(
                f"{config.model}: context length: the model takes {expected} tokens, in {config.engine} {length}, too "
                f"few for prompt {i + 1} of set {question.set!r}, which has {len(question.ids)}: give shorter "
                "prompts, or serve it with another engine"
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
