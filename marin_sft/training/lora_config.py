"""The config of low-rank adaptation (LoRA, arXiv:2106.09685): which layers are adapted, and how. Light: no JAX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from marin_sft.arguments import NamedFields
from marin_sft.errors import ConfigError
from marin_sft.execution.step import omitted_when
from marin_sft.training.checks import check_types, require, unresolved

ALL_LINEAR = "all-linear"
INITIALISATIONS = (True, "gaussian")
NEVER_ADAPTED = ("lm_head", "embed_tokens")
LINEAR = (
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)
"""The linear layers of a transformer layer, in all model families that can be trained."""
ONE_ARRAY = ("llama", "mistral", "qwen2", "qwen3", "gemma", "olmo2")
"""The families that compute all transformer layers as one. There, a linear layer is adapted in all of them or none."""
_MOST_LAYERS = 256


@dataclass(frozen=True, kw_only=True)
class LoraConfig(metaclass=NamedFields):
    """A linear layer computes W x + scale * B A dropout(x). Only A [r, in] and B [out, r] are trained.

    Raises:
        ConfigError: for a value that cannot be used, and for layers that do not exist or are never adapted.
    """

    r: int | None = None
    """The rank."""

    alpha: float | None = None
    """scale is alpha / r, unless `use_rslora`."""

    dropout: float | None = None
    """Probability that an input of A is 0 in training. None: 0, or that of the adapter at `adapter_path`."""

    target_modules: Sequence[str] | str | None = None
    r"""The layers to adapt, as in PEFT: names in `LINEAR`, "q_proj" or "self_attn.q_proj"; or a regular expression that
    matches whole names like "model.layers.0.self_attn.q_proj", e.g. r".*\.(q|v)_proj". None or "all-linear": all.
    Families in `ONE_ARRAY` are adapted in all transformer layers or none; in Gemma 2 and 3 and OLMo 3, an expression
    may choose some."""

    exclude_modules: Sequence[str] | str | None = None
    """Layers not to adapt, as names or an expression like `target_modules`."""

    use_rslora: bool = False
    """scale is alpha / sqrt(r), not alpha / r (rsLoRA, arXiv:2312.03732)."""

    use_dora: bool = False
    """The layer computes g * (W x + scale * B A dropout(x)), where g makes the row norms of W + scale * B A the trained
    `magnitude` (DoRA, arXiv:2402.09353). No gradient flows through the norms."""

    init_lora_weights: bool | str = True
    """How A starts. True: Kaiming uniform as in PEFT, i.e. uniform within 1 / sqrt(in). "gaussian": normal with a
    standard deviation of 1 / r. B starts as 0, magnitudes as the row norms of W."""

    adapter_path: str | None = None
    """The directory of a PEFT adapter to start from. Fields left out here are as in the adapter; the others, except
    dropout, must agree with it."""

    trainable_tokens: Sequence[str | int] | None = omitted_when(None, default=None)
    """Tokens of the base model's tokenizer, or their ids, whose embeddings are trained too, as with PEFT's
    `trainable_token_indices`; in a head of its own as well. None: those that the step `add_tokens` added to the base
    model. Those of the adapter at `adapter_path` and `reinit_tokens` are always trained."""

    def __post_init__(self) -> None:
        if self.dropout is None and self.adapter_path is None:
            object.__setattr__(self, "dropout", 0.0)  # with an adapter_path, its value is known only when it is read
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
            single = [modules] if isinstance(modules, str) else modules or ()
            unknown = [name for name in single if not _fits(name if isinstance(modules, str) else [name])]
            short = ", ".join(name.partition(".")[2] for name in LINEAR)
            of_all = f"some of {short}, or an expression that matches whole names like model.layers.0.{LINEAR[0]}"
            require(self, field, not unknown, f"{of_all}; no layer matches {', '.join(map(repr, unknown))}")

    def check_layers(self, model_type: str, num_layers: int) -> None:
        """Raise ConfigError if the chosen layers cannot be adapted in a model with `num_layers` layers."""
        for linear in LINEAR if model_type in ONE_ARRAY else ():
            names = [_name(layer, linear) for layer in range(num_layers)]
            chosen = [name for name in names if self.adapts(name)]
            others = sorted(set(names) - set(chosen))
            part = bool(chosen and others)
            field = "exclude_modules" if self.target_modules in (None, ALL_LINEAR) else "target_modules"
            one = f"{chosen[0]}, but not {others[0]}" if part else ""
            expected = f"all layers of a kind or none, because {model_type} computes them as one; this adapts {one}"
            require(self, field, not part, expected)

    @property
    def scale(self) -> float:
        """The factor of B A. r and alpha must be known, see `peft_directory.resolved`."""
        assert self.r is not None and self.alpha is not None
        return self.alpha / self.r**0.5 if self.use_rslora else self.alpha / self.r

    def adapts(self, name: str) -> bool:
        """Whether the linear layer `name`, e.g. "model.layers.0.self_attn.q_proj", is adapted."""
        if name.rpartition(".")[2] in NEVER_ADAPTED or matches(self.exclude_modules or (), name):
            return False
        return self.target_modules in (None, ALL_LINEAR) or matches(self.target_modules or (), name)


def _fits(target: Sequence[str] | str) -> bool:
    return any(matches(target, _name(layer, linear)) for layer in range(_MOST_LAYERS) for linear in LINEAR)


def _name(layer: int, linear: str) -> str:
    return f"model.layers.{layer}.{linear}"


def matches(modules: Sequence[str] | str, name: str) -> bool:
    """As in PEFT: a string is an expression that must match the whole name, a sequence holds endings of names."""
    if isinstance(modules, str):
        return re.fullmatch(modules, name) is not None
    return any(name == module or name.endswith(f".{module}") for module in modules)
