"""The steps of a trainer as an experiment file, to go on from: `marin-sft sft ... --experiment_out mine.py`.

The file makes the same steps, so it finds what the command has run.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from marin_sft.data.data_configs import LmDataConfig
from marin_sft.data.step_configs import DownloadConfig, KeptConfig, TokenizeConfig, TransformConfig
from marin_sft.errors import UserError
from marin_sft.execution.resources import CpuConfig
from marin_sft.execution.step import ExecutorStep, InputName
from marin_sft.run.python_source import Call, Name, assignment, default_of, free_name, imports, names_in
from marin_sft.trainers.trainer import SFTTrainer

# Made of other arguments, or by the step functions themselves.
_NOT_SAID = {
    "mixture",
    "tokenized",
    "base_model",
    "hf_exports",
    "output_path",
    "earlier_attempts",
    "reference_logprobs",
    "starts_at_reference",
    "expected_model",
}


def check_target(path: str) -> None:
    """Raise UserError unless a new file can be written at `path`."""
    if os.path.exists(path):
        raise UserError(f"--experiment_out {path}: exists already; give another name")
    if not os.path.isdir(os.path.dirname(path) or "."):
        raise UserError(f"--experiment_out {path}: there is no directory {os.path.dirname(path)}")


def experiment_source(trainer: SFTTrainer, command: str) -> str:
    """The text of an experiment file with the steps of `trainer`. `command`: what the user typed.

    Raises:
        UserError: steps made of what a script had in memory.
    """
    trained, exported = trainer.steps
    config = trained.config
    blend = _step(config.mixture)
    data: LmDataConfig = blend.config.data
    lines: list[tuple[str, object]] = []
    model = _place(config.base_model, "model", lines)
    tokens: dict[str, object] = {}
    for name, tokenized in data.tokenized.items():
        tokens[name] = _tokenize(tokenized, model, config.base_model, lines)
    lines.append(("tokenized", tokens))
    lines.append(("data", Call("lm_mixture_data_config", (Name("tokenized"),), _mixture_options(data))))
    limits = {name: getattr(blend.config, name) for name in ("max_prompt_length", "max_completion_length")}
    given = {name: value for name, value in limits.items() if value is not None}
    lines.append(("packed", Call("mixture", (Name("NAME"), Name("data")), {"seq_len": blend.config.seq_len, **given})))
    kind = "dpo" if trainer.config.pairs else "sft"
    settings = {"mixture": Name("packed"), "base_model": model, **_training(trained)}
    if kind == "dpo" and config.reference_logprobs is not None:
        reference = _step(config.reference_logprobs).config.model
        if reference != config.base_model:
            settings["reference"] = _place(reference, "reference", lines)
    lines.append(("trained", Call(kind, (Name("NAME"),), settings)))
    lines.append(("exported", Call("export", (Name("NAME"), Name("trained")))))
    used = set().union(*(names_in(value) for _, value in lines)) | {"executor_main"}
    name = exported.name.partition("/")[2]
    parts = [
        f'"""{kind.upper()}, written by `{command}`.\n\nIt makes the same steps: what that command ran is cached.\n"""',
        imports(used),
        assignment("NAME", name),
        "\n".join(assignment(variable, value) for variable, value in lines),
        '\nif __name__ == "__main__":\n    executor_main(steps=[exported])',
    ]
    return "\n\n".join(parts) + "\n"


def _tokenize(
    tokenized: ExecutorStep[TokenizeConfig], model: object, base_model: object, lines: list[tuple[str, object]]
) -> Call:
    config = tokenized.config
    keywords: dict[str, object] = {}
    train = [_place(path, "rows", lines) for path in config.train_paths]
    held_out = [_place(path, "held_out", lines) for path in config.validation_paths]
    same = _same(config.tokenizer, base_model)
    keywords["tokenizer"] = model if same else _place(config.tokenizer, "tokenizer", lines)
    keywords["format"] = _value(config.format)
    if held_out:
        keywords["validation"] = held_out
    name = tokenized.name.partition("/")[2]
    return Call("tokenize", (name, train[0] if len(train) == 1 else train), keywords)


def _place(source: object, variable: str, lines: list[tuple[str, object]]) -> object:
    """A path or a step as source; what a step needs is assigned first."""
    if isinstance(source, Path):
        return str(source)
    if isinstance(source, InputName) and source.step is not None:
        step = _place(source.step, variable, lines)
        return step if source.name is None else Name(f'{_text(step)} / "{source.name}"')
    if not isinstance(source, ExecutorStep):
        return source
    made = _made(source, lines)
    known = next((name for name, value in lines if value == made), None)
    if known is None:
        known = free_name(variable, [name for name, _ in lines])
        lines.append((known, made))
    return Name(known)


def _made(step: ExecutorStep[object], lines: list[tuple[str, object]]) -> Call:
    config = step.config
    if isinstance(config, KeptConfig):
        raise UserError(
            f"--experiment_out: '{step.name}' holds what a script had in memory, which no file can make again; name "
            "the data and the tokenizer by a path or a hub id"
        )
    if isinstance(config, DownloadConfig):
        keywords: dict[str, object] = {"hf_dataset_id": config.id, "revision": config.revision}
        if config.kind != "dataset":
            keywords["kind"] = config.kind
        if config.allow_patterns:
            keywords["allow_patterns"] = list(config.allow_patterns)
        return Call("default_download", (step.name,), keywords)
    if isinstance(config, TransformConfig):
        raw = _step(config.input_path).config
        keywords = {"revision": raw.revision, "split": config.splits[0]}
        if config.subsets:
            keywords["subset"] = config.subsets[0]
        dataset = Call("HfDataset", (raw.id,), keywords)
        return Call("rows_of", (dataset, config.splits[0]))
    raise UserError(f"--experiment_out: '{step.name}' is a step that cannot be written")


def _mixture_options(data: LmDataConfig) -> dict[str, object]:
    (_, weights) = data.train_weights[0]
    options: dict[str, object] = {"weights": {name: weight for name, weight in weights.items() if weight}}
    packed = set(data.pack.values())
    if packed != {True}:
        options["pack"] = packed.pop()
    defaults = {field.name: field.default for field in dataclasses.fields(LmDataConfig)}
    for name in ("over_length", "shuffle", "validation_fraction"):
        if getattr(data, name) != defaults[name]:
            options[name] = getattr(data, name)
    return options


def _training(trained: ExecutorStep[object]) -> dict[str, object]:
    """The settings that differ from those of a step where nothing is said."""
    config = trained.config
    found: dict[str, object] = {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, field.name)
        if field.name not in _NOT_SAID and value != default_of(field):
            found[field.name] = _value(value)
    exports = getattr(config, "hf_exports", None)
    if exports is not None:
        found["steps_per_hf_export"] = exports.steps
    if trained.resources != CpuConfig():
        found["resources"] = _value(trained.resources)
    return found


def _value(value: object) -> object:
    """A dataclass as a call with what differs from its defaults."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return tuple(map(_value, value)) if isinstance(value, tuple) else value
    keywords: dict[str, object] = {}
    for field in dataclasses.fields(value):
        here = getattr(value, field.name)
        if here != default_of(field):
            keywords[field.name] = _value(here)
    return Call(type(value).__name__, (), keywords)


def _step(source: object) -> ExecutorStep[Any]:
    step = source.step if isinstance(source, InputName) else source
    assert isinstance(step, ExecutorStep)
    return step


def _same(one: object, other: object) -> bool:
    return one is other or one == other


def _text(value: object) -> str:
    return value.text if isinstance(value, Name) else repr(value)
