"""The data of a training run -> one `LmDataConfig`. Checks that it was tokenized as the run expects."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from marin_sft.data.data_configs import LmDataConfig, lm_data_config, lm_mixture_data_config
from marin_sft.data.step_configs import DownloadConfig, TokenizeConfig
from marin_sft.errors import ConfigError
from marin_sft.execution.step import ExecutorStep, InputName
from marin_sft.inputs import Source
from marin_sft.recipes.conversion import Arguments

Tokenized = ExecutorStep[TokenizeConfig] | InputName | LmDataConfig | Mapping[str, ExecutorStep[TokenizeConfig]]


def training_data(
    where: str,
    tokenized: Tokenized,
    weights: Mapping[str, float] | None = None,
    *,
    stop_strategy: str | None = None,
    mixture_block_size: int | None = None,
) -> LmDataConfig:
    """`tokenized` as a mixture: one tokenization step, several by name with their `weights`, or a mixture.

    `stop_strategy`, `mixture_block_size`: None: those of the mixture, else the defaults.

    Raises:
        ConfigError: weights for one dataset, none for several, or settings that contradict the mixture.
    """
    options: Arguments = {"stop_strategy": stop_strategy, "mixture_block_size": mixture_block_size}
    given = {name: value for name, value in options.items() if value is not None}
    if isinstance(tokenized, LmDataConfig):
        return _with_settings(where, tokenized, weights, given)
    if isinstance(tokenized, Mapping):
        if weights is None:
            raise ConfigError(
                f"{where}: got {len(tokenized)} tokenized datasets without mixture_weights; expected one for each"
            )
        return lm_mixture_data_config(tokenized, weights, **given)
    if weights is not None:
        raise ConfigError(
            f"{where}: got mixture_weights={dict(weights)} for one dataset; expected tokenized={{name: step, ...}}, or "
            "no weights"
        )
    given.pop("mixture_block_size", None)  # makes no difference for one dataset
    if isinstance(tokenized, InputName) and tokenized.step is not None and tokenized.name is None:
        tokenized = tokenized.step
    if isinstance(tokenized, ExecutorStep):
        return lm_data_config(tokenized, **given)
    return lm_mixture_data_config({"data": tokenized}, {"data": 1.0}, **given)


def _with_settings(
    where: str, data: LmDataConfig, weights: Mapping[str, float] | None, settings: Arguments
) -> LmDataConfig:
    positive = [{name: weight for name, weight in some.items() if weight} for _, some in data.train_weights]
    if weights is not None and [{name: weight for name, weight in weights.items() if weight}] != positive:
        raise ConfigError(
            f"{where}: mixture_weights={dict(weights)}, but the mixture has {positive}; expected the same, or "
            "no mixture_weights"
        )
    defaults = {field.name: field.default for field in dataclasses.fields(LmDataConfig)}
    for name, value in settings.items():
        if getattr(data, name) not in (value, defaults[name]):
            raise ConfigError(
                f"{where}: {name}={value!r}, but the mixture has {getattr(data, name)!r}; expected the same, or "
                "only one of the two"
            )
    return dataclasses.replace(data, **settings)


def check_tokenization(
    where: str, data: LmDataConfig, *, tokenizer: Source | None, input_role: str | None, output_role: str | None
) -> None:
    """Compare with the tokenization of the training components of `data`. None: not compared.

    Raises:
        ConfigError: another tokenizer or other role names, or a component for which they are unknown.
    """
    expected = {"input_role": input_role, "output_role": output_role, "tokenizer": _source_of(tokenizer)}
    expected = {name: value for name, value in expected.items() if value is not None}
    for component in data.training if expected else ():
        config = tokenization_of(data.tokenized[component])
        if config is None:
            raise ConfigError(
                f"{where}: cannot tell how {component!r} was tokenized ({data.tokenized[component]!r} is not a step); "
                f"leave out {', '.join(expected)}"
            )
        format = config.format.as_chat()
        found: dict[str, object] = {"input_role": format.input_field, "output_role": format.output_field}
        found["tokenizer"] = _source_of(config.tokenizer)
        for name, value in expected.items():
            if found[name] != value:
                raise ConfigError(
                    f"{where}: {name}={value!r}, but {component!r} was tokenized with {found[name]!r}; expected the "
                    "same: change it here or in the format or tokenizer of its default_tokenize"
                )


def tokenization_of(source: object) -> TokenizeConfig | None:
    """The config of the step that makes a token cache. None if it is not a step of ours."""
    step = source.step if isinstance(source, InputName) else source
    config = getattr(step, "config", None)
    return config if isinstance(config, TokenizeConfig) else None


def _source_of(tokenizer: object) -> object:
    """What identifies a tokenizer: for a download, the repository and its commit, not the files that were fetched."""
    if isinstance(tokenizer, ExecutorStep) and isinstance(tokenizer.config, DownloadConfig):
        return f"{tokenizer.config.id}@{tokenizer.config.revision}"
    return tokenizer if tokenizer is None or isinstance(tokenizer, ExecutorStep | InputName) else str(tokenizer)
