"""SFT, LoRA and DPO on two hosts through the executor, compared with one host. Nodes of one Ray stand for hosts."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from marin_sft.training.models.model_directory import ModelDirectory

ROOT = Path(__file__).parents[2]

SCRIPT = """
    import json, random, sys
    from pathlib import Path
    import ray
    from ray.cluster_utils import Cluster
    from marin_sft import CpuConfig, executor_main
    from marin_sft.data.formats import PreferenceChatLmDatasetFormat
    from marin_sft.steps import dpo, export, mixture, random_model, sft, tokenize, train_tokenizer
    from marin_sft.training.lora_config import LoraConfig
    from marin_sft.training.models import Qwen3Config

    HERE = Path(__file__).parent
    draw = random.Random(0)

    def text(words):
        return " ".join(draw.choice("red green blue one two three up down left right".split()) for _ in range(words))

    def turn(role, words):
        return {"role": role, "content": text(words)}

    chats = [{"messages": [turn("user", 4), turn("assistant", 6)]} for _ in range(80)]
    pairs = [
        {"prompt": [turn("user", 4)], "chosen": [turn("assistant", 5)], "rejected": [turn("assistant", 7)]}
        for _ in range(40)
    ]
    for name, rows in {"chats": chats, "pairs": pairs}.items():
        (HERE / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))

    def steps(hosts):
        tokenizer = train_tokenizer("tiny", [HERE / "chats.jsonl"], vocab_size=300)
        shape = Qwen3Config(
            max_seq_len=64, hidden_dim=32, intermediate_dim=64, num_layers=2, num_heads=2, num_kv_heads=2, head_dim=16
        )
        base = random_model("tiny", shape, tokenizer=tokenizer)
        common = {
            "base_model": base, "train_batch_size": 4, "num_train_steps": 6, "learning_rate": 1e-3, "precision": "fp32",
            "steps_per_log": 1, "resources": CpuConfig(hosts=hosts),
        }
        chat = mixture("chat", {"chat": tokenize("chat", HERE / "chats.jsonl", tokenizer=tokenizer)}, seq_len=64)
        of_pairs = PreferenceChatLmDatasetFormat()
        pair_tokens = tokenize("pairs", HERE / "pairs.jsonl", tokenizer=tokenizer, format=of_pairs)
        pair = mixture("pairs", {"pairs": pair_tokens}, seq_len=64)
        trained = [
            sft("full", mixture=chat, **common),
            sft("adapted", mixture=chat, lora=LoraConfig(r=4, alpha=8), **common),
            dpo("preferred", mixture=pair, **common),
        ]
        return [export(f"{i}", model) for i, model in enumerate(trained)]

    if __name__ == "__main__":
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False)
        try:
            for hosts in (1, 2):
                executor_main(steps(hosts), argv=["--prefix", str(HERE / f"store{hosts}")])
        finally:
            ray.shutdown()
            cluster.shutdown()
"""

TRAININGS = ("full", "adapted", "preferred")


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """The stores of the same experiment on one host and on two."""
    root = tmp_path_factory.mktemp("hosts")
    (root / "experiment.py").write_text(textwrap.dedent(SCRIPT))
    loopback = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0", "JAX_PLATFORMS": "cpu"}
    env = {**os.environ, **loopback, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "experiment.py"], cwd=root, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return root / "store1", root / "store2"


def output(store: Path, step: str) -> Path:
    (path,) = store.glob(f"{step}-*/1")
    return path


@pytest.mark.torture
@pytest.mark.parametrize("name", TRAININGS)
def test_losses_on_two_hosts_are_those_on_one(stores, name):
    one, two = (
        [json.loads(line)["loss"] for line in (output(s, f"checkpoints/{name}_seed0") / "metrics.jsonl").open()]
        for s in stores
    )
    assert len(one) == 6 and len(list(output(stores[1], f"checkpoints/{name}_seed0").glob(".log-*"))) == 2
    print(f"{name}: largest difference of a loss {np.abs(np.subtract(one, two)).max():.1e}")
    np.testing.assert_allclose(two, one, rtol=0, atol=1e-6)


@pytest.mark.torture
def test_log_probabilities_of_the_reference(stores):
    one, two = (np.load(next(s.glob("reference_logprobs/*/1/**/*.npy"))) for s in stores)
    np.testing.assert_allclose(two, one, rtol=0, atol=1e-5)


@pytest.mark.torture
@pytest.mark.parametrize("number", range(3))
def test_exports_load_in_transformers(stores, number):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    path = output(stores[1], f"hf/{number}")
    loaded = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).state_dict()
    expected = dict(ModelDirectory(str(output(stores[0], f"hf/{number}"))).tensors())
    for tensor, value in expected.items():
        np.testing.assert_allclose(loaded[tensor].numpy(), value, atol=2e-5)
