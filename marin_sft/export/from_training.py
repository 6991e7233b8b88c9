"""What an export must know about its model's training, read from the training step's config while planning."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from marin_sft.data.formats import ChatLmDatasetFormat, PreferenceChatLmDatasetFormat
from marin_sft.data.step_configs import DownloadConfig, TokenizeConfig
from marin_sft.errors import ConfigError, ExportError
from marin_sft.execution.step import ExecutorStep, InputName
from marin_sft.export.card_config import CardConfig
from marin_sft.export.gguf.architectures import check_config
from marin_sft.export.hf_config import ExportConfig, HfExport
from marin_sft.export.periodic import PeriodicExports
from marin_sft.training.models.model_directory import ModelDirectory
from marin_sft.training.models.random_model_config import RandomModelConfig
from marin_sft.training.train_config import TrainConfig

_TEMPLATE = ("chat_template", "chat_template_kwargs")
Trained = TypeVar("Trained", bound=TrainConfig)


@dataclass(frozen=True)
class Cadence:
    """How often the training `name` exports, in steps (-1: never), and how: see `HfExport`."""

    name: str
    steps: int
    dtype: str | None
    generation_eos_token_ids: Sequence[int] | None
    formats: Sequence[str] = ("hf",)
    gguf_type: str | None = None


def with_exports(of: type[Trained], cadence: Cadence, /, **settings: Any) -> Trained:
    """The config of a training that exports as `cadence` says."""
    formats, ends = tuple(cadence.formats), cadence.generation_eos_token_ids
    if cadence.steps == -1:
        if formats != ("hf",) or cadence.gguf_type is not None:
            raise ConfigError(
                f"step '{cadence.name}': hf_formats={formats}, hf_gguf_type={cadence.gguf_type!r}, but "
                "training exports nothing; set steps_per_hf_export, or give formats and gguf_type to export(...)"
            )
        return of(**settings)
    needs_exports: dict[str, Any] = {"hf_exports_kept": None, "save_optimizer_state": False}
    config = of(**{**settings, **needs_exports})
    exports = PeriodicExports(
        steps=cadence.steps,
        dtype=cadence.dtype,
        generation_eos_token_ids=None if ends is None else tuple(ends),
        formats=formats,
        gguf_type=cadence.gguf_type,
        **export_fields(cadence.name, cadence.name, config),
    )
    check_formats(exports, config)
    return replace(
        config, hf_exports=exports, **{key: settings.get(key, value) for key, value in needs_exports.items()}
    )


def export_fields(title: str, trained: str, config: TrainConfig) -> dict[str, Any]:
    """The fields of an `HfExport` that follow from the config of the training step named `trained`.

    Raises:
        ConfigError: the components have different chat templates, but an export can carry only one; or no component was
            made by a tokenize step.
    """
    tokens = _tokenization_of(trained, config)
    format = tokens.format.as_chat()
    return {
        "base_model": config.base_model,
        "tokenizer": tokens.tokenizer,
        "chat_template": format.chat_template,
        "chat_template_kwargs": dict(format.chat_template_kwargs),
        "card": CardConfig(
            title=title,
            method=type(config).__name__.removesuffix("Config"),
            datasets=_datasets_of(_trained_on(config)),
            mixture=config.mixture,
            hyperparameters=_hyperparameters(config),
        ),
    }


def served_fields(source: object) -> dict[str, Any]:
    """What training says about how the output of an export, or the "adapter" of a training, is served: the fields of
    `ServedConfig`. {}: it is neither."""
    if isinstance(source, ExecutorStep) and isinstance(source.config, ExportConfig):
        of, adapter = source.config, {}
        made = {name: getattr(of, name) for name in ("base_model", "tokenizer", *_TEMPLATE)}
    elif isinstance(source, InputName) and source.name == "adapter" and isinstance(_config_of(source), TrainConfig):
        assert source.step is not None
        made = export_fields(source.step.name, source.step.name, source.step.config)
        adapter = {"base": made["base_model"]}
    else:
        return {}
    tokenizer = made["tokenizer"] or made["base_model"]
    return {**adapter, "tokenizer": tokenizer, **{name: made[name] for name in _TEMPLATE}}


def check_formats(export: HfExport, config: TrainConfig) -> None:
    """Raise ConfigError if the base model of a training, where its config is known now, cannot be exported in these
    formats."""
    if "gguf" not in export.formats:
        return
    source, fields = config.base_model, None
    made_by = _config_of(source)
    if isinstance(made_by, RandomModelConfig):
        fields = made_by.model.hf_config(vocab_size=1)
    elif isinstance(source, str | Path) and os.path.isdir(source):
        fields = ModelDirectory(source, config.rope_scaling).config
    if fields is None:
        return
    try:
        check_config(fields)
    except ExportError as error:
        raise ConfigError(f"model {source}: {error}") from error


def _tokenization_of(trained: str, config: TrainConfig) -> TokenizeConfig:
    """How the data of a training step was tokenized. All its chat components must agree."""
    found = [_config_of(source) for source in _trained_on(config)]
    made = [tokens for tokens in found if isinstance(tokens, TokenizeConfig)]
    if not made:
        raise ConfigError(
            f"step '{trained}': no component was made by a tokenize step; expected one, for its tokenizer"
        )
    # Plain texts use no template.
    chats = [t for t in made if isinstance(t.format, ChatLmDatasetFormat | PreferenceChatLmDatasetFormat)]
    rendered = {repr((f.chat_template, f.chat_template_kwargs)) for f in (t.format.as_chat() for t in chats)}
    if len(rendered) > 1:
        raise ConfigError(
            f"step '{trained}': its {len(chats)} components were tokenized with {len(rendered)} different chat "
            "templates, but an export carries one; give all the same format.chat_template and chat_template_kwargs"
        )
    return (chats or made)[0]


def _trained_on(config: TrainConfig) -> list[object]:
    """The tokenize steps of the training components, without those that are for validation only."""
    data = getattr(_config_of(config.mixture), "data", None)
    names = sorted(config.tokenized) if data is None else data.training
    return [config.tokenized[name] for name in names]


def _config_of(source: object) -> object:
    """The config of the step that makes `source`. None: it is a plain path."""
    return getattr(source.step if isinstance(source, InputName) else source, "config", None)


def _datasets_of(value: object) -> tuple[str, ...]:
    """The sorted ids of the Hub datasets that `value` (a step, a config, or a container of them) is made from."""
    if isinstance(value, InputName | ExecutorStep):
        return _datasets_of(_config_of(value))
    if isinstance(value, DownloadConfig):
        return (value.id,) if value.kind == "dataset" else ()
    if is_dataclass(value):
        value = [getattr(value, field.name) for field in fields(value)]
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return tuple(sorted({id for part in parts for id in _datasets_of(part)}))


def _hyperparameters(config: TrainConfig) -> dict[str, object]:
    """The plain values of a training config that can change its result, without those that are None."""
    counted = [field for field in fields(config) if not field.metadata.get("execution_only")]
    values = {
        field.name: getattr(config, field.name) for field in counted if field.name not in ("base_model", "mixture")
    }
    if config.lora is not None:
        values |= {f"lora_{name}": value for name, value in vars(config.lora).items() if value}
    return {name: value for name, value in values.items() if isinstance(value, bool | int | float | str)}
