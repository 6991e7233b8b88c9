"""Times training steps of a model with random weights on this machine's accelerators."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import haliax as hax
import jax
import numpy as np
import optax

from marin_sft.training import levanter_trainer
from marin_sft.training.metrics.memory import MemoryWatch
from marin_sft.training.metrics.throughput import throughput
from marin_sft.training.models import LlamaConfig
from marin_sft.training.models.architectures import levanter_config
from marin_sft.training.train_step import Loss, recording, step_function

LLAMA_1B = LlamaConfig(
    max_seq_len=4096,
    hidden_dim=2048,
    intermediate_dim=8192,
    num_layers=16,
    num_heads=32,
    num_kv_heads=8,
    head_dim=64,
    tie_word_embeddings=True,
)
TINY = LlamaConfig(max_seq_len=256, hidden_dim=64, intermediate_dim=128, num_layers=2, num_heads=4, num_kv_heads=2)
VOCABULARY, TINY_VOCABULARY = 128_256, 1024
WARM, PROFILED = 3, 2  # steps


@dataclass(frozen=True)
class Rows:
    """Packed rows; see `loss.Batch`."""

    tokens: np.ndarray
    loss_weight: np.ndarray
    segment_ids: np.ndarray
    position_ids: np.ndarray


@dataclass(frozen=True)
class Result:
    """`tokens_per_second` counts every token of full rows."""

    rows: int
    step_seconds: float
    compile_seconds: float
    tokens_per_second: float
    mfu: float | None
    memory_gib: float | None

    def __str__(self) -> str:
        mfu = "MFU not known" if self.mfu is None else f"MFU {self.mfu:.1%}"
        memory = "memory not known" if self.memory_gib is None else f"{self.memory_gib:.1f} GiB"
        return (
            f"{self.tokens_per_second:,.0f} tokens/s, {mfu}, {memory}, a step {1000 * self.step_seconds:.0f} ms, "
            f"first step {self.compile_seconds:.0f} s"
        )


def packed_rows(count: int, length: int, vocabulary: int, mean: int, seed: int) -> Rows:
    """Full rows of documents of about `mean` tokens. The second half of each document is trained."""
    rng = np.random.default_rng(seed)
    rows = Rows(
        rng.integers(0, vocabulary, (count, length), np.int32),
        np.zeros((count, length), np.float32),
        np.zeros((count, length), np.int32),
        np.zeros((count, length), np.int32),
    )
    for row in range(count):
        start, segment = 0, 0
        while start < length:
            end = min(length, start + int(rng.integers(mean // 2, 3 * mean // 2)))
            rows.segment_ids[row, start:end] = segment
            rows.position_ids[row, start:end] = np.arange(end - start)
            rows.loss_weight[row, (start + end) // 2 : end - 1] = 1.0
            start, segment = end, segment + 1
    return rows


@contextmanager
def trainer_and_state(shape: LlamaConfig, vocabulary: int, options: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Levanter's trainer in bfloat16 with float32 weights and AdamW, and its state for a random model.

    `options`: those of `levanter_config`.
    """
    settings = levanter_trainer.trainer_config(precision="bf16", seed=0)
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-5))
    trainer = levanter_trainer.build_trainer(settings, optax.chain(recording(optax.constant_schedule(1e-5)), adam))
    levanter = levanter_config(shape.hf_config(vocab_size=vocabulary), **options)
    with trainer:
        build = hax.named_jit(
            lambda key: levanter.build(hax.Axis("vocab", vocabulary), key=key),
            out_axis_resources=trainer.parameter_axis_mapping,
        )
        yield trainer, levanter_trainer.initial_state(trainer, build(jax.random.PRNGKey(0)), 0)


def measure(
    shape: LlamaConfig,
    vocabulary: int,
    options: dict[str, Any],
    loss: Loss,
    host_batches: Sequence[dict[str, np.ndarray]],
    tokens: float,
    steps: int,
    profile: Path | None = None,
) -> Result:
    """Train on the batches in turn, with the host one step ahead as in our loop, and time steps from end to end.

    `tokens`: of a batch, on average. `profile`: a folder for a profile of more steps. None: no profile.

    Raises:
        JaxRuntimeError: it does not fit into memory.
    """
    with trainer_and_state(shape, vocabulary, options) as (trainer, state):
        batches = [levanter_trainer.to_devices(trainer, arrays) for arrays in host_batches]
        take_step = step_function(trainer, loss)
        begun, first, ended, value = time.perf_counter(), 0.0, [], float("nan")

        def run(count: int, done: Callable[[], Any]) -> float:
            nonlocal state
            under_way: Any = None
            for step in range(count):
                state, metrics = take_step(state, batches[step % len(batches)])
                if under_way is not None:
                    jax.block_until_ready(under_way)
                    done()
                under_way = metrics.loss
            value = float(under_way)
            done()
            return value

        run(1, lambda: None)
        first = time.perf_counter() - begun
        value = run(WARM + steps, lambda: ended.append(time.perf_counter()))
        if profile is not None:
            with jax.profiler.trace(str(profile)):
                run(PROFILED, lambda: None)
    if not np.isfinite(value):
        sys.exit(f"loss {value} after {WARM + steps} steps: expected a finite number")
    seconds = statistics.median(np.diff(ended[WARM - 1 :]).tolist())
    speed = tokens / seconds
    devices = throughput(shape.hf_config(vocab_size=vocabulary), jax.devices()[0].device_kind, jax.device_count())
    rows = len(next(iter(host_batches[0].values()))[0])
    memory = MemoryWatch(0.0).figures().get("memory/device_peak_gib")
    return Result(rows, seconds, first, speed, devices.utilisation(speed, shape.max_seq_len), memory)


def does_not_fit(error: Exception) -> bool:
    return "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()
