"""LoRA: the formulas against torch, what trains and what stays, resume to the same bits, and merged weights."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import haliax as hax
import jax
import jmp
import numpy as np
import pytest
import tensorstore
import torch
import transformers
from haliax.state_dict import to_torch_compatible_state_dict
from levanter.trainer_state import trainables_only

from marin_sft.errors import TrainingError
from marin_sft.training import checkpoints
from marin_sft.training.fakes import CountingBatches
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.loss import LossBatch, loss_arrays, nll
from marin_sft.training.models import levanter_model, lora, peft_directory
from marin_sft.training.models.model_directory import ModelDirectory
from marin_sft.training.sft import train
from marin_sft.training.sft_config import SFTConfig
from tests.training.small_runs import logged, sft_config

BATCHES = CountingBatches(vocab_size=40, batch_size=4, length=16)
VARIANTS = {
    "plain": LoraConfig(r=4, alpha=8),
    "rslora": LoraConfig(r=4, alpha=8, use_rslora=True, target_modules=["q_proj", "v_proj", "down_proj"]),
    "dora": LoraConfig(r=4, alpha=8, use_dora=True),
}


def config_for(base_model: str, output: Path, adapter: LoraConfig, *earlier: Path, **changes) -> SFTConfig:
    constant = {"learning_rate": 3e-3, "lr_schedule": "constant", "warmup": 0.0}
    fields = {**constant, "weight_decay": 0.1, "max_grad_norm": 0.3, "lora": adapter, **changes}
    return sft_config(base_model, output, *earlier, **fields)


def lines_of(output: Path) -> list[dict]:
    return [{name: value for name, value in line.items() if "per_second" not in name} for line in logged(output)]


@pytest.fixture(scope="module", params=VARIANTS)
def trained(request, base_model, tmp_path_factory) -> SFTConfig:
    output = tmp_path_factory.mktemp(request.param)
    config = config_for(base_model, output, VARIANTS[request.param])
    train(config, BATCHES)
    return config


class TorchLora(torch.nn.Module):
    """W x + scale * B A x, or magnitude / |W + scale * B A| times that, for a layer of a model in torch."""

    def __init__(self, base: torch.nn.Linear, config: LoraConfig, **tensors: np.ndarray) -> None:
        super().__init__()
        self.base, self.scale = base, config.alpha / (config.r**0.5 if config.use_rslora else config.r)
        for name, tensor in tensors.items():
            setattr(self, name, torch.nn.Parameter(torch.tensor(tensor)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = x @ self.base.weight.T + self.scale * (x @ self.A.T) @ self.B.T
        if hasattr(self, "magnitude"):
            out = out * (self.magnitude / (self.base.weight + self.scale * self.B @ self.A).norm(dim=1).detach())
        return out if self.base.bias is None else out + self.base.bias


KINDS = {"A": peft_directory.A, "B": peft_directory.B, "magnitude": peft_directory.MAGNITUDE}


def in_torch(
    config: SFTConfig, tensors: dict[str, np.ndarray]
) -> tuple[torch.nn.Module, dict[str, torch.nn.Parameter]]:
    """The base model with an adapter, and the adapter's parameters by the names of its tensors."""
    model = transformers.AutoModelForCausalLM.from_pretrained(config.base_model).requires_grad_(False)
    parameters = {}
    for layer in peft_directory.layers_of(tensors):
        here = {kind: tensors[layer + end] for kind, end in KINDS.items() if layer + end in tensors}
        parent, _, own = layer.rpartition(".")
        adapted = TorchLora(model.get_submodule(layer), config.lora, **here)
        setattr(model.get_submodule(parent), own, adapted)
        parameters |= {layer + KINDS[kind]: getattr(adapted, kind) for kind in here}
    return model, parameters


def sum_of_nll(model: torch.nn.Module, batch) -> torch.Tensor:
    total = torch.zeros(())
    for row in range(len(batch.tokens)):
        for segment in range(batch.segment_ids[row].max() + 1):
            ids = torch.tensor(batch.tokens[row, batch.segment_ids[row] == segment].tolist())
            log_probs = torch.log_softmax(model(ids[None]).logits[0, :-1], -1)
            total = total - log_probs[torch.arange(len(ids) - 1), ids[1:]].sum()
    return total


def train_with_torch(config: SFTConfig) -> tuple[list[tuple[float, float]], dict[str, np.ndarray]]:
    """(loss, gradient norm) of each step, and the adapter after the last."""
    start = levanter_model.load_model(config.base_model, lora=config.lora, seed=config.seed)
    model, parameters = in_torch(config, lora.adapter_tensors(start))
    optimizer = torch.optim.AdamW(
        parameters.values(),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
    )
    figures = []
    for step in range(config.num_train_steps):
        batch = BATCHES.batch(step)
        loss = sum_of_nll(model, batch) / batch.trained_tokens
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        figures.append((loss.item(), norm.item()))
    return figures, {name: parameter.detach().numpy() for name, parameter in parameters.items()}


def test_steps_are_those_of_torch(trained):
    figures, expected = train_with_torch(trained)
    lines = lines_of(Path(trained.output_path))
    np.testing.assert_allclose([(line["loss"], line["grad_norm"]) for line in lines], figures, atol=1e-5)
    got = adapter_of(trained).tensors
    assert got.keys() == expected.keys()
    for name, tensor in got.items():
        np.testing.assert_allclose(tensor, expected[name], atol=2e-4, err_msg=name)


def test_gradients_are_those_of_torch(trained):
    """At the trained adapter, whose B is not 0: of all its tensors."""
    tensors, batch = adapter_of(trained).tensors, BATCHES.batch(9)
    model, parameters = in_torch(trained, tensors)
    (sum_of_nll(model, batch) / batch.trained_tokens).backward()

    adapted = levanter_model.load_model(trained.base_model, lora=of_output(trained))
    only = trainables_only(adapted, lora.trainable(adapted))
    gradient = hax.named_jit(eqx.filter_grad(lambda only: nll(eqx.combine(only, adapted), loss_batch(batch))))
    found = to_torch_compatible_state_dict(gradient(only))
    assert found.keys() == parameters.keys()
    for name, parameter in parameters.items():
        np.testing.assert_allclose(found[name], parameter.grad, atol=1e-5, err_msg=name)
        assert parameter.grad.abs().max() > 1e-4


def loss_batch(batch) -> LossBatch:
    return LossBatch(**{name: hax.named(array, ("batch", "position")) for name, array in loss_arrays(batch).items()})


def adapter_of(config: SFTConfig) -> peft_directory.Adapter:
    return peft_directory.read_adapter(f"{config.output_path}/adapter")


def of_output(config: SFTConfig) -> LoraConfig:
    return LoraConfig(adapter_path=f"{config.output_path}/adapter")


def test_the_adapter_and_the_merged_weights_are_one_model(trained):
    batch, measure = loss_batch(BATCHES.batch(9)), hax.named_jit(nll)
    base, merged, adapted = (
        measure(levanter_model.load_model(path, lora=config), batch)
        for path, config in (
            (trained.base_model, None),
            (f"{trained.output_path}/model", None),
            (trained.base_model, of_output(trained)),
        )
    )
    assert abs(adapted - merged) < 1e-5 < abs(adapted - base)


def test_the_base_model_stays_as_it_is(trained):
    base = dict(ModelDirectory(trained.base_model).tensors())
    merged = dict(ModelDirectory(f"{trained.output_path}/model").tensors())
    adapted = {f"{name}.weight" for name in peft_directory.layers_of(adapter_of(trained).tensors)}
    assert base.keys() == merged.keys() and len(adapted) == (6 if trained.lora.use_rslora else 14)
    changed = {name for name in base if not np.array_equal(base[name], merged[name])}
    assert changed == adapted


KILLED = """
import os, signal, sys, threading
from marin_sft import progress
from marin_sft.training.sft import train
from test_lora import BATCHES, dropping

def kill(update):
    if update.done == 5:
        for thread in threading.enumerate():
            if thread.name == "checkpoint":  # which is written while training goes on
                thread.join()
        os.kill(os.getpid(), signal.SIGKILL)

with progress.listening(kill):
    train(dropping(sys.argv[1], sys.argv[2]), BATCHES)
"""


def dropping(base_model: str, output: str | Path, *earlier: Path, **changes) -> SFTConfig:
    config = LoraConfig(r=4, alpha=8, dropout=0.2, use_dora=True)
    options = {"num_train_steps": 7, "steps_per_checkpoint": 3, "precision": "bf16", "per_device_parallelism": 2}
    return config_for(base_model, Path(output), config, *earlier, **options | changes)


@pytest.fixture(scope="module")
def killed(base_model, tmp_path_factory) -> Path:
    """An attempt that was killed after step 5, with a checkpoint of step 3."""
    output = tmp_path_factory.mktemp("killed")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run([sys.executable, "-c", KILLED, base_model, str(output)], env=environment)
    assert done.returncode == -signal.SIGKILL
    return output


@pytest.mark.slow
def test_killed_with_dropout_it_ends_in_the_same_bits(killed, base_model, tmp_path):
    train(dropping(base_model, tmp_path / "whole", steps_per_checkpoint=None), BATCHES)
    train(dropping(base_model, tmp_path / "resumed", killed), BATCHES)
    for file in ("adapter/adapter_model.safetensors", "model/model.safetensors"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "resumed" / file).read_bytes()
    assert lines_of(tmp_path / "whole") == lines_of(tmp_path / "resumed")


def test_checkpoints_hold_what_trains_alone(killed):
    found = checkpoints.newest([str(killed)])
    assert found is not None and found.step == 3
    (root,) = (path.parent for path in Path(found.path).rglob("manifest.ocdbt"))
    stored = tensorstore.KvStore.open({"driver": "ocdbt", "base": f"file://{root}/"}).result().list().result()
    arrays = [key.decode() for key in stored]
    assert sum("proj" in key for key in arrays) >= 3 * 7 * 3  # weights and two moments of A, B and magnitudes
    assert all("lora_" in key for key in arrays if "proj" in key)
    assert not any("embed" in key or "norm" in key.replace("grad_norm", "") for key in arrays)


def test_resuming_with_another_adapter_is_loud(killed, base_model, tmp_path):
    other = LoraConfig(r=4, alpha=16, dropout=0.2, use_dora=True)
    with pytest.raises(TrainingError, match=r"lora was .*'alpha': 8.* and is .*'alpha': 16"):
        train(dropping(base_model, tmp_path, killed, lora=other), BATCHES)
    with pytest.raises(TrainingError, match=r"lora was .* and is None"):
        train(dropping(base_model, tmp_path, killed, lora=None), BATCHES)


def test_dropout_is_drawn_from_the_key_and_in_training_only(base_model):
    model = levanter_model.load_model(base_model, lora=LoraConfig(r=4, alpha=8, dropout=0.5))
    model = jax.tree_util.tree_map(lambda leaf: leaf + 0.1 if leaf.shape[-1:] == (4,) else leaf, model)  # B is not 0
    measure = hax.named_jit(lambda model, key: nll(model, loss_batch(BATCHES.batch(0)), key=key))
    one, other = jax.random.PRNGKey(1), jax.random.PRNGKey(2)
    losses = [float(measure(model, key)) for key in (one, one, other, None)]
    assert losses[0] == losses[1] and len(set(losses)) == 3


def test_dora_starts_as_the_base_that_is_computed_with(base_model):
    """Of float32 weights in bfloat16, whose norms are not those of the weights before they were rounded."""
    cast = jmp.get_policy("compute=bfloat16").cast_to_compute
    measure = hax.named_jit(lambda model: nll(cast(model), loss_batch(BATCHES.batch(0))))
    base, adapted = (
        measure(levanter_model.load_model(base_model, dtype=jax.numpy.bfloat16, lora=config))
        for config in (None, VARIANTS["dora"])
    )
    assert base == adapted


def test_training_goes_on_from_an_adapter(trained, base_model, tmp_path):
    again = of_output(trained)
    train(config_for(base_model, tmp_path, again, num_train_steps=1), BATCHES)
    (first,) = lines_of(tmp_path)
    assert first["loss"] < lines_of(Path(trained.output_path))[0]["loss"]
    before, after = adapter_of(trained), peft_directory.read_adapter(str(tmp_path / "adapter"))
    assert before.config.scale == after.config.scale
    stored = [Path(path, "adapter", "adapter_config.json") for path in (trained.output_path, tmp_path)]
    assert json.loads(stored[0].read_text()) == json.loads(stored[1].read_text())
    contradiction = dataclasses.replace(again, r=8, use_dora=True)
    with pytest.raises(TrainingError, match=r"r = 8, but the adapter has 4"):
        train(config_for(base_model, tmp_path / "2", contradiction), BATCHES)


def test_an_adapter_of_another_model(trained, tmp_path):
    path = tmp_path / "adapter"
    path.mkdir()
    found = adapter_of(trained)
    name = f"model.layers.1.self_attn.q_proj{peft_directory.B}"
    narrow = {**found.tensors, name: found.tensors[name][:8]}
    peft_directory.write_adapter(
        str(path), dataclasses.replace(found, tensors=narrow), ModelDirectory(trained.base_model)
    )
    with pytest.raises(TrainingError, match=r"1 tensors do not fit .*q_proj.lora_B.weight: got \(8, 4\), expected"):
        levanter_model.load_model(trained.base_model, lora=LoraConfig(adapter_path=str(path)))
