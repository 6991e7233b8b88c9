"""What an experiment names as data, model or tokenizer -> a step, or a place in its output.

A string may be a path, a glob, or a hub id "org/name" or "org/name@revision" (see `hub_revisions`) to download.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from marin_sft.data.adapters import UnchangedAdapter
from marin_sft.data.sources import HfDataset
from marin_sft.data.step_configs import TOKENIZER_FILES, DownloadConfig, TransformConfig
from marin_sft.errors import ConfigError
from marin_sft.execution.step import ExecutorStep, InputName
from marin_sft.inputs import Source
from marin_sft.paths import nearest_path
from marin_sft.recipes.hub_revisions import id_and_revision
from marin_sft.steps import transform
from marin_sft.training.train_config import TrainConfig

MODEL_FILES = ("*.safetensors", "*.safetensors.index.json", "generation_config.json", *TOKENIZER_FILES)
"""The files of a model's repository that training reads: weights as safetensors, config.json and the tokenizer."""

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?", re.ASCII)
_HELD_OUT = re.compile(r"(?<![a-zA-Z])(test|validation)(?![a-zA-Z])")


def default_download(
    name: str,
    hf_dataset_id: str,
    revision: str,
    override_output_path: str | None = None,
    *,
    kind: str = "dataset",
    allow_patterns: Sequence[str] = (),
    ignore_patterns: Sequence[str] = (),
) -> ExecutorStep[DownloadConfig]:
    """`{name}`: the files of a repository on the Hugging Face Hub, `kind` "dataset" or "model", at a revision.

    `allow_patterns`, `ignore_patterns`: globs over its files. No `allow_patterns`: all files.
    """
    config = DownloadConfig(
        id=hf_dataset_id,
        kind=kind,
        revision=revision,
        allow_patterns=tuple(allow_patterns),
        ignore_patterns=tuple(ignore_patterns),
    )
    description = f"{hf_dataset_id} at {revision}"
    return ExecutorStep(name, config=config, description=description, override_output_path=override_output_path)


def model_step(hub_id: str) -> ExecutorStep[DownloadConfig]:
    """`models/{org--name}`: a model on the Hub, "org/name" or "org/name@revision", with its tokenizer."""
    id, revision = id_and_revision(hub_id)
    return default_download(f"models/{id.replace('/', '--')}", id, revision, kind="model", allow_patterns=MODEL_FILES)


def tokenizer_step(hub_id: str) -> ExecutorStep[DownloadConfig]:
    """`tokenizers/{org--name}`: the tokenizer of a model on the Hub, "org/name" or "org/name@revision"."""
    id, revision = id_and_revision(hub_id)
    return default_download(
        f"tokenizers/{id.replace('/', '--')}", id, revision, kind="model", allow_patterns=TOKENIZER_FILES
    )


def rows_of(dataset: Source | HfDataset, split: str) -> Source:
    if isinstance(dataset, str) and is_hub_id(dataset):
        dataset = HfDataset(*id_and_revision(dataset), split=split)
    if not isinstance(dataset, HfDataset):
        return dataset
    name = dataset.id.replace("/", "--")
    raw = default_download(f"raw/{name}", dataset.id, dataset.revision or id_and_revision(dataset.id)[1])
    subsets = () if dataset.subset is None else (dataset.subset,)
    rows = transform(name, raw, source=dataset.id, adapter=UnchangedAdapter(), subsets=subsets, splits=(dataset.split,))
    return rows / "**/*.jsonl.gz"


def model_of(model: Source, where: str) -> Source:
    """The directory of a Hugging Face model: the download of a hub id, or the `model` of a training step."""
    if isinstance(model, ExecutorStep) and isinstance(model.config, TrainConfig):
        return model / "model"
    if isinstance(model, str) and is_hub_id(model):
        return model_step(model)
    if isinstance(model, str) and "://" not in model and not Path(model).expanduser().is_dir():
        raise ConfigError(
            f"{where}: base model {model!r}; expected a step, an existing directory, or a hub id 'org/name'"
            f"{nearest_path(model)}"
        )
    return model


def tokenizer_of(tokenizer: Source, where: str) -> Source:
    if not isinstance(tokenizer, str) or "://" in tokenizer:
        return tokenizer
    if Path(tokenizer).expanduser().is_dir():
        return tokenizer
    if is_hub_id(tokenizer):
        return tokenizer_step(tokenizer)
    raise ConfigError(
        f"{where}: tokenizer={tokenizer!r}; expected a step, an existing directory, or a hub id 'org/name'"
        f"{nearest_path(tokenizer)}"
    )


def is_hub_id(text: str) -> bool:
    """Whether `text` is "org/name" or "org/name@revision", and not an existing path."""
    return _HUB_ID.fullmatch(text) is not None and not Path(text).exists()


def refuse_held_out(dataset: Source | HfDataset, where: str) -> None:
    for text in _names_of(dataset):
        if _HELD_OUT.search(text):
            raise ConfigError(
                f"{where}: would train on {text!r}, which is called test or validation; name the training data, or set "
                "is_validation=True or allow_test_in_train=True"
            )


def _names_of(dataset: Source | HfDataset) -> list[str]:
    """The names of all that `dataset` would train on, as far as planning can tell."""
    if isinstance(dataset, HfDataset):
        return [dataset.split]
    if isinstance(dataset, str | Path):
        return [str(dataset)]
    name = dataset.name or "" if isinstance(dataset, InputName) else ""
    step = dataset.step if isinstance(dataset, InputName) else dataset
    # A glob over the whole output of a transform step takes all its splits.
    takes_all = name == "" or name.startswith("**")
    transformed = step is not None and isinstance(step.config, TransformConfig)
    return [name, *(step.config.splits if takes_all and transformed and step is not None else ())]
