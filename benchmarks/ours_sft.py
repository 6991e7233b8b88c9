"""Times our supervised fine-tuning on rows of a prepared folder, in its own process, as JSON.

ours_sft.py REPORT prepare FOLDER ROWS.jsonl    tokenizer, model, token cache and packed rows, for all engines
ours_sft.py REPORT train FOLDER STEPS           training steps in the loop, logging and data included
ours_sft.py REPORT matmul                       FLOPs per second of a large product of float32 matrices
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

SEQ_LEN, BATCH_SIZE = 512, 8
WARM = 3  # steps until it is compiled and at speed
SHAPE: dict[str, Any] = {
    "hidden_dim": 256,
    "intermediate_dim": 768,
    "num_layers": 6,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 64,
}
VOCABULARY = 8000


def prepare(folder: str, rows: str) -> dict[str, float]:
    """`dialogues`: of the packed rows of one step, on average."""
    from marin_sft.data.data_configs import lm_mixture_data_config
    from marin_sft.data.mixture import MixtureConfig, mixture
    from marin_sft.data.tokenize import TokenizeConfig, tokenize
    from marin_sft.data.train_tokenizer import TrainTokenizerConfig, train_tokenizer
    from marin_sft.training.models import Qwen3Config
    from marin_sft.training.models.model_directory import ModelDirectory
    from marin_sft.training.models.random_model import random_model
    from marin_sft.training.models.random_model_config import RandomModelConfig

    train_tokenizer(TrainTokenizerConfig((rows,), VOCABULARY, output_path=f"{folder}/tokenizer"))
    shape = Qwen3Config(max_seq_len=SEQ_LEN, tie_word_embeddings=True, **SHAPE)
    random_model(RandomModelConfig(model=shape, tokenizer=f"{folder}/tokenizer", output_path=f"{folder}/model"))
    tokenize(TokenizeConfig((rows,), f"{folder}/tokenizer", output_path=f"{folder}/tokenized"))
    data = lm_mixture_data_config({"chat": f"{folder}/tokenized"}, {"chat": 1}, shuffle=True)
    mixture(MixtureConfig(data, SEQ_LEN, output_path=f"{folder}/mixture"))
    batches = _batches(folder)
    documents = tokens = trained = 0
    steps = batches.rows_per_epoch // BATCH_SIZE
    for step in range(steps):
        batch = batches.batch(step)
        documents += int((batch.segment_ids.max(axis=1) + 1).sum())
        tokens += int((batch.segment_ids >= 0).sum())
        trained += batch.trained_tokens
    weights = dict(ModelDirectory(f"{folder}/model").tensors())
    return {
        "steps": steps,
        "dialogues": documents / steps,
        "tokens": tokens / steps,
        "trained_tokens": trained / steps,
        "parameters": sum(tensor.size for tensor in weights.values()),
        "vocabulary": len(weights["model.embed_tokens.weight"]),
    }


def _batches(folder: str) -> Any:
    from marin_sft.data.batches.packed_batches import PackedBatches
    from marin_sft.data.packing.packed_mixture import PackedMixture

    return PackedBatches(PackedMixture.open(f"{folder}/mixture", {"chat": f"{folder}/tokenized"}), BATCH_SIZE)


def train(folder: str, steps: str) -> dict[str, float]:
    """`seconds` from the end of one step to the end of the next. `idle`: the part of them in which no step ran."""
    import jax

    from marin_sft.training import sft, train_run
    from marin_sft.training.sft_config import SFTConfig

    count = WARM + int(steps)
    config = SFTConfig(
        mixture=f"{folder}/mixture",
        tokenized={"chat": f"{folder}/tokenized"},
        base_model=f"{folder}/model",
        output_path=f"{folder}/trained",
        earlier_attempts=(),
        train_batch_size=BATCH_SIZE,
        num_train_steps=count,
        learning_rate=1e-3,
        precision="fp32",
        gradient_checkpointing=False,
        minutes_per_checkpoint=None,
        steps_per_log=1,
    )
    begun: list[float] = []
    ended: list[float] = []
    step_function = train_run.step_function

    def await_end(metrics: Any) -> None:
        jax.block_until_ready(metrics)
        ended.append(time.perf_counter())

    def timed(*given: Any) -> Any:
        """The step of the run, with another thread that waits for its end."""
        take_step = step_function(*given)

        def step(state: Any, batch: Any) -> Any:
            begun.append(time.perf_counter())
            state, metrics = take_step(state, batch)
            watching.submit(await_end, metrics)
            return state, metrics

        return step

    train_run.step_function = timed  # type: ignore[assignment]
    with ThreadPoolExecutor(1) as watching:
        sft.sft(config)
    lines = [json.loads(line) for line in Path(config.output_path, "metrics.jsonl").read_text().splitlines()]
    before, last, taken = lines[WARM - 1], lines[-1], count - WARM
    gaps = (max(0.0, start - end) for end, start in zip(ended[WARM - 1 : -1], begun[WARM:], strict=True))
    return {
        "seconds": (ended[-1] - ended[WARM - 1]) / taken,
        "idle": sum(gaps) / taken,
        "tokens": (last["tokens"] - before["tokens"]) / taken,
        "trained_tokens": (last["trained_tokens"] - before["trained_tokens"]) / taken,
        "loss": last["loss"],
    }


def matmul(size: str = "2048") -> dict[str, float]:
    import jax
    import jax.numpy as jnp

    square = jnp.ones((int(size), int(size)), jnp.float32)
    product = jax.jit(jnp.matmul)
    seconds = []
    for _ in range(12):
        begun = time.perf_counter()
        product(square, square).block_until_ready()
        seconds.append(time.perf_counter() - begun)
    return {"flops": 2 * int(size) ** 3 / statistics.median(seconds[2:])}


def main() -> None:
    report, name, *arguments = sys.argv[1:]
    works: dict[str, Callable[..., dict[str, float]]] = {"prepare": prepare, "train": train, "matmul": matmul}
    figures = works[name](*arguments)
    Path(report).write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
