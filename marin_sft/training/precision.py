"""Number types of training by name.

"fp32", "bf16" and "bf16_full", or a policy "p=...,c=...,o=..." as in jmp and Levanter: the types of weights and
optimizer (p), of the forward and backward pass (c) and of its output (o). Each is f32 (the default) or bf16.
The loss is always computed in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

from marin_sft.training.checks import require

NAMED = {
    "fp32": "p=f32,c=f32,o=f32",
    "bf16": "p=f32,c=bf16,o=f32",
    "bf16_full": "p=bf16,c=bf16,o=f32",
}
_PARTS = {"p": "p", "params": "p", "c": "c", "compute": "c", "o": "o", "output": "o"}
_TYPES = {"f32": "f32", "float32": "f32", "full": "f32", "bf16": "bf16", "bfloat16": "bf16"}
_HALF = {"fp16", "f16", "float16", "half"}


def policy(precision: str) -> str:
    """`precision` of checked `PrecisionSettings` as an argument of `jmp.get_policy`."""
    if precision in NAMED:
        return NAMED[precision]
    types = {"p": "f32", "c": "f32", "o": "f32"} | {_PARTS[part]: _TYPES[name] for part, name in _pairs(precision)}
    return ",".join(f"{part}={name}" for part, name in types.items())


@dataclass(frozen=True, kw_only=True)
class PrecisionSettings:
    """The number types with which a model runs."""

    precision: str = "bf16"
    """"fp32". "bf16": float32 weights and optimizer, bfloat16 forward and backward pass. "bf16_full": all in bfloat16.
    Or a policy, see the top of this module."""

    def check_precision(self) -> None:
        """Raise ConfigError unless it is a name or a policy."""
        text = self.precision
        pairs = _pairs(text)
        halves = text in _HALF or any(name in _HALF for _, name in pairs)
        require(self, "precision", not halves, "bf16: float16 needs loss scaling, which is not done here")
        known = text in NAMED or all(part in _PARTS and name in _TYPES for part, name in pairs)
        once = len({_PARTS.get(part) for part, _ in pairs}) == len(pairs)
        require(self, "precision", known and once, f"one of {', '.join(NAMED)}, or a policy like 'p=f32,c=bf16'")


def _pairs(text: str) -> list[tuple[str, str]]:
    split = [part.partition("=") for part in text.split(",")]
    return [(part.strip(), name.strip()) for part, _, name in split]
