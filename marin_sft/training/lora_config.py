"""Low-rank adaptation (LoRA, arXiv:2106.09685) as a config: which layers are adapted, by how much. Light: no JAX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from marin_sft.arguments import NamedFields
from marin_sft.errors import ConfigError
from marin_sft.training.checks import check_types, require, unresolved

ALL_LINEAR = "all-linear"
INITIALISATIONS = (True, "gaussian")
NEVER_ADAPTED = ("lm_head", "embed_tokens")
LINEAR = (
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)
"""The linear layers of a transformer layer, in all families of models that are trained here."""
ONE_ARRAY = ("llama", "mistral", "qwen2", "qwen3", "gemma", "olmo2")
"""The families whose transformer layers are computed as one, so that a linear layer is adapted in all or none."""
_MOST_LAYERS = 256


@dataclass(frozen=True, kw_only=True)
class LoraConfig(metaclass=NamedFields):
    r"""A linear layer computes W x + scale * B A dropout(x); A [r, in] and B [out, r] train, nothing else does.

    r: the rank. alpha: scale is alpha / r, with use_rslora alpha / sqrt(r) (rsLoRA, arXiv:2312.03732).
    dropout: probability that an input of A is 0 in training; None: 0, or that of the adapter at `adapter_path`.
    target_modules: as in PEFT, names of layers, "q_proj" or "self_attn.q_proj", of those in `LINEAR`; or a regular
    expression that matches the whole of names like "model.layers.0.self_attn.q_proj", as r".*\.(q|v)_proj"; None or
    "all-linear": all of them. Models of the families in `ONE_ARRAY` are adapted in all their transformer layers alike,
    Gemma 2 and 3 and OLMo 3 where the expression says.
    exclude_modules: names or an expression in the same way, of layers to leave as they are.
    use_dora: the layer computes g * (W x + scale * B A dropout(x)) instead, where g makes the row norms of
    W + scale * B A the trained `magnitude` (DoRA, arXiv:2402.09353); no gradient flows through the norms.
    init_lora_weights: of A; B starts as 0, magnitudes as the norms of W. True: Kaiming uniform, as PEFT, which is
    uniform within 1 / sqrt(in); "gaussian": normal with standard deviation 1 / r.
    adapter_path: directory of a PEFT adapter to start from. What is left out here is as the adapter has it; what is not
    must agree with it, but for dropout.

    Raises:
        ConfigError: for a value that cannot be used, and for layers that there are not or that are never adapted.
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
            single = [modules] if isinstance(modules, str) else modules or ()
            unknown = [name for name in single if not _fits(name if isinstance(modules, str) else [name])]
            short = ", ".join(name.partition(".")[2] for name in LINEAR)
            of_all = f"some of {short}, or an expression for the whole of names like model.layers.0.{LINEAR[0]}"
            require(self, field, not unknown, f"{of_all}; there is none for {', '.join(map(repr, unknown))}")

    def check_layers(self, model_type: str, num_layers: int) -> None:
        """Raise ConfigError where the layers chosen cannot be adapted in a model of `num_layers` layers."""
        for linear in LINEAR if model_type in ONE_ARRAY else ():
            names = [_name(layer, linear) for layer in range(num_layers)]
            chosen = [name for name in names if self.adapts(name)]
            others = sorted(set(names) - set(chosen))
            part = bool(chosen and others)
            field = "exclude_modules" if self.target_modules in (None, ALL_LINEAR) else "target_modules"
            one = f"{chosen[0]}, but not {others[0]}" if part else ""
            expected = f"all layers of a kind or none, since {model_type} computes them as one; this adapts {one}"
            require(self, field, not part, expected)

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


def _fits(target: Sequence[str] | str) -> bool:
    return any(matches(target, _name(layer, linear)) for layer in range(_MOST_LAYERS) for linear in LINEAR)


def _name(layer: int, linear: str) -> str:
    return f"model.layers.{layer}.{linear}"


def matches(modules: Sequence[str] | str, name: str) -> bool:
    """As PEFT matches `target_modules`: a string is an expression for the whole name, other values are its ends."""
    if isinstance(modules, str):
        return re.fullmatch(modules, name) is not None
    return any(name == module or name.endswith(f".{module}") for module in modules)
