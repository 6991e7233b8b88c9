"""An adapter as a directory that PEFT reads and writes. No JAX.

adapter_config.json          rank, scale, which layers
adapter_model.safetensors    base_model.model.{layer}.lora_A.weight [r, in], .lora_B.weight [out, r] and, for DoRA,
                             .lora_magnitude_vector [out]
                             base_model.model.{matrix}.token_adapter.trainable_tokens_delta [tokens, embed]: the rows of
                             trained tokens, whose ids are `trainable_token_indices` in adapter_config.json

In this module, tensor names are what comes after "base_model.model.".
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from marin_sft.data.download import PROVENANCE
from marin_sft.errors import TrainingError
from marin_sft.training.lora_config import ALL_LINEAR, LoraConfig
from marin_sft.training.models.model_directory import ModelDirectory, write_json
from marin_sft.training.models.stored_tensors import AGAIN

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
A, B, MAGNITUDE = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"
ROWS = ".token_adapter.trainable_tokens_delta"
TOKENS = "trainable_token_indices"
# The fields of adapter_config.json that we read, and those that do not change what the adapter computes. If any other
# field is set, we would compute the adapter differently from PEFT.
READ = {
    "peft_type", "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "use_rslora", "use_dora",
    "init_lora_weights", "bias", TOKENS,
}  # fmt: skip
WITHOUT_EFFECT = {
    "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config", "inference_mode",
    "layers_pattern", "loftq_config", "megatron_config", "megatron_core", "peft_version", "qalora_group_size",
    "revision", "runtime_config", "task_type",
}  # fmt: skip


@dataclass(frozen=True)
class Adapter:
    """config: with r and alpha. tensors: float32, by names like "model.layers.0.mlp.up_proj.lora_A.weight".

    token_ids: of the rows of trained tokens, by the matrix that they belong to, e.g. "model.embed_tokens".
    """

    config: LoraConfig
    tensors: Mapping[str, np.ndarray]
    token_ids: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def same_ids(tensors: Mapping[str, np.ndarray], ids: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """`Adapter.token_ids` where the rows of all matrices are those of the tokens `ids`."""
    return {name.removesuffix(ROWS): ids for name in tensors if name.endswith(ROWS)}


def layers_of(tensors: Mapping[str, np.ndarray]) -> list[str]:
    """The names of the adapted layers, sorted."""
    return sorted(name.removesuffix(A) for name in tensors if name.endswith(A))


def read_adapter(path: str) -> Adapter:
    """The adapter in a directory, local or remote.

    Raises:
        TrainingError: there is no such directory, or we would compute the adapter differently from PEFT.
    """
    directory = ModelDirectory(path)
    config = _config_in(directory)
    try:
        stored = dict(directory.tensors(WEIGHTS).read())
    except FileNotFoundError as error:
        raise TrainingError(
            f"{path}: no {WEIGHTS}; expected the directory of a PEFT adapter saved as safetensors"
        ) from error
    strange = sorted(name for name in stored if not _plain(name).endswith((A, B, MAGNITUDE, ROWS)))
    if strange:
        raise TrainingError(
            f"{path}: tensor {strange[0]}; expected names {PREFIX}LAYER{A}, {B} and {MAGNITUDE}, and "
            f"{PREFIX}MATRIX{ROWS}"
        )
    tensors = {_plain(name): tensor.astype(np.float32) for name, tensor in stored.items()}
    return Adapter(config, tensors, _token_ids(directory, tensors))


def resolved(config: LoraConfig) -> LoraConfig:
    """`config`, completed from the adapter that it starts from.

    Raises:
        TrainingError: as `read_adapter`, or the adapter does not agree with `config`.
    """
    if config.adapter_path is None:
        return config
    stored = _config_in(ModelDirectory(config.adapter_path))
    given = {
        name: value
        for name in ("r", "alpha", "target_modules", "exclude_modules", "use_rslora", "use_dora")
        if (value := getattr(config, name)) not in (None, False)
    }
    differ = [
        f"{name} = {value!r}, but the adapter has {getattr(stored, name)!r}"
        for name, value in given.items()
        if _as_set(value) != _as_set(getattr(stored, name))
    ]
    if differ:
        raise TrainingError(
            f"LoraConfig differs from the adapter at {config.adapter_path}: {'; '.join(differ)}; leave these fields "
            "out, or start a new adapter without adapter_path"
        )
    dropout = stored.dropout if config.dropout is None else config.dropout
    tokens = config.trainable_tokens
    return replace(stored, dropout=dropout, adapter_path=config.adapter_path, trainable_tokens=tokens)


def write_adapter(directory: str, adapter: Adapter, base: ModelDirectory) -> None:
    """Write the two files to a local directory. The same adapter always gives the same bytes.

    base: the base model. The adapter names its path, or, for a downloaded model, its hub id and commit.
    """
    from safetensors.numpy import save_file

    config, tensors = adapter.config, adapter.tensors
    origin = base.json(PROVENANCE) or {}
    targets = config.target_modules
    if targets in (None, ALL_LINEAR):
        targets = sorted({name.rpartition(".")[2] for name in layers_of(tensors)})
    plain = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": origin.get("id", base.path),
        "revision": origin.get("commit"),
        "inference_mode": True,
        "r": config.r,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": _plain_list(targets),
        "exclude_modules": _plain_list(config.exclude_modules),
        "use_rslora": config.use_rslora,
        "use_dora": config.use_dora,
        "init_lora_weights": config.init_lora_weights,
        "bias": "none",
        "fan_in_fan_out": False,
        "modules_to_save": None,
    }
    if adapter.token_ids:
        plain[TOKENS] = {matrix.rpartition(".")[2]: list(ids) for matrix, ids in sorted(adapter.token_ids.items())}
    write_json(directory, CONFIG, plain)
    named = {PREFIX + name: np.ascontiguousarray(tensors[name], np.float32) for name in sorted(tensors)}
    save_file(named, os.path.join(directory, WEIGHTS), metadata={"format": "pt"})


def _config_in(directory: ModelDirectory) -> LoraConfig:
    path, stored = directory.path, directory.json(CONFIG)
    if stored is None:
        raise TrainingError(f"{path}: no {CONFIG}; expected the directory of a PEFT adapter")
    strange = {name: value for name, value in stored.items() if name not in READ | WITHOUT_EFFECT and value}
    for name, plain in (("peft_type", "LORA"), ("bias", "none"), ("init_lora_weights", True)):
        if stored.get(name, plain) not in (plain, False, "gaussian"):
            strange[name] = stored[name]
    if strange:
        raise TrainingError(
            f"{path}/{CONFIG}: {strange}: expected an adapter with A and B matrices only, with or without DoRA's "
            "magnitudes, on an unchanged base model; merge this one with PEFT, and train the result"
        )
    missing = [name for name in ("r", "lora_alpha", "target_modules") if stored.get(name) is None]
    if missing:
        raise TrainingError(f"{path}/{CONFIG}: no {missing[0]}; expected the adapter's settings as PEFT writes them")
    return LoraConfig(
        r=stored["r"],
        alpha=stored["lora_alpha"],
        dropout=stored.get("lora_dropout") or 0.0,
        target_modules=stored["target_modules"],
        exclude_modules=stored.get("exclude_modules") or None,
        use_rslora=bool(stored.get("use_rslora")),
        use_dora=bool(stored.get("use_dora")),
    )


def stored_token_ids(directory: ModelDirectory) -> set[int]:
    """The ids of all tokens that the adapter has rows of, by its adapter_config.json."""
    listed = (directory.json(CONFIG) or {}).get(TOKENS) or []
    return {id for ids in listed.values() for id in ids} if isinstance(listed, dict) else set(listed)


def _token_ids(directory: ModelDirectory, tensors: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """`Adapter.token_ids`. Raises TrainingError if they are not those of the rows that are stored."""
    listed = (directory.json(CONFIG) or {}).get(TOKENS) or {}
    found: dict[str, tuple[int, ...]] = {}
    for name in sorted(name for name in tensors if name.endswith(ROWS)):
        matrix, rows = name.removesuffix(ROWS), len(tensors[name])
        by_name = listed if isinstance(listed, dict) else {matrix: listed}
        ids: list[int] = next((ids for ending, ids in by_name.items() if f".{matrix}".endswith(f".{ending}")), [])
        if len(ids) != rows:
            raise TrainingError(
                f"{directory.path}: {name} has the rows of {rows} tokens, expected as many as {TOKENS} of {CONFIG} "
                f"names, {len(ids)}; {AGAIN}"
            )
        found[matrix] = tuple(ids)
    return found


def _plain(name: str) -> str:
    # Older adapters have ".weight" after magnitudes too.
    return name.removeprefix(PREFIX).replace(f"{MAGNITUDE}.weight", MAGNITUDE)


def _plain_list(modules: Sequence[str] | str | None) -> list[str] | str | None:
    return modules if modules is None or isinstance(modules, str) else list(modules)


def _as_set(value: Iterable[str] | float | None) -> list[str] | str | float | None:
    return value if isinstance(value, str | int | float) or value is None else sorted(value)
