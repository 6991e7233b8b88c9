"""Checks of config values that read the same everywhere."""

from __future__ import annotations

import re
from typing import Any

from marin_sft.errors import ConfigError
from marin_sft.execution.step import UnversionedValue


def unresolved(config: Any) -> bool:
    """True while a field is still wrapped in `unversioned`: its checks run again once it is plain."""
    return any(isinstance(value, UnversionedValue) for value in vars(config).values())


def require(config: Any, field: str, holds: bool, expected: str) -> None:
    """Raise ConfigError, naming the field, what it is and what was expected, unless `holds`."""
    if not holds:
        raise ConfigError(f"{type(config).__name__}.{field} = {getattr(config, field)!r}: expected {expected}")


def require_pattern(config: Any, field: str, pattern: str) -> None:
    """Raise ConfigError, naming the field, unless `pattern`, which is in it, is a regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        require(config, field, False, f"a regular expression; {error}")
