"""A trainer's settings -> the steps that carry them out: data, tokens, mixture, training, export."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from marin_sft.data.data_configs import lm_data_config
from marin_sft.data.formats import LmDatasetFormat, TextLmDatasetFormat
from marin_sft.data.sources import HfDataset
from marin_sft.data.step_configs import TokenizeConfig
from marin_sft.errors import ConfigError
from marin_sft.execution.resources import Resources
from marin_sft.execution.step import ExecutorStep
from marin_sft.inputs import Source
from marin_sft.paths import find, local_path, nearest_path
from marin_sft.recipes.hub_revisions import id_and_revision
from marin_sft.recipes.sources import model_of, rows_of, tokenizer_of
from marin_sft.steps import dpo, export, mixture, sft, tokenize
from marin_sft.trainers.configs import SFTConfig
from marin_sft.trainers.hardware import default_resources, devices_seen
from marin_sft.trainers.memory import Kept, Tokenizer, kept_rows, kept_tokenizer
from marin_sft.trainers.models import ModelHandle
from marin_sft.trainers.recommended import longest_of, recommended
from marin_sft.trainers.rows import completes, first_row, format_of, is_on_hub
from marin_sft.trainers.settings import Dialect
from marin_sft.trainers.training_arguments import TrainingArguments
from marin_sft.training.dpo_config import DPOConfig
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.sft_config import SFTConfig as SFTStepConfig

_MASKS = {"answers_only": True, "completion_only": True, "prompts_too": False}  # what trains a part of a row


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a trainer was given besides its config. Data: rows in memory, a path, or a hub id."""

    model: ModelHandle
    train_data: Any
    eval_data: Mapping[str, Any]
    tokenizer: Tokenizer | str | None = None
    formatting_func: Callable[..., Any] | None = None
    reference: ModelHandle | None = None
    lora: LoraConfig | None = None
    resources: Resources | None = None


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """The steps of a training, and what must be written below the prefix before they run."""

    name: str
    trained: ExecutorStep[SFTStepConfig] | ExecutorStep[DPOConfig]
    exported: ExecutorStep[Any]
    base: Source
    held_out: Mapping[str, ExecutorStep[TokenizeConfig]]
    seq_len: int
    in_memory: tuple[Kept, ...]
    notes: tuple[str, ...]
    """What a user should know, a line each."""


class PipelineBuilder:
    """Builds the steps of one training. `prefix`: where rows in memory will be written."""

    def __init__(self, config: SFTConfig, dialect: Dialect, given: Given, prefix: str) -> None:
        self._config, self._dialect, self._given, self._prefix = config, dialect, given, prefix
        self._values = config.values(dialect)
        # A default of a mask holds where rows have answers; one that was asked for must hold.
        said = config.given().items()
        masks = [pair for name, pair in said if name in _MASKS and pair[1] is _MASKS[name]]
        self._values["masks"] = [f"{spelling} = {value}" for spelling, value in masks]
        self._pairs = config.pairs
        self._kept: list[Kept] = []
        self._notes: list[str] = []
        self._resources = given.resources or default_resources()
        self._fill_in()

    def _fill_in(self) -> None:
        """What depends on model and data, where nobody said it."""
        values, source = self._values, self._given.model.source
        if self._dialect is Dialect.OURS:
            lora = self._given.lora is not None or values["use_lora"]
            devices = devices_seen(self._resources)
            fitting = recommended(
                self._given.train_data,
                source,
                pairs=self._pairs,
                lora=lora,
                devices=devices,
                rope_scaling=values["rope_scaling"],
            )
            values.update({name: value for name, value in fitting.items() if values[name] is None})
            self._notes.append(
                f"rows of {values['seq_len']} tokens, {values['batch_size']} in an update, "
                f"{values['num_train_epochs']:g} epochs, learning rate {values['learning_rate']:g}"
            )
        longest = longest_of(source, values["rope_scaling"])
        if "seq_len" in self._config.given() and self._config.given()["seq_len"][1] is None:
            if longest is None:
                raise ConfigError(
                    f"{self._config.spelling('seq_len')} = None: how long rows may be is not known before the model is "
                    "there; expected a number of tokens"
                )
            values["seq_len"] = longest
        if longest is not None and "seq_len" not in self._config.given():
            values["seq_len"] = min(values["seq_len"], longest)

    def build(self) -> Pipeline:
        """Raises ConfigError for settings that cannot be used, alone or together."""
        values, given = self._values, self._given
        where = type(self._config).__name__
        base = model_of(_with_revision(given.model.source, given.model.revision or values["model_revision"]), where)
        tokenizer = self._tokenizer(base, where)
        name = self.name()
        self._seq_len = self._length()
        tokens, format = self._tokens(name, given.train_data, tokenizer)
        held_out = {
            part: self._tokens(f"{name}-{part}", data, tokenizer, held_out=True)[0]
            for part, data in given.eval_data.items()
        }
        texts = isinstance(format, TextLmDatasetFormat)
        data = lm_data_config(
            tokens,
            held_out,
            over_length="split" if values["packing"] and texts else "truncate",
            shuffle=self._shuffles(),
            validation_fraction=0.0 if held_out else values["validation_fraction"] or 0.0,
        )
        if not self._pairs:
            data = replace(data, pack={part: bool(values["packing"]) for part in data.tokenized})
        blend = mixture(name, data, seq_len=self._seq_len, **self._pair_limits())
        training = TrainingArguments(
            self._config, values, self._dialect, given.model, given.lora, self._resources, name, self._notes
        ).build(bool(held_out or values["validation_fraction"]))
        make: Any = dpo if self._pairs else sft
        reference = self._reference(where) if self._pairs else {}
        trained = make(name, mixture=blend, base_model=base, resources=self._resources, **reference, **training)
        return Pipeline(
            name=name,
            trained=trained,
            exported=export(name, trained),
            base=base,
            held_out=held_out,
            seq_len=self._seq_len,
            in_memory=tuple(self._kept),
            notes=tuple(self._notes),
        )

    def _shuffles(self) -> bool:
        order = self._values["sampling"]
        if order not in (None, "random", "sequential"):
            raise ConfigError(f"train_sampling_strategy = {order!r} is not supported: expected random or sequential")
        return order != "sequential"

    def name(self) -> str:
        """Of the training: as it was given, or of model and data; never of the output directory."""
        if self._values["run"]:
            return str(self._values["run"])
        name = f"{_plain_name(self._given.model.source)}-{self._data_name(self._given.train_data)}"
        if self._dialect is not Dialect.OURS:
            return name
        # Each has an output directory of its own.
        return name + ("-lora" if self._values["use_lora"] else "") + ("-dpo" if self._pairs else "")

    def _data_name(self, data: Any) -> str:
        if isinstance(data, str | Path):
            return _plain_name(Path(str(data)).name.split(".")[0] if Path(str(data)).suffix else str(data))
        named = getattr(getattr(data, "info", None), "dataset_name", None)
        return _plain_name(str(named)) if named else "rows"

    def _tokenizer(self, base: Source, where: str) -> Source:
        tokenizer = self._given.tokenizer or self._values["tokenizer"]
        if tokenizer is None:
            return base
        if isinstance(tokenizer, str | Path):
            return tokenizer_of(str(tokenizer), where)
        kept = kept_tokenizer(_plain_name(self._given.model.source), tokenizer, self._prefix)
        self._kept.append(kept)
        return kept.step

    def _tokens(
        self, name: str, data: Any, tokenizer: Source, *, held_out: bool = False
    ) -> tuple[ExecutorStep[Any], LmDatasetFormat]:
        """The tokenize step of a dataset, and the format of its rows."""
        func = self._given.formatting_func
        row = None if func else first_row(data)
        format = format_of(self._values, row, pairs=self._pairs, texts=func is not None)
        if self._config.given().get("completion_only", ("", None))[1] and not completes(row):
            raise ConfigError(
                f"completion_only_loss: expected rows with prompt and completion; those of {name} have "
                f"{sorted(row or ())}. assistant_only_loss=True trains the answers of chats"
            )
        rows = self._rows(name, data, held_out)
        train, validation = ((), rows) if held_out else (rows, ())
        return tokenize(name, train, tokenizer=tokenizer, format=format, validation=validation), format

    def _rows(self, name: str, data: Any, held_out: bool) -> Source:
        if isinstance(data, str | Path):
            if self._given.formatting_func is not None:
                raise ConfigError("formatting_func: expected rows in memory to call it with; got a path or hub id")
            text = str(data)
            if is_on_hub(text):
                split = (self._values["eval_split"] or "validation") if held_out else self._values["split"]
                return rows_of(HfDataset(*id_and_revision(text), subset=self._values["subset"], split=split), split)
            self._require_no_part(held_out)
            if local_path(text) is not None and not find(os.path.expanduser(text)).names:
                raise ConfigError(
                    f"{name}: got {text!r}; expected a file, a directory or a glob of rows, or a hub id 'org/name'; "
                    f"there is no file of that name{nearest_path(text)}"
                )
            return text
        self._require_no_part(held_out)
        kept = kept_rows(name, data, self._prefix, self._given.formatting_func)
        self._kept.append(kept)
        return kept.step

    def _require_no_part(self, held_out: bool) -> None:
        """Raises ConfigError for a part of a dataset on the hub, where the rows are elsewhere."""
        for name in ("eval_split",) if held_out else ("split", "subset"):
            spelling, value = self._config.given().get(name, ("", None))
            if value not in (None, "train", "validation", "test"):
                raise ConfigError(
                    f"{spelling} = {value!r}: only datasets on the hub have such parts; name the files, or give "
                    "load_dataset(..., split=...) as the dataset"
                )

    def _length(self) -> int:
        length, longest = int(self._values["seq_len"]), self._given.model.longest
        if longest is not None and longest < length:
            raise ConfigError(
                f"{self._config.spelling('seq_len')} = {length}, but config_kwargs limits positions to {longest}; "
                "expected at most that"
            )
        return length

    def _pair_limits(self) -> dict[str, Any]:
        """Limits of prompts and completions. Where only one of them is given, the other is the rest."""
        if not self._pairs:
            return {}
        prompt, completion = self._values["max_prompt_length"], self._values["max_completion_length"]
        if prompt is not None and prompt >= self._seq_len and "max_prompt_length" in self._config.given():
            raise ConfigError(
                f"max_prompt_length = {prompt}, but max_length = {self._seq_len} is for a prompt and its completion "
                "together; expected less"
            )
        if prompt is not None and completion is None and prompt < self._seq_len:
            completion = self._seq_len - prompt
        if prompt is not None and completion is not None and prompt + completion != self._seq_len:
            raise ConfigError(
                f"max_prompt_length = {prompt} and max_completion_length = {completion} make {prompt + completion}, "
                f"but max_length = {self._seq_len}; expected the sum, or one of the three left out"
            )
        return {"max_prompt_length": prompt, "max_completion_length": completion}

    def _reference(self, where: str) -> dict[str, Any]:
        reference = self._given.reference
        source = _with_revision(reference.source, reference.revision) if reference else self._values["reference"]
        return {} if source is None else {"reference": model_of(str(source), where)}


def _with_revision(source: str, revision: str | None) -> str:
    return source if revision is None or Path(source).expanduser().is_dir() else f"{source}@{revision}"


def _plain_name(text: str) -> str:
    """The last part of a path or hub id, in the characters that step names may have."""
    last = text.partition("@")[0].rstrip("/").rpartition("/")[2]
    return "".join(c if c.isascii() and (c.isalnum() or c in "._+-") else "-" for c in last).strip("-._") or "model"
