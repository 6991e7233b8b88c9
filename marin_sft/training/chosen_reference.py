"""Which model DPO compares with, and how it is held, decided while planning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from marin_sft.errors import ConfigError
from marin_sft.inputs import Source
from marin_sft.training.dpo_config import needs_reference
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.models.model_config import Fields


@dataclass(frozen=True)
class Reference:
    """in_memory: the model stays next to the policy. precomputed: its log-probabilities are a step's output, for which
    `options` are more settings. Neither: the loss needs no reference. starts_there: the policy starts as this model."""

    model: Source
    in_memory: bool
    precomputed: bool
    starts_there: bool
    options: dict[str, Any]


def chosen_reference(name: str, base_model: Source, given: Source | None, training: Fields) -> Reference:
    """given: the argument of `steps.dpo`; None: the base model, with the adapter that `lora` starts from.

    Raises:
        ConfigError: a reference for a loss that does not use one.
    """
    adapter = training["lora"].adapter_path if isinstance(training.get("lora"), LoraConfig) else None
    loss_type, free = training.get("loss_type", "sigmoid"), training.get("reference_free", False)
    needed, synced = needs_reference(loss_type, free), training.get("ref_model_sync_steps") is not None
    if not needed and (synced or given is not None):
        raise ConfigError(
            f"step 'checkpoints/{name}': got {'ref_model_sync_steps' if synced else 'a reference model'}, but with "
            f"loss_type={loss_type!r} and reference_free={free} no reference is used; expected None"
        )
    same = given is None or (given == base_model and adapter is None)
    options = {key: training[key] for key in ("precision",) if key in training}
    if (given is None or given == base_model) and training.get("rope_scaling") is not None:
        options["rope_scaling"] = training["rope_scaling"]
    if given is None and adapter is not None:
        options["adapter"] = adapter
    return Reference(
        model=base_model if given is None else given,
        in_memory=synced,
        precomputed=needed and not synced,
        starts_there=needed and same and not training.get("reinit_tokens"),
        options=options,
    )
