"""Low-rank adaptation (LoRA, arXiv:2106.09685) as a config: which layers are adapted, by how much. Light: no JAX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from marin_sft.errors import ConfigError
from marin_sft.training.checks import check_types, require, unresolved

ALL_LINEAR = "all-linear"
INITIALISATIONS = (True, "gaussian")
NEVER_ADAPTED = ("lm_head", "embed_tokens")


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """A linear layer computes W x + scale * B A dropout(x); A [r, in] and B [out, r] train, nothing else does.

    r: the rank. alpha: scale is alpha / r, with use_rslora alpha / sqrt(r) (rsLoRA, arXiv:2312.03732).
    dropout: probability that an input of A is 0 in training; None: 0, or that of the adapter at `adapter_path`.
    target_modules: as in PEFT, names of layers, "q_proj" or "self_attn.q_proj"; or a regular expression that matches
    the whole of a name like "model.layers.0.self_attn.q_proj"; None or "all-linear": all linear layers but lm_head.
    exclude_modules: names or an expression in the same way, of layers to leave as they are.
    use_dora: the layer computes g * (W x + scale * B A dropout(x)) instead, where g makes the row norms of
    W + scale * B A the trained `magnitude` (DoRA, arXiv:2402.09353); no gradient flows through the norms.
    init_lora_weights: of A; B starts as 0, magnitudes as the norms of W. True: Kaiming uniform, as PEFT, which is
    uniform within 1 / sqrt(in); "gaussian": normal with standard deviation 1 / r.
    adapter_path: directory of a PEFT adapter to start from. What is left out here is as the adapter has it; what is not
    must agree with it, but for dropout.

    Raises:
        ConfigError: for a value that cannot be used, and for layers that are never adapted.
    """

    r: int | None = None
    alpha: float | None = None
    dropout: float | None = None
    target_modules: Sequence[str] | str | None = None
    exclude_modules: Sequence[str] | str | None = None
    use_rslora: bool = False
    use_dora: bool = False
    init_lora_weights: bool | str = True
    adapter_path: str | None = None

    def __post_init__(self) -> None:
        if self.dropout is None and self.adapter_path is None:
            object.__setattr__(self, "dropout", 0.0)  # what None is left for is not known before the adapter is read
        if unresolved(self):
            return
        check_types(self)
        for size in ("r", "alpha"):
            value = getattr(self, size)
            given = value is not None or self.adapter_path is not None
            require(self, size, given, "a number, unless adapter_path is given")
            require(self, size, value is None or value > 0, "above 0")
        require(self, "dropout", self.dropout is None or 0 <= self.dropout < 1, "from 0 to below 1")
        known = " or ".join(map(repr, INITIALISATIONS))
        require(self, "init_lora_weights", self.init_lora_weights in INITIALISATIONS, known)
        for field in ("target_modules", "exclude_modules"):
            self._check_modules(field)

    def _check_modules(self, field: str) -> None:
        modules = getattr(self, field)
        require(self, field, modules is None or len(modules) > 0, "names of layers, a regular expression, or None")
        if isinstance(modules, str):
            try:
                re.compile(modules)
            except re.error as error:
                raise ConfigError(f"LoraConfig.{field} = {modules!r}: not a regular expression: {error}") from error
        if field == "target_modules" and modules != ALL_LINEAR:
            refused = [name for name in NEVER_ADAPTED if matches(modules or (), name)]
            require(self, field, not refused, f"linear layers without {' and '.join(refused)}: these are not adapted")

    @property
    def scale(self) -> float:
        """Of B A, once r and alpha are known, see `peft_directory.resolved`."""
        assert self.r is not None and self.alpha is not None
        return self.alpha / self.r**0.5 if self.use_rslora else self.alpha / self.r

    def adapts(self, name: str) -> bool:
        """Whether the linear layer `name`, e.g. "model.layers.0.self_attn.q_proj", is adapted."""
        if name.rpartition(".")[2] in NEVER_ADAPTED or matches(self.exclude_modules or (), name):
            return False
        return self.target_modules in (None, ALL_LINEAR) or matches(self.target_modules or (), name)


def matches(modules: Sequence[str] | str, name: str) -> bool:
    """As PEFT matches `target_modules`: a string is an expression for the whole name, other values are its ends."""
    if isinstance(modules, str):
        return re.fullmatch(modules, name) is not None
    return any(name == module or name.endswith(f".{module}") for module in modules)
