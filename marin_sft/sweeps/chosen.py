"""A training whose settings a step has chosen from the results of others.

It writes what the training writes, and {output_path}/choice.json: its point and settings.
"""

from __future__ import annotations

import dataclasses

from marin_sft.data.files import read_json, write_json
from marin_sft.errors import DataError
from marin_sft.sweeps.base import with_settings
from marin_sft.sweeps.figures import CHOICE, CHOSEN
from marin_sft.sweeps.step_configs import ChosenTrainingConfig
from marin_sft.training import processes
from marin_sft.training.dpo import dpo
from marin_sft.training.dpo_config import DPOConfig
from marin_sft.training.sft import sft


def chosen_training(config: ChosenTrainingConfig) -> None:
    """Train with the chosen settings, from where the chosen training has ended.

    Raises:
        DataError: fewer were chosen.
        TrainingError: see `sft` and `dpo`.
    """
    chosen = read_json(f"{config.chosen}/{CHOSEN}")
    if config.place >= len(chosen):
        raise DataError(f"{config.chosen}/{CHOSEN}: only {len(chosen)} points were left to choose; the others failed")
    one = chosen[config.place]
    training = with_settings(config.training, one["settings"])
    if one["from"] is not None:
        training = dataclasses.replace(training, resume_from=config.earlier[one["from"]])
    if processes.is_first():
        shown = ", ".join(f"{name} {value}" for name, value in one["settings"].items())
        going_on = f", going on from {one['from']}" if one["from"] else ""
        print(f"{one['point']}: {shown}{going_on}", flush=True)
        write_json(f"{config.output_path}/{CHOICE}", {"point": one["point"], "settings": one["settings"]})
    if isinstance(training, DPOConfig):
        dpo(training)
    else:
        sft(training)
