"""`SFTConfig` and `DPOConfig`: what was said of a training, under the names of several libraries."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from marin_sft.errors import ConfigError
from marin_sft.trainers.enums import CHECKPOINTERS
from marin_sft.trainers.settings import (
    BY_NAME,
    REFUSED,
    SETTINGS,
    Dialect,
    Group,
    Setting,
    Value,
    check_possible,
    setting_named,
)

_SAID = "_said"
_ONLY_SFT = frozenset({"packing", "answers_only", "completion_only", "prompts_too", "z_loss_weight", "plain_prompts"})
DTYPES = ("dtype", "param_dtype", "attention_dtype", "softmax_dtype")
"""Settings that are a type of numbers."""

_DTYPES = {"float32": "float32", "bfloat16": "bfloat16", "fp32": "float32", "bf16": "bfloat16"}


class SFTConfig:
    """Settings of supervised fine-tuning, by the names of EasyDeL, TRL and transformers: see `settings`.

    Keeps only what was said. What was left out has the defaults of the library whose way of calling the trainer is
    used. Read as an attribute, it is the default of a training script.

    Raises:
        ConfigError: an unknown or refused setting, a value of the wrong type, or two spellings that disagree.
    """

    pairs: ClassVar[bool] = False

    def __init__(self, **settings: Value) -> None:
        object.__setattr__(self, _SAID, {})
        for name, value in settings.items():
            setattr(self, name, value)
        self.values(Dialect.SCRIPT)

    def __setattr__(self, name: str, value: Value) -> None:
        where = type(self).__name__
        if name in REFUSED and not value:
            return  # it is off, as here
        if name == "loss_type" and not self.pairs and value == "nll":
            return  # TRL's name for the loss of SFT
        setting = setting_named(name, where)
        check_possible(name, value, where)
        if setting is not None:
            if setting.group is Group.DPO and not self.pairs:
                raise ConfigError(f"{where}: {name} is a setting of preference training; expected DPOConfig")
            if setting.name in _ONLY_SFT and self.pairs and value not in (None, False):
                raise ConfigError(f"{where}: {name} = {value!r} has no meaning for pairs; expected it to be left out")
            value = checked(setting, value, f"{where}.{name}")
        for inside in value if name == "dataset_kwargs" and isinstance(value, dict) else ():
            setting_named(inside, f"{where}.{name}")
        self.said[name] = value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in self.said:
            return self.said[name]
        setting = setting_named(name, type(self).__name__)
        return None if setting is None else self.values(Dialect.SCRIPT)[setting.name]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.said.items())})"

    @property
    def said(self) -> dict[str, Value]:
        """What was said, by the names it was said with."""
        said: dict[str, Value] = self.__dict__[_SAID]
        return said

    def given(self) -> dict[str, tuple[str, Value]]:
        """What was said, by our names: the spelling, and the value. None counts only if nothing else was said.

        Raises:
            ConfigError: two spellings of one setting that disagree.
        """
        given: dict[str, tuple[str, Value]] = {}
        inside: Any = self.said.get("dataset_kwargs") or {}
        for spelling, value in (*self.said.items(), *inside.items()):
            setting = setting_named(spelling, type(self).__name__)
            if setting is None:
                continue
            other, before = given.get(setting.name, ("", None))
            if before is not None and value is not None and before != value:
                raise ConfigError(
                    f"{type(self).__name__}: {other} = {before!r} and {spelling} = {value!r} are the same setting; "
                    "expected one of them, or the same value"
                )
            if value is not None or not other:
                given[setting.name] = (spelling, value)
        return given

    def values(self, dialect: Dialect) -> dict[str, Any]:
        """All settings by our names, with the defaults of `dialect` where nothing was said."""
        given = self.given()
        values = {setting.name: setting.default(dialect, self.pairs) for setting in SETTINGS}
        return {**values, **{name: value for name, (_, value) in given.items() if _counts(name, value)}}

    def spelling(self, name: str) -> str:
        """The spelling in which a setting was given, or the usual one."""
        return self.given().get(name, (BY_NAME[name].names[0], None))[0]


class DPOConfig(SFTConfig):
    """Settings of direct preference optimisation. As `SFTConfig`."""

    pairs = True


# None means "off" for these, and "as usual" for all others.
_OFF = frozenset({"save_steps", "steps_per_eval", "max_grad_norm", "save_total_limit", "max_prompt_length"})


def _counts(name: str, value: Value) -> bool:
    return value is not None or name in _OFF


def checked(setting: Setting, value: Value, where: str) -> Value:
    """`value` in the type of the setting.

    Raises:
        ConfigError: a value of another type, or a number that is not finite.
    """
    kind = setting.kind
    if value is None or kind is object:
        return value
    if setting.name in DTYPES:
        return dtype_name(value, where)
    if setting.name == "gradient_checkpointing" and isinstance(value, str) and value in CHECKPOINTERS:
        return value
    if setting.name == "mesh" and not isinstance(value, str):
        return value
    if setting.name == "track_memory" and isinstance(value, bool):
        return value
    if kind is list:
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list | tuple):
            raise ConfigError(f"{where} = {value!r}: expected a string, or a list of them")
        return tuple(values)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if setting.name != "num_train_epochs" else value
    number = kind in (int, float)
    fits = isinstance(value, kind) or (kind is float and isinstance(value, int))
    if not fits or (number and (isinstance(value, bool) or not math.isfinite(value))):  # type: ignore[arg-type]
        raise ConfigError(f"{where} = {value!r}: expected {_EXPECTED[kind]}{_advice(value, number)}")
    return str(getattr(value, "value", value)) if kind is str else value


_EXPECTED: Mapping[type, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a finite number",
    str: "a string",
    dict: "a dictionary",
}


def _advice(value: Value, number: bool) -> str:
    return ", got a string: remove the quotes" if number and isinstance(value, str) else ""


def dtype_name(dtype: Value, where: str) -> str:
    """ "float32" or "bfloat16", of a name, or a type of JAX, NumPy or torch.

    Raises:
        ConfigError: another type.
    """
    text = str(getattr(dtype, "__name__", dtype)).removeprefix("torch.").removeprefix("jnp.")
    if text not in _DTYPES:
        raise ConfigError(f"{where} = {dtype!r}: expected float32 or bfloat16; float16 needs its loss scaled")
    return _DTYPES[text]
