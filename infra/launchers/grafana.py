"""A Grafana dashboard of running steps and of the nodes, from the metrics that `docs/guides/monitoring.md` lists."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
OF_STEP, OF_NODE, OF_GPU = "{{step}} #{{attempt}}", "{{instance}}", "{{instance}} GPU {{GpuIndex}}"
WIDTH = 24  # of a row of panels


@dataclass(frozen=True)
class Panel:
    """A query over time, or what it is now. query: `$step` is the steps that are chosen. unit, legend: Grafana's."""

    title: str
    query: str
    unit: str = "short"
    legend: str = OF_STEP
    least: float | None = None
    most: float | None = None
    description: str = ""
    now: bool = False

    def content(self, number: int, place: dict[str, int]) -> dict[str, Any]:
        bounds = {name: value for name, value in (("min", self.least), ("max", self.most)) if value is not None}
        lines = {} if self.now else {"custom": {"drawStyle": "line", "lineWidth": 1, "showPoints": "auto"}}
        target = {"refId": "A", "datasource": SOURCE, "expr": self.query, "legendFormat": self.legend}
        return {
            "id": number,
            "type": "bargauge" if self.now else "timeseries",
            "title": self.title,
            **({"description": self.description} if self.description else {}),
            "datasource": SOURCE,
            "gridPos": place,
            "fieldConfig": {"defaults": {"unit": self.unit, **bounds, **lines}, "overrides": []},
            "options": _NOW if self.now else _OVER_TIME,
            "targets": [{**target, **({"instant": True, "range": False} if self.now else {})}],
        }


_OVER_TIME = {
    "legend": {"showLegend": True, "displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull"]},
    "tooltip": {"mode": "multi", "sort": "none"},
}
_NOW = {
    "orientation": "horizontal",
    "displayMode": "basic",
    "valueMode": "color",
    "showUnfilled": True,
    "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
}


def _of(metric: str) -> str:
    return f'ray_marin_sft_{metric}{{step=~"$step"}}'


_WITH_UNIT = f"{OF_STEP}, {{{{unit}}}}"
ROWS: dict[str, list[list[Panel]]] = {
    "Running steps": [
        [
            Panel(
                "Progress",
                f"{_of('step')} / {_of('steps')} >= 0",
                *("percentunit", _WITH_UNIT, 0, 1, "What is done of the total. A step that has ended is not shown."),
                now=True,
            ),
            Panel(
                "Done",
                _of("step"),
                legend=_WITH_UNIT,
                description="In the unit that the step reports: steps of training, rows, bytes.",
            ),
        ],
        [
            Panel("Loss", _of("loss"), "none"),
            Panel("Loss on held-out rows", _of("validation_loss"), "none", description="The newest evaluation."),
            Panel("Tokens per second", _of("tokens_per_second"), least=0),
            Panel(
                "MFU",
                _of("mfu"),
                "percentunit",
                least=0,
                description="The model's FLOPs as a share of the devices' peak, which is not known for CPUs.",
            ),
        ],
        [
            Panel("Tokens", _of("tokens"), least=0, description="Trained on so far."),
            Panel("Learning rate", _of("lr"), "sci", least=0),
            Panel("Gradient norm", _of("grad_norm"), "none", least=0),
        ],
    ],
    "Nodes": [
        [
            Panel("CPU", "ray_node_cpu_utilization", "percent", OF_NODE, 0, 100),
            Panel("Memory", "ray_node_mem_used / ray_node_mem_total", "percentunit", OF_NODE, 0, 1),
            Panel("GPU", "ray_node_gpus_utilization", "percent", OF_GPU, 0, 100),
            Panel(
                "GPU memory",
                "ray_node_gram_used / (ray_node_gram_used + ray_node_gram_available)",
                *("percentunit", OF_GPU, 0, 1),
            ),
        ]
    ],
}


def _panels() -> Iterator[dict[str, Any]]:
    number, y = 0, 0
    for title, rows in ROWS.items():
        number += 1
        place = {"h": 1, "w": WIDTH, "x": 0, "y": y}
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
        y += 1
        for row in rows:
            width = WIDTH // len(row)
            for column, panel in enumerate(row):
                number += 1
                yield panel.content(number, {"h": 8, "w": width, "x": column * width, "y": y})
            y += 8


def dashboard() -> str:
    """The file that Grafana imports."""
    steps = {"query": "label_values(ray_marin_sft_step, step)", "refId": "steps"}
    every = {"current": {"text": ["All"], "value": ["$__all"]}, "includeAll": True, "allValue": ".*", "multi": True}
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1}
    step = {"name": "step", "label": "Step", "type": "query", "datasource": SOURCE, "query": steps, **every}
    content = {
        "title": "marin_sft",
        "uid": "marin-sft",
        "tags": ["marin_sft", "ray"],
        "schemaVersion": 39,
        "version": 2,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "timezone": "",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [source, {**step, "refresh": 2, "sort": 1}]},
        "panels": list(_panels()),
    }
    return json.dumps(content, indent=2) + "\n"
