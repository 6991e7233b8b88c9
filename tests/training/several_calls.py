"""What the processes of `test_several_processes.py` do."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import fsspec
import jax
import numpy as np

from marin_sft import preemption, progress
from marin_sft.errors import MarinSftError
from marin_sft.training import checkpoints, levanter_trainer, restore, train_run
from marin_sft.training.models import levanter_model
from marin_sft.training.models.device_tensors import DeviceTensors, read_by_first
from marin_sft.training.models.model_directory import ModelDirectory, write_tensors
from marin_sft.training.models.tensor_names import names_of
from marin_sft.training.sft import train
from marin_sft.training.sft_config import SFTConfig
from tests.counted_files import counted_files


def told(work: Callable[..., Any], *arguments: Any) -> str | None:
    """What it raises of our own errors, as text."""
    try:
        work(*arguments)
    except (MarinSftError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def warned_at(step: int, process: int, config: SFTConfig, batches: Any) -> str | None:
    """Train; one process is warned when it has settled the step."""

    def listen(update: progress.Progress) -> None:
        if update.done == step and jax.process_index() == process:
            preemption.warn()

    with progress.listening(listen):
        return told(train, config, batches)


def with_slow_writer(seconds: float, config: SFTConfig, batches: Any) -> None:
    def slowly(*arguments: Any, **options: Any) -> None:
        time.sleep(seconds)  # a large model on a slow disk
        write_tensors(*arguments, **options)

    train_run.write_tensors = slowly
    try:
        train(config, batches)
    finally:
        train_run.write_tensors = write_tensors


def with_failing_disk(process: int, config: SFTConfig, batches: Any) -> str | None:
    """Train; the disk of one process is full when a checkpoint is written."""
    run_serialization = levanter_trainer.run_serialization

    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    if jax.process_index() == process:
        levanter_trainer.run_serialization = full
    try:
        return told(train, config, batches)
    finally:
        levanter_trainer.run_serialization = run_serialization


def resumed_from_own_memory(config: SFTConfig, batches: Any) -> str | None:
    """Each process has a prefix of its own. Only process 0 finds a checkpoint there."""
    path = "memory://prefix/1"
    if jax.process_index() == 0:
        fsspec.filesystem("memory").pipe_file("/prefix/1/checkpoints/step-2/state", b"some")
        checkpoints.finish(path, 2, {})
    return told(restore._newest, (path,), {})


def bytes_read(base_model: str, fsdp: int) -> tuple[int, int]:
    """Of the files of a model: read in this process, and all there are."""
    settings = levanter_trainer.trainer_config(precision="fp32", seed=0, mesh={"data": -1, "fsdp": fsdp})
    with counted_files() as files:
        url = files.put("model", base_model)
        with settings.use_device_mesh():
            levanter_model.load_model(url, axis_mapping=settings.parameter_axis_mapping)
        weights = [name for name in files.sizes("/model") if name.endswith(".safetensors")]
        return sum(files.read[name] for name in weights), sum(files.sizes("/model")[name] for name in weights)


def memory_while_read(base_model: str) -> tuple[int, int, str | None]:
    """Bytes by which this process grows while process 0 reads the weights from the devices, and bytes of all; and what
    is told here if process 0 fails while it reads them."""
    settings = levanter_trainer.trainer_config(precision="fp32", seed=0)
    directory = ModelDirectory(base_model)
    with settings.use_device_mesh():
        model = levanter_model.load_model(directory, axis_mapping=settings.parameter_axis_mapping)
    tensors = Watched(model, names_of(directory))
    before = _memory()

    def use(weights: Mapping[str, np.ndarray]) -> None:
        for name in weights:
            _ = weights[name]

    read_by_first(tensors, use)
    assert len(tensors.seen) == len(tensors)
    grown = max(tensors.seen) - before

    def fail(weights: Mapping[str, np.ndarray]) -> None:
        _ = weights["model.norm.weight"]
        raise OSError("No space left on device")

    return grown, sum(tensor.nbytes for _, tensor in directory.tensors().read()), told(read_by_first, tensors, fail)


class Watched(DeviceTensors):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.seen: list[int] = []

    def __getitem__(self, name: str) -> np.ndarray:
        found = super().__getitem__(name)
        self.seen.append(_memory())
        return found


def _memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
