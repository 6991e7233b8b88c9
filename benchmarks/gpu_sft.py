"""Model FLOPs utilisation of supervised fine-tuning on the accelerators of this machine.

python benchmarks/gpu_sft.py [--batch_size 4 8 16] [--gradient_checkpointing recompute] [--json]
python benchmarks/gpu_sft.py --tiny        # a few steps of a tiny model on whatever there is, to try the script

A Llama of 1.2 billion random parameters (the shape of Llama 3.2 1B), bfloat16 forward and backward, float32 weights and
AdamW; packed rows of 4096 tokens of documents of 400 tokens on average, half of each trained. Nothing is read or
written: what is timed is the training step that `sft` takes, with the host one step ahead, as in its loop. Batch sizes
are rows per step over all devices.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import haliax as hax
import jax
import numpy as np
import optax

from marin_sft.training import levanter_trainer
from marin_sft.training.loss import LossBatch, loss_arrays, nll
from marin_sft.training.metrics.memory import MemoryWatch
from marin_sft.training.metrics.throughput import peak_flops, throughput
from marin_sft.training.models import LlamaConfig
from marin_sft.training.models.architectures import levanter_config
from marin_sft.training.train_step import recording, step_function

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
WARM = 3


@dataclass(frozen=True)
class Rows:
    """Packed rows; see `loss.Batch`."""

    tokens: np.ndarray
    loss_weight: np.ndarray
    segment_ids: np.ndarray
    position_ids: np.ndarray


@dataclass(frozen=True)
class Result:
    batch_size: int
    step_seconds: float
    tokens_per_second: float
    mfu: float | None
    memory: dict[str, float]


def packed_rows(count: int, length: int, vocabulary: int, mean: int, seed: int) -> Rows:
    """Full rows of documents of about `mean` tokens; of each document the second half is trained."""
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


def measure(shape: LlamaConfig, vocabulary: int, batch_size: int, steps: int, options: dict[str, Any]) -> Result:
    """Raises JaxRuntimeError where the batch does not fit into memory."""
    config = shape.hf_config(vocab_size=vocabulary)
    settings = levanter_trainer.trainer_config(precision="bf16", seed=0)
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-5))
    trainer = levanter_trainer.build_trainer(settings, optax.chain(recording(optax.constant_schedule(1e-5)), adam))
    levanter = levanter_config(config, **options)

    def loss(model: Any, batch: Any, key: Any, reference: Any) -> Any:
        return nll(model, LossBatch(**batch)), {}

    with trainer:
        build = hax.named_jit(
            lambda key: levanter.build(hax.Axis("vocab", vocabulary), key=key),
            out_axis_resources=trainer.parameter_axis_mapping,
        )
        state = levanter_trainer.initial_state(trainer, build(jax.random.PRNGKey(0)), 0)
        mean = shape.max_seq_len // 10
        batches = [
            levanter_trainer.to_devices(
                trainer,
                {name: array[None] for name, array in loss_arrays(rows).items()},
            )
            for rows in (packed_rows(batch_size, shape.max_seq_len, vocabulary, mean, seed) for seed in range(4))
        ]
        take_step = step_function(trainer, loss)
        ended: list[float] = []
        under_way: Any = None
        for step in range(WARM + steps):
            state, metrics = take_step(state, batches[step % len(batches)])
            if under_way is not None:
                jax.block_until_ready(under_way)
                ended.append(time.perf_counter())
            under_way = metrics.loss
        value = float(under_way)
        if not np.isfinite(value):
            sys.exit(f"loss {value} after {WARM + steps} steps: expected a finite number")
    seconds = statistics.median(np.diff(ended[WARM - 1 :]).tolist())
    speed = batch_size * shape.max_seq_len / seconds
    devices = throughput(config, jax.devices()[0].device_kind, jax.device_count())
    return Result(batch_size, seconds, speed, devices.utilisation(speed, shape.max_seq_len), MemoryWatch(0.0).figures())


def print_results(results: list[Result]) -> None:
    print("| rows a step | step | tokens/s | MFU | peak of the fullest device |")
    print("| --- | --- | --- | --- | --- |")
    for result in results:
        mfu = "not known" if result.mfu is None else f"{result.mfu:.1%}"
        peak = result.memory.get("memory/device_peak_gib")
        memory = "not known" if peak is None else f"{peak:.1f} GiB"
        print(
            f"| {result.batch_size} | {1000 * result.step_seconds:.0f} ms | {result.tokens_per_second:,.0f} | {mfu} "
            f"| {memory} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--steps", type=int, default=10, help="measured steps of each batch size")
    parser.add_argument("--gradient_checkpointing", default="recompute", help="or 'none', 'save_all', 'nested', ...")
    parser.add_argument("--attention_backend", help="see `TrainConfig`; the best for the device by default")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    shape, vocabulary = (TINY, 512) if given.tiny else (LLAMA_1B, 128_256)
    remat = False if given.gradient_checkpointing == "none" else given.gradient_checkpointing
    options = {"gradient_checkpointing": remat, "attention_backend": given.attention_backend}
    kind = jax.devices()[0].device_kind
    print(f"{jax.device_count()} x {kind}, peak {peak_flops(kind) or 'not known'}", file=sys.stderr)
    results = []
    for batch_size in [2] if given.tiny else given.batch_size:
        try:
            results.append(measure(shape, vocabulary, batch_size, 3 if given.tiny else given.steps, options))
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            print(f"batch size {batch_size} does not fit into memory", file=sys.stderr)
    if given.json:
        print(json.dumps({"device": kind, "results": [asdict(result) for result in results]}))
    else:
        print_results(results)


if __name__ == "__main__":
    main()
