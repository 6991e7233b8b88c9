"""The model of a sweep's best point, exported."""

from __future__ import annotations

import dataclasses

from marin_sft.data.files import write_json
from marin_sft.evaluation.directions import order
from marin_sft.export.hf import export_model
from marin_sft.sweeps.base import plain
from marin_sft.sweeps.figures import best_of, results_of, run_name
from marin_sft.sweeps.step_configs import BestPointConfig


def best_point(config: BestPointConfig) -> None:
    """Export the best point. Of its trainings with several seeds, the one with the best metric.

    Raises:
        DataError: see `best_of`.
        ExportError: see `export_hf`.
    """
    best = best_of(results_of(config.runs), config.metric, config.direction)[0]
    run = min(best.values, key=lambda name: order(config.direction, best.values[name]))
    trained = next(one.trained for one in config.runs if run_name(one) == run)
    assert trained is not None, "a training without an output has no value"
    print(f"{run} is best: {config.metric} {best.values[run]:.6g}", flush=True)
    export = config.exports[run]
    title = export.card.title.removesuffix(run) + best.point  # a step may have chosen the point of the run
    card = dataclasses.replace(
        export.card, title=title, hyperparameters={**export.card.hyperparameters, **plain(best.settings)}
    )
    export_model(dataclasses.replace(export, card=card), trained, config.output_path)
    write_json(f"{config.output_path}/metrics.json", {config.metric: best.values[run]})
