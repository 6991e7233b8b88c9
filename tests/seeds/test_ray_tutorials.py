"""Documents 000 and 001: scripts that call `ray.init`, and train in a `main` under `@execute` and `@ray.remote`."""

import json
import tempfile
from pathlib import Path

import pytest
import transformers

from tests.seeds.conftest import SUMS, TOKEN, dialogue
from tests.seeds.desk import Desk

PREAMBLE = """
    import os
    import pprint
    import ray
    from marin_sft.executor.ray import TpuAcceleratorConfig, execute

    ray.init()

    MODEL_ID = "Qwen/Qwen3-14B"
    DATASET_ID = "@dataset"
    WANDB_ENTITY = @entity
    TPU_EXECUTION_ENV_VARS = {
        "EASYDEL_AUTO": "1",
        "HF_TOKEN": os.environ.get("HF_TOKEN_FOR_EASYDEL", ""),
        "HF_DATASETS_CACHE": "@shm/huggingface-dataset",
        "HF_HOME": "@shm/huggingface",
        "HF_DATASETS_OFFLINE": "0",
        "WANDB_API_KEY": os.environ.get("WANDB_API_KEY_FOR_EASYDEL", ""),
    }
    TPU_PIP_PACKAGES = []
    pprint.pprint(TPU_EXECUTION_ENV_VARS)
    tpu_config = TpuAcceleratorConfig(
        "v4-64", execution_env={"env_vars": TPU_EXECUTION_ENV_VARS, "pip": TPU_PIP_PACKAGES}
    )
"""
MAIN = """
    @execute(tpu_config)
    @ray.remote
    def main():
        import marin_sft as ed
        import jax
        from datasets import load_dataset
        from jax import numpy as jnp
        from transformers import AutoTokenizer

        logger = ed.utils.get_logger("@logger")
        logger.info(f"Starting main execution on Ray worker with JAX backend: {jax.default_backend()}")
        max_length = @length
        total_batch_size = 32

        processor = AutoTokenizer.from_pretrained(MODEL_ID)
        processor.padding_side = "left"
        if processor.pad_token_id is None:
            processor.pad_token_id = processor.eos_token_id
        model = ed.AutoEasyDeLModelForCausalLM.from_pretrained(
            MODEL_ID,
            dtype=jnp.bfloat16,
            param_dtype=jnp.bfloat16,
            precision=jax.lax.Precision.DEFAULT,
            auto_shard_model=True,
            sharding_axis_dims=@axes,
            config_kwargs=ed.EasyDeLBaseConfigDict(
                freq_max_position_embeddings=max_length,
                mask_max_position_embeddings=max_length,
                kv_cache_quantization_method=ed.EasyDeLQuantizationMethods.NONE,
                attn_mechanism=ed.AttentionMechanisms.AUTO,
                gradient_checkpointing=ed.EasyDeLGradientCheckPointers.NONE,
            ),
            partition_axis=ed.PartitionAxis(kv_head_axis="tp"),
            quantization_method=ed.EasyDeLQuantizationMethods.NONE,
        )
        logger.info("Model loaded successfully.")
"""
SFT = """
        train_dataset = load_dataset(DATASET_ID, split="train")
        logger.info(f"Train dataset size: {len(train_dataset)}")
        arguments = ed.SFTConfig(
            num_train_epochs=1,
            total_batch_size=total_batch_size,
            gradient_accumulation_steps=1,
            do_eval=True,
            use_wandb=WANDB_ENTITY is not None,
            wandb_entity=WANDB_ENTITY,
            do_last_save=True,
            max_sequence_length=max_length,
            learning_rate=1e-5,
            learning_rate_end=7e-6,
            optimizer=ed.EasyDeLOptimizers.ADAMW,
            scheduler=ed.EasyDeLSchedulers.COSINE,
            packing=False,
            save_steps=1_000,
            save_total_limit=0,
            save_optimizer_state=False,
            clip_grad=1.0,
            report_steps=10,
            log_steps=5,
        )
        trainer = ed.SFTTrainer(
            arguments=arguments,
            model=model,
            processing_class=processor,
            train_dataset=train_dataset,
            eval_dataset=None,
            formatting_func=lambda batch: processor.apply_chat_template(batch["conversation"], tokenize=False),
        )
        logger.info("Starting training...")
        trainer.train()
        logger.info("Training finished.")

    if __name__ == "__main__":
        main()
"""
DPO = """
        train_dataset, test_dataset = load_dataset(DATASET_ID, split=["train", "test"])
        logger.info(f"Train dataset size: {len(train_dataset)}, Test dataset size: {len(test_dataset)}")
        sequence_length = max_length // 2
        arguments = ed.DPOConfig(
            num_train_epochs=1,
            total_batch_size=total_batch_size,
            gradient_accumulation_steps=1,
            do_eval=True,
            use_wandb=True,
            wandb_entity=WANDB_ENTITY,
            do_last_save=True,
            max_prompt_length=sequence_length,
            max_length=max_length,
            max_completion_length=max_length - sequence_length,
            max_training_steps=None,
            max_evaluation_steps=None,
            max_sequence_length=max_length,
            loss_config=ed.LossConfig(z_loss=0.0),
            track_memory=False,
            save_steps=1_000,
            save_total_limit=0,
            save_optimizer_state=False,
            per_epoch_training_steps=None,
            per_epoch_evaluation_steps=None,
            learning_rate=1e-5,
            learning_rate_end=5e-7,
            beta=0.1,
            optimizer=ed.EasyDeLOptimizers.ADAMW,
            scheduler=ed.EasyDeLSchedulers.COSINE,
            clip_grad=1.0,
            weight_distribution_log_steps=100,
            warmup_steps=0,
            report_steps=10,
            log_steps=1,
            progress_bar_type="json",
            # save_directory="gs://your-bucket/dpo-qwen-mix"
        )
        trainer = ed.DPOTrainer(
            arguments=arguments,
            model=model,
            processing_class=processor,
            train_dataset=train_dataset,
            eval_dataset=test_dataset,
        )
        logger.info("Starting training...")
        result = trainer.train()
        logger.info("Training finished.")
        return result.training_loss

    if __name__ == "__main__":
        print("returned", main())
"""
# What is swapped for a laptop: the lengths, and where Hugging Face's caches lie.
SFT_SWAPS = {
    "dataset": "allenai/WildChat",
    "entity": 'os.environ.get("WANDB_ENTITY", None)',
    "logger": "SFT-EasyDeL",
    "length": "128",
    "axes": "(1, -1, 1, 1, 1)",
}
DPO_SWAPS = {
    "dataset": "mlabonne/orpo-dpo-mix-40k",
    "entity": "None",
    "logger": "DPO-EasyDeL",
    "length": "128",
    "axes": "(1, 1, 1, 1, -1)",
}


def script(body: str, swaps: dict[str, str], caches: Path) -> str:
    text = PREAMBLE + MAIN + body
    for name, value in {**swaps, "shm": str(caches)}.items():
        text = text.replace(f"@{name}", value)
    return text


@pytest.fixture(scope="module")
def variables(published):
    """Of the scripts. `ray.init()` joins a Ray that it finds in its folder, even that of another test."""
    with tempfile.TemporaryDirectory(prefix="ray") as folder:  # a short path, for Ray's sockets
        yield {**published.environment, "RAY_TMPDIR": folder}


@pytest.fixture(scope="module")
def sft_desk(variables, tmp_path_factory):
    """After `python sft_finetune.py`."""
    desk = Desk.at(tmp_path_factory.mktemp("sft"), variables)
    desk.write("sft_finetune.py", script(SFT, SFT_SWAPS, desk.path / "shm"))
    done = desk.trained("python sft_finetune.py", HF_TOKEN_FOR_EASYDEL=TOKEN)
    return desk, done


def record(desk: Desk, pattern: str) -> dict:
    """The config that a step ran with."""
    (found,) = desk.path.glob(f"store/{pattern}/latest/.record.json")
    return json.loads(found.read_text())["config"]


def test_the_sft_tutorial_trains(sft_desk):
    desk, done = sft_desk
    assert "JAX backend: cpu" in done.told and "Train dataset size: 40" in done.told
    assert "SFT-EasyDeL: Training finished." in done.told
    output = "marin_sft-Checkpoints/SFTTrainer"
    assert {"model.safetensors", "config.json", "tokenizer.json", "train_results.json"} <= desk.names(output)
    lines = desk.lines(f"{output}/metrics.jsonl")
    assert lines[-1]["step"] == 2 and lines[-1]["perplexity"] > 1
    assert lines[-1]["train/loss"] > 0  # evaluated on what was trained, as there are no other rows
    assert "holds nothing out: train/loss is the loss on" in done.told
    tokenizer = transformers.AutoTokenizer.from_pretrained(desk.path / output, local_files_only=True)
    assert tokenizer.chat_template


def test_its_settings_are_those_of_the_tutorial(sft_desk):
    desk, _ = sft_desk
    config = record(desk, "checkpoints/*")
    expected = {
        "num_train_epochs": 1,
        "train_batch_size": 32,
        "do_eval": True,
        "learning_rate": 1e-5,
        "learning_rate_end": 7e-6,
        "lr_schedule": "cosine",
        "warmup": 0,
        "optimizer": "adamw",
        "weight_decay": 0.01,
        "weight_decay_parameters": ".*",
        "max_grad_norm": 1.0,
        "precision": "bf16_full",
        "mesh": [1, -1, 1, 1, 1],
        "gradient_checkpointing": False,
        "hf_exports_kept": None,
        "save_optimizer_state": False,
        "steps_per_report": 10,
        "steps_per_log": 5,
        "seed": 0,
    }
    assert {name: config[name] for name in expected} == expected


def test_the_chats_are_trained_as_the_formatting_func_writes_them(sft_desk, published):
    """Every token of them, and no end token after the one that the template wrote."""
    desk, _ = sft_desk
    (stats,) = desk.path.glob("store/tokenized/*/latest/stats.json")
    counted = json.loads(stats.read_text())["train"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(published.models["Qwen/Qwen3-14B"])
    chats = [tokenizer.apply_chat_template(dialogue(row), tokenize=False) for row in SUMS]
    assert all(chat.endswith("<|im_end|>\n") for chat in chats)
    tokens = sum(len(tokenizer(chat)["input_ids"]) for chat in chats)
    assert counted["documents"] == 40 and counted["tokens"] == tokens
    assert counted["trained_tokens"] == tokens - 40  # nothing comes before the first token of a text


def test_the_sft_tutorial_again_trains_nothing(sft_desk):
    desk, _ = sft_desk
    again = desk.trained("python sft_finetune.py", HF_TOKEN_FOR_EASYDEL=TOKEN)
    assert "0 steps run," in again.told and "Training finished." in again.told


def test_its_token_is_nowhere_in_the_store(sft_desk):
    desk, _ = sft_desk
    holding = [path for path in desk.path.glob("store/**/*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    assert holding == []


@pytest.fixture(scope="module")
def dpo_desk(variables, tmp_path_factory):
    """After `python dpo_finetune.py`."""
    desk = Desk.at(tmp_path_factory.mktemp("dpo"), variables)
    desk.write("dpo_finetune.py", script(DPO, DPO_SWAPS, desk.path / "shm"))
    return desk, desk.trained("python dpo_finetune.py")


@pytest.mark.slow
def test_the_dpo_tutorial_trains(dpo_desk):
    desk, done = dpo_desk
    assert "Train dataset size: 32, Test dataset size: 8" in done.told
    output = "marin_sft-Checkpoints/DPOTrainer"
    assert {"model.safetensors", "train_results.json"} <= desk.names(output)
    lines = desk.lines(f"{output}/metrics.jsonl")
    assert [line["step"] for line in lines] == [1]
    assert {"loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "eval/loss"} <= set(lines[-1])
    returned = float(done.out.split("returned ")[1])
    assert returned == pytest.approx(lines[0]["loss"])
    printed = [line[line.index('{"') :] for line in done.told.splitlines() if '{"' in line]
    assert any(json.loads(line).get("step") == 1 for line in printed)
    assert list(desk.path.glob("store/checkpoints/*/latest/wandb/**/*.wandb"))  # offline, as WANDB_MODE says


@pytest.mark.slow
def test_its_settings_are_those_of_the_document(dpo_desk):
    desk, _ = dpo_desk
    config = record(desk, "checkpoints/*")
    expected = {
        "beta": 0.1,
        "learning_rate": 1e-5,
        "learning_rate_end": 5e-7,
        "lr_schedule": "cosine",
        "mesh": [1, 1, 1, 1, -1],
        "weight_distribution_log_steps": 100,
        "progress_bar": "json",
        "track_memory": False,
        "steps_per_report": 10,
        "steps_per_log": 1,
        "num_train_steps": None,
        "max_evaluation_steps": None,
    }
    assert {name: config[name] for name in expected} == expected
    mixture = record(desk, "mixtures/*")
    limits = ("seq_len", "max_prompt_length", "max_completion_length")
    assert [mixture[name] for name in limits] == [128, 64, 64]


@pytest.mark.slow
def test_the_dpo_tutorial_again_trains_nothing(dpo_desk):
    desk, done = dpo_desk
    again = desk.trained("python dpo_finetune.py")
    assert "0 steps run" in again.told
    assert again.out.split("returned ")[1] == done.out.split("returned ")[1]
