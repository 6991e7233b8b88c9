"""Answers of an exported model to the prompts of a chat data set, and how many match the reference exactly.

{output_path}/generations.jsonl   {"set", "prompt", "reference", "generation", "exact_match", "finish"} per prompt
{output_path}/samples.jsonl       the same for people, see `samples`: the prompt as messages
{output_path}/metrics.json        {"exact_match": fraction, "exact_match/SET": fraction of each set, "prompts": n,
                                   "stopped": fraction that ended with an EOS token}
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import TYPE_CHECKING

import jax
from levanter.models.lm_model import LmHeadModel

from marin_sft import progress
from marin_sft.data.chat.renderer import ChatRenderer
from marin_sft.data.formats import ChatLmDatasetFormat
from marin_sft.data.messages.examples import Dialogue
from marin_sft.data.messages.reading import BadRow, dialogue_of
from marin_sft.data.rows.row_files import find_files, read_rows
from marin_sft.data.rows.source_rows import SourceRow
from marin_sft.errors import DataError, TrainingError
from marin_sft.evaluation import decoding
from marin_sft.evaluation.answerer import check_template
from marin_sft.evaluation.samples import write_samples
from marin_sft.evaluation.sampling import Sampling
from marin_sft.evaluation.step_configs import GenerateConfig
from marin_sft.paths import file_system
from marin_sft.training import processes
from marin_sft.training.compilation_cache import use_compilation_cache
from marin_sft.training.models import levanter_model
from marin_sft.training.models.model_config import Fields
from marin_sft.training.models.model_directory import ModelDirectory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt, its token ids, and the answer that the assistant should give. `set`: its set in the config.
    `asked`: what was rendered."""

    set: str
    text: str
    tokens: list[int]
    reference: str
    asked: Dialogue


def generate(config: GenerateConfig) -> None:
    """Answer each prompt, up to a token in the `eos_token_id` list of generation_config.json.

    An answer also ends after `max_new_tokens`, or at the model's maximum length ("finish": "length").

    Raises:
        DataError: there are no rows, a row has no reference answer, or a prompt leaves no room for a token.
        TrainingError: the model is not a model directory, or its generation_config.json has no `eos_token_id`.
    """
    use_compilation_cache()
    directory = ModelDirectory(config.model)
    tokenizer = directory.tokenizer()
    check_template(config.model, tokenizer)
    model = levanter_model.load_model(directory)
    prompts = read_prompts(config, tokenizer, model.max_length)
    ends = end_ids(directory)
    answers: dict[int, list[int]] = {}
    # Prompts of about one length are answered together.
    order = sorted(range(len(prompts)), key=lambda number: decoding.prompt_columns(len(prompts[number].tokens)))
    for start in range(0, len(order), config.batch_size * jax.process_count()):
        mine = start + config.batch_size * jax.process_index()  # each process answers prompts of its own
        numbers = order[mine : mine + config.batch_size]
        found = processes.of_all(_answers(config, model, prompts, numbers, ends) if numbers else [])
        answers.update(chain(*found))
        progress.report(len(answers), len(prompts), "prompts")
    results = [_result(tokenizer, prompt, answers[number], ends) for number, prompt in enumerate(prompts)]
    processes.by_first(lambda: _write(config, prompts, results))


def read_prompts(config: GenerateConfig, tokenizer: PreTrainedTokenizerFast, max_length: int) -> list[Prompt]:
    """The prompts of the config's files, in order."""
    prompts = []
    format = ChatLmDatasetFormat(
        shape="messages", chat_template_kwargs=config.chat_template_kwargs, template_date=config.template_date
    )
    renderer = ChatRenderer(tokenizer, format)
    sources = [(name, s) for name, glob in config.prompts.items() for s in islice(_rows(glob), config.max_prompts)]
    for name, source in sources:
        prompt = _prompt(renderer, name, source)
        if len(prompt.tokens) >= max_length:
            raise DataError(
                f"{source.file.path}:{source.line}: the prompt has {len(prompt.tokens)} tokens, expected fewer than "
                f"the model's {max_length}: remove the row from the prompts"
            )
        prompts.append(prompt)
    if not prompts:
        raise DataError(f"{config.prompts}: no rows, expected at least one prompt")
    return prompts


def _rows(pattern: str) -> Iterator[SourceRow]:
    for file in find_files([pattern]):
        yield from read_rows(file)


def _prompt(renderer: ChatRenderer, name: str, source: SourceRow) -> Prompt:
    """The row's prompt, rendered as in training: with its tools and its own template arguments."""
    messages = source.row.get("messages") if isinstance(source.row, dict) else None
    last = messages[-1] if isinstance(messages, list) and len(messages) > 1 else None
    if not isinstance(last, dict) or last.get("role") != "assistant":
        raise DataError(
            f"{source.file.path}:{source.line}: expected a row whose 'messages' end with the assistant's reference "
            f"answer, got {str(source.row)[:200]}"
        )
    try:
        dialogue = dialogue_of(source.row, renderer.format)
        asked = replace(dialogue, messages=dialogue.messages[:-1])
        text = renderer.prompt(asked)
    except BadRow as bad:
        raise DataError(f"{source.file.path}:{source.line}: {bad.what}") from bad
    return Prompt(name, text, renderer.prompt_ids(text), dialogue.messages[-1]["content"], asked)


def end_ids(model: ModelDirectory) -> list[int]:
    """The ids of generation_config.json that end an answer."""
    ends = (model.json("generation_config.json") or {}).get("eos_token_id")
    if ends is None:
        raise TrainingError(
            f"{model.path}/generation_config.json: no eos_token_id, so no answer would ever end; export the model again"
        )
    return ends if isinstance(ends, list) else [ends]


def _answers(
    config: GenerateConfig, model: LmHeadModel, prompts: list[Prompt], numbers: list[int], ends: list[int]
) -> list[tuple[int, list[int]]]:
    """Of the prompts with these numbers, each with its number. Sampling depends on a prompt's number alone."""
    tokens = [prompts[number].tokens for number in numbers]
    sampling = Sampling(config.temperature, config.top_p, config.seed)
    # A short last batch is padded: another size would be compiled again.
    rows = min(config.batch_size, decoding.rounded(len(prompts)))
    found = decoding.decode(model, tokens, ends, config.max_new_tokens, sampling=sampling, numbers=numbers, rows=rows)
    return list(zip(numbers, found, strict=True))


def _result(tokenizer: PreTrainedTokenizerFast, prompt: Prompt, answer: list[int], ends: list[int]) -> Fields:
    stopped = decoding.has_ended(answer, ends)
    generation = tokenizer.decode(answer[:-1] if stopped else answer)
    return {
        "set": prompt.set,
        "prompt": prompt.text,
        "reference": prompt.reference,
        "generation": generation,
        "exact_match": generation.strip() == prompt.reference.strip(),
        "finish": "stop" if stopped else "length",
    }


def _write(config: GenerateConfig, prompts: list[Prompt], results: list[Fields]) -> None:
    filesystem, plain = file_system(config.output_path)
    filesystem.makedirs(plain, exist_ok=True)
    with filesystem.open(f"{plain}/generations.jsonl", "w") as file:
        file.writelines(json.dumps(result, ensure_ascii=False) + "\n" for result in results)
    write_samples(config.output_path, config.model, [prompt.asked.messages for prompt in prompts], results)
    by_set: dict[str, list[Fields]] = {}
    for result in results:
        by_set.setdefault(result["set"], []).append(result)
    metrics = {
        "exact_match": _share_of_matches(results),
        **(
            {f"exact_match/{name}": _share_of_matches(part) for name, part in by_set.items()} if len(by_set) > 1 else {}
        ),
        "prompts": len(results),
        "stopped": sum(result["finish"] == "stop" for result in results) / len(results),
    }
    with filesystem.open(f"{plain}/metrics.json", "w") as file:
        json.dump(metrics, file, indent=2)


def _share_of_matches(results: list[Fields]) -> float:
    return sum(result["exact_match"] for result in results) / len(results)
