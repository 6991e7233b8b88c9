import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from marin_sft.data.data_configs import mixture_for_evaluation
from marin_sft.data.mixture import MixtureConfig, mixture
from marin_sft.data.token_cache import TokenCache
from marin_sft.data.tokenize import TokenizeConfig, tokenize
from marin_sft.errors import DataError, TrainingError
from marin_sft.evaluation.perplexity import PerplexityConfig, perplexity
from marin_sft.training.fakes import word_tokenizer
from marin_sft.training.models import LlamaConfig
from marin_sft.training.models.model_directory import ModelDirectory, write_tensors
from marin_sft.training.models.random_model import random_model
from marin_sft.training.models.random_model_config import RandomModelConfig

SHAPE = dict(max_seq_len=64, hidden_dim=32, intermediate_dim=64, num_layers=2, num_heads=4, num_kv_heads=2)


@pytest.fixture(scope="module")
def tokenizer_path(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("tokenizer"))
    word_tokenizer([f"w{i}" for i in range(40)]).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model_path(tokenizer_path, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("model"))
    random_model(RandomModelConfig(model=LlamaConfig(**SHAPE), tokenizer=tokenizer_path, seed=1, output_path=path))
    # Initial weights are so small that all tokens are about as likely as each other.
    tensors = {name: 2 * tensor for name, tensor in dict(ModelDirectory(path).tensors()).items()}
    write_tensors(path, tensors)
    return path


@pytest.fixture(scope="module")
def tokenized(tokenizer_path, tmp_path_factory):
    """Two components with rows of several lengths and one or two answers."""
    rng = np.random.default_rng(0)

    def words(most: int) -> str:
        return " ".join(f"w{i}" for i in rng.integers(0, 40, rng.integers(1, most)))

    def row() -> dict:
        roles = ("user", "assistant") * int(rng.integers(1, 3))
        return {"messages": [{"role": role, "content": words(9)} for role in roles]}

    outputs = {}
    for name, rows in (("one", 11), ("two", 4)):
        output = tmp_path_factory.mktemp(name)
        (output / "rows.jsonl").write_text("".join(json.dumps(row()) + "\n" for _ in range(rows)))
        config = TokenizeConfig((), tokenizer_path, validation_paths=(str(output / "rows.jsonl"),))
        outputs[name] = str(output / "tokens")
        tokenize(dataclasses.replace(config, output_path=outputs[name]))
    return outputs


def packed(tokenized: dict[str, str], output: Path, seq_len: int = 64) -> str:
    mixture(MixtureConfig(mixture_for_evaluation(tokenized), seq_len, str(output)))
    return str(output)


def measure(model: str, tokenized: dict[str, str], mixed: str, output: Path, **changes) -> dict[str, float]:
    config = PerplexityConfig(model=model, mixture=mixed, tokenized=tokenized, output_path=str(output), **changes)
    perplexity(config)
    return json.loads((output / "metrics.json").read_text())


def by_transformers(model_path: str, tokens: str) -> tuple[float, int]:
    """Summed NLL and number of trained tokens, one document at a time, not packed."""
    model = transformers.AutoModelForCausalLM.from_pretrained(model_path)
    total, count = 0.0, 0
    cache = TokenCache.open(f"{tokens}/validation")
    for document in cache.read(range(len(cache))):
        ids = torch.tensor(document.input_ids).long()
        logits = model(ids[None]).logits[0].detach().double()
        nll = torch.nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="none")
        trained = torch.tensor(document.mask[1:]).bool()
        total, count = total + float(nll[trained].sum()), count + int(trained.sum())
    return total, count


def test_equals_transformers_on_every_component(model_path, tokenized, tmp_path):
    metrics = measure(model_path, tokenized, packed(tokenized, tmp_path / "mixture"), tmp_path / "out", batch_size=3)
    expected = {name: by_transformers(model_path, tokens) for name, tokens in tokenized.items()}
    for name, (nll, count) in expected.items():
        assert metrics[f"trained_tokens/{name}"] == count
        assert metrics[f"loss/{name}"] == pytest.approx(nll / count, abs=1e-4)
        assert metrics[f"perplexity/{name}"] == pytest.approx(math.exp(nll / count), rel=1e-4)
    nll, count = (sum(column) for column in zip(*expected.values(), strict=True))
    assert metrics["trained_tokens"] == count
    assert metrics["loss"] == pytest.approx(nll / count, abs=1e-4)
    # A mean of the components' means would be another number.
    means = sum(nll / count for nll, count in expected.values()) / 2
    assert abs(means - nll / count) > 1e-3


def test_batches_and_devices_change_nothing(model_path, tokenized, tmp_path):
    mixed = packed(tokenized, tmp_path / "mixture")
    one = measure(model_path, tokenized, mixed, tmp_path / "one", batch_size=1)
    code = (
        "import json, sys, jax; from pathlib import Path; from test_perplexity import measure;"
        "assert jax.device_count() == 2;"
        "measure(sys.argv[1], json.loads(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), batch_size=3)"
    )
    environment = {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path]),
    }
    arguments = [model_path, json.dumps(tokenized), mixed, str(tmp_path / "two")]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, env={**os.environ, **environment})
    two = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert two == {name: pytest.approx(value, rel=1e-5) for name, value in one.items()}


def test_one_component_has_no_figures_of_its_own(model_path, tokenized, tmp_path):
    alone = {"one": tokenized["one"]}
    metrics = measure(model_path, alone, packed(alone, tmp_path / "mixture"), tmp_path / "out", precision="bf16")
    nll, count = by_transformers(model_path, alone["one"])
    assert metrics.keys() == {"loss", "perplexity", "trained_tokens"}
    assert metrics["loss"] == pytest.approx(nll / count, rel=0.02)


def test_what_does_not_fit_is_refused(model_path, tokenized, tmp_path):
    with pytest.raises(TrainingError, match="rows of 65 tokens, expected at most 64"):
        measure(model_path, tokenized, packed(tokenized, tmp_path / "long", 65), tmp_path / "out")

    other, tokenizer = str(tmp_path / "other"), str(tmp_path / "tokenizer")
    word_tokenizer([f"v{i}" for i in range(40)]).save_pretrained(tokenizer)
    random_model(RandomModelConfig(model=LlamaConfig(**SHAPE), tokenizer=tokenizer, output_path=other))
    mixed = packed(tokenized, tmp_path / "mixture")
    with pytest.raises(DataError, match="was not made with the tokenizer of"):
        measure(other, tokenized, mixed, tmp_path / "out")

    tensors = dict(ModelDirectory(model_path).tensors())
    broken = str(tmp_path / "broken")
    shutil.copytree(model_path, broken)
    write_tensors(broken, {**tensors, "model.norm.weight": np.full(32, np.nan, np.float32)})
    with pytest.raises(TrainingError, match="expected finite numbers"):
        measure(broken, tokenized, mixed, tmp_path / "out")
