"""Measures one piece of data work in its own process: time and peak memory, as JSON.

ours_data.py REPORT tokenize ROWS.jsonl TOKENIZER OUTPUT     rows to a committed token cache, in this process
ours_data.py REPORT workers ROWS.jsonl TOKENIZER OUTPUT      the same, spread over two workers on Ray
ours_data.py REPORT beside ROWS.jsonl TOKENIZER              both the first and the `tokenizers` library alone
ours_data.py REPORT loader TOKENIZED TOKENIZER OUTPUT        training steps of the quickstart's size
"""

from __future__ import annotations

import itertools
import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["RAYON_NUM_THREADS"] = "1"  # of `tokenizers`: one worker is one core, on both sides

SEQ_LEN, BATCH_SIZE, WARM, STEPS = 128, 16, 5, 60


def tokenize(rows: str, tokenizer: str, output: str) -> dict[str, float]:
    """Process a few rows first, so that imports are not counted."""
    _tokenize(rows, tokenizer, f"{output}-warm", first=100)
    return _tokenize(rows, tokenizer, output)


def workers(rows: str, tokenizer: str, output: str) -> dict[str, float]:
    """`fixed_cpu` and `shard_cpu` are the CPU time of this process: to drive a step, and per shard.

    They come from a line through a step of two shards and one of all rows.
    """
    from marin_sft.data.token_cache import ROWS_PER_SHARD, TokenCache
    from marin_sft.execution.ray_backend import RayBackend

    backend = RayBackend()
    backend.start()
    try:
        _tokenize(rows, tokenizer, f"{output}-warm", first=2 * ROWS_PER_SHARD)  # two shards: both workers start
        few = _tokenize(rows, tokenizer, f"{output}-few", first=2 * ROWS_PER_SHARD)
        many = _tokenize(rows, tokenizer, output)
    finally:
        backend.close()
    shards = math.ceil(len(TokenCache.open(f"{output}/train")) / ROWS_PER_SHARD)
    shard_cpu = (many["cpu"] - few["cpu"]) / (shards - 2)
    return {**many, "shards": shards, "shard_cpu": shard_cpu, "fixed_cpu": few["cpu"] - 2 * shard_cpu}


def _tokenize(rows: str, tokenizer: str, output: str, first: int | None = None) -> dict[str, float]:
    """Tokenize all rows of a file, or the `first` of them."""
    from marin_sft.data.tokenize import TokenizeConfig
    from marin_sft.data.tokenize import tokenize as run

    if first is not None:
        some = Path(f"{output}.jsonl")
        with open(rows) as source:
            some.write_text("".join(itertools.islice(source, first)))
        rows = str(some)
    return _timed(lambda: run(TokenizeConfig((rows,), tokenizer, output_path=output)))


def beside(rows: str, tokenizer: str) -> dict[str, float]:
    """`tokenize_rows` in this process: ours, then `tokenizers` on the same text."""
    from tokenize_rows import measure

    measured = measure(tokenizer, rows)
    return {
        "seconds": measured.step_seconds,
        "tokenizers": measured.tokenizer_seconds,
        "tokens": measured.tokens,
        "ratio": measured.ratio,
    }


def loader(tokenized: str, tokenizer: str, output: str) -> dict[str, float]:
    """How long training steps take, and how long each waits for its batch."""
    import jax
    import optax

    from marin_sft.data.batches.packed_batches import PackedBatches
    from marin_sft.data.batches.prefetch import Prefetched
    from marin_sft.data.data_configs import lm_mixture_data_config
    from marin_sft.data.mixture import MixtureConfig, mixture
    from marin_sft.data.packing.packed_mixture import PackedMixture
    from marin_sft.training import levanter_trainer
    from marin_sft.training.models import Qwen3Config, levanter_model
    from marin_sft.training.models.random_model import random_model
    from marin_sft.training.models.random_model_config import RandomModelConfig
    from marin_sft.training.optimization import optimizers
    from marin_sft.training.optimization.schedules import schedule
    from marin_sft.training.sft import SFTObjective
    from marin_sft.training.sft_config import SFTConfig
    from marin_sft.training.train_step import recording, step_function

    shape = Qwen3Config(
        max_seq_len=SEQ_LEN,
        hidden_dim=128,
        intermediate_dim=384,
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        head_dim=32,
    )
    base, mixed, components = f"{output}/base", f"{output}/mixture", {"chat": tokenized}
    random_model(RandomModelConfig(model=shape, tokenizer=tokenizer, output_path=base))
    data = lm_mixture_data_config(components, {"chat": 1})
    mixture(MixtureConfig(data, SEQ_LEN, output_path=mixed))
    config = SFTConfig(
        mixture=mixed,
        tokenized=components,
        base_model=base,
        train_batch_size=BATCH_SIZE,
        learning_rate=1e-3,
        num_train_steps=WARM + STEPS,
    )
    batches = PackedBatches(PackedMixture.open(mixed, components), BATCH_SIZE)
    settings = levanter_trainer.trainer_config(precision="fp32", seed=0)
    objective = SFTObjective(config, batches, {}, levanter_trainer.layout(settings, BATCH_SIZE, -1))
    rate = schedule(config, WARM + STEPS)
    optimizer = optax.chain(recording(rate), optimizers.optimizer(config, WARM + STEPS))
    trainer = levanter_trainer.build_trainer(settings, optimizer)
    take_step = step_function(trainer, objective.loss)
    waited, begun = 0.0, 0.0
    with trainer, Prefetched(lambda step: objective.arrays(step, 0, 1), WARM + STEPS) as next_arrays:
        model = levanter_model.load_model(base, axis_mapping=trainer.parameter_axis_mapping)
        state = levanter_trainer.initial_state(trainer, model, 0)
        for step in range(WARM + STEPS):
            if step == WARM:  # compiled by now
                waited, begun = 0.0, time.perf_counter()
            asked = time.perf_counter()
            arrays = next_arrays(step)
            waited += time.perf_counter() - asked
            state, metrics = take_step(state, levanter_trainer.to_devices(trainer, arrays))
            jax.block_until_ready(metrics.loss)
        jax.block_until_ready(state.step)
    seconds = time.perf_counter() - begun
    alone = _timed(lambda: [batches.batch(step) for step in range(STEPS)])["seconds"]
    return {"seconds": seconds / STEPS, "waited": waited / STEPS, "unhidden": alone / STEPS}


def _timed(work: Callable[[], Any]) -> dict[str, float]:
    begun, busy = time.perf_counter(), time.process_time()
    work()
    return {"seconds": time.perf_counter() - begun, "cpu": time.process_time() - busy}


WORKS: list[Callable[..., dict[str, float]]] = [tokenize, workers, beside, loader]


def main() -> None:
    report, name, *arguments = sys.argv[1:]
    figures = {work.__name__: work for work in WORKS}[name](*arguments)
    figures["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    Path(report).write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
