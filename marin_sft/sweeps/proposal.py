"""The next points of a sweep, proposed by Optuna from the results of those before.

{output_path}/chosen.json   see `marin_sft.sweeps.figures.CHOSEN`
"""

from __future__ import annotations

from typing import Any

from marin_sft.data.files import write_json
from marin_sft.errors import ConfigError
from marin_sft.sweeps.figures import CHOSEN, results_of, rows_of
from marin_sft.sweeps.points import names_of
from marin_sft.sweeps.searches import Between
from marin_sft.sweeps.step_configs import ProposalConfig


def proposal(config: ProposalConfig) -> None:
    """Tell a new study the results in their order, and ask it for points. The same results give the same points.

    Raises:
        ConfigError: Optuna is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("OptunaSearch needs optuna: pip install 'marin_sft[sweeps]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space: dict[str, Any] = {name: _distribution(optuna, values) for name, values in config.space.items()}
    rows = rows_of(results_of(config.runs), config.metric)
    told = [row for row in rows if row.value is not None]
    sampler = optuna.samplers.TPESampler(seed=config.seed + len(config.runs), constant_liar=True)
    direction = "maximize" if config.direction == "max" else "minimize"
    study = optuna.create_study(direction=direction, sampler=sampler)
    for row in told:
        study.add_trial(optuna.trial.create_trial(params=dict(row.settings), distributions=space, value=row.value))
    points = [study.ask(space).params for _ in range(config.points)]
    points = [{name: point[name] for name in config.space} for point in points]
    found = [{"point": n, "settings": p, "from": None} for n, p in zip(names_of(points), points, strict=True)]
    print(f"{len(points)} points from {len(told)} results: {', '.join(one['point'] for one in found)}", flush=True)
    write_json(f"{config.output_path}/{CHOSEN}", found)


def _distribution(optuna: Any, values: Between | tuple[object, ...]) -> Any:
    if not isinstance(values, Between):
        return optuna.distributions.CategoricalDistribution(values)
    if values.whole:
        return optuna.distributions.IntDistribution(values.low, values.high, log=values.log)
    return optuna.distributions.FloatDistribution(values.low, values.high, log=values.log)
