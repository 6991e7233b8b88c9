"""Document 003: Marin's SFT quickstart. Its scripts are in tests/experiments; here is what else it says."""

import json
import shutil

import pytest

from tests.seeds.desk import ROOT

SCRIPT = """
    from experiments.defaults import default_sft, default_tokenize
    from experiments.instruction_datasets import get_instruction_dataset
    from experiments.llama import llama3_instruct_tokenizer, llama_8b
    from experiments.simple_sft_config import SimpleSFTConfig
    from marin_sft.data.text import ChatLmDatasetFormat
    from marin_sft.execution.executor import executor_main

    tokenization_step = default_tokenize(
        name="sft_cache/tulu",
        dataset=get_instruction_dataset("allenai/tulu-v2-sft-mixture", splits=["train"]) / "**/*.jsonl.gz",
        tokenizer=llama3_instruct_tokenizer,
        format=ChatLmDatasetFormat(input_field="user", output_field="assistant"),
    )
    training_step = default_sft(
        name="mine",
        tokenized=tokenization_step,
        model_config=llama_8b,
        sft_config=SimpleSFTConfig(
            train_batch_size=128,
            num_train_steps=10000,
            learning_rate=5e-6,
            tpu_type="v4-128",
            tokenizer="meta-llama/Llama-3.1-8B-Instruct",
            model_name_or_path="meta-llama/Llama-3.1-8B",
            max_seq_len=4096,
            input_role="user",
            output_role="assistant",
            steps_per_checkpoint=1000,
            steps_per_hf_export=500,
            seed=0,
        ),
    )
    if __name__ == "__main__":
        executor_main(steps=[tokenization_step, training_step])
"""
RAW_DATA = 'get_instruction_dataset("allenai/tulu-v2-sft-mixture", splits=["train"]) / "**/*.jsonl.gz"'


@pytest.fixture
def plan(desk):
    """Run the script with something changed: what it did, and the paths of its steps below the prefix by name."""
    shutil.copytree(ROOT / "experiments", desk.path / "experiments", ignore=shutil.ignore_patterns("__pycache__"))

    def plan(*changes, flags="--dry_run --json"):
        text = SCRIPT
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        desk.write("my_sft_experiment.py", text)
        done = desk.run(f"python my_sft_experiment.py {flags}", HF_ENDPOINT="http://127.0.0.1:9")
        if done.code:
            return done, {}
        return done, {item["name"]: item["path"].partition("/store/")[2] for item in json.loads(done.out)}

    return plan


def test_outputs_lie_where_the_guide_says(plan):
    _, paths = plan()
    assert paths["tokenized/sft_cache/tulu"].startswith("tokenized/sft_cache/tulu-")
    assert paths["checkpoints/mine_seed0"].startswith("checkpoints/mine_seed0-")
    _, other = plan(("v4-128", "v4-8"))
    assert other == paths  # what it runs on is no part of what it is
    _, seeded = plan(("seed=0", "seed=7"))
    assert seeded.keys() - paths.keys() == {"checkpoints/mine_seed7"}


def test_raw_data_and_models_may_lie_in_a_bucket(plan):
    done, paths = plan((RAW_DATA, '"gs://bucket/rows/**/*.jsonl.gz"'), ('"meta-llama/Llama-3.1-8B",', '"gs://b/base",'))
    assert done.code == 0, done.told
    assert paths.keys() == {
        "tokenizers/meta-llama--Llama-3.1-8B-Instruct",
        "tokenized/sft_cache/tulu",
        "mixtures/mine",
        "checkpoints/mine_seed0",
    }


@pytest.mark.parametrize("list", ['["tokenized/sft_cache/tulu"]', "['tokenized/sft_cache/tulu']"])
def test_forcing_takes_either_quotes(plan, list):
    flag = "'" + list + "'" if '"' in list else f'"{list}"'
    done, _ = plan(flags=f"--dry_run --json --force_run {flag}")
    actions = {item["name"]: item["action"] for item in json.loads(done.out)}
    assert actions["tokenized/sft_cache/tulu"] == "RUN"


@pytest.mark.parametrize(
    "change, message",
    [
        (("num_train_steps=", "num_steps="), "num_train_steps"),
        (("train_batch_size=128", 'train_batch_size="128"'), "train_batch_size"),
        (("tulu-v2-sft-mixture", "tulu-v9"), "revision="),
        (("Llama-3.1-8B-Instruct", "Llama-3.1-8B"), "tokenizer"),
        (('input_role="user"', 'input_role="human"'), "input_role"),
        (('input_field="user"', 'input_feild="user"'), "input_feild"),
        (("tokenized=tokenization_step", 'tokenized="nowhere"'), "nowhere"),
    ],
)
def test_a_mistake_while_steps_are_made_is_one_paragraph(plan, change, message):
    done, _ = plan(change)
    assert done.code == 2 and message in done.told, done.told
    assert "Traceback" not in done.told and "my_sft_experiment.py:" in done.told


def test_an_unknown_step_to_force_is_named(plan):
    done, _ = plan(flags="--dry_run --force_run '[\"tokenized/tulu\"]'")
    assert done.code == 2 and "tokenized/sft_cache/tulu" in done.told


def test_marins_module_paths_have_our_names():
    from marin_sft import data
    from marin_sft.data import text
    from marin_sft.processing import tokenize

    assert text.ChatLmDatasetFormat is data.ChatLmDatasetFormat
    assert tokenize.lm_mixture_data_config is data.lm_mixture_data_config
