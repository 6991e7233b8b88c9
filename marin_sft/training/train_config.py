"""What all kinds of training have in common: data, base model, length, optimizer, precision, cadences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from marin_sft.errors import ConfigError
from marin_sft.execution.step import earlier_attempts, execution_only, omitted_when, this_output_path
from marin_sft.training.checks import require, unresolved
from marin_sft.training.models import LlamaConfig

if TYPE_CHECKING:
    from marin_sft.training.exports import Exporter

LR_SCHEDULES = ("constant", "linear", "cosine", "inv_sqrt")
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What to train, on what, and how long. An example is what the mixture packs: a row of documents, or a pair.

    mixture: output of a mixture step. tokenized: output of a tokenize step by the mixture's component names.
    base_model: a Hugging Face directory; its config.json says the architecture.
    train_batch_size: examples per step over all devices. num_train_epochs or num_train_steps: exactly one; an epoch is
    as many examples as the mixture's training components hold.
    warmup: fraction of the steps over which the rate rises from 0 to `learning_rate`; then `lr_schedule` takes it to
    `min_lr_ratio * learning_rate`, over the last `decay` (a fraction; None: all) of the steps.
    Weight decay spares norms and embeddings. max_grad_norm: clipping; None: off.
    precision: "fp32", or "bf16": float32 weights and optimizer, bfloat16 forward and backward pass.
    hf_exports: writes the model in Hugging Face format while training (`PeriodicExports`); None: not.

    Without influence on the result but for rounding: expected_model, the shape that the base model must have, or
    training fails before it starts (None: any); per_device_parallelism, examples of a micro-batch per device (-1: no
    accumulation); gradient_checkpointing, recompute activations to save memory; how often to log, to checkpoint, and to
    evaluate on the mixture's validation examples (None: never).

    Raises:
        ConfigError: for a value that cannot be used.
    """

    mixture: str
    tokenized: dict[str, str]
    base_model: str
    train_batch_size: int
    learning_rate: float
    num_train_epochs: float | None = None
    num_train_steps: int | None = None
    lr_schedule: str = "cosine"
    warmup: float = 0.03
    decay: float | None = None
    min_lr_ratio: float = 0.1
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.95
    max_grad_norm: float | None = 1.0
    seed: int = 0
    precision: str = "bf16"
    hf_exports: Exporter | None = omitted_when(None, default=None)
    output_path: str = this_output_path()

    expected_model: LlamaConfig | None = execution_only(default=None)
    earlier_attempts: tuple[str, ...] = earlier_attempts()
    per_device_parallelism: int = execution_only(default=-1)
    gradient_checkpointing: bool = execution_only(default=True)
    steps_per_eval: int | None = execution_only(default=None)
    steps_per_checkpoint: int | None = execution_only(default=None)
    minutes_per_checkpoint: float | None = execution_only(default=10.0)
    steps_per_log: int = execution_only(default=10)

    def __post_init__(self) -> None:
        if unresolved(self):
            return
        if (self.num_train_epochs is None) == (self.num_train_steps is None):
            raise ConfigError(
                f"{type(self).__name__}: num_train_epochs = {self.num_train_epochs}, num_train_steps = "
                f"{self.num_train_steps}: expected exactly one of them"
            )
        length = "num_train_epochs" if self.num_train_steps is None else "num_train_steps"
        require(self, length, getattr(self, length) > 0, "a number above 0")
        require(self, "train_batch_size", self.train_batch_size >= 1, "at least 1")
        require(self, "learning_rate", self.learning_rate > 0, "a number above 0")
        require(self, "lr_schedule", self.lr_schedule in LR_SCHEDULES, f"one of {', '.join(LR_SCHEDULES)}")
        require(self, "warmup", 0 <= self.warmup < 1, "a fraction of the steps, from 0 to below 1")
        require(self, "decay", self.decay is None or 0 < self.decay <= 1, "a fraction of the steps, above 0, or None")
        decays = self.decay is None or self.lr_schedule != "constant"
        require(self, "decay", decays, "None where lr_schedule is 'constant'; 'linear' is constant until it decays")
        require(self, "min_lr_ratio", 0 <= self.min_lr_ratio <= 1, "a fraction of learning_rate, from 0 to 1")
        require(self, "weight_decay", self.weight_decay >= 0, "at least 0")
        for beta in ("beta1", "beta2"):
            require(self, beta, 0 <= getattr(self, beta) < 1, "from 0 to below 1")
        require(self, "max_grad_norm", self.max_grad_norm is None or self.max_grad_norm > 0, "above 0, or None")
        require(self, "precision", self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}")
        require(self, "per_device_parallelism", self.per_device_parallelism not in (0,), "at least 1, or -1")
        for cadence in ("steps_per_eval", "steps_per_checkpoint", "minutes_per_checkpoint"):
            every = getattr(self, cadence)
            require(self, cadence, every is None or every > 0, "above 0, or None")
        require(self, "steps_per_log", self.steps_per_log >= 1, "at least 1")
