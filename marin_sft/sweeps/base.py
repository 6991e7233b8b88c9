"""The training that a sweep varies: a step, whose settings are replaced, or a function from settings to a step."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from marin_sft.errors import ConfigError
from marin_sft.execution.step import ExecutorStep, InputName
from marin_sft.inputs import check_step
from marin_sft.nearest import nearest_text
from marin_sft.sweeps.points import Settings
from marin_sft.training.dpo_config import DPOConfig, DPOSettings
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.other_names import INSTEAD
from marin_sft.training.sft_config import Terms
from marin_sft.training.step_inputs import check_devices, check_length
from marin_sft.training.train_config import TrainConfig, TrainingSettings

Base = ExecutorStep[Any] | Callable[..., ExecutorStep[Any]]
Trained = TypeVar("Trained", bound=TrainConfig)

_FUNCTION = (
    "to vary it, give sweep() a function from settings to a step: sweep(lambda **settings: dpo(..., **settings), ...)"
)
_OF_REFERENCE = ("precision", "rope_scaling", "reference_free", "ref_model_sync_steps", "reinit_tokens")
_NOT_ALONE = ("hf_exports_kept", "save_optimizer_state", "stop_after")  # what they keep is no setting of training


def check_names(what: str, base: Base, names: list[str]) -> None:
    """Raise ConfigError for a setting that `base` does not have, or that would not change its result."""
    if not isinstance(base, ExecutorStep):
        _check_arguments(what, base, names)
        return
    check_step(f"{what}: base", base, TrainConfig, "sft() or dpo()")
    known, without_effect = _settings_of(base.config)
    for name in names:
        if name in without_effect:
            raise ConfigError(f"{what}: over has {name!r}, which cannot change the result; expected settings that can")
        if isinstance(base.config, DPOConfig) and name in (*_OF_REFERENCE, "lora.adapter_path"):
            raise ConfigError(
                f"{what}: over has {name!r}, on which the reference of {base.name!r} depends; {_FUNCTION}"
            )
        if name.startswith("lora.") and base.config.lora is None:
            raise ConfigError(
                f"{what}: over has {name!r}, but '{base.name}' trains no adapter; give it lora=LoraConfig(...)"
            )
        if name not in known:
            of_others = {"mixture", "weights", "base_model", "seq_len", "tokenizer", "reference"}
            answer = _FUNCTION if name in of_others else INSTEAD.get(name, "")
            said = f"; {answer}" if answer else nearest_text(name, known)
            raise ConfigError(f"{what}: over has {name!r}, which is no setting of the training '{base.name}'{said}")


def _check_arguments(what: str, base: object, names: list[str]) -> None:
    if not callable(base):
        raise ConfigError(
            f"{what}: base = {base!r}; expected a step that sft() or dpo() has made, or a function from settings to one"
        )
    parameters = inspect.signature(base).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return  # what takes them says which it does not know
    for name in names:
        if name not in parameters:
            raise ConfigError(
                f"{what}: over has {name!r}, which the function does not take{nearest_text(name, parameters)}"
            )


def _settings_of(config: TrainConfig) -> tuple[list[str], set[str]]:
    """The settings that can be varied, and those that cannot change a result."""
    parts = (TrainingSettings, Terms, DPOSettings)
    declared = {field.name for part in parts for field in dataclasses.fields(part)} - set(_NOT_ALONE)
    own = [field for field in dataclasses.fields(config) if field.name in declared]
    without = {field.name for field in own if field.metadata.get("execution_only")}
    counted = [field.name for field in own if field.name not in without]
    nested = [f"lora.{field.name}" for field in dataclasses.fields(LoraConfig)]
    return [*counted, *nested], without


def over_of(what: str, over: object) -> Any:
    """`over` with the names that SimpleSFTConfig has for fields of LoraConfig, such as lora_r, as lora.r."""
    known = {f"lora_{field.name}": f"lora.{field.name}" for field in dataclasses.fields(LoraConfig)}
    if isinstance(over, Mapping):
        named = {known.get(name, name): values for name, values in over.items()}
        if len(named) < len(over):
            raise ConfigError(f"{what}: over has {sorted(over)}, and one setting under two names; expected one")
        return named
    if isinstance(over, Sequence) and all(isinstance(one, Mapping) for one in over):
        return [over_of(what, one) for one in over]
    return over  # refused with the points


def trained(what: str, base: Base, settings: Settings, title: str) -> ExecutorStep[Any]:
    """The training with these settings.

    title: of the model card of exports while it trains.

    Raises:
        ConfigError: what the training refuses, with the settings.
    """
    shown = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    try:
        if isinstance(base, ExecutorStep):
            config = with_settings(base.config, settings, title)
            check_devices(what, base.resources, vars(config))
            mixture = getattr(config.mixture, "step", None) or config.mixture
            if isinstance(mixture, ExecutorStep):
                check_length(mixture, vars(config))
            return dataclasses.replace(base, config=config)
        made = base(**settings)
    except ConfigError as error:
        raise ConfigError(f"{what}: with {shown}: {error}") from error
    check_step(f"{what}: the function, with {shown}", made, TrainConfig, "sft() or dpo()")
    return made


def with_settings(config: Trained, settings: Settings, title: str | None = None) -> Trained:
    """The config with these settings; those of adapters as `lora.r`. The cards of its exports tell them.

    Raises:
        ConfigError: for values that cannot be used.
    """
    fields = {name: value for name, value in settings.items() if not name.startswith("lora.")}
    of_lora = {name.removeprefix("lora."): value for name, value in settings.items() if name.startswith("lora.")}
    if of_lora and config.lora is not None:
        fields["lora"] = dataclasses.replace(config.lora, **of_lora)
    exports: Any = config.hf_exports
    if exports is not None:
        card = dataclasses.replace(
            exports.card,
            title=title or exports.card.title,
            hyperparameters={**exports.card.hyperparameters, **plain(settings)},
        )
        fields["hf_exports"] = dataclasses.replace(exports, card=card)
    return dataclasses.replace(config, **fields)


def content_of(value: Any, known: dict[int, object]) -> object:
    """Equal for configs that say the same, also by way of other steps. known: the contents of steps, by their ids."""
    if isinstance(value, InputName):
        return "input", value.name, content_of(value.step, known)
    if isinstance(value, ExecutorStep):
        if id(value) not in known:
            known[id(value)] = "step", value.name, content_of(value.config, known)
        return known[id(value)]
    if dataclasses.is_dataclass(value):
        fields = (content_of(getattr(value, field.name), known) for field in dataclasses.fields(value))
        return type(value), *fields
    if isinstance(value, Mapping):
        return tuple((key, content_of(item, known)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return tuple(content_of(item, known) for item in value)
    return repr(value)


def plain(settings: Settings) -> dict[str, object]:
    """Settings as a model card tells them."""
    named = {name.replace(".", "_"): value for name, value in settings.items()}
    return {name: value for name, value in named.items() if isinstance(value, bool | int | float | str)}
