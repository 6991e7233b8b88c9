"""Settings near those of a training that need less memory. Light: no JAX."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from marin_sft.errors import ConfigError
from marin_sft.training.devices import micro_batches_of
from marin_sft.training.dpo_config import DPOConfig
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.mesh import mesh_config
from marin_sft.training.precision import policy
from marin_sft.training.sft_config import SFTConfig

_SHORTEST = 512  # tokens
_LEAST = (True, "full", "recompute", "offload", "nested")  # of a layer is saved what enters it, or not even that
_ADAPTER = LoraConfig(r=16, alpha=32)


@dataclass(frozen=True)
class Setting:
    """A training on so many devices, with rows of `length` tokens. changes: how it differs from the given one, as a
    person would write it."""

    config: SFTConfig | DPOConfig
    length: int
    devices: int
    changes: tuple[str, ...] = ()

    @property
    def groups(self) -> int:
        """Devices, or groups of them, with rows of their own."""
        mesh = mesh_config({}) if self.config.mesh is None else mesh_config(self.config.mesh)
        sizes = (mesh.data, mesh.fsdp, mesh.tensor, mesh.sequence)
        if -1 not in (mesh.tensor, mesh.sequence):
            return self.devices // (mesh.tensor * mesh.sequence)
        return sizes[0] * sizes[1]

    @property
    def at_once(self) -> int:
        """Rows or pairs that a group computes at once. 0: the settings do not fit the devices."""
        config = self.config
        parts = micro_batches_of(
            config.train_batch_size, self.groups, config.per_device_parallelism, config.gradient_accumulation_steps
        )
        return 0 if isinstance(parts, str) else config.train_batch_size // (parts * self.groups)

    def with_rows(self, count: int) -> Setting:
        """With so many rows at once, in the user's terms."""
        parts = self.config.train_batch_size // (self.groups * count)
        if self.config.gradient_accumulation_steps is not None:
            return self._changed(f"gradient_accumulation_steps={parts}", gradient_accumulation_steps=parts)
        return self._changed(f"per_device_parallelism={count}", per_device_parallelism=count)

    def _changed(self, said: str, **fields: Any) -> Setting:
        return replace(self, config=replace(self.config, **fields), changes=(*self.changes, said))

    def nearest(self) -> Iterator[Sequence[Setting]]:
        """By kind of change, the cheap kinds first; of each kind, the small changes first."""
        config = self.config
        rows = self.at_once
        yield [self.with_rows(rows // part) for part in _powers(2, rows) if rows % part == 0]
        if config.gradient_checkpointing not in _LEAST:
            yield [self._changed("gradient_checkpointing=True", gradient_checkpointing=True)]
        if "c=f32" in policy(config.precision):
            yield [self._changed("precision='bf16'", precision="bf16")]
        if self._takes_an_adapter():
            yield [self._changed(f"lora=LoraConfig(r={_ADAPTER.r}, alpha={_ADAPTER.alpha:g})", lora=_ADAPTER)]
        shorter = [self.length // part for part in _powers(2, self.length // _SHORTEST)]
        yield [replace(self, length=length, changes=(*self.changes, f"seq_len={length}")) for length in shorter]
        if "p=f32" in policy(config.precision) and config.lora is None:
            yield [self._changed("precision='bf16_full'", precision="bf16_full")]
        yield [
            replace(self, devices=count, changes=(*self.changes, f"{count} devices"))
            for count in (self.devices * factor for factor in _powers(2, 16))
        ]

    def _takes_an_adapter(self) -> bool:
        config = self.config
        synced = isinstance(config, DPOConfig) and config.ref_model_sync_steps is not None
        whole = (config.frozen_parameters, config.unfreeze, config.reinit_tokens, config.weight_decay_parameters)
        return config.lora is None and not any(whole) and not synced

    def smallest(self) -> Setting:
        """The least memory with the same result: one row at once, and activations recomputed."""
        found = self.with_rows(1) if self.at_once > 1 else self
        return (
            found
            if found.config.gradient_checkpointing in _LEAST
            else found._changed("gradient_checkpointing=True", gradient_checkpointing=True)
        )

    def adapted(self) -> Setting | None:
        """The same with an adapter. None: it has one, or cannot."""
        if not self._takes_an_adapter():
            return None
        try:
            return self._changed(f"lora=LoraConfig(r={_ADAPTER.r}, alpha={_ADAPTER.alpha:g})", lora=_ADAPTER)
        except ConfigError:
            return None


def _powers(base: int, most: int) -> Iterator[int]:
    """base, base^2, ... up to `most`."""
    power = base
    while power <= most:
        yield power
        power *= base
