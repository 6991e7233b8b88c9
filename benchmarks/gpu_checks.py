"""Checks that training computes the same on this machine's accelerator as on a CPU in float32.

python benchmarks/gpu_checks.py attention          loss and gradients, packed and not, by attention backend and type
python benchmarks/gpu_checks.py prepare FOLDER     in FOLDER/checks and FOLDER/pairs: generated chats and pairs, their
                                                   tokens, a model, and the CPU's figures for SFT and DPO
python benchmarks/gpu_checks.py compare FOLDER     the same steps here, and how far their figures are from the CPU's

Float32 products run at the highest precision: NVIDIA cards round the factors to 10 bits of mantissa otherwise.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")

import numpy as np
from figures import tell

LENGTH, VOCABULARY, STEPS = 512, 1024, 5
DOCUMENTS = (200, 150, 90, 60)  # tokens, of a packed row; the rest is padding
# Relative: of the loss, and of the gradient's error as a vector.
TOLERANCE = {"fp32": (1e-5, 1e-4), "bf16": (1e-2, 5e-2)}
STEP_TOLERANCE = 1e-4
SHAPE: dict[str, Any] = {
    "hidden_dim": 128,
    "intermediate_dim": 256,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 64,
}
CHECKS, PAIRS, CPU_FIGURES = "checks", "pairs", "cpu.json"


def attention() -> bool:
    """Every backend against plain attention in float32 on unpacked documents."""
    import haliax as hax
    import jax
    import jax.numpy as jnp

    from marin_sft.training import levanter_trainer
    from marin_sft.training.models import LlamaConfig
    from marin_sft.training.models.architectures import levanter_config

    config = LlamaConfig(max_seq_len=LENGTH, **SHAPE).hf_config(vocab_size=VOCABULARY)

    def model_with(backend: str) -> Any:
        """The same weights for every backend."""
        build = levanter_config(config, attention_backend=backend).build
        return hax.named_jit(build)(hax.Axis("vocab", VOCABULARY), key=jax.random.PRNGKey(0))

    packed, unpacked = _packed(), _unpacked()
    together = dataclasses.replace(packed, segment_ids=np.minimum(packed.segment_ids, 0))  # as one document
    exact_loss, exact = _loss_and_gradient()(model_with("vanilla"), unpacked)
    norm = float(jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in exact)))
    right = True
    for backend in _backends():
        for precision, (loss_tolerance, tolerance) in TOLERANCE.items():
            settings = levanter_trainer.trainer_config(precision=precision, seed=0)
            model, loss_and_gradient = model_with(backend), _loss_and_gradient(settings.mp)
            for rows, name in ((packed, "packed"), (unpacked, "unpacked"), (together, "as one document")):
                loss, gradient = loss_and_gradient(model, rows)
                wrong = abs(loss - exact_loss) / exact_loss
                error = float(jnp.sqrt(sum(jnp.sum((a - b) ** 2) for a, b in zip(gradient, exact, strict=True)))) / norm
                holds = wrong <= loss_tolerance and error <= tolerance
                if rows is together:  # a kernel that ignored documents would find this right
                    holds = error > 10 * tolerance
                right &= holds
                tell(
                    f"check attention {backend} {precision} {name}",
                    f"{'holds' if holds else 'WRONG'}: loss off by {wrong:.1e}, gradient by {error:.1e}, relative",
                    holds=holds,
                    loss=wrong,
                    gradient=error,
                )
    return right


def _backends() -> list[str]:
    import importlib.util

    import jax

    if jax.default_backend() != "gpu":
        return ["vanilla", "jax_flash"]
    fused = importlib.util.find_spec("transformer_engine") is not None
    return ["vanilla", "jax_flash", "tokamax", *(["nvte"] if fused else [])]


def _packed() -> Any:
    """All documents in the first row. The others are empty, so that `_unpacked` can use the same compiled function."""
    rows = _empty_rows()
    rng, start = np.random.default_rng(0), 0
    for segment, size in enumerate(DOCUMENTS):
        place = slice(start, start + size)
        rows.tokens[0, place] = rng.integers(0, VOCABULARY, size)
        rows.segment_ids[0, place], rows.position_ids[0, place] = segment, np.arange(size)
        rows.loss_weight[0, start + size // 2 : start + size - 1] = 1.0
        start += size
    return rows


def _unpacked() -> Any:
    """Each document of the packed row in its own row."""
    packed, rows = _packed(), _empty_rows()
    for row in range(len(DOCUMENTS)):
        place = np.flatnonzero(packed.segment_ids[0] == row)
        size = len(place)
        rows.tokens[row, :size], rows.loss_weight[row, :size] = packed.tokens[0, place], packed.loss_weight[0, place]
        rows.segment_ids[row, :size], rows.position_ids[row, :size] = 0, np.arange(size)
    return rows


def _empty_rows() -> Any:
    from gpu_model import Rows

    rows = Rows(*(np.zeros((len(DOCUMENTS), LENGTH), dtype) for dtype in (np.int32, np.float32, np.int32, np.int32)))
    rows.segment_ids[:] = -1
    return rows


def _loss_and_gradient(precision: Any = None) -> Any:
    """A function of a model and rows, compiled once for all rows of one shape."""
    import equinox as eqx
    import haliax as hax
    import jax

    from marin_sft.training.axes import BATCH, POSITION
    from marin_sft.training.loss import LossBatch, loss_arrays, nll

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def value(model: Any, batch: Any) -> Any:
        return nll(model if precision is None else precision.cast_to_compute(model), batch)

    def loss_and_gradient(model: Any, rows: Any) -> tuple[float, list[Any]]:
        batch = LossBatch(**{name: hax.named(array, (BATCH, POSITION)) for name, array in loss_arrays(rows).items()})
        loss, gradient = value(model, batch)
        return float(loss), [leaf for leaf in jax.tree_util.tree_leaves(gradient) if leaf is not None]

    return loss_and_gradient


def prepare(folder: str) -> None:
    os.environ["JAX_PLATFORMS"] = "cpu"
    make(f"{folder}/{CHECKS}", LENGTH, 40, 80)
    Path(folder, CHECKS, CPU_FIGURES).write_text(json.dumps(steps(f"{folder}/{CHECKS}")))
    make(f"{folder}/{PAIRS}", 1024, 120, 128)
    Path(folder, PAIRS, "model/model.safetensors").unlink()  # the benchmarks only need its config


def make(folder: str, length: int, words: int, count: int) -> None:
    """`length`: tokens of a row, or of a pair's branch. `words`: the most in a turn. `count`: the number of pairs."""
    from marin_sft.data.data_configs import lm_mixture_data_config
    from marin_sft.data.mixture import MixtureConfig, mixture
    from marin_sft.data.tokenize import TokenizeConfig, tokenize
    from marin_sft.data.train_tokenizer import TrainTokenizerConfig, train_tokenizer
    from marin_sft.training.dpo_config import ReferenceConfig
    from marin_sft.training.models import LlamaConfig
    from marin_sft.training.models.random_model import random_model
    from marin_sft.training.models.random_model_config import RandomModelConfig
    from marin_sft.training.reference import reference_logprobs as reference

    rng = random.Random(0)

    def turn(role: str) -> dict[str, str]:
        numbers = (str(rng.randrange(10_000)) for _ in range(rng.randrange(words // 4, words)))
        return {"role": role, "content": " ".join(numbers)}

    _write(f"{folder}/chat.jsonl", [{"messages": [turn("user"), turn("assistant")]} for _ in range(200)])
    pairs = [
        {"prompt": [turn("user")], "chosen": [turn("assistant")], "rejected": [turn("assistant")]} for _ in range(count)
    ]
    _write(f"{folder}/pairs.jsonl", pairs)
    train_tokenizer(TrainTokenizerConfig((f"{folder}/chat.jsonl",), VOCABULARY, output_path=f"{folder}/tokenizer"))
    shape = LlamaConfig(max_seq_len=length, tie_word_embeddings=True, **SHAPE)
    random_model(RandomModelConfig(model=shape, tokenizer=f"{folder}/tokenizer", output_path=f"{folder}/model"))
    for name in ("chat", "pairs"):
        tokens = f"{folder}/{name}-tokens"
        tokenize(TokenizeConfig((f"{folder}/{name}.jsonl",), f"{folder}/tokenizer", output_path=tokens))
        data = lm_mixture_data_config({name: tokens}, {name: 1}, shuffle=False)
        mixture(MixtureConfig(data, length, output_path=f"{folder}/{name}-mixture"))
    reference(
        ReferenceConfig(
            mixture=f"{folder}/pairs-mixture",
            tokenized={"pairs": f"{folder}/pairs-tokens"},
            model=f"{folder}/model",
            precision="fp32",
            batch_size=8,
            output_path=f"{folder}/reference",
        )
    )


def _write(path: str, rows: list[Any]) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def steps(folder: str) -> dict[str, dict[str, list[float]]]:
    """Losses and gradient norms of steps of SFT ("chat") and DPO ("pairs") with the model and data in `folder`."""
    from marin_sft.training import dpo, sft
    from marin_sft.training.dpo_config import DPOConfig
    from marin_sft.training.sft_config import SFTConfig

    common: dict[str, Any] = {
        "base_model": f"{folder}/model",
        "earlier_attempts": (),
        "train_batch_size": 8,
        "num_train_steps": STEPS,
        "learning_rate": 1e-3,
        "precision": "fp32",
        "minutes_per_checkpoint": None,
        "steps_per_log": 1,
    }
    found = {}
    with tempfile.TemporaryDirectory() as output:
        for what in ("chat", "pairs"):
            path = f"{output}/{what}"
            if what == "chat":
                sft.sft(SFTConfig(output_path=path, **_data(folder, what), **common))
            else:
                dpo.dpo(DPOConfig(output_path=path, **prepared_pairs(folder), **common))
            lines = [json.loads(line) for line in Path(path, "metrics.jsonl").read_text().splitlines()]
            found[what] = {name: [line[name] for line in lines if name in line] for name in ("loss", "grad_norm")}
    return found


def prepared_pairs(folder: str) -> dict[str, Any]:
    """Fields of a DPOConfig: the pairs that `make` made, and their reference, which is the model in `folder`."""
    return {**_data(folder, "pairs"), "reference_logprobs": f"{folder}/reference", "starts_at_reference": True}


def _data(folder: str, what: str) -> dict[str, Any]:
    return {"mixture": f"{folder}/{what}-mixture", "tokenized": {what: f"{folder}/{what}-tokens"}}


def compare(folder: str) -> bool:
    checks = Path(folder, CHECKS)
    cpu, device = json.loads((checks / CPU_FIGURES).read_text()), steps(str(checks))
    right = True
    for what, name in (("chat", "SFT"), ("pairs", "DPO")):
        for figure in ("loss", "grad_norm"):
            ours, theirs = np.array(device[what][figure]), np.array(cpu[what][figure])
            off = float(np.max(np.abs(ours - theirs) / np.abs(theirs)))
            holds = off <= STEP_TOLERANCE * (1 if figure == "loss" else 10)
            right &= holds
            tell(
                f"check {name} {figure} of {STEPS} steps",
                f"{'holds' if holds else 'WRONG'}: off by {off:.1e} from the CPU's, relative",
                holds=holds,
                off=off,
            )
    return right


def main() -> int:
    what, *arguments = sys.argv[1:]
    works = {"attention": attention, "prepare": prepare, "compare": compare}
    return int(works[what](*arguments) is False)  # type: ignore[operator]


if __name__ == "__main__":
    sys.exit(main())
