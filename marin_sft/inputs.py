"""The inputs of a step: as users specify them, and as they are in the step's config."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from marin_sft.errors import ConfigError
from marin_sft.execution.step import AnyStep, ExecutorStep, InputName

Source = AnyStep | InputName | str | Path
"""A step, a place in its output, or a path or glob. A config's path field takes one; it is resolved to a string."""


def path_of(source: Source) -> Any:
    """`source` for use in a config. Local files become a `Path`, so that they count by content.

    Typed Any, since the step function gets a string.
    """
    if isinstance(source, str) and not source.strip():
        raise ConfigError(f"expected a path, a glob or a step, got {source!r}, which would be the working directory")
    if isinstance(source, str) and source.startswith("file://"):
        source = source.removeprefix("file://")
    return Path(source).expanduser() if isinstance(source, str) and "://" not in source else source


def paths_of(sources: Source | Sequence[Source]) -> tuple[Any, ...]:
    return tuple(map(path_of, (sources,) if isinstance(sources, ExecutorStep | InputName | str | Path) else sources))


def last_part(source: Source) -> str:
    """The last part of the name of a step or path. For a place in a step's output, that of the step."""
    if isinstance(source, InputName) and source.step is not None:
        source = source.step
    name = source.name if isinstance(source, ExecutorStep) else str(source)
    return name.rstrip("/").rpartition("/")[2]


def check_step(where: str, given: object, of: type, maker: str) -> None:
    """Raise ConfigError unless `given` is a step whose config is an `of`. `maker`: the function that makes such."""
    if isinstance(given, ExecutorStep) and isinstance(given.config, of):
        return
    got = f"the step '{given.name}'" if isinstance(given, ExecutorStep) else repr(given)
    raise ConfigError(f"{where}: expected a step that {maker} has made, got {got}")
