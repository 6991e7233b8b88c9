"""Document 004: the Qwen3 SFT module. Its commands and its classes, from the folder that holds `train_sft.py`."""

import json
import shutil

import pytest
import torch
import transformers

from marin_sft import SFTConfig, SFTDataset
from marin_sft.data import ChatLmDatasetFormat
from marin_sft.errors import UserError
from marin_sft.recipes.sources import model_step
from marin_sft.steps import export, mixture, sft, tokenize
from marin_sft.trainers.commands import help_text
from marin_sft.trainers.settings import Dialect
from tests.seeds.conftest import SUMS
from tests.seeds.desk import ROOT, Desk
from tests.seeds.planned import directories, planned_by

MODEL = "Qwen/Qwen2.5-1.5B"
SHAREGPT = [
    {
        "conversations": [
            {"from": "user", "value": "Hello!"},
            {"from": "assistant", "value": "Hi!"},
            {"from": "user", "value": "2+2?"},
            {"from": "assistant", "value": "4"},
        ]
    }
]


@pytest.fixture(scope="module")
def folder(published, tmp_path_factory):
    """The folder of the script, with the data that the commands name."""
    desk = Desk.at(tmp_path_factory.mktemp("module"), published.environment)
    shutil.copy(ROOT / "experiments/train_sft.py", desk.path)
    shutil.copytree(ROOT / "experiments/examples", desk.path / "examples")
    desk.write("data/train.json", SUMS[:12])
    desk.write("data/alpaca.json", SUMS[:12])
    desk.write("data/eval.json", SUMS[30:])
    return desk


@pytest.fixture
def here(folder, monkeypatch):
    """This process works in the folder."""
    monkeypatch.chdir(folder.path)
    for name in ("WANDB_API_KEY", "XLA_FLAGS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MARIN_SFT_PREFIX", folder.environment["MARIN_SFT_PREFIX"])
    return folder.path


BASIC = "--data_path ./examples/sample_alpaca.json --output_dir ./output/qwen-sft --num_train_epochs 3"
LORA = "--use_lora --lora_r 8 --lora_alpha 16"
# command, fields of the training, tokens of a row, fields of the adapter
COMMANDS = {
    BASIC: ({"num_train_epochs": 3, "train_batch_size": 16, "precision": "fp32"}, 2048, None),
    f"--data_path ./data/alpaca.json --output_dir ./output/qwen-lora {LORA} --num_train_epochs 3": (
        {"num_train_epochs": 3},
        2048,
        {"r": 8, "alpha": 16, "dropout": 0.05},
    ),
    "--data_path ./data/train.json --eval_data_path ./data/eval.json --output_dir ./output/qwen-sft "
    "--num_train_epochs 5 --bf16": (
        {"num_train_epochs": 5, "precision": "bf16", "steps_per_eval": 500, "do_eval": True},
        2048,
        None,
    ),
    "--data_path yahma/alpaca-cleaned --output_dir ./output/qwen-alpaca --num_train_epochs 3": ({}, 2048, None),
    "--data_path ./data/train.json --output_dir ./output --per_device_train_batch_size 8 "
    "--gradient_accumulation_steps 2 --learning_rate 5e-5 --num_train_epochs 3 --bf16": (
        {"train_batch_size": 16, "gradient_accumulation_steps": 2, "learning_rate": 5e-5, "precision": "bf16"},
        2048,
        None,
    ),
    "--data_path ./data/train.json --output_dir ./output --use_lora --lora_r 16 --lora_alpha 32 "
    "--per_device_train_batch_size 2 --gradient_accumulation_steps 8 --gradient_checkpointing --learning_rate 2e-4 "
    "--num_train_epochs 3 --bf16": (
        {"train_batch_size": 16, "gradient_accumulation_steps": 8, "gradient_checkpointing": True},
        2048,
        {"r": 16, "alpha": 32, "dropout": 0.05},
    ),
    "--data_path ./data/train.json --output_dir ./output --use_lora --lora_r 8 --per_device_train_batch_size 1 "
    "--gradient_accumulation_steps 16 --gradient_checkpointing --max_length 1024 --bf16": (
        {"train_batch_size": 16, "gradient_accumulation_steps": 16, "gradient_checkpointing": True},
        1024,
        {"r": 8, "alpha": 16, "dropout": 0.05},
    ),
    "--data_path ./data/train.json --output_dir ./output --run_name qwen-sft-experiment-1 --report_to wandb": (
        {},
        2048,
        None,
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_say_what_is_trained(command, here):
    fields, length, adapter = COMMANDS[command]
    plan = planned_by(command)
    assert {name: getattr(plan.training, name) for name in fields} == fields
    assert plan.mixture.seq_len == length
    assert (plan.training.lora is None) == (adapter is None)
    if adapter:
        assert {name: getattr(plan.training.lora, name) for name in adapter} == adapter
        assert plan.training.lora.target_modules is None  # all projections
    assert "examples: " in plan.notes  # the product of the batch


def test_where_a_run_reports_to_and_its_directory_are_no_part_of_what_it_is(here):
    plain = planned_by("--data_path ./data/train.json --output_dir ./output")
    told = planned_by("--data_path ./data/train.json --output_dir ./elsewhere --run_name mine --report_to wandb")
    assert not plain.training.trackers
    (tracker,) = told.training.trackers
    assert tracker.name == "mine"
    both = planned_by("--data_path ./data/train.json --report_to wandb tensorboard").training.trackers
    assert [type(tracker).__name__ for tracker in both] == ["WandbConfig", "TensorboardConfig"]
    assert planned_by("--data_path ./data/train.json --report_to none").training.trackers == ()
    assert directories(plain.trainer.steps) == directories(told.trainer.steps)


def test_every_flag_of_the_script(here):
    flags = (
        "--data_path ./data/train.json --per_device_eval_batch_size 2 --weight_decay 0.1 --warmup_ratio 0.1 "
        "--no_chat_template --logging_steps 1 --save_steps 7 --eval_steps 5 --save_total_limit 2 --seed 7 --no_eval "
        "--eval_data_path ./data/eval.json"
    )
    training = planned_by(flags).training
    expected = {
        "weight_decay": 0.1,
        "warmup": 0.1,
        "steps_per_log": 1,
        "hf_exports_kept": 2,
        "save_optimizer_state": True,
        "seed": 7,
        "do_eval": False,
    }
    assert {name: getattr(training, name) for name in expected} == expected
    assert "### Instruction:" in planned_by(flags).format.chat_template


def test_rows_longer_than_the_model(here):
    scaling = {"rope_type": "yarn", "factor": 4}
    flag = json.dumps(scaling, separators=(",", ":"))
    plan = planned_by(f"--data_path ./data/train.json --max_length 131072 --rope_scaling {flag}")
    assert (plan.training.rope_scaling, plan.mixture.seq_len) == (scaling, 131072)


def test_half_precision_is_trained_in_bfloat16_and_said(here):
    plan = planned_by("--data_path ./data/train.json --fp16")
    assert plan.training.precision == "bf16" and "fp16: trained in bfloat16" in plan.notes
    with pytest.raises(UserError, match="fp16 and bf16 are both set"):
        planned_by("--data_path ./data/train.json --fp16 --bf16")


def test_help_has_groups_and_defaults():
    text = help_text(False, Dialect.SCRIPT, "train_sft.py", everything=False)
    for shown in ("model and data:", "LoRA:", "(Qwen/Qwen2.5-1.5B)", "--lora_alpha X", "(16)", "(2048)", "--bf16"):
        assert shown in text
    assert len(text.splitlines()) <= 50
    assert "--no_chat_template" in help_text(False, Dialect.SCRIPT, "train_sft.py", everything=True)


@pytest.mark.parametrize(
    "command, message",
    [
        ("--data_path ./data/missing.json", "got './data/missing.json'; expected a file"),
        ("--data_path data/missing.json", "got 'data/missing.json'; expected a file"),
        ("--data_path missing", "or a hub id 'org/name'"),
        ("--data_path ./data/trian.json", "did you mean '"),
        ("--output_dir ./output", "expected --data_path"),
        ("--data_path ./data/train.json --num_epochs 3", "unknown flag --num_epochs: did you mean --num_train_epochs"),
        ("--data_path ./data/train.json --rope_scaling yarn", "--rope_scaling: expected a mapping as JSON, like"),
        ("--data_path ./data/train.json --lora_r eight", "--lora_r: expected a whole number, got 'eight'"),
        ("--data_path ./data/train.json --format_type chatml", "expected one of alpaca, sharegpt, custom"),
        ("--data_path ./data/train.json --report_to comet", "report_to = 'comet' is not supported"),
        ("--data_path ./data/train.json --load_in_4bit", "bf16=True, use_lora=True"),
        ("--data_path ./data/train.json --resume_from_checkpoint ./output/checkpoint-1000", "no training state there"),
    ],
)
def test_mistakes_are_told_before_anything_runs(command, message, here):
    with pytest.raises(UserError) as raised:
        planned_by(command)
    assert message in str(raised.value)


def test_a_mistake_is_one_paragraph_and_its_traceback_is_to_be_had(folder):
    done = folder.run("python train_sft.py --data_path ./data/train.json --num_epochs 3")
    assert done.code == 2 and done.told.startswith("error: ") and len(done.told.splitlines()) == 1
    done = folder.run("python train_sft.py --data_path ./data/train.json --num_epochs 3 --debug")
    assert done.code == 2 and "Traceback" in done.told


@pytest.fixture(scope="module")
def basic(folder):
    """The first command of the document, with the models on the way kept."""
    return folder.trained(f"python train_sft.py {BASIC} --save_steps 1 --save_total_limit 2 --backend inline")


def test_the_first_command_leaves_a_model_directory(basic, folder):
    assert "an update takes 16 examples: 4 x 1 device x 4 accumulated" in basic.told
    output = folder.path / "output/qwen-sft"
    assert {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "generation_config.json",
        "README.md",
    } <= folder.names("output/qwen-sft")
    assert {"checkpoint-2", "checkpoint-3"} == {n for n in folder.names("output/qwen-sft") if n.startswith("check")}
    lines = folder.lines("output/qwen-sft/metrics.jsonl")
    assert lines[-1]["step"] == 3 and lines[-1]["epoch"] == 3
    assert folder.json("output/qwen-sft/train_results.json")["step"] == 3
    model = transformers.AutoModelForCausalLM.from_pretrained(output, local_files_only=True, dtype="auto")
    assert model.dtype == torch.float32


def test_the_same_command_again_trains_nothing(basic, folder):
    before = (folder.path / "output/qwen-sft/model.safetensors").stat()
    again = folder.trained(f"python train_sft.py {BASIC} --save_steps 1 --save_total_limit 2")  # Ray is not started
    assert "0 steps run, 5 cached" in again.told and again.out.splitlines()[-4:] == basic.out.splitlines()[-4:]
    assert (folder.path / "output/qwen-sft/model.safetensors").stat().st_mtime_ns == before.st_mtime_ns


def test_the_steps_behind_it_written_by_hand_are_the_same(here):
    """An experiment file with these settings has the same outputs, and so the numbers to the bit."""
    name, base = "Qwen2.5-1.5B-sample_alpaca", model_step(MODEL)
    rows = "./examples/sample_alpaca.json"
    tokens = tokenize(name, rows, tokenizer=base, format=ChatLmDatasetFormat(train_on="assistant"))
    mixed = mixture(name, {name: tokens}, weights={name: 1.0}, seq_len=2048, pack=False)
    trained = sft(
        name,
        mixture=mixed,
        base_model=base,
        train_batch_size=16,
        num_train_epochs=3,
        learning_rate=2e-5,
        lr_schedule="cosine",
        min_lr_ratio=0.0,
        warmup=0.03,
        beta2=0.999,
        precision="fp32",
        seed=42,
        gradient_checkpointing=False,
        steps_per_hf_export=500,
        hf_exports_kept=3,
        save_optimizer_state=True,
    )
    assert directories([trained, export(name, trained)]) == directories(planned_by(BASIC).trainer.steps)


def test_what_is_copied_is_what_the_steps_have_made(basic, folder):
    (stored,) = folder.path.glob("store/hf/Qwen2.5-1.5B-sample_alpaca-*/latest/model.safetensors")
    assert stored.read_bytes() == (folder.path / "output/qwen-sft/model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_checkpoint_is_gone_on_from_to_the_same_bits(basic, folder):
    """In a store of its own, which knows nothing of the first; and what a training saves before it is cut short."""
    resumed = (
        "python train_sft.py --data_path ./examples/sample_alpaca.json --output_dir ./resumed --num_train_epochs 3 "
        "--save_steps 1 --save_total_limit 2 --backend inline --resume_from_checkpoint ./output/qwen-sft/checkpoint-2 "
    )
    elsewhere = {"MARIN_SFT_PREFIX": str(folder.path / "other-store")}
    refused = folder.run(resumed + "--learning_rate 3e-5", **elsewhere)
    assert refused.code == 1 and "learning_rate was 2e-05 and is 3e-05" in refused.told
    assert "again python train_sft.py --data_path ./examples/sample_alpaca.json" in refused.told
    short = folder.run(resumed.partition("--resume")[0] + "--seed 7 --training_time_limit 1s", **elsewhere)
    assert short.code == 1 and "checkpoint-1" in folder.names("resumed"), short.told
    assert "checkpoint.json" in folder.names("resumed/checkpoint-1/checkpoints/step-1")
    folder.trained(resumed, **elsewhere)
    weights = [(folder.path / name / "model.safetensors").read_bytes() for name in ("output/qwen-sft", "resumed")]
    assert weights[0] == weights[1]


API = """
    from marin_sft import SFTTrainer, SFTConfig

    config = SFTConfig(
        model_name_or_path="Qwen/Qwen2.5-1.5B",
        data_path="./data/alpaca.json",
        output_dir="./output",
        max_length=2048,
        num_train_epochs=3,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=4,
        learning_rate=2e-5,
        use_lora=True,
        lora_r=8,
    )
    trainer = SFTTrainer(config)
    result = trainer.train()
    print(result.global_step, result.output_dir, sorted(result.history[-1]))
"""


@pytest.mark.slow
def test_the_classes_on_two_devices_under_torchrun(folder):
    """One training over both, where four processes of torchrun would make four."""
    two = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    command = (
        "torchrun --nproc_per_node=2 --master_port=0 train_sft.py --data_path ./data/train.json "
        "--output_dir ./two --per_device_train_batch_size 2 --gradient_accumulation_steps 1 --max_length 64 "
        "--num_train_epochs 1 --backend inline"
    )
    done = folder.trained(command, **two)
    assert "one process trains on all 2 devices; the other 1 wait for it" in done.told
    assert "an update takes 4 examples: 2 x 2 devices x 1 accumulated" in done.told
    assert done.told.count("4 steps run, 1 cached") == 1
    wrong = folder.run(command, XLA_FLAGS="")
    assert wrong.code != 0 and "--nproc_per_node=2: expected 2 devices, found 1" in wrong.told
    assert "python" in wrong.told


@pytest.mark.slow
def test_the_classes_train_adapters(folder):
    folder.write("api.py", API)
    done = folder.trained("python api.py")
    told = done.out.splitlines()[-1]
    assert told.startswith(f"3 {folder.path}/output [")
    for name in ("step", "epoch", "loss", "learning_rate", "grad_norm"):
        assert repr(name) in told
    assert {"model.safetensors", "adapter"} <= folder.names("output")
    adapter = folder.json("output/adapter/adapter_config.json")
    assert adapter["r"] == 8 and adapter["lora_alpha"] == 16 and adapter["lora_dropout"] == 0.05
    assert len(adapter["target_modules"]) == 7
    again = folder.trained("python api.py")
    assert "0 steps run" in again.told and again.out.splitlines()[-1] == told


def test_the_config_has_the_defaults_of_the_document():
    config = SFTConfig()
    defaults = {
        "model_name_or_path": MODEL,
        "eval_data_path": None,
        "output_dir": "./output",
        "max_length": 2048,
        "num_train_epochs": 3,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 4,
        "learning_rate": 2e-5,
        "fp16": False,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_lora": False,
        "lora_r": 8,
        "lora_alpha": 16,
        "lora_dropout": 0.05,
        "data_path": "",
    }
    assert {name: getattr(config, name) for name in defaults} == defaults
    with pytest.raises(TypeError):
        SFTConfig("Qwen/Qwen2.5-1.5B")


def test_the_dataset_loader(published, here):
    tokenizer = transformers.AutoTokenizer.from_pretrained(published.models[MODEL])
    arguments = {"tokenizer": tokenizer, "max_length": 2048, "format_type": "alpaca", "use_chat_template": True}
    dataset = SFTDataset(data_path="./data/alpaca.json", **arguments)
    example = dataset[0]
    assert list(example.keys()) == ["input_ids", "attention_mask", "labels"] and len(dataset) == 12
    assert len({len(values) for values in example.values()}) == 1 and set(example["attention_mask"]) == {1}
    chat = [{"role": "user", "content": "What is 0 + 1?"}, {"role": "assistant", "content": "0 + 1 is 1."}]
    whole = tokenizer.apply_chat_template(chat, tokenize=True)
    assert example["input_ids"] == (whole if isinstance(whole, list) else whole["input_ids"])
    trained = [id for id in example["labels"] if id != -100]
    assert tokenizer.decode(trained) == "0 + 1 is 1.<|im_end|>"
    plain = SFTDataset(data_path="./data/alpaca.json", **{**arguments, "use_chat_template": False})
    assert tokenizer.decode(plain[0]["input_ids"]).startswith("### Instruction:\nWhat is 0 + 1?\n\n### Response:\n")


@pytest.mark.parametrize(
    "rows, format_type, texts",
    [
        (SHAREGPT, "sharegpt", ["Hello!", "Hi!", "2+2?", "4"]),
        ([{"question": "2+2?", "answer": "4"}], "custom", ["2+2?", "4"]),
        ([{"question": "2+2?", "output": "4"}], "custom", ["2+2?", "4"]),
        ([{"instruction": "2+2?", "response": "4"}], "custom", ["2+2?", "4"]),
        ([{"prompt": "2+2?", "response": "4"}], "custom", ["2+2?", "4"]),
        (
            [{"instruction": "Add", "input": "2+2", "output": "4", "system": "Brief."}],
            "alpaca",
            ["Brief.", "Add\n2+2", "4"],
        ),
    ],
)
def test_the_formats_of_the_document(rows, format_type, texts, published, here):
    (here / "rows.json").write_text(json.dumps(rows))
    dataset = SFTDataset("rows.json", str(published.models[MODEL]), format_type=format_type)
    tokenizer = transformers.AutoTokenizer.from_pretrained(published.models[MODEL])
    text = tokenizer.decode(dataset[0]["input_ids"])
    turns = [part.split("\n", 1)[1] for part in text.split("<|im_start|>")[1:]]
    assert [turn.split("<|im_end|>")[0] for turn in turns][-len(texts) :] == texts


def test_the_loader_reads_datasets_of_the_hub(folder):
    """In a process of its own: Hugging Face's libraries look at the environment once."""
    folder.write(
        "load.py",
        f"""
        from marin_sft import SFTDataset

        for split in (None, "train[:10%]"):
            dataset = SFTDataset("yahma/alpaca-cleaned", "{MODEL}", max_length=68, split=split)
            print(len(dataset), max(len(example["input_ids"]) for example in dataset))
        """,
    )
    assert folder.trained("python load.py").out.split("\n")[-3:-1] == ["40 68", "4 68"]


def test_the_requirements_of_the_document_are_there():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == ["-e ."]


def test_rows_of_another_shape_than_the_default_are_read_as_what_they_are(folder, here):
    folder.write("data/chats.json", SHAREGPT)
    assert planned_by("--data_path ./data/chats.json").format.shape is None
    with pytest.raises(UserError, match="no instruction and no output; it has \\['conversations'\\]"):
        planned_by("--data_path ./data/chats.json --format_type alpaca")
