"""What a step is made from, as users give it, and as it stands in the step's config."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from marin_sft.errors import ConfigError
from marin_sft.execution.step import ExecutorStep, InputName

Source = ExecutorStep[Any] | InputName | str | Path
"""A step, a place in its output, or a path or glob: what a config's path field takes before it is resolved to a string.
"""


def path_of(source: Source) -> Any:
    """What stands in a config for `source`: local files count by content, which for the engine is a `Path`.

    Typed Any: the executor puts a string in its place before the step function sees the config.
    """
    if isinstance(source, str) and source.startswith("file://"):
        source = source.removeprefix("file://")
    return Path(source).expanduser() if isinstance(source, str) and "://" not in source else source


def paths_of(sources: Source | Sequence[Source]) -> tuple[Any, ...]:
    return tuple(map(path_of, (sources,) if isinstance(sources, ExecutorStep | InputName | str | Path) else sources))


def last_part(source: Source) -> str:
    """What a step, a place in its output or a path is called, without the folders before it."""
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
