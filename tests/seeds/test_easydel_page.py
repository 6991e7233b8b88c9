"""Document 002: the page about EasyDeL's SFTTrainer. Its class, its command line, its formats."""

import json

import pytest
import transformers

import marin_sft as ed
from marin_sft.data.chat.encode import encode
from marin_sft.data.messages.reading import example_of
from marin_sft.errors import UserError
from marin_sft.trainers import DPOTrainer, SFTConfig
from marin_sft.trainers.settings import Dialect
from tests.seeds.conftest import SUMS
from tests.seeds.desk import Desk
from tests.seeds.planned import planned, planned_by

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
TEXTS = [{"text": "one"}, {"text": "two"}]


def of_class(rows=TEXTS, *, model=LLAMA, eval_dataset=None, **settings):
    """What `SFTTrainer(arguments=SFTConfig(...), ...)` plans."""
    arguments = ed.SFTConfig(**settings)
    trainer = ed.SFTTrainer(arguments=arguments, model=model, train_dataset=rows, eval_dataset=eval_dataset)
    return planned(trainer)


def test_the_config_of_the_first_block(capsys):
    plan = of_class(
        model_name="SFTTrainer",
        learning_rate=2e-5,
        dataset_text_field=None,
        add_special_tokens=False,
        packing=False,
        num_of_sequences=1024,
        chars_per_token=3.6,
        dataset_num_proc=None,
        dataset_batch_size=1000,
        dataset_kwargs=None,
        eval_packing=None,
        total_batch_size=16,
        num_train_epochs=3,
    )
    assert (plan.training.train_batch_size, plan.training.num_train_epochs) == (16, 3)
    assert plan.trainer.steps[0].name == "checkpoints/SFTTrainer_seed0"
    assert plan.mixture.data.pack == {"SFTTrainer": False}
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("without effect here: ")]
    for name in ("num_of_sequences", "chars_per_token", "dataset_num_proc", "dataset_batch_size", "eval_packing"):
        assert name in line


EXAMPLE = """
    import marin_sft as ed
    import jax
    from jax import numpy as jnp
    from transformers import AutoTokenizer
    from datasets import load_dataset

    tokenizer = AutoTokenizer.from_pretrained("meta-llama/Llama-3.1-8B-Instruct")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = tokenizer.eos_token_id
    dataset = load_dataset("Anthropic/hh-rlhf", data_dir="helpful-base", split="train[:10%]")
    model = ed.AutoEasyDeLModelForCausalLM.from_pretrained("meta-llama/Llama-3.1-8B-Instruct", dtype=jnp.bfloat16)
    config = ed.SFTConfig(
        model_name="sft_example",
        save_directory="sft_checkpoints",
        dataset_text_field="chosen",
        packing=True,
        learning_rate=2e-5,
        learning_rate_end=5e-6,
        total_batch_size=16,
        num_train_epochs=3,
        use_wandb=True,
        num_of_sequences=512,
        max_sequence_length=256,
    )
    here = ed.ExecutorFlags(backend="inline")
    trainer = ed.SFTTrainer(
        arguments=config, model=model, train_dataset=dataset, processing_class=tokenizer, flags=here
    )
    result = trainer.train()
    eval_dataset = load_dataset("Anthropic/hh-rlhf", data_dir="helpful-base", split="validation[:10%]")
    trainer = ed.SFTTrainer(
        arguments=config,
        model=model,
        train_dataset=dataset,
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
        flags=here,
    )
    print(trainer.evaluate()["eval_loss"])
    print(result.output_dir)
    print(result.global_step, [line["learning_rate"] for line in result.history])
"""


@pytest.fixture(scope="module")
def example(published, tmp_path_factory):
    """After the complete example, and an evaluation with the dataset of the page. Shorter than the default of 4096, and
    without a Ray of its own."""
    desk = Desk.at(tmp_path_factory.mktemp("page"), published.environment)
    desk.write("example.py", EXAMPLE)
    return desk, desk.trained("python example.py")


def test_the_complete_example_trains(example, published):
    desk, done = example
    assert done.out.splitlines()[-2] == str(desk.path / "sft_checkpoints/sft_example")
    assert {"model.safetensors", "tokenizer.json", "metrics.jsonl"} <= desk.names("sft_checkpoints/sft_example")
    (record,) = desk.path.glob("store/checkpoints/sft_example_seed0-*/latest/.record.json")
    config = json.loads(record.read_text())["config"]
    expected = {"precision": "bf16", "lr_schedule": "linear", "learning_rate_end": 5e-6, "train_batch_size": 16}
    assert {name: config[name] for name in expected} == expected
    assert [tracker["project"] for tracker in config["trackers"] if "project" in tracker] == ["sft_example"]
    assert list(record.parent.glob("wandb/**/*.wandb"))


def test_a_model_is_evaluated_before_it_is_trained(example):
    desk, done = example
    (metrics,) = desk.path.glob("store/perplexity/*/latest/metrics.json")
    assert float(done.out.splitlines()[-3]) == pytest.approx(json.loads(metrics.read_text())["loss"])


def test_the_named_field_is_trained_as_plain_text(example, published):
    """Whole, although rows with chosen and rejected look like preferences."""
    desk, _ = example
    found = [json.loads(path.read_text()) for path in desk.path.glob("store/tokenized/*/latest/stats.json")]
    (counted,) = [stats["train"] for stats in found if "train" in stats]
    tokenizer = transformers.AutoTokenizer.from_pretrained(published.models[LLAMA])
    texts = [f"\n\nHuman: {row['instruction']}\n\nAssistant: {row['output']}" for row in SUMS[:4]]
    tokens = sum(len(tokenizer(text)["input_ids"]) + 1 for text in texts)  # and EOS
    assert (counted["documents"], counted["tokens"], counted["trained_tokens"]) == (
        4,
        tokens,
        tokens - 4,
    )  # nothing is before the first


def test_the_complete_example_again_trains_nothing(example):
    desk, done = example
    again = desk.trained("python example.py")
    assert again.told.count("0 steps run") == 2 and again.out.splitlines()[-3:] == done.out.splitlines()[-3:]


COMMAND = (
    f"--repo_id {LLAMA} --dataset_name trl-lib/Capybara --dataset_split train --dataset_text_field messages "
    "--attn_mechanism vanilla --max_sequence_length 2048 --packing True --total_batch_size 16 --learning_rate 2e-5 "
    "--learning_rate_end 5e-6 --num_train_epochs 3 --do_last_save --save_steps 1000 --use_wandb"
)


def test_the_command_line():
    plan = planned_by(COMMAND, Dialect.EASYDEL)
    expected = {
        "attention_backend": "vanilla",
        "train_batch_size": 16,
        "learning_rate": 2e-5,
        "learning_rate_end": 5e-6,
        "lr_schedule": "linear",
        "num_train_epochs": 3,
    }
    assert {name: getattr(plan.training, name) for name in expected} == expected
    assert plan.training.hf_exports.steps == 1000
    assert plan.mixture.seq_len == 2048 and plan.mixture.data.pack == {"Llama-3.1-8B-Instruct-Capybara": True}
    assert plan.format.messages_field == "messages" and plan.format.train_on in ("all", "everything")
    assert [type(tracker).__name__ for tracker in plan.training.trackers] == ["WandbConfig", "TensorboardConfig"]
    answers = planned_by(f"{COMMAND} --assistant_only_loss", Dialect.EASYDEL)
    assert answers.format.train_on == "assistant"


def test_the_command_is_a_module(desk):
    done = desk.trained(f"python -m marin_sft.scripts.finetune.sft {COMMAND} --dry_run --json")
    names = [step["name"] for step in json.loads(done.out)]
    assert "raw/trl-lib--Capybara" in names and "hf/Llama-3.1-8B-Instruct-Capybara" in names
    assert not (desk.path / "store").exists()  # planned without a download
    pairs = "--repo_id Qwen/Qwen3-14B --dataset_name mlabonne/orpo-dpo-mix-40k --beta 0.2 --dry_run --json"
    done = desk.trained(f"python -m marin_sft.scripts.finetune.dpo {pairs}")
    assert any(step["name"].startswith("checkpoints/") for step in json.loads(done.out))
    assert "--refrence_model_repo_id" in desk.trained("python -m marin_sft.scripts.finetune.dpo --help all").out


def test_further_flags_of_the_scripts():
    more = (
        "--processor_repo_id Qwen/Qwen3-14B --sharding_axis (1,-1,1,1) --gradient_checkpointing nothing_saveable "
        "--param_dtype bf16 --dtype bf16 --attn_dtype bf16 --attn_softmax_dtype bf16 --do_last_save false"
    )
    with pytest.raises(
        UserError, match="attn_softmax_dtype = float32 is not supported: attention computes in bfloat16"
    ):
        planned_by(f"{COMMAND} {more.replace('softmax_dtype bf16', 'softmax_dtype fp32')}", Dialect.EASYDEL)
    training = planned_by(f"{COMMAND} {more}", Dialect.EASYDEL).training
    assert training.mesh == (1, -1, 1, 1, 1) and training.precision == "bf16_full"
    assert training.gradient_checkpointing is True
    pairs = "--repo_id Qwen/Qwen3-14B --dataset_name mlabonne/orpo-dpo-mix-40k --refrence_model_repo_id " + LLAMA
    plan = planned_by(pairs, Dialect.EASYDEL, DPOTrainer)
    assert "Llama-3.1-8B-Instruct" in str(plan.training.reference_logprobs.config)


@pytest.mark.parametrize(
    "row, field, trained",
    [
        ({"text": "a text"}, "text", "a text<|eot_id|>"),
        ({"text": "a text"}, None, "a text<|eot_id|>"),
        ({"instruction": "Say", "response": "ho"}, None, ["Say", "ho"]),
        ({"messages": [{"role": "system", "content": "brief"}, {"role": "user", "content": "hi"}]}, None, ["brief"]),
        ({"chat": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}, "chat", ["hi", "ho"]),
    ],
)
def test_the_formats_are_trained_whole(row, field, trained, published):
    format = of_class([row], model=str(published.models[LLAMA]), dataset_text_field=field).format
    tokenizer = transformers.AutoTokenizer.from_pretrained(published.models[LLAMA])
    encoded = encode(tokenizer, example_of(row, format), format)
    text = tokenizer.decode(encoded.input_ids[encoded.mask == 1])
    assert encoded.mask.all()
    assert text.removeprefix("<|begin_of_text|>") == trained if isinstance(trained, str) else True
    for part in trained if isinstance(trained, list) else []:
        assert part in text


def test_a_column_that_is_not_there_is_named():
    with pytest.raises(UserError, match=r"dataset_text_field = 'txt': .*\['text'\]"):
        of_class(dataset_text_field="txt")


def test_packing():
    plan = of_class(packing=True, num_of_sequences=1024, chars_per_token=3.6, dataset_text_field="text")
    assert set(plan.mixture.data.pack.values()) == {True}
    assert plan.mixture.data.over_length == "split"  # a text longer than a row goes on in the next


def test_an_evaluation_dataset_is_evaluated_and_said():
    plan = of_class(eval_dataset=TEXTS)
    assert plan.training.do_eval is True and "do_eval: on, because there is an eval_dataset" in plan.notes
    assert len(plan.formats) == 2
    named = of_class(eval_dataset={"sums": TEXTS, "chats": TEXTS})
    assert [name.rpartition("-")[2] for name in named.formats][1:] == ["sums", "chats"]


def test_the_schedule():
    training = of_class(
        learning_rate=2e-5,
        learning_rate_end=5e-6,
        scheduler=ed.EasyDeLSchedulers.COSINE,
        warmup_steps=500,
        max_training_steps=1000,
        optimizer=ed.EasyDeLOptimizers.ADAMW,
        weight_decay=0.01,
    ).training
    expected = {
        "lr_schedule": "cosine",
        "warmup": 500,
        "learning_rate_end": 5e-6,
        "weight_decay": 0.01,
        "weight_decay_parameters": ".*",
        "optimizer": "adamw",
        "num_train_steps": 1000,
        "num_train_epochs": 10,
    }
    assert {name: getattr(training, name) for name in expected} == expected
    with pytest.raises(UserError, match="warmup_steps = 500 without a scheduler"):
        of_class(warmup_steps=500)
    with pytest.raises(UserError, match="at most num_train_steps = 100"):
        of_class(warmup_steps=500, scheduler="cosine", max_training_steps=100)


@pytest.mark.parametrize("wanted, expected", [(None, None), (True, True), (False, False)])
def test_the_begin_of_a_text(wanted, expected):
    settings = {} if wanted is None else {"add_special_tokens": wanted}
    assert of_class(dataset_text_field="text", **settings).format.add_special_tokens is expected


def test_dataset_kwargs_are_settings():
    plan = of_class(dataset_kwargs={"add_special_tokens": False}, dataset_text_field="text")
    assert plan.format.add_special_tokens is False
    with pytest.raises(UserError, match="dataset_kwargs: unknown setting 'add_specials'"):
        SFTConfig(dataset_kwargs={"add_specials": False})
    tokens = [{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}]
    ready = of_class(tokens, dataset_kwargs={"skip_prepare_dataset": True})
    assert ready.format.as_chat().shape == "tokens"
    with pytest.raises(UserError, match="skip_prepare_dataset"):
        of_class(dataset_kwargs={"skip_prepare_dataset": True})
