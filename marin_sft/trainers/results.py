"""What a training gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

Figures = dict[str, Any]


@dataclass(frozen=True)
class TrainResult:
    """The outcome of `train()`.

    history: a dictionary for each logged step: "step", "epoch", "loss", "learning_rate", "grad_norm" and more.
    metrics: the figures of the last of them, and of the whole run.
    output_dir: where the model was copied to; None where nothing was to be copied.
    checkpoint_path: the model in the store, a Hugging Face directory.
    global_step, training_loss: the number of steps, and the mean loss of the logged ones.
    """

    history: list[Figures]
    metrics: Figures
    output_dir: str | None
    checkpoint_path: str
    global_step: int
    training_loss: float

    def __getattr__(self, name: str) -> NoReturn:
        if name in ("state", "model"):
            raise AttributeError(
                f"{name}: weights are not in this process; output_dir = {self.output_dir!r} and checkpoint_path = "
                f"{self.checkpoint_path!r} hold them, for transformers to load"
            )
        raise AttributeError(f"TrainResult has no attribute {name!r}")
