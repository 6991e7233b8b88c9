"""Times our DPO on pairs of a prepared folder, in its own process, as JSON.

ours_dpo.py REPORT prepare FOLDER PAIRS.json    rows, tokenizer, model, tokens and mixture, for all engines
ours_dpo.py REPORT train FOLDER MODE            whole training steps; MODE is one of MODES

A folder holds all pairs, and `long`: the pairs whose prompt has most of the tokens.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

SEQ_LEN, BATCH_SIZE, STEPS = 1024, 8, 8
WARM = STEPS  # all batches come twice, so that all shapes are compiled before the measurement
LONG_STEPS = 4
LEARNING_RATE = 1e-5
SHAPE = {"hidden_dim": 256, "intermediate_dim": 512, "num_layers": 8, "num_heads": 4, "num_kv_heads": 2, "head_dim": 64}
VOCABULARY = 8000
ROLES = {"human": "user", "gpt": "assistant", "system": "system"}
MODES: dict[str, tuple[str, dict[str, Any]]] = {
    "cached": ("pairs", {}),
    "online": ("pairs", {}),
    "unshared": ("pairs", {"share_prefix": False}),
    "long": ("long", {}),
    "long-unshared": ("long", {"share_prefix": False}),
}


def prepare(folder: str, pairs: str) -> dict[str, float]:
    """`pairs` has conversations as in ShareGPT. Figures: of the pairs that are trained on."""
    from marin_sft.data.train_tokenizer import TrainTokenizerConfig, train_tokenizer
    from marin_sft.training.models import Qwen3Config
    from marin_sft.training.models.model_directory import ModelDirectory
    from marin_sft.training.models.random_model import random_model
    from marin_sft.training.models.random_model_config import RandomModelConfig

    given = [_messages(row) for row in json.loads(Path(pairs).read_text())]
    _write_rows(f"{folder}/all.jsonl", given)
    train_tokenizer(TrainTokenizerConfig((f"{folder}/all.jsonl",), VOCABULARY, output_path=f"{folder}/tokenizer"))
    shape = Qwen3Config(max_seq_len=SEQ_LEN, tie_word_embeddings=True, **SHAPE)
    random_model(RandomModelConfig(model=shape, tokenizer=f"{folder}/tokenizer", output_path=f"{folder}/model"))
    lengths = _lengths(f"{folder}/tokenizer", given)
    fit = lengths[:, 1:].max(axis=1) <= SEQ_LEN
    chosen = np.flatnonzero(fit)[: BATCH_SIZE * STEPS]
    by_prompt = np.argsort(-np.where(fit, lengths[:, 0] / lengths[:, 1:].mean(axis=1), 0), kind="stable")
    found: dict[str, float] = {}
    for name, numbers in {"pairs": chosen, "long": by_prompt[: BATCH_SIZE * LONG_STEPS]}.items():
        _write_rows(f"{folder}/{name}.jsonl", [given[i] for i in numbers])
        found |= {f"{name}/{figure}": value for figure, value in _tokenized(folder, name).items()}
    weights = dict(ModelDirectory(f"{folder}/model").tensors())
    return {**found, "parameters": sum(tensor.size for tensor in weights.values())}


def _messages(row: dict[str, Any]) -> dict[str, Any]:
    def turn(one: dict[str, str]) -> dict[str, str]:
        return {"role": ROLES[one["from"]], "content": one["value"]}

    prompt = [turn(one) for one in row["conversations"]]
    return {"prompt": prompt, "chosen": [turn(row["chosen"])], "rejected": [turn(row["rejected"])]}


def _write_rows(path: str, rows: list[dict[str, Any]]) -> None:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def _lengths(tokenizer: str, rows: list[dict[str, Any]]) -> np.ndarray:
    """int[rows, 3]: tokens of the prompt and of both branches."""
    from transformers import AutoTokenizer

    load = AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=False)

    def length(messages: list[dict[str, str]], **options: Any) -> int:
        return len(load(load.apply_chat_template(messages, tokenize=False, **options))["input_ids"])

    return np.array(
        [
            (
                length(row["prompt"], add_generation_prompt=True),
                *(length(row["prompt"] + row[key]) for key in ("chosen", "rejected")),
            )
            for row in rows
        ]
    )


def _tokenized(folder: str, name: str) -> dict[str, float]:
    """Our own tokens and mixture, Levanter's rows and the reference's log-probabilities of one set of pairs."""
    from marin_sft.data.data_configs import lm_mixture_data_config
    from marin_sft.data.mixture import MixtureConfig, mixture
    from marin_sft.data.token_cache import TokenCache
    from marin_sft.data.tokenize import TokenizeConfig, tokenize
    from marin_sft.training.dpo_config import ReferenceConfig
    from marin_sft.training.reference import reference_logprobs as run

    tokens = f"{folder}/{name}-tokens"
    tokenize(TokenizeConfig((f"{folder}/{name}.jsonl",), f"{folder}/tokenizer", output_path=tokens))
    data = lm_mixture_data_config({name: tokens}, {name: 1}, shuffle=False)
    mixture(MixtureConfig(data, SEQ_LEN, output_path=f"{folder}/{name}-mixture"))
    documents = TokenCache.open(f"{tokens}/train").read(
        np.arange(2 * len(Path(f"{folder}/{name}.jsonl").read_text().splitlines()))
    )
    padded = np.zeros((2, len(documents), SEQ_LEN), np.int32)  # tokens, masks
    lengths = np.array([len(document.mask) for document in documents])
    for i, document in enumerate(documents):
        padded[0, i, : lengths[i]], padded[1, i, : lengths[i]] = document.input_ids, document.mask
    np.savez(f"{folder}/{name}-padded.npz", tokens=padded[0], masks=padded[1], lengths=lengths)
    config = ReferenceConfig(
        mixture=f"{folder}/{name}-mixture",
        tokenized={name: tokens},
        model=f"{folder}/model",
        precision="fp32",
        batch_size=BATCH_SIZE,
        output_path=f"{folder}/{name}-reference",
    )
    begun = time.perf_counter()
    run(config)
    seconds = time.perf_counter() - begun
    return {
        "pairs": len(documents) // 2,
        "tokens": float(lengths.mean()),
        "targets": float(padded[1].sum() / len(documents)),
        "longest": float(lengths.max()),
        "reference_seconds": seconds,
    }


def train(folder: str, mode: str) -> dict[str, Any]:
    """`seconds` of a step in the loop, logging and data included, when everything is compiled."""
    from marin_sft import progress
    from marin_sft.training.dpo import dpo as run
    from marin_sft.training.dpo_config import DPOConfig

    name, options = MODES[mode]
    steps = STEPS if name == "pairs" else LONG_STEPS
    reference: dict[str, Any] = (
        {"reference_model": f"{folder}/model"}
        if mode == "online"
        else {"reference_logprobs": f"{folder}/{name}-reference"}
    )
    config = DPOConfig(
        mixture=f"{folder}/{name}-mixture",
        tokenized={name: f"{folder}/{name}-tokens"},
        base_model=f"{folder}/model",
        output_path=f"{folder}/trained-{mode}",
        earlier_attempts=(),
        train_batch_size=BATCH_SIZE,
        num_train_steps=2 * steps,
        learning_rate=LEARNING_RATE,
        lr_schedule="constant",
        warmup=0.0,
        precision="fp32",
        gradient_checkpointing=False,
        minutes_per_checkpoint=None,
        steps_per_log=1,
        starts_at_reference=True,
        **reference,
        **options,
    )
    ended: dict[int, float] = {}

    def note(update: progress.Progress) -> None:
        ended.setdefault(int(update.done), time.perf_counter())

    with progress.listening(note):
        run(config)
    lines = [json.loads(line) for line in Path(config.output_path, "metrics.jsonl").read_text().splitlines()]
    return {
        "seconds": (ended[2 * steps] - ended[steps]) / steps,
        "losses": [line["loss"] for line in lines],
        **_rows(config),
    }


def _rows(config: Any) -> dict[str, Any]:
    """How full the rows of the measured steps were, and how many of their tokens were targets."""
    from marin_sft.data.batches.pair_batches import PairBatches
    from marin_sft.data.packing.packed_mixture import PackedMixture

    mixture = PackedMixture.open(config.mixture, config.tokenized)
    batches = PairBatches(mixture, BATCH_SIZE, config.seed, share_prefix=config.share_prefix is None)
    there = [batches.batch(step) for step in range(batches.rows_per_epoch // BATCH_SIZE)]
    places = sum(batch.tokens.size for batch in there)
    return {
        "filled": sum(int((batch.segment_ids >= 0).sum()) for batch in there) / places,
        "targets": sum(batch.trained_tokens for batch in there) / places,
        "shapes": sorted({batch.tokens.shape for batch in there}),
    }


def main() -> None:
    report, name, *arguments = sys.argv[1:]
    figures = {"prepare": prepare, "train": train}[name](*arguments)
    Path(report).write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
