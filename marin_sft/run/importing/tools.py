"""Which tool a YAML file is for, and the experiment for it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from marin_sft.errors import ConfigError, UserError
from marin_sft.run.importing.axolotl import read_axolotl
from marin_sft.run.importing.config_file import Section, read_config
from marin_sft.run.importing.draft import Draft, Note
from marin_sft.run.importing.experiment_file import experiment_source, training_defaults
from marin_sft.run.importing.llama_factory import read_llama_factory
from marin_sft.run.importing.torchtune import COMPONENT, read_torchtune
from marin_sft.training.dpo_config import DPOConfig, needs_reference
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.sft_config import SFTConfig

_LLAMA_FACTORY = ("stage", "finetuning_type", "template", "dataset")
_OF_STEPS = ("steps_per_hf_export", "hf_exports_kept", "seed")


@dataclass(frozen=True)
class Imported:
    """The experiment, and what there is to say about it."""

    draft: Draft
    source: str


def import_config(path: str, output: str) -> Imported:
    """The experiment for the YAML at `path`; `output` is where the file will be.

    Raises:
        UserError: a file of no known tool, an unsupported training, or a value that cannot be used.
    """
    draft = read_draft(read_config(path))
    return Imported(draft, experiment_source(draft, output))


def read_draft(config: Section) -> Draft:
    """Raises UserError: see `import_config`."""
    if config.has("base_model"):
        draft = read_axolotl(config)
    elif config.has("model_name_or_path") and any(config.has(key) for key in _LLAMA_FACTORY):
        draft = read_llama_factory(config)
    elif any(COMPONENT in section for section in _sections(config)):
        draft = read_torchtune(config)
    else:
        raise UserError(
            f"{config.file}: not a config of a known tool: expected base_model (axolotl), {COMPONENT} "
            f"(torchtune), or model_name_or_path with {' or '.join(_LLAMA_FACTORY)} (LLaMA-Factory); its keys are "
            f"{', '.join(list(config)[:12]) or 'none'}"
        )
    if "steps_per_eval" in draft.training:
        draft.training.pop("do_eval", None)
    _drop_settings(draft)
    _note_devices(draft)
    _note_weights(draft)
    _check(draft)
    return draft


def _sections(value: object) -> Iterator[Section]:
    if isinstance(value, Section):
        yield value
        value = list(value.values())
    for inner in value if isinstance(value, list) else ():
        yield from _sections(inner)


def _drop_settings(draft: Draft) -> None:
    """Drop and note settings that the kind of training does not have."""
    for name in sorted(draft.training.keys() - training_defaults(draft.kind).keys()):
        del draft.training[name]
        draft.notes.append(Note(0, name, "", f"left out; {draft.kind.upper()} has no such setting"))


def _note_devices(draft: Draft) -> None:
    if draft.devices is None:
        text = f"DEVICES = 1; set it to the number that {draft.tool} ran on, or the batch is smaller than there"
        draft.note_default("number of devices", text)


def _note_weights(draft: Draft) -> None:
    rows = draft.training_rows
    apart = any(one.format != rows[0].format or one.most is not None for one in rows)
    if len(rows) > 1 and apart and any(one.share is None and one.count() is None for one in rows):
        text = f"{draft.tool} trains on all rows; in weights, write the number of rows of each where it says 1"
        draft.note_default("sizes of the datasets", text)
    if any(one.most is not None and not one.on_hub for one in rows):
        draft.note(draft.config, "max_samples", "of a file, max_documents draws rows, and does not take the first")
    number = draft.mixture.get("num_validation_sequences")
    if number is not None and len(rows) > 1:
        draft.note_default("rows to keep out of each dataset", "all of them are taken from the first")


def _check(draft: Draft) -> None:
    """Raise UserError for settings that the step would refuse."""
    settings = {name: value for name, value in draft.training.items() if name not in _OF_STEPS}
    batch = {"train_batch_size": draft.micro_batch * draft.accumulate * (draft.devices or 1)}
    try:
        lora = None if draft.lora is None else LoraConfig(**draft.lora)
        common: dict[str, Any] = {
            "mixture": "",
            "tokenized": {},
            "base_model": os.devnull,
            "lora": lora,
            **batch,
            **settings,
        }
        if draft.kind == "sft":
            SFTConfig(**common)
        else:
            compared = "" if needs_reference(settings["loss_type"], False) else None
            DPOConfig(**common, reference_logprobs=compared)
    except ConfigError as error:
        raise UserError(f"{_origin(draft, str(error))}: {error}") from error


def _origin(draft: Draft, message: str) -> str:
    """Where the file gives the setting that a message is about, or the file."""
    setting = re.search(r"\.(\w+) = ", message)
    origins = {ours: where for section in _sections(draft.config) for ours, where in section.origins.items()}
    return origins.get(setting[1], draft.file) if setting else draft.file
