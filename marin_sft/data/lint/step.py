"""The step `lint`, from what users name as rows to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from marin_sft.arguments import named_arguments
from marin_sft.data.data_configs import LmDataConfig
from marin_sft.data.formats import ChatLmDatasetFormat, LmDatasetFormat
from marin_sft.data.step_configs import LintConfig, MixtureConfig, RowSource, TokenizeConfig, TransformConfig
from marin_sft.errors import ConfigError
from marin_sft.execution.resources import CpuConfig, Resources
from marin_sft.execution.step import ExecutorStep, InputName
from marin_sft.inputs import Source, last_part, path_of, paths_of

ROWS = "**/*.jsonl.gz"
"""The rows in the output of a transform step, which also has files about them."""
Rows = Source | Sequence[Source]


@named_arguments()
def lint(
    name: str,
    rows: LmDataConfig | Mapping[str, Rows] | Rows,
    *,
    format: LmDatasetFormat | None = None,
    test_sets: Mapping[str, Rows] | None = None,
    tokenizer: Source | None = None,
    fail_above: Mapping[str, float] | None = None,
    resources: Resources | None = None,
    **options: Any,
) -> ExecutorStep[LintConfig]:
    """`lint/{name}`: what is wrong with rows: broken tool calls and thoughts, copies, leaked test prompts, outliers.

    rows: a mixture step, for all that it trains on; or rows by component; or rows. Each may be a tokenize step, for the
        rows that it reads, a transform step, or paths.
    format: of rows that no tokenize step reads.
    test_sets: rows of evaluations by name, whose prompts should not be in `rows`.
    tokenizer: whose special tokens no text should hold. None: that of the tokenize steps, if there are any.
    fail_above: for findings, the share of a component's rows above which the step fails.
    options: more fields of `LintConfig`.
    """
    components, used = row_sources(f"lint '{name}'", rows, format)
    tests, _ = row_sources(f"lint '{name}': test_sets", test_sets or {})
    config = LintConfig(
        components=components,
        test_sets=tests,
        tokenizer=used if tokenizer is None else path_of(tokenizer),
        fail_above=dict(fail_above or {}),
        **options,
    )
    return ExecutorStep(f"lint/{name}", config=config, resources=resources or CpuConfig())


def row_sources(
    where: str, rows: LmDataConfig | Mapping[str, Rows] | Rows, format: LmDatasetFormat | None = None
) -> tuple[dict[str, RowSource], Any]:
    """Rows by component, and the tokenizer that they are tokenized with, None if they are not.

    rows: a mixture or its data, for the rows of what it trains on; or rows by name; or rows, named by the last part of
        their step or path. Each may be a tokenize step, for the rows that it reads, a transform step, or paths.
    format: of rows that no tokenize step reads.

    Raises:
        ConfigError: something else.
    """
    if isinstance(rows, ExecutorStep) and isinstance(rows.config, MixtureConfig):
        rows = rows.config.data
    if isinstance(rows, LmDataConfig):
        rows = {name: rows.tokenized[name] for name in rows.training or rows.tokenized}
    named = rows if isinstance(rows, Mapping) else {_name(where, rows): rows}
    found = {name: _source(f"{where}: {name!r}", source, format) for name, source in named.items()}
    tokenizers = [config.tokenizer for source in named.values() if (config := _tokenization(source)) is not None]
    return found, next(iter(tokenizers), None)


def _name(where: str, rows: Rows) -> str:
    if isinstance(rows, str | Path):
        return Path(str(rows)).name.partition(".")[0].strip("*") or "rows"
    if isinstance(rows, ExecutorStep | InputName):
        return last_part(rows)
    if isinstance(rows, Sequence):
        return "rows"
    raise ConfigError(f"{where}: expected rows: a step, paths, or these by name; got {rows!r}")


def _source(where: str, source: Rows, format: LmDatasetFormat | None) -> RowSource:
    config = _tokenization(source)
    if config is not None:
        return RowSource(config.train_paths or config.validation_paths, config.format)
    if isinstance(source, ExecutorStep) and isinstance(source.config, TransformConfig):
        return RowSource((path_of(source / ROWS),), format or ChatLmDatasetFormat())
    if not isinstance(source, ExecutorStep | InputName | str | Path | Sequence) or not source:
        raise ConfigError(f"{where}: expected a step or paths of rows, got {source!r}")
    return RowSource(paths_of(source), format or ChatLmDatasetFormat())


def _tokenization(source: object) -> TokenizeConfig | None:
    return source.config if isinstance(source, ExecutorStep) and isinstance(source.config, TokenizeConfig) else None
