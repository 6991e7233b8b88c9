"""Configs of axolotl, torchtune and LLaMA-Factory in their documented form, and the experiments written from them: they
can be planned, and train what the tool would."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from marin_sft.execution.step import InputName
from marin_sft.run import command

ROOT = Path(__file__).parents[3]
CONFIGS = Path(__file__).parent / "configs"
NAMES = sorted(path.name for path in CONFIGS.glob("*.y*ml"))
ALL_LINEAR = None


@pytest.fixture
def folder(tmp_path, monkeypatch, tiny_model):
    """Where the tools would be run: the configs and the data are here, and one model directory."""
    shutil.copytree(CONFIGS, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    shutil.copytree(tiny_model, tmp_path / "work/models/Meta-Llama-3.1-8B-Instruct")
    lora = Path("torchtune_lora.yaml")
    lora.write_text(lora.read_text().replace("/nowhere/models", "models"))
    return tmp_path / "work"


def import_yaml(name, output="mine.py", *flags):
    assert command.main(["import", name, "-o", output, *flags]) == 0
    return Path(output).read_text()


def experiment(name):
    """What the experiment written from a config defines."""
    import_yaml(name, "mine.py", "--force")
    return runpy.run_path("mine.py")


@pytest.mark.parametrize("name", NAMES)
def test_the_experiment_can_be_planned(name, folder):
    import_yaml(name)
    done = subprocess.run(
        [sys.executable, "mine.py", "--dry_run", "--json"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_ENDPOINT": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    kinds = [step["name"].partition("/")[0] for step in json.loads(done.stdout)]
    assert kinds.count("checkpoints") == kinds.count("hf") == kinds.count("mixtures") == 1 and "tokenized" in kinds
    assert not (folder / "store").exists()


@pytest.mark.parametrize("name", NAMES)
def test_the_file_is_formatted_and_the_same_again(name, folder):
    text = import_yaml(name)
    for width in ("88", "120"):
        ruff = [str(Path(sys.executable).with_name("ruff")), "--isolated"]
        checks = [["format", "--check", f"--line-length={width}"], ["check", "--select=E,F,I,UP,B", "--ignore=E501"]]
        for check in checks:
            done = subprocess.run(
                [*ruff[:1], check[0], *ruff[1:], *check[1:], "mine.py"], capture_output=True, text=True
            )
            assert done.returncode == 0, done.stdout + text
    assert max(map(len, text.splitlines())) <= 120
    assert import_yaml(name, "mine.py", "--force") == text


COMMON = {"beta1": 0.9, "epsilon": None, "optimizer": "adamw"}
HALVED = {"precision": "bf16_full"}
DROPPED = {"over_length": "drop"}
TO_ZERO = {"lr_schedule": "cosine", "min_lr_ratio": 0.0}
# Of the training, of the mixture and its data, and of LoRA: by what the tools' documents say of the keys.
FIGURES = {
    "axolotl_full.yml": (
        {
            **COMMON, **HALVED, "train_batch_size": 8, "num_train_epochs": 2, "learning_rate": 2e-5, "warmup": 0.1,
            "lr_schedule": "cosine", "min_lr_ratio": 0.1, "weight_decay": 0.01, "beta2": 0.95, "max_grad_norm": 0.5,
            "steps_per_eval": 100, "steps_per_checkpoint": 200, "hf_exports_kept": 3, "seed": 42,
            "gradient_checkpointing": True, "gradient_accumulation_steps": 4,
        },
        {"seq_len": 4096, "pack": True, **DROPPED, "validation_fraction": 0.02},
        None,
    ),
    "axolotl_lora.yml": (
        {
            **COMMON, **TO_ZERO, "precision": "bf16", "train_batch_size": 4, "num_train_epochs": 1,
            "learning_rate": 2e-4, "warmup": 10, "weight_decay": 0.0, "beta2": 0.999, "max_grad_norm": 1.0, "seed": 42,
            "do_eval": True, "steps_per_eval": None,
        },
        {"seq_len": 2048, "pack": True, **DROPPED, "validation_fraction": 0.1},
        {
            "r": 16, "alpha": 32, "dropout": 0.05,
            "target_modules": ["gate_proj", "down_proj", "up_proj", "q_proj", "v_proj", "k_proj", "o_proj"],
        },
    ),
    "axolotl_dpo.yml": (
        {
            **COMMON, "lr_schedule": "linear", "min_lr_ratio": 0.0, "precision": "bf16", "train_batch_size": 8,
            "num_train_epochs": 4, "learning_rate": 2e-4, "warmup": 10, "beta2": 0.999, "beta": 0.05,
            "loss_type": "sigmoid", "label_smoothing": 0.0,
        },
        {"seq_len": 4096, **DROPPED, "validation_fraction": 0.05},
        {"r": 32, "alpha": 16, "dropout": 0.05, "target_modules": ALL_LINEAR},
    ),
    "torchtune_full.yaml": (
        {
            **COMMON, **HALVED, "train_batch_size": 4, "num_train_epochs": 1, "learning_rate": 2e-5, "warmup": 0,
            "lr_schedule": "constant", "weight_decay": 0.01, "weight_decay_parameters": ".*", "beta2": 0.999,
            "max_grad_norm": None, "seed": 7, "gradient_checkpointing": False,
        },
        {"seq_len": 2048, "pack": True, "over_length": "truncate", "validation_fraction": 0.0},
        None,
    ),
    "torchtune_lora.yaml": (
        {
            **COMMON, **HALVED, **TO_ZERO, "train_batch_size": 16, "num_train_epochs": 3, "learning_rate": 3e-4,
            "warmup": 100, "weight_decay": 0.01, "beta2": 0.999, "max_grad_norm": 1.0, "seed": 0,
            "gradient_checkpointing": True, "gradient_accumulation_steps": 8,
        },
        {"seq_len": 4096, "pack": False, "over_length": "raise"},
        {
            "r": 8, "alpha": 16, "dropout": 0.0,
            "target_modules": ["q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        },
    ),
    "torchtune_dpo.yaml": (
        {
            **COMMON, **HALVED, **TO_ZERO, "train_batch_size": 32, "num_train_epochs": 1, "num_train_steps": 1000,
            "learning_rate": 5e-4, "warmup": 100, "weight_decay": 0.05, "beta2": 0.999, "max_grad_norm": None,
            "beta": 0.1, "loss_type": "sigmoid",
        },
        {"seq_len": 1024, "over_length": "truncate"},
        {"r": 8, "alpha": 16, "dropout": 0.0, "target_modules": ALL_LINEAR},
    ),
    "llama_factory_full.yaml": (
        {
            **COMMON, **HALVED, "train_batch_size": 32, "num_train_epochs": 2, "learning_rate": 1e-5, "warmup": 20,
            "lr_schedule": "linear", "min_lr_ratio": 0.0, "weight_decay": 0.03, "beta2": 0.999, "max_grad_norm": 0.5,
            "neftune_noise_alpha": 5, "steps_per_eval": 500, "seed": 42, "gradient_accumulation_steps": 4,
        },
        {"seq_len": 4096, "pack": True, "over_length": "truncate", "validation_fraction": 0.05},
        None,
    ),
    "llama_factory_lora.yaml": (
        {
            **COMMON, **TO_ZERO, "precision": "bf16", "train_batch_size": 8, "num_train_epochs": 3,
            "learning_rate": 1e-4, "warmup": 0.1, "weight_decay": 0.0, "beta2": 0.999, "max_grad_norm": 1.0,
            "steps_per_checkpoint": 500, "seed": 42,
        },
        {"seq_len": 2048, "pack": False, "over_length": "truncate"},
        {"r": 8, "alpha": 16, "dropout": 0.0, "target_modules": ALL_LINEAR},
    ),
    "llama_factory_dpo.yaml": (
        {
            **COMMON, **TO_ZERO, "precision": "bf16", "train_batch_size": 8, "num_train_epochs": 3,
            "learning_rate": 5e-6, "warmup": 0.1, "beta2": 0.999, "beta": 0.2,
            "loss_type": {"sigmoid": 1.0, "sft": 0.5},
        },
        {"seq_len": 2048, "over_length": "truncate", "max_documents": {"dpo_en_demo": 1000}},
        {"r": 8, "alpha": 32, "dropout": 0.1, "target_modules": ["q_proj", "v_proj"]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_settings_are_those_of_the_tool(name, folder):
    found = experiment(name)
    training, mixture, lora = FIGURES[name]
    trained = found["trained"]
    assert {key: getattr(trained.config, key) for key in training} == training
    packs = set(found["data"].config.data.pack.values())
    settings = {**vars(found["data"].config.data), "seq_len": found["data"].config.seq_len, "pack": packs == {True}}
    assert {key: settings[key] for key in mixture} == mixture
    if lora is None:
        assert trained.config.lora is None
    else:
        assert {key: getattr(trained.config.lora, key) for key in lora} == lora
    assert trained.resources.gpu_count == found["DEVICES"]


@pytest.mark.parametrize("name", NAMES)
def test_where_no_key_says_what_is_recomputed_the_memory_decides(name, folder):
    lines = Path(name).read_text().splitlines()
    Path(name).write_text("\n".join(line for line in lines if "checkpointing:" not in line))
    assert experiment(name)["trained"].config.gradient_checkpointing is None


def sources(step):
    """The datasets on the Hub with their splits, and the files, that a tokenization step reads."""
    found = []
    for path in step.config.train_paths:
        inner = path.step if isinstance(path, InputName) else path
        found.append((inner.config.source, *inner.config.splits) if hasattr(inner, "config") else str(path))
    return found


def test_all_datasets_are_trained_on_in_their_proportion(folder):
    (tokens,) = experiment("axolotl_full.yml")["tokenized"].values()
    assert sources(tokens) == [
        ("mlabonne/FineTome-100k", "train[:20%]"),
        ("HuggingFaceH4/ultrachat_200k", "train_sft"),
    ]
    (tokens,) = experiment("llama_factory_lora.yaml")["tokenized"].values()
    assert sources(tokens) == ["data/identity.json", "data/alpaca_en_demo.json"]
    found = experiment("llama_factory_full.yaml")
    assert [sources(tokens) for tokens in found["tokenized"].values()] == [
        [("llamafactory/lima", "train[:1000]")],
        [("Open-Orca/OpenOrca", "train[:1000]")],
    ]
    assert found["data"].config.data.train_weights == ((0, {"lima": 1000.0, "openorca": 1000.0}),)


def test_what_has_no_counterpart_is_said_on_the_terminal_and_in_the_file(folder, capsys):
    text = import_yaml("axolotl_lora.yml")
    said = " ".join(capsys.readouterr().out.split())
    for line, key in ((36, "optimizer: adamw_8bit"), (51, "evals_per_epoch: 4"), (52, "saves_per_epoch: 1")):
        found = next(n for n, row in enumerate(Path("axolotl_lora.yml").read_text().splitlines(), 1) if row == key)
        assert found == line and f"axolotl_lora.yml:{line}: {key}:" in said and f"# - {line}: {key}:" in text
    assert "Without effect here:" in said and "flash_attention" in said and "dataset_prepared_path" in said
    assert "Next: marin-sft preview mine.py" in said and "python mine.py --dry_run" in said
    assert command.main(["import", "axolotl_lora.yml", "-o", "mine.py", "--force", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["tool"] == "axolotl" and {"line": 36, "key": "optimizer"}.items() <= facts["differences"][1].items()
