"""The figures of a training's exports in one table, and the best export by one of them.

Table:
{output_path}/table.jsonl    {"step": training steps, "EVALUATION/METRIC": number, ...} per export
{output_path}/table.txt      the same for people
{output_path}/metrics.json   the row of the last export

Best export:
{output_path}/               the files of the export
{output_path}/metrics.json   {"step": training steps, METRIC: number}
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from marin_sft import parts
from marin_sft.data.files import Json, open_file, read_json, write_json, write_json_lines, write_text
from marin_sft.errors import DataError
from marin_sft.evaluation.directions import order
from marin_sft.evaluation.step_configs import BestExportConfig, ExportTableConfig
from marin_sft.nearest import nearest_text
from marin_sft.training.export_names import part_of

Row = dict[str, float]
STEP = "step"


def export_table(config: ExportTableConfig) -> None:
    """Write and print the table.

    Raises:
        DataError: an evaluation has no metrics.json, or no numbers in it.
    """
    by_step = sorted(config.evaluations.items(), key=lambda item: int(item[0]))
    rows = [_row(int(step), evaluations) for step, evaluations in by_step]
    text = table_text(rows)
    write_json_lines(f"{config.output_path}/table.jsonl", rows)
    write_text(f"{config.output_path}/{config.TABLE}", text)
    finite = {name: value for name, value in rows[-1].items() if math.isfinite(value)}
    write_text(f"{config.output_path}/metrics.json", json.dumps(finite, indent=2) + "\n")
    print(text, end="", flush=True)


def _row(step: int, evaluations: dict[str, str]) -> Row:
    figures = {
        f"{name}/{metric}": value for name, output in evaluations.items() for metric, value in _figures(output).items()
    }
    return {STEP: step, **figures}


def _figures(output: str) -> Row:
    path = f"{output}/metrics.json"
    try:
        found = read_json(path)
    except (FileNotFoundError, ValueError) as error:
        raise DataError(f"{path}: {error}; expected a JSON object of numbers, like {{'accuracy': 0.5}}") from error
    numbers = {k: v for k, v in found.items() if type(v) in (int, float)} if isinstance(found, dict) else {}
    if not numbers:
        raise DataError(f"{path}: expected a JSON object of numbers, like {{'accuracy': 0.5}}, got {str(found)[:200]}")
    return numbers


def table_text(rows: Sequence[Row]) -> str:
    """A line per row, below the names of the columns."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [columns, *([f"{row[name]:.6g}" if name in row else "" for name in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
    return "".join(f"{line}\n" for line in lines)


def best_export(config: BestExportConfig) -> None:
    """Copy the best export. Of equally good ones, that of the fewest training steps.

    Raises:
        DataError: the table has no such figure, or not of every export, or none of them is finite.
    """
    rows = [row for row in read_table(config.table) if row[STEP]]  # the base model is no export
    known = [name for name in dict.fromkeys(name for row in rows for name in row) if name != STEP]
    lacking = [int(row[STEP]) for row in rows if config.metric not in row]
    if config.metric not in known or lacking:
        of = f" of step {lacking[0]}" if config.metric in known else ""
        raise DataError(
            f"BestExportConfig.metric = {config.metric!r}: the table {config.table} has no such figure{of}"
            f"{nearest_text(config.metric, known)}"
        )
    finite = [row for row in rows if math.isfinite(row[config.metric])]
    if not finite:
        raise DataError(f"{config.table}: {config.metric} is not finite for any export; look at the evaluations")
    if len(finite) < len(rows):
        left_out = len(rows) - len(finite)
        print(f"{left_out} of {len(rows)} exports are left out: their {config.metric} is not finite")
    best = min(finite, key=lambda row: (order(config.direction, row[config.metric]), row[STEP]))
    step, value = int(best[STEP]), best[config.metric]
    print(f"step {step} is best: {config.metric} {value:.6g}", flush=True)
    for base in (row.get(config.metric) for row in read_table(config.table) if not row[STEP]):
        if base is not None and order(config.direction, base) < order(config.direction, value):
            print(f"the base model is better: {config.metric} {base:.6g}", flush=True)
    parts.copy(config.trained, part_of(step), config.output_path)
    write_json(f"{config.output_path}/metrics.json", {STEP: step, config.metric: value})


def read_table(output: str) -> list[Row]:
    with open_file(f"{output}/table.jsonl", "rb") as file:
        rows: list[Json] = [json.loads(line) for line in file.read().splitlines()]
    return rows
