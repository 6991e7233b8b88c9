"""Levanter's model config for a `config.json`, or an error that names what Levanter would compute differently."""

from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass
from types import SimpleNamespace

from levanter.layers.attention import AttentionConfig
from levanter.models.llama import LlamaConfig
from levanter.models.lm_model import LmConfig
from levanter.utils.activation import ActivationFunctionEnum

from marin_sft.errors import TrainingError
from marin_sft.training.attention.choice import backend_for
from marin_sft.training.models import levanter_bridge  # noqa: F401  for Levanter's models
from marin_sft.training.models.families import FAMILIES, check_family
from marin_sft.training.models.model_config import Fields, with_defaults
from marin_sft.training.models.recomputation import policy_for
from marin_sft.training.models.rope_scaling import longest_of
from marin_sft.training.models.rotary import Yarn

ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_new"}  # one function, two names


@dataclass(frozen=True)
class Mistral(LlamaConfig):
    """A Llama whose tokens see the last `sliding_window` tokens, including themselves. None: all tokens."""

    sliding_window: int | None = None

    @classmethod
    def from_hf_config(cls, hf_config: SimpleNamespace) -> Mistral:
        llama = LlamaConfig.from_hf_config(hf_config)
        fields = {field.name: getattr(llama, field.name) for field in dataclasses.fields(llama)}
        return cls(**fields, sliding_window=hf_config.sliding_window)

    def attention_config(self) -> AttentionConfig:
        return dataclasses.replace(super().attention_config(), sliding_window=self.sliding_window)


def levanter_config(
    config: Fields,
    gradient_checkpointing: bool | str = False,
    attention_backend: str | None = None,
    splits_sequence: bool = False,
) -> LmConfig:
    """Levanter's model config for the fields of a `config.json` (see `ModelDirectory.config`).

    gradient_checkpointing, attention_backend: see `TrainConfig`. splits_sequence: see `backend_for`.

    Raises:
        TrainingError: training would not compute what transformers does, or the attention backend does not run on
            these devices.
    """
    check_family(config)
    hf_config = SimpleNamespace(**with_defaults(config))
    scaling = hf_config.rope_scaling or {}
    if scaling.get("rope_type") in ("yarn", "dynamic"):  # Levanter's differs; no change for the lengths that we accept
        hf_config.rope_scaling = None
    module, _, name = FAMILIES[config["model_type"]].partition(":")
    if "hidden_act" in config:
        hf_config.hidden_act = _activation(config["hidden_act"])
    levanter = getattr(importlib.import_module(module), name).from_hf_config(hf_config)
    changes: dict[str, object] = {
        "gradient_checkpointing": policy_for(gradient_checkpointing),
        "attn_backend": backend_for(levanter, attention_backend, splits_sequence),
        "head_dim": getattr(hf_config, "head_dim", None),
        "use_flash_attention": None,  # attn_backend decides
        "layer_types": tuple(getattr(hf_config, "layer_types", None) or ()),  # a list could not be hashed
    }
    if scaling.get("rope_type") == "yarn":
        changes["rope"] = Yarn.of(hf_config.rope_theta, scaling, hf_config.max_position_embeddings)
        changes["max_seq_len"] = longest_of(vars(hf_config) | {"rope_scaling": scaling})
    if config["model_type"] == "gemma":
        # Levanter always uses the approximation; transformers follows this field.
        changes["activation_function"] = _activation(hf_config.hidden_act)
    known = {field.name for field in dataclasses.fields(levanter)}
    return dataclasses.replace(levanter, **{field: value for field, value in changes.items() if field in known})


def _activation(name: str) -> ActivationFunctionEnum:
    try:
        return ActivationFunctionEnum(ACTIVATIONS.get(name, name))
    except ValueError as error:
        known = ", ".join([*ActivationFunctionEnum, *ACTIVATIONS])
        raise TrainingError(f"config.json: hidden_act {name!r}: expected one of {known}") from error
