"""The settings of what is trained: all weights, some of them, or an adapter. Light: no JAX."""

from __future__ import annotations

from marin_sft.arguments import part_of_config
from marin_sft.execution.step import omitted_when
from marin_sft.training.checks import require, require_pattern
from marin_sft.training.lora_config import LoraConfig


@part_of_config
class TrainableSettings:
    """What is trained. Regular expressions are matched anywhere in Hugging Face tensor names, see `tensor_names`."""

    frozen_parameters: str | None = omitted_when(None, default=None)
    """A regular expression for tensors that are never trained."""

    unfreeze: dict[str, int] = omitted_when({}, default_factory=dict)
    """The number of updates after which tensors are trained, by regular expression. It overrides
    `frozen_parameters`."""

    reinit_tokens: tuple[str, ...] = omitted_when((), default=())
    """Tokens of the base model's tokenizer that get new embeddings before training, see `reinit`."""

    lora: LoraConfig | None = omitted_when(None, default=None)
    """Train only an adapter. The weights do not change, and are held in the compute type of `precision`. None: train
    the weights."""

    def check_trainable(self) -> None:
        """Raise ConfigError for a value that cannot be used."""
        if self.frozen_parameters is not None:
            require_pattern(self, "frozen_parameters", self.frozen_parameters)
        for pattern, step in self.unfreeze.items():
            require_pattern(self, "unfreeze", pattern)
            require(self, "unfreeze", step >= 0, "numbers of updates, at least 0, by regular expression")
