"""Training steps from data to weights against transformers and torch: loss, gradient norm, clipping, AdamW, decay."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from marin_sft.data.batches.packed_batches import PackedBatches
from marin_sft.data.data_configs import lm_mixture_data_config
from marin_sft.data.mixture import MixtureConfig, mixture
from marin_sft.data.packing.packed_mixture import PackedMixture
from marin_sft.data.tokenize import TokenizeConfig, tokenize
from marin_sft.training.models.model_directory import ModelDirectory
from marin_sft.training.sft import sft as run
from marin_sft.training.sft_config import SFTConfig
from tests.training.small_runs import sft_config

STEPS = 5
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}
LINEAR = {"rope_type": "linear", "factor": 2.0}


@pytest.fixture(
    scope="module",
    params=[(False, None), (True, None), (True, YARN), (True, LINEAR)],
    ids=["unpacked", "packed", "yarn", "linear rope"],
)
def config(request, base_model, tmp_path_factory) -> SFTConfig:
    pack, rope_scaling = request.param
    root = tmp_path_factory.mktemp("parity")
    rng = np.random.default_rng(0)
    with open(root / "rows.jsonl", "w") as file:
        for _ in range(30):
            words = [f"w{i}" for i in rng.integers(0, 40, rng.integers(4, 18))]
            question, answer = " ".join(words[:2]), " ".join(words[2:])
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": messages}) + "\n")
    tokenized = {"chat": f"{root}/tokenized"}
    tokenize(TokenizeConfig((f"{root}/rows.jsonl",), base_model, output_path=tokenized["chat"]))
    data = lm_mixture_data_config(tokenized, {"chat": 1}, pack=pack, shuffle=False)
    mixture(MixtureConfig(data, 32, output_path=f"{root}/mixture"))
    return sft_config(
        base_model,
        f"{root}/trained",
        mixture=f"{root}/mixture",
        tokenized=tokenized,
        num_train_steps=STEPS,
        learning_rate=3e-3,
        lr_schedule="constant",
        warmup=0.0,
        weight_decay=0.1,
        max_grad_norm=0.3,
        per_device_parallelism=2,
        rope_scaling=rope_scaling,
    )


def documents(batches: PackedBatches, step: int) -> list[tuple[list[int], list[bool]]]:
    """Ids of each document of a batch, and whether each token after the first is trained."""
    batch, found = batches.batch(step), []
    for row in range(batches.batch_size):
        for segment in range(batch.segment_ids[row].max() + 1):
            here = batch.segment_ids[row] == segment
            found.append((batch.tokens[row, here].tolist(), (batch.loss_weight[row, here][:-1] > 0).tolist()))
    return found


def sum_of_nll(model: torch.nn.Module, ids: list[int], trained: list[bool]) -> torch.Tensor:
    log_probs = torch.log_softmax(model(torch.tensor([ids])).logits[0, :-1], -1)
    return -log_probs[torch.arange(len(ids) - 1), torch.tensor(ids[1:])][torch.tensor(trained)].sum()


def train_with_torch(config: SFTConfig) -> tuple[list[tuple[float, float]], dict[str, np.ndarray]]:
    """(loss, gradient norm) of each step, and the weights after the last."""
    scaled = {} if config.rope_scaling is None else {"rope_scaling": config.rope_scaling}
    model = transformers.AutoModelForCausalLM.from_pretrained(config.base_model, **scaled)
    decayed = [p for name, p in model.named_parameters() if "norm" not in name and "embed" not in name]
    spared = [p for name, p in model.named_parameters() if "norm" in name or "embed" in name]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": spared, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
    )
    batches = PackedBatches(PackedMixture.open(config.mixture, config.tokenized), config.train_batch_size, config.seed)
    figures = []
    for step in range(STEPS):
        some = documents(batches, step)
        loss = sum(sum_of_nll(model, *document) for document in some) / sum(sum(trained) for _, trained in some)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        figures.append((loss.item(), norm.item()))
    return figures, {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def test_steps_are_those_of_torch(config):
    figures, weights = train_with_torch(config)
    run(config)
    lines = [json.loads(line) for line in (Path(config.output_path) / "metrics.jsonl").read_text().splitlines()]
    np.testing.assert_allclose([(line["loss"], line["grad_norm"]) for line in lines], figures, atol=1e-4)
    assert all(norm > config.max_grad_norm for _, norm in figures)  # all steps were clipped
    ours = dict(ModelDirectory(f"{config.output_path}/model").tensors())
    for name, tensor in ours.items():
        np.testing.assert_allclose(tensor, weights[name], atol=2e-4, err_msg=name)


def test_trained_tokens_are_known_without_reading(config):
    batches = PackedBatches(PackedMixture.open(config.mixture, config.tokenized), config.train_batch_size, config.seed)
    for step in range(STEPS):
        whole = batches.batch(step)
        assert batches.trained_tokens(step) == whole.trained_tokens > 0
        parts = [batches.batch(step, part, 2) for part in range(2)]
        for field in dataclasses.fields(whole):
            slices = np.concatenate([getattr(part, field.name) for part in parts])
            np.testing.assert_array_equal(slices, getattr(whole, field.name))
