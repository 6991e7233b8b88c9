"""What llama.cpp computes for a config.json, or an error that names what it would compute differently.

Loads nothing heavy, so that planning can check too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from marin_sft.errors import ExportError
from marin_sft.training.models.model_config import Fields, head_size


@dataclass(frozen=True)
class Architecture:
    """A family as llama.cpp computes it.

    name: in GGUF files. activation: of its feed-forward layers.
    permuted: rotary positions turn neighbouring numbers of a head, not those of its two halves.
    norms_above_one: norms multiply by their stored weights; in transformers by one more.
    head_is_embedding: the output has no weights of its own.
    windowed: some layers can see a sliding window.
    capped: logits are capped, of attention and of the output.
    needs_output: the output has weights of its own, even if they are those of the embedding.
    scaled_by_head: queries are scaled by the size of a head, or, in a model of `large` layers, by that of a share of
        the hidden vector.
    whole_heads: heads share the hidden vector; they have no size of their own.
    scalings: kinds of `rope_scaling` that it knows.
    """

    name: str
    activation: str = "silu"
    permuted: bool = False
    norms_above_one: bool = False
    head_is_embedding: bool = False
    needs_output: bool = False
    windowed: bool = False
    capped: bool = False
    scaled_by_head: bool = False
    large: int | None = None
    whole_heads: bool = False
    scalings: tuple[str, ...] = ("linear", "yarn", "dynamic")


_LLAMA = Architecture("llama", permuted=True, scalings=("linear", "yarn", "dynamic", "llama3"))
_GEMMA = Architecture("gemma", activation="gelu_pytorch_tanh", norms_above_one=True, head_is_embedding=True)
_OLMO = Architecture("olmo2", windowed=True, needs_output=True, whole_heads=True)
ARCHITECTURES = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": Architecture("qwen2", whole_heads=True),
    "qwen3": Architecture("qwen3"),
    "gemma": _GEMMA,
    "gemma2": replace(_GEMMA, name="gemma2", windowed=True, capped=True, scaled_by_head=True, large=46),
    "gemma3_text": replace(
        _GEMMA,
        name="gemma3",
        head_is_embedding=False,
        windowed=True,
        scaled_by_head=True,
        large=62,
        scalings=("linear", "dynamic"),
    ),
    "olmo2": _OLMO,
    "olmo3": _OLMO,
}
"""By `model_type` of config.json."""

_SAME = {"gelu_new": "gelu_pytorch_tanh"}


def architecture_of(config: Fields) -> Architecture:
    """Raises ExportError for a family without one."""
    model_type = config.get("model_type")
    if model_type not in ARCHITECTURES:
        raise ExportError(
            f"formats: no GGUF file for model_type {model_type!r} of config.json: expected one of "
            f"{', '.join(ARCHITECTURES)}; leave out 'gguf'"
        )
    return ARCHITECTURES[model_type]


def check_config(config: Fields) -> None:
    """Check the fields of a config.json (see `ModelDirectory.config`); those that it leaves out have their defaults.

    Raises:
        ExportError: llama.cpp would not compute what transformers does.
    """
    found = next(_differences(architecture_of(config), config), None)
    if found is not None:
        raise ExportError(f"formats: no GGUF file for this {config['model_type']} model: {found}; leave out 'gguf'")


def _differences(architecture: Architecture, config: Fields) -> Iterator[str]:
    """What llama.cpp would compute differently, one sentence each."""
    field = "hidden_activation" if config["model_type"] in ("gemma2", "gemma3_text") else "hidden_act"
    activation = config.get(field, architecture.activation)
    if _SAME.get(activation, activation) != architecture.activation:
        yield f"llama.cpp computes it with {field} {architecture.activation!r}, config.json has {activation!r}"
    yield from _head_differences(architecture, config)
    yield from _rope_differences(architecture, config)
    for cap in ("attn_logit_softcapping", "final_logit_softcapping"):
        if architecture.capped and config.get(cap, 1) is None:
            yield f"llama.cpp always caps its logits, config.json has {cap} = None"
    if architecture.name == "gemma3" and config.get("attn_logit_softcapping") is not None:
        yield "llama.cpp does not cap its logits of attention (attn_logit_softcapping of config.json)"
    if architecture.head_is_embedding and not config.get("tie_word_embeddings", True):
        yield "llama.cpp takes its embedding for its output, which has weights of its own here"


def _head_differences(architecture: Architecture, config: Fields) -> Iterator[str]:
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    size = head_size(config)
    if architecture.whole_heads and size * heads != hidden:
        yield f"llama.cpp expects heads of hidden_size / num_attention_heads = {hidden / heads:g} numbers, got {size}"
    if not architecture.scaled_by_head:
        return
    expected = hidden // heads if config["num_hidden_layers"] == architecture.large else size
    scalar = config.get("query_pre_attn_scalar", expected)
    if scalar != expected:
        yield f"llama.cpp computes it with query_pre_attn_scalar = {expected}, config.json has {scalar}"


def _rope_differences(architecture: Architecture, config: Fields) -> Iterator[str]:
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", "default")
    if kind not in ("default", *architecture.scalings):
        yield f"llama.cpp knows rope_scaling of type {', '.join(architecture.scalings)} for it, not {kind!r}"
    for name, only in {"beta_fast": 32, "beta_slow": 1, "truncate": True}.items():
        if kind == "yarn" and scaling.get(name, only) not in (only, None):
            yield f"llama.cpp computes rope_scaling with {name} = {only}, config.json has {scaling[name]}"
