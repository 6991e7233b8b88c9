"""The usual steps with the usual settings, under Marin's names.

raw = default_download("raw/chats", hf_dataset_id="org/chats", revision="1a2b3c4")
tokens = default_tokenize("chats", raw / "train/*.jsonl.gz", tokenizer=llama3_tokenizer, format=ChatLmDatasetFormat())
trained = default_sft("chatty", tokens, llama_8b, SimpleSFTConfig(tpu_type="v4-128", model_name_or_path="org/base"))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from marin_sft.data.data_configs import LmDataConfig
from marin_sft.data.formats import ChatLmDatasetFormat
from marin_sft.data.levanter_formats import from_levanter
from marin_sft.data.sources import HfDataset
from marin_sft.data.step_configs import TokenizeConfig
from marin_sft.errors import ConfigError
from marin_sft.execution.resources import Resources
from marin_sft.execution.step import ExecutorStep
from marin_sft.inputs import Source
from marin_sft.recipes.conversion import Arguments
from marin_sft.recipes.simple_configs import (
    FineTuning,
    SimpleConfig,
    SimpleDPOConfig,
    SimpleSFTConfig,
    SimpleTrainConfig,
)
from marin_sft.recipes.sources import (
    MODEL_FILES,
    TOKENIZER_FILES,
    default_download,
    model_of,
    model_step,
    refuse_held_out,
    rows_of,
    tokenizer_of,
    tokenizer_step,
)
from marin_sft.recipes.training_data import Tokenized, check_tokenization, tokenization_of, training_data
from marin_sft.steps import dpo, mixture, random_model, sft, tokenize
from marin_sft.training.dpo_config import DPOConfig
from marin_sft.training.metrics.trackers import with_tags
from marin_sft.training.models import LlamaConfig
from marin_sft.training.models.levanter_configs import from_levanter as from_levanter_model
from marin_sft.training.sft_config import SFTConfig

__all__ = [
    "MODEL_FILES",
    "TOKENIZER_FILES",
    "default_download",
    "default_dpo",
    "default_sft",
    "default_tokenize",
    "default_train",
    "model_step",
    "tokenizer_step",
]


def default_tokenize(
    name: str,
    dataset: Source | HfDataset,
    tokenizer: Source,
    format: object = None,
    *,
    is_validation: bool = False,
    allow_test_in_train: bool = False,
    max_dropped: float = 0.05,
    resources: Resources | None = None,
) -> ExecutorStep[TokenizeConfig]:
    """`tokenized/{name}`: a token cache with masks.

    Args:
        dataset: a step, a place in its output, a path or a glob; or a dataset on the Hub: "org/name",
            "org/name@revision", or an `HfDataset`. By name, its train split is taken (for validation, the validation
            split). An existing path is never a hub id.
        tokenizer: a step, a directory, or a hub id as above.
        format: ours or Levanter's; None is `ChatLmDatasetFormat()`.
        is_validation: these rows are for validation only.
        allow_test_in_train: train on paths and splits with "test" or "validation" in their names.
        max_dropped: the share of rows that may be unusable.

    Raises:
        ConfigError: training data that is named test or validation, or a string that is neither files nor a hub id.
    """
    where = f"default_tokenize('{name}')"
    if not is_validation and not allow_test_in_train:
        refuse_held_out(dataset, where)
    rows = rows_of(dataset, "validation" if is_validation else "train")
    return tokenize(
        name,
        () if is_validation else rows,
        tokenizer=tokenizer_of(tokenizer, where),
        format=ChatLmDatasetFormat() if format is None else from_levanter(format),
        validation=rows if is_validation else (),
        max_dropped=max_dropped,
        resources=resources,
    )


def default_train(
    name: str,
    tokenized: Tokenized,
    model_config: object,
    train_config: SimpleTrainConfig,
    tags: Sequence[str] = (),
    *,
    base_model: Source | None = None,
) -> ExecutorStep[SFTConfig]:
    """`checkpoints/{name}_seed{seed}`: a model trained on `tokenized`, from `base_model` or from random weights.

    Args:
        tokenized: a tokenization step, or a mixture from `lm_mixture_data_config` or a similar function.
        model_config: the shape, ours or Levanter's, which `base_model` must have when training starts. None: that of
            `base_model`.
        tags: kept in the step's description, and passed to `WandbConfig`.
        base_model: a step, a directory, or a hub id "org/name" or "org/name@revision".

    Raises:
        ConfigError: settings that contradict each other.
    """
    where = f"default_train('{name}')"
    return _fine_tuned(where, name, training_data(where, tokenized), model_config, train_config, base_model, tags)


def default_sft(
    name: str,
    tokenized: Tokenized,
    model_config: object,
    sft_config: SimpleSFTConfig,
    mixture_weights: Mapping[str, float] | None = None,
    tags: Sequence[str] = (),
) -> ExecutorStep[SFTConfig]:
    """`checkpoints/{name}_seed{seed}`: the model of `sft_config` fine-tuned on `tokenized`.

    Args:
        tokenized: a tokenization step; several by name, with `mixture_weights`; or a mixture from
            `lm_mixture_data_config` or a similar function.
        model_config: see `default_train`.
        mixture_weights: by name of the dataset, its share of the *documents*. (In Marin, weights count packed rows: for
            that, pass `lm_mixture_data_config(..., weights_are="rows")`.) If `tokenized` is a mixture, they must equal
            its own.

    Raises:
        ConfigError: data tokenized differently than `sft_config` says, or settings that contradict each other.
    """
    where = f"default_sft('{name}')"
    data = training_data(where, tokenized, mixture_weights, **sft_config.mixing())
    _check_tokenization(where, data, sft_config)
    return _fine_tuned(where, name, data, model_config, sft_config, sft_config.base_model(), ("sft", *tags))


def default_dpo(
    name: str,
    tokenized: Tokenized,
    model_config: object,
    dpo_config: SimpleDPOConfig,
    mixture_weights: Mapping[str, float] | None = None,
    tags: Sequence[str] = (),
) -> ExecutorStep[DPOConfig]:
    """`checkpoints/{name}_seed{seed}`: the model of `dpo_config` trained to prefer the chosen answers of `tokenized`.

    Args:
        tokenized: as for `default_sft`, with preference pairs.
        model_config: see `default_train`.
        mixture_weights: by name of the dataset, its share of the pairs.
        tags: kept in the step's description, and passed to `WandbConfig`.

    Experiments on the same data and model that differ in losses, beta or learning rates share one mixture and one
    computation of the reference's log-probabilities.

    Raises:
        ConfigError: data tokenized differently than `dpo_config` says, or settings that contradict each other.
    """
    where = f"default_dpo('{name}')"
    data = training_data(where, tokenized, mixture_weights)
    if dpo_config.held_out() and not _keeps_some_out(data):
        data = dataclasses.replace(data, validation_fraction=dpo_config.held_out())
    _check_tokenization(where, data, dpo_config)
    reference, tags = dpo_config.reference(), ("dpo", *tags)
    trained = dpo(
        name,
        mixture=mixture(f"pairs_{'_'.join(data.training)}", data, **dpo_config.lengths()),
        base_model=model_of(dpo_config.base_model(), where),
        reference=None if reference is None else model_of(reference, where),
        expected_model=None if model_config is None else from_levanter_model(model_config, scaled_rope=True),
        **_arguments(dpo_config, tags),
    )
    return dataclasses.replace(trained, description=_description(name, tags))


def _fine_tuned(
    where: str,
    name: str,
    data: LmDataConfig,
    model_config: object,
    config: SimpleTrainConfig | SimpleSFTConfig,
    base_model: Source | None,
    tags: Sequence[str],
) -> ExecutorStep[SFTConfig]:
    """`base_model` None: random weights."""
    shape = None if model_config is None else from_levanter_model(model_config, scaled_rope=base_model is not None)
    seq_len = config.seq_len() or (None if shape is None else shape.max_seq_len)
    if seq_len is None:
        raise ConfigError(
            f"{where}: got neither model_config nor train_seq_len; expected one of them, for the length of rows"
        )
    if shape is not None and seq_len > shape.max_seq_len:
        raise ConfigError(
            f"{where}: rows of {seq_len} tokens, but the model config's max_seq_len is {shape.max_seq_len}; expected "
            "at most that: dataclasses.replace(model_config, max_seq_len=...) if the model can take more"
        )
    if base_model is None:
        base_model = _random_weights(where, name, data, shape, config.seed)
    trained = sft(
        name,
        mixture=mixture(name, data, seq_len=seq_len),
        base_model=model_of(base_model, where),
        expected_model=shape,
        **_arguments(config, tags),
    )
    return dataclasses.replace(trained, description=_description(name, tags))


def _arguments(config: SimpleConfig, tags: Sequence[str]) -> Arguments:
    """Arguments of the step. Adds the tags to the trackers."""
    return {**config.arguments(), "trackers": with_tags(config.trackers, tags)}


def _check_tokenization(where: str, data: LmDataConfig, config: FineTuning) -> None:
    expected = config.tokenization()
    if expected["tokenizer"] is not None:
        expected["tokenizer"] = tokenizer_of(expected["tokenizer"], where)
    check_tokenization(where, data, **expected)


def _keeps_some_out(data: LmDataConfig) -> bool:
    """Whether `data` itself says what to validate on."""
    only_validated = data.tokenized.keys() - set(data.training)
    return bool(data.validation_fraction or data.num_validation_sequences or only_validated)


def _description(name: str, tags: Sequence[str]) -> str:
    return f"Training of {name}" + (f"; tags: {', '.join(tags)}" if tags else "")


def _random_weights(where: str, name: str, data: LmDataConfig, shape: LlamaConfig | None, seed: int) -> Source:
    tokens = tokenization_of(data.tokenized[data.training[0]])
    if shape is None or tokens is None:
        raise ConfigError(f"{where}: no base_model; expected one, or a model_config and data from a tokenization step")
    return random_model(name, shape, tokenizer=tokens.tokenizer, seed=seed)
