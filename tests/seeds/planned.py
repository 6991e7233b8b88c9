"""What a trainer would do, as its steps say it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from marin_sft.data.formats import LmDatasetFormat
from marin_sft.execution.executor import Executor, ExecutorFlags, ExecutorStep
from marin_sft.trainers import SFTTrainer
from marin_sft.trainers.commands import trainer_of
from marin_sft.trainers.settings import Dialect


@dataclass(frozen=True)
class Planned:
    """training, mixture: configs of these steps. formats: by part of the mixture. trainer: who plans it."""

    trainer: SFTTrainer
    training: Any
    mixture: Any
    formats: dict[str, LmDatasetFormat]

    @property
    def format(self) -> LmDatasetFormat:
        return next(iter(self.formats.values()))

    @property
    def notes(self) -> str:
        return "\n".join(self.trainer._pipeline().notes)


def planned(trainer: SFTTrainer) -> Planned:
    training = trainer.steps[0].config
    mixture = training.mixture.config
    tokenized = {name: step.config for name, step in mixture.data.tokenized.items()}
    return Planned(
        trainer,
        training,
        mixture,
        {name: config.format for name, config in tokenized.items()},
    )


def planned_by(command: str, dialect: Dialect = Dialect.SCRIPT, trainer: type[SFTTrainer] = SFTTrainer) -> Planned:
    """What the flags of a command plan."""
    return planned(trainer_of(trainer, command.split(), dialect, "the command"))


def directories(steps: Sequence[ExecutorStep[Any]]) -> list[str]:
    """Where the outputs of steps, and of what they are made from, lie below the prefix: that says what they are."""
    return [item.node.directory for item in Executor(ExecutorFlags(dry_run=True)).plan(steps).plan]
