"""Adapters in servers: which can serve one next to its base, and how it is told to."""

from __future__ import annotations

from marin_sft.errors import ExportError
from marin_sft.training.models.model_directory import ModelDirectory
from marin_sft.training.models.peft_directory import CONFIG, TOKENS

ENGINE = "vllm"
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM can be told to make room for
_INSTEAD = "serve the output of export(), which merges the adapter into its base"


def check_adapter(engine: str, adapter: ModelDirectory) -> None:
    """Raise ExportError if the engine cannot serve this adapter."""
    fields = adapter.json(CONFIG) or {}
    if engine != ENGINE:
        raise ExportError(
            f"{adapter.path} is an adapter: {engine} serves whole models here, only {ENGINE} adapters; {_INSTEAD}"
        )
    for name, told in (("use_dora", "with DoRA"), (TOKENS, "with trained tokens")):
        if fields.get(name):
            raise ExportError(f"{adapter.path}: {ENGINE} takes no adapters {told} ({name} in {CONFIG}); {_INSTEAD}")
    rank, most = fields.get("r") or 0, _RANKS[-1]
    if rank > most:
        raise ExportError(f"{adapter.path}: {ENGINE} takes adapters up to rank {most}, this has {rank}; {_INSTEAD}")


def lora_options(adapter: str, name: str) -> list[str]:
    """Of vLLM's server, to serve the adapter in a local directory under that name."""
    rank = (ModelDirectory(adapter).json(CONFIG) or {}).get("r") or 0
    room = next(room for room in _RANKS if room >= rank)
    return ["--enable-lora", "--max-lora-rank", str(room), "--lora-modules", f"{name}={adapter}"]
