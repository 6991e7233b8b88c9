"""Levanter's format objects -> ours. Does not import Levanter: goes by the name of the class and its fields."""

from __future__ import annotations

import dataclasses
from typing import get_args

from marin_sft.data.formats import (
    ChatLmDatasetFormat,
    LmDatasetFormat,
    PrebuiltLmDatasetFormat,
    PreferenceChatLmDatasetFormat,
    SupervisedLmDatasetFormat,
    TextLmDatasetFormat,
)
from marin_sft.errors import ConfigError

_OURS: dict[str, type[LmDatasetFormat]] = {
    "TextLmDatasetFormat": TextLmDatasetFormat,
    "SupervisedLmDatasetFormat": SupervisedLmDatasetFormat,
    "PrebuiltLmDatasetFormat": PrebuiltLmDatasetFormat,
    "PreferenceChatLmDatasetFormat": PreferenceChatLmDatasetFormat,
    "ChatLmDatasetFormat": ChatLmDatasetFormat,
}


def from_levanter(given: object) -> LmDatasetFormat:
    """`given` as one of our formats: ours unchanged, Levanter's converted.

    Raises:
        ConfigError: another object, or a field with no equivalent here.
    """
    if isinstance(given, get_args(LmDatasetFormat)):
        return given
    name = type(given).__name__
    if name not in _OURS or not dataclasses.is_dataclass(given):
        raise ConfigError(f"format={given!r}; expected one of {', '.join(_OURS)}")
    said = {f.name: getattr(given, f.name) for f in dataclasses.fields(given) if not _is_default(given, f)}
    # In Levanter, these two are names of row keys.
    if said.get("chat_template_kwargs") == "chat_template_kwargs":
        del said["chat_template_kwargs"]
    if name == "ChatLmDatasetFormat" and said.get("system_prompt") is not None:
        said["columns"] = {"system": said.pop("system_prompt")}
    if said.get("pack") == "pad":
        said["pack"] = False  # one document per row
    ours = {f.name for f in dataclasses.fields(_OURS[name])}
    unknown = {field: value for field, value in said.items() if field not in ours or field == "chat_template_kwargs"}
    if unknown:
        raise ConfigError(f"format={given!r}: {unknown} cannot be carried over to our {name}; see its docstring")
    return _OURS[name](**said)


def _is_default(given: object, field: dataclasses.Field[object]) -> bool:
    value = getattr(given, field.name)
    if field.default_factory is not dataclasses.MISSING:
        return bool(value == field.default_factory())
    return field.default is not dataclasses.MISSING and bool(value == field.default)
