"""`rope_scaling`: positions beyond those that a model was made for. What a config.json may say, and the setting that
says it for a base model. Loads nothing heavy, so that planning can check too.

The kinds are those of transformers. "dynamic" changes nothing up to `max_position_embeddings` tokens, and longer rows
are refused: beyond, transformers scales all documents by the longest one of their batch. "longrope" is refused, because
there the longest document decides for every batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from marin_sft.errors import ConfigError, TrainingError
from marin_sft.execution.step import omitted_when
from marin_sft.nearest import did_you_mean
from marin_sft.training.checks import is_number, require
from marin_sft.training.models.model_config import Fields, scaling_of

ORIGINAL: Final = "original_max_position_embeddings"
# By kind: the fields that it needs, and those that it can have.
KINDS = {
    "default": ((), ()),
    "linear": (("factor",), ()),
    "dynamic": (("factor",), (ORIGINAL,)),
    "yarn": (
        ("factor",),
        (ORIGINAL, "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    ),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor", ORIGINAL), ()),
}
EXTENDING = ("yarn", "linear", "llama3")
"""Kinds that a model can be trained with for more tokens than before."""


@dataclass(frozen=True, kw_only=True)
class RopeSettings:
    """The positions that a base model takes."""

    rope_scaling: dict[str, Any] | None = omitted_when(None, default=None)
    """Replaces `rope_scaling` of the base model's config.json, and raises its `max_position_embeddings` to `factor`
    times `original_max_position_embeddings`, which by default are its own: `{"rope_type": "yarn", "factor": 4.0}`. The
    exported model has both. None: the base model's."""

    def check_rope(self) -> None:
        """Raise ConfigError for a value that cannot be used."""
        if self.rope_scaling is None:
            return
        try:
            scaling = scaling_of(self.rope_scaling) or {}
        except TrainingError as error:
            raise ConfigError(str(error)) from error
        kind = scaling.get("rope_type")
        example = '{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192}'
        require(self, "rope_scaling", kind in EXTENDING, f"rope_type {', '.join(EXTENDING)}, as in {example}")
        needed, possible = KINDS[str(kind)]
        known = ("rope_type", *needed, *possible)
        for name, value in scaling.items():
            require(self, "rope_scaling", name in known, f"only {', '.join(known)}{did_you_mean(name, known)}")
            if name == "truncate":
                require(self, "rope_scaling", isinstance(value, bool), "True or False for truncate")
            elif name != "rope_type":
                require(self, "rope_scaling", is_number(value) and value >= 0, f"a number for {name}, at least 0")
        missing = [name for name in needed if name not in scaling]
        require(self, "rope_scaling", not missing, f"{', '.join(missing)}, too")
        require(self, "rope_scaling", scaling["factor"] >= 1, "a factor of at least 1")


def check_positions(config: Fields) -> None:
    """Check the rope fields of a config.json (see `ModelDirectory.config`).

    Raises:
        TrainingError: training would not compute what transformers does.
    """
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", "default")
    if kind not in KINDS:
        raise TrainingError(f"config.json: rope_scaling of type {kind!r}: expected one of {', '.join(KINDS)}")
    missing = [name for name in KINDS[kind][0] if not is_number(scaling.get(name))]
    if missing:
        raise TrainingError(f"config.json: rope_scaling = {scaling!r}: expected numbers for {', '.join(missing)}")
    if kind != "default" and config.get("model_type") == "olmo2":
        raise TrainingError(f"config.json: rope_scaling of type {kind!r}: transformers does not read it for OLMo 2")


def longest_of(config: Fields) -> int | None:
    """The most tokens of a document. None: config.json does not say.

    With YaRN, people leave `max_position_embeddings` as it was, as model cards say.
    """
    longest, scaling = config.get("max_position_embeddings"), config.get("rope_scaling") or {}
    if longest is None or scaling.get("rope_type") != "yarn" or not scaling.get(ORIGINAL):
        return longest
    return max(longest, int(scaling["factor"] * scaling[ORIGINAL]))


def attention_factor(scaling: Fields) -> float:
    """By how much YaRN scales queries and keys, with the defaults of transformers."""
    factor, given = scaling["factor"], scaling.get("attention_factor")
    above, below = scaling.get("mscale"), scaling.get("mscale_all_dim")

    def scale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if given is not None:
        return float(given)
    return scale(above) / scale(below) if above and below else scale(1)


def with_scaling(config: Fields, given: Fields | None) -> Fields:
    """`config` with `given`, a value of `RopeSettings.rope_scaling`.

    Raises:
        TrainingError: `given` leaves out the length that the model was made for, and config.json does not say it.
    """
    scaling = scaling_of(given)
    if scaling is None:
        return config
    longest, before = config.get("max_position_embeddings"), (config.get("rope_scaling") or {}).get("rope_type")
    original = scaling.get(ORIGINAL) or longest
    if original is None or (scaling["rope_type"] != "linear" and ORIGINAL not in scaling and before is not None):
        raise TrainingError(
            f"rope_scaling = {dict(given or {})!r}: config.json has max_position_embeddings = {longest} and a "
            f"rope_scaling of type {before!r}; give {ORIGINAL}, the tokens that the model was made for"
        )
    if scaling["rope_type"] != "linear":
        scaling = {**scaling, ORIGINAL: original}
    # transformers 5 would take `rope_parameters` for all that it says.
    others = {name: value for name, value in config.items() if name != "rope_parameters"}
    positions = max(longest or 0, int(scaling["factor"] * original))
    return {**others, "rope_scaling": scaling, "max_position_embeddings": positions}
