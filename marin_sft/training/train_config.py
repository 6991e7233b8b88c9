"""What all kinds of training have in common: data, base model, length, optimizer, precision, cadences."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from marin_sft.errors import ConfigError
from marin_sft.execution.step import earlier_attempts, execution_only, omitted_when, this_output_path
from marin_sft.training.checks import check_types, require, require_pattern, unresolved
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.mesh import mesh_config
from marin_sft.training.models import LlamaConfig
from marin_sft.training.optimization.optimizer_specs import check_optimizer
from marin_sft.training.precision import check_precision
from marin_sft.training.run_config import RunConfig

if TYPE_CHECKING:
    import numpy as np

    from marin_sft.training.models.model_directory import ModelDirectory

LR_SCHEDULES = ("constant", "linear", "cosine", "inv_sqrt", "wsd")
NEVER_DECAY = ("constant", "inv_sqrt")  # of them: those for which `decay` has no meaning
DEFAULT_MIN_LR_RATIO = 0.1
# Levanter's and Haliax's names.
ATTENTION_BACKENDS = ("default", "nvte", "splash", "jax_flash", "vanilla")
CHECKPOINTING = ("offload", "recompute", "full", "save_all", "nested")

# Settings of other trainers that are none of ours, and what there is in their place.
INSTEAD = {
    "per_epoch_evaluation_steps": "max_evaluation_steps says how many batches an evaluation takes",
    "gradient_accumulation_steps": "per_device_parallelism says how many examples a device takes at once, and "
    "train_batch_size how many gradients are added up",
}


class Exporter(Protocol):
    """Writes the model every `steps` steps and after the last: see `marin_sft.export.periodic.PeriodicExports`.

    check: raises before the first step for what would make `write` fail, whatever the weights are.
    """

    @property
    def steps(self) -> int: ...

    def check(self, base: ModelDirectory) -> None: ...

    def write(
        self,
        path: str,
        tensors: Mapping[str, np.ndarray],
        base: ModelDirectory,
        metrics: Mapping[str, float],
    ) -> None: ...


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """What to train, on what, and how long. An example is what the mixture packs: a row of documents, or a pair.

    mixture: output of a mixture step. tokenized: output of a tokenize step by the mixture's component names.
    base_model: a Hugging Face directory; its config.json says the architecture.
    train_batch_size: examples per step over all devices. num_train_epochs or num_train_steps: exactly one; an epoch is
    as many examples as the mixture's training components hold. With num_train_epochs the last step of an epoch takes
    what is left of it, as in transformers; with num_train_steps every batch is full.

    warmup: the steps over which the rate rises from 0 to `learning_rate`. decay: the last steps, over which
    `lr_schedule` takes it to the floor; None: all after the warmup. Both whole numbers of steps, or fractions of them;
    a fraction decays over two steps at least, since the first still has the whole rate.
    lr_schedule: "constant"; "linear"; "cosine", half a period of it; "wsd", warmup, stable, decay: as "linear", but
    decay=None is the last tenth; "inv_sqrt", learning_rate * sqrt(T / (T + steps since the warmup)), T the steps of the
    warmup or 10,000 without.
    The floor is `min_lr_ratio * learning_rate`, or `learning_rate_end` where that is given.
    optimizer, optimizer_options: one of `optimizer_specs.OPTIMIZERS`, and what it can be told by name; see there.
    epsilon: of the optimizer; None: its own.
    weight_decay: decoupled, times the rate. weight_decay_parameters: a regular expression for the tensors that decay,
    see `tensor_names`; None: all but norms, embeddings and biases.
    max_grad_norm: of the gradient, clipped over all that is trained; None: off.
    skip_bad_steps: leave the weights as they are in a step whose loss or gradient norm is more than six standard
    deviations above the mean of so many steps before; `skipped_steps` in the metrics counts them; None: never.
    precision: "fp32"; "bf16": float32 weights and optimizer, bfloat16 forward and backward pass; "bf16_full": all of it
    in bfloat16; or types by name, see `precision`.
    frozen_parameters: a regular expression for tensors that are never trained, see `tensor_names`. unfreeze: by regular
    expression, the number of updates after which tensors are trained; it goes before `frozen_parameters`.
    reinit_tokens: tokens of the base model's tokenizer whose embeddings are made anew before training, see `reinit`.
    lora: train an adapter in place of the weights, which stay as they are, held in the type that `precision` computes
    with; None: train all weights.
    hf_exports: writes the model in Hugging Face format while training (`PeriodicExports`); None: not.

    Without influence on the result but for rounding: expected_model, the shape that the base model must have, or
    training fails before it starts (None: any); per_device_parallelism, examples of a micro-batch per device (-1: no
    accumulation), but that dropout and NEFTune draw their random numbers for each micro-batch: with them, how a batch
    is cut has the influence of a seed; mesh, how devices share the work, see `mesh.mesh_config` (None: each has
    different rows, and a slice of the weights); gradient_checkpointing, recompute activations to save memory (True, or
    one of `CHECKPOINTING`); attention_backend, one of `ATTENTION_BACKENDS` (None: what is best for device and model);
    how often to log, to checkpoint, and to evaluate on the mixture's validation examples (None: never), which are cut
    as training's are. How training is watched and when it ends: see `RunConfig`.

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
    warmup: int | float = 0.03
    decay: int | float | None = None
    min_lr_ratio: float | None = DEFAULT_MIN_LR_RATIO
    learning_rate_end: float | None = omitted_when(None, default=None)
    optimizer: str = omitted_when("adamw", default="adamw")
    optimizer_options: dict[str, Any] = omitted_when({}, default_factory=dict)
    epsilon: float | None = omitted_when(None, default=None)
    weight_decay: float = 0.0
    weight_decay_parameters: str | None = omitted_when(None, default=None)
    beta1: float = 0.9
    beta2: float = 0.95
    max_grad_norm: float | None = 1.0
    skip_bad_steps: int | None = omitted_when(None, default=None)
    seed: int = 0
    precision: str = "bf16"
    frozen_parameters: str | None = omitted_when(None, default=None)
    unfreeze: dict[str, int] = omitted_when({}, default_factory=dict)
    reinit_tokens: tuple[str, ...] = omitted_when((), default=())
    lora: LoraConfig | None = omitted_when(None, default=None)
    hf_exports: Exporter | None = omitted_when(None, default=None)
    output_path: str = this_output_path()

    expected_model: LlamaConfig | None = execution_only(default=None)
    earlier_attempts: tuple[str, ...] = earlier_attempts()
    per_device_parallelism: int = execution_only(default=-1)
    mesh: Any = execution_only(default=None)
    gradient_checkpointing: bool | str = execution_only(default=True)
    attention_backend: str | None = execution_only(default=None)
    steps_per_eval: int | None = execution_only(default=None)
    steps_per_checkpoint: int | None = execution_only(default=None)
    minutes_per_checkpoint: float | None = execution_only(default=10.0)
    steps_per_log: int = execution_only(default=10)

    def __post_init__(self) -> None:
        if unresolved(self):
            return
        check_types(self)
        if (self.num_train_epochs is None) == (self.num_train_steps is None):
            raise ConfigError(
                f"{type(self).__name__}: num_train_epochs = {self.num_train_epochs}, num_train_steps = "
                f"{self.num_train_steps}: expected exactly one of them"
            )
        length = "num_train_epochs" if self.num_train_steps is None else "num_train_steps"
        require(self, length, getattr(self, length) > 0, "a number above 0")
        require(self, "train_batch_size", self.train_batch_size >= 1, "at least 1")
        require(self, "learning_rate", self.learning_rate > 0, "a number above 0")
        self._check_schedule()
        check_optimizer(self)
        require(self, "weight_decay", self.weight_decay >= 0, "at least 0")
        for beta in ("beta1", "beta2"):
            require(self, beta, 0 <= getattr(self, beta) < 1, "from 0 to below 1")
        if self.weight_decay_parameters is not None:
            require(self, "weight_decay_parameters", self.weight_decay > 0, "None where weight_decay is 0")
            require_pattern(self, "weight_decay_parameters", self.weight_decay_parameters)
        require(self, "epsilon", self.epsilon is None or self.epsilon > 0, "above 0, or None")
        skips = self.skip_bad_steps is None or self.skip_bad_steps >= 2
        require(self, "skip_bad_steps", skips, "at least 2 steps to compare with, or None")
        require(self, "max_grad_norm", self.max_grad_norm is None or self.max_grad_norm > 0, "above 0, or None")
        check_precision(self)
        self._check_what_is_trained()
        self._check_devices()
        micro = self.per_device_parallelism
        require(self, "per_device_parallelism", micro >= 1 or micro == -1, "at least 1, or -1")
        for cadence in ("steps_per_eval", "steps_per_checkpoint", "minutes_per_checkpoint"):
            every = getattr(self, cadence)
            require(self, cadence, every is None or every > 0, "above 0, or None")
        require(self, "steps_per_log", self.steps_per_log >= 1, "at least 1")
        written = self.hf_exports_kept is None or self.hf_exports is not None
        require(self, "hf_exports_kept", written, "None without exports while training (steps_per_hf_export of a step)")
        self.check_run(self.steps_per_eval, self.num_train_epochs)

    @property
    def cuts_epochs(self) -> bool:
        """See `Epochs.cut`."""
        return self.num_train_epochs is not None and self.per_epoch_training_steps is None

    def _check_schedule(self) -> None:
        require(self, "lr_schedule", self.lr_schedule in LR_SCHEDULES, f"one of {', '.join(LR_SCHEDULES)}")
        steps = "a whole number of steps, or a fraction of them below 1"
        require(self, "warmup", _is_part(self.warmup) and self.warmup >= 0, steps)
        if self.decay is not None:
            decays = _is_part(self.decay, whole=True) and self.decay > 0
            require(self, "decay", decays, "a whole number of steps, a fraction of them above 0, or None")
            shape = self.lr_schedule not in NEVER_DECAY
            require(self, "decay", shape, f"None where lr_schedule is {self.lr_schedule!r}; 'wsd' decays at the end")
        given = [part for part in (self.warmup, self.decay) if isinstance(part, int)]
        fits = self.num_train_steps is None or sum(given) <= self.num_train_steps
        require(self, "warmup", fits, f"with decay = {self.decay} at most num_train_steps = {self.num_train_steps}")
        ratio = self.min_lr_ratio
        require(self, "min_lr_ratio", ratio is None or 0 <= ratio <= 1, "a fraction of learning_rate, from 0 to 1")
        unsaid = ratio in (None, DEFAULT_MIN_LR_RATIO)
        flat = self.lr_schedule == "constant" and not unsaid and ratio != 0
        require(self, "min_lr_ratio", not flat, "nothing where lr_schedule is 'constant', which stays at learning_rate")
        end = self.learning_rate_end
        if end is not None:
            require(self, "learning_rate_end", 0 <= end <= self.learning_rate, "from 0 to learning_rate, or None")
            require(self, "learning_rate_end", self.lr_schedule != "constant", "None where lr_schedule is 'constant'")
            require(self, "min_lr_ratio", unsaid, f"nothing beside learning_rate_end = {end}, which says the same")

    def _check_what_is_trained(self) -> None:
        if self.frozen_parameters is not None:
            require_pattern(self, "frozen_parameters", self.frozen_parameters)
        for pattern, step in self.unfreeze.items():
            require_pattern(self, "unfreeze", pattern)
            require(self, "unfreeze", step >= 0, "numbers of updates from 0 by expression")
            trained = self.num_train_steps is None or step < self.num_train_steps
            expected = f"fewer updates than num_train_steps = {self.num_train_steps}; what is never trained is frozen"
            require(self, "unfreeze", trained, expected)
        if self.lora is not None:
            shape = _known_shape(self.base_model, self.expected_model)
            if shape is not None and not unresolved(self.lora):
                self.lora.check_layers(*shape)
            for field in ("frozen_parameters", "unfreeze", "reinit_tokens", "weight_decay_parameters"):
                none = not getattr(self, field)
                require(
                    self, field, none, "nothing beside lora, which trains its adapters alone: LoraConfig says where"
                )

    def _check_devices(self) -> None:
        if self.mesh is not None:
            sequence = mesh_config(self.mesh).sequence
            vanilla = sequence == 1 or self.attention_backend in (None, "vanilla")
            require(self, "attention_backend", vanilla, f"None or 'vanilla' where mesh has sequence = {sequence}")
        remat = isinstance(self.gradient_checkpointing, bool) or self.gradient_checkpointing in CHECKPOINTING
        require(self, "gradient_checkpointing", remat, f"True, False, or one of {', '.join(CHECKPOINTING)}")
        known = self.attention_backend in (None, *ATTENTION_BACKENDS)
        require(self, "attention_backend", known, f"None, or one of {', '.join(ATTENTION_BACKENDS)}")


def _known_shape(base_model: Any, expected: LlamaConfig | None) -> tuple[str, int] | None:
    """Family and number of layers of the base model, where that can be known before anything runs."""
    if expected is not None:
        return expected.model_type, expected.num_layers
    if not isinstance(base_model, str | Path):
        return None
    try:
        config = json.loads(Path(base_model, "config.json").read_text())
        return config["model_type"], int(config["num_hidden_layers"])
    except (OSError, ValueError, KeyError, TypeError):  # elsewhere, or no model: training says so
        return None


def _is_part(value: int | float, whole: bool = False) -> bool:
    """A whole number of steps, or a fraction of them; `whole`: which may be 1.0, all."""
    if isinstance(value, float):
        return value < 1 or (whole and value == 1)
    return True
