"""The results of a sweep in one table, best first.

{output_path}/sweep.json     {"metric", "direction", "settings": names, "points", best first: [{"point", "settings",
                              "rung", "value", "spread", "values" by training, "failed": trainings, "figures"}]}
{output_path}/table.txt      the same for people
{output_path}/metrics.json   how many points there are, how many finished, and the best's metric
{output_path}/chosen.json    with `promoted`: the best, for trainings that go on from them
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from marin_sft.data.files import write_json, write_text
from marin_sft.sweeps.figures import CHOSEN, Row, best_of, ranked, results_of, rows_of
from marin_sft.sweeps.points import shown_value
from marin_sft.sweeps.step_configs import SweepTableConfig

SWEEP = "sweep.json"


def sweep_table(config: SweepTableConfig) -> None:
    """Write and print the table.

    Raises:
        DataError: no training finished, or one that did has not measured the metric.
    """
    results = results_of(config.runs)
    rows = ranked(rows_of(results, config.metric), config.direction)
    there = best_of(results, config.metric, config.direction)
    text = table_text(rows, config.metric, config.direction)
    names = list(dict.fromkeys(name for row in rows for name in row.settings))
    about = {"metric": config.metric, "direction": config.direction, "settings": names}
    write_json(f"{config.output_path}/{SWEEP}", {**about, "points": [_json(row) for row in rows]})
    write_text(f"{config.output_path}/{config.TABLE}", text)
    counts = {"points": len(rows), "finished": len(there)}
    write_json(f"{config.output_path}/metrics.json", {config.metric: there[0].value, **counts})
    if config.promoted:
        write_json(f"{config.output_path}/{CHOSEN}", [_promoted(row) for row in there[: config.promoted]])
    print(text, end="", flush=True)


def _json(row: Row) -> dict[str, object]:
    """Figures that are not finite are left out: JSON lacks them."""
    return {
        "point": row.point,
        "settings": dict(row.settings),
        "rung": row.rung,
        "value": row.value,
        "spread": row.spread,
        "values": {run: value if math.isfinite(value) else str(value) for run, value in row.values.items()},
        "failed": list(row.failed),
        "figures": {name: value for name, value in row.figures.items() if math.isfinite(value)},
    }


def _promoted(row: Row) -> dict[str, object]:
    (run,) = row.values
    return {"point": row.point, "settings": dict(row.settings), "from": run}


def table_text(rows: Sequence[Row], metric: str, direction: str) -> str:
    """A line per point: its place, the metric, the spread over seeds, how far it went, and its settings."""
    names = list(dict.fromkeys(name for row in rows for name in row.settings))
    spreads, rungs = any(row.spread is not None for row in rows), any(row.rung for row in rows)
    heads = ["", f"{metric} ({direction})", *(["spread"] if spreads else []), *(["rung"] if rungs else []), *names]
    cells = [heads]
    for place, row in enumerate(rows, 1):
        value = "failed" if row.failed else "not finite" if row.value is None else f"{row.value:.6g}"
        spread = [""] if row.spread is None else [f"{row.spread:.2g}"]
        numbers = [value, *(spread if spreads else []), *([str(row.rung + 1)] if rungs else [])]
        cells.append(["" if row.value is None else str(place), *numbers, *(_text(row.settings.get(n)) for n in names)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(shown_value(value))
