"""What our supervised fine-tuning takes on rows of a prepared folder, in a process of its own, as JSON.

ours_sft.py REPORT prepare FOLDER ROWS.jsonl    tokenizer, model, token cache and packed rows, for all engines
ours_sft.py REPORT train FOLDER                 whole training steps, and the compiled step by itself
ours_sft.py REPORT matmul                       FLOPs per second of a large product of float32 matrices
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
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
    from marin_sft.data.tokenizer import TrainTokenizerConfig, train_tokenizer
    from marin_sft.training.models import Qwen3Config, hf_directory
    from marin_sft.training.models.random_model import RandomModelConfig, random_model

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
    weights = hf_directory.read_tensors(f"{folder}/model")
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

    return PackedBatches(f"{folder}/mixture", {"chat": f"{folder}/tokenized"}, BATCH_SIZE)


def train(folder: str, steps: str) -> dict[str, float]:
    """`seconds` of a step in the loop, logging and data included; `compiled`: of the compiled step alone."""
    import jax

    from marin_sft import progress
    from marin_sft.training import sft_run, train_run
    from marin_sft.training.sft_config import SFTConfig

    # Half of the steps, the compiled step by itself, the other half: what the machine does meanwhile falls on both.
    half = int(steps) // 2
    middle = WARM + half + 1
    count = middle + half + 1
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
    ended: dict[int, float] = {}
    compiled: list[float] = []
    step_function = train_run.step_function

    def keeping(*given: Any) -> Any:
        """The run's own step; in the middle, batches so far are trained on again, one by one."""
        take_step = step_function(*given)
        batches: list[Any] = []

        def step(state: Any, batch: Any) -> Any:
            if len(batches) == middle:
                for again in 2 * batches[WARM:-1]:
                    jax.block_until_ready((state, again))
                    begun = time.perf_counter()
                    state, metrics = take_step(state, again)
                    jax.block_until_ready((state, metrics))
                    compiled.append(time.perf_counter() - begun)
            batches.append(batch)
            return take_step(state, batch)

        return step

    def hear(update: progress.Progress) -> None:
        ended[int(update.done)] = time.perf_counter()

    train_run.step_function = keeping  # type: ignore[assignment]
    with progress.listening(hear):
        sft_run.run(config)
    lines = [json.loads(line) for line in Path(config.output_path, "metrics.jsonl").read_text().splitlines()]
    measured = [line for line in lines if WARM <= line["step"] <= count]
    # A step's end is told while the one after it runs.
    whole = (ended[middle - 1] - ended[WARM]) + (ended[count] - ended[middle + 1])
    return {
        "seconds": whole / (middle - 1 - WARM + count - middle - 1),
        "compiled": statistics.mean(compiled),
        "tokens": (measured[-1]["tokens"] - measured[0]["tokens"]) / (len(measured) - 1),
        "trained_tokens": (measured[-1]["trained_tokens"] - measured[0]["trained_tokens"]) / (len(measured) - 1),
        "loss": lines[-1]["loss"],
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
