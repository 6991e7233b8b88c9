"""`marin.processing.tokenize` with only the package's name changed: what `marin_sft.data` has, by Marin's names."""

from marin_sft.data.data_configs import (
    add_validation_sets_to_mixture,
    interpolate_mixture_weights,
    lm_data_config,
    lm_mixture_data_config,
    lm_varying_mixture_data_config,
    mixture_for_evaluation,
)
from marin_sft.data.step_configs import TokenizeConfig

tokenize = TokenizeConfig.__step_body__
"""The function of such a step, for `ExecutorStep(name, fn=tokenize, config=TokenizeConfig(...))`."""

__all__ = [
    "TokenizeConfig",
    "add_validation_sets_to_mixture",
    "interpolate_mixture_weights",
    "lm_data_config",
    "lm_mixture_data_config",
    "lm_varying_mixture_data_config",
    "mixture_for_evaluation",
    "tokenize",
]
