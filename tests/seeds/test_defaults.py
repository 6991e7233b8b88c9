"""The table of defaults: what a call means where it says nothing, by how it is called."""

import pytest

from marin_sft import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from marin_sft.data import TextLmDatasetFormat
from marin_sft.training.metrics.trackers import TensorboardConfig, WandbConfig
from marin_sft.trl import LoraConfig
from tests.seeds.planned import planned

MODEL = "Qwen/Qwen2.5-1.5B"
CHATS = [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}]
PAIRS = [{"prompt": "hi", "chosen": "ho", "rejected": "no"}]


def easydel(**settings):
    return planned(SFTTrainer(arguments=SFTConfig(**settings), model=MODEL, train_dataset=CHATS, eval_dataset=CHATS))


def script(**settings):
    return planned(SFTTrainer(SFTConfig(**settings), train_dataset=CHATS, eval_dataset=CHATS))


def trl(**settings):
    return planned(SFTTrainer(MODEL, args=SFTConfig(**settings), train_dataset=CHATS, eval_dataset=CHATS))


SAME = {"optimizer": "adamw", "learning_rate": 2e-5, "mesh": None, "attention_backend": None}
TABLE = {
    easydel: (
        {
            "train_batch_size": 32,
            "gradient_accumulation_steps": None,
            "num_train_epochs": 10,
            "num_train_steps": None,
            "lr_schedule": "constant",
            "warmup": 0,
            "weight_decay": 0.01,
            "weight_decay_parameters": ".*",
            "max_grad_norm": None,
            "precision": "fp32",
            "gradient_checkpointing": None,
            "hf_exports_kept": None,
            "save_optimizer_state": False,
            "seed": 0,
        },
        4096,
        "everything",
    ),
    script: (
        {
            "train_batch_size": 16,
            "gradient_accumulation_steps": 4,
            "num_train_epochs": 3,
            "lr_schedule": "cosine",
            "min_lr_ratio": 0.0,
            "warmup": 0.03,
            "weight_decay": 0.0,
            "max_grad_norm": 1.0,
            "precision": "fp32",
            "gradient_checkpointing": False,
            "hf_exports_kept": 3,
            "save_optimizer_state": True,
            "seed": 42,
        },
        2048,
        "assistant",
    ),
    trl: (
        {
            "train_batch_size": 8,
            "gradient_accumulation_steps": None,
            "num_train_epochs": 3,
            "lr_schedule": "linear",
            "min_lr_ratio": 0.0,
            "warmup": 0.0,
            "weight_decay": 0.0,
            "max_grad_norm": 1.0,
            "precision": "bf16",
            "gradient_checkpointing": None,
            "hf_exports_kept": None,
            "save_optimizer_state": True,
            "seed": 42,
        },
        1024,
        "completion",
    ),
}


@pytest.mark.parametrize("dialect", TABLE, ids=lambda dialect: dialect.__name__)
def test_sft(dialect):
    fields, length, trained = TABLE[dialect]
    plan, expected = dialect(), {**SAME, **fields}
    assert {name: getattr(plan.training, name) for name in expected} == expected
    assert plan.mixture.seq_len == length and set(plan.mixture.data.pack.values()) == {False}
    assert plan.format.train_on == trained and plan.training.lora is None
    assert exported_every(plan) == (None if dialect is easydel else 500)


def exported_every(plan):
    """Steps between two models saved while training."""
    return None if plan.training.hf_exports is None else plan.training.hf_exports.steps


@pytest.mark.parametrize(
    "arguments, length, prompt, rate",
    [
        (lambda config: {"arguments": config, "model": MODEL}, 512, 256, 1e-6),
        (lambda config: {"config": config}, 2048, None, 2e-5),
        (lambda config: {"model": MODEL, "args": config}, 1024, None, 1e-6),
    ],
    ids=["easydel", "script", "trl"],
)
def test_dpo(arguments, length, prompt, rate):
    plan = planned(DPOTrainer(**arguments(DPOConfig()), train_dataset=PAIRS))
    assert (plan.mixture.seq_len, plan.mixture.max_prompt_length) == (length, prompt)
    assert plan.training.learning_rate == rate and plan.training.beta == 0.1


@pytest.mark.parametrize(
    "dialect, settings, adapter",
    [
        (script, {"use_lora": True}, (8, 16.0, 0.05, None)),
        (trl, {"use_peft": True}, (16, 32.0, 0.05, ("q_proj", "v_proj"))),
    ],
)
def test_lora(dialect, settings, adapter):
    lora = dialect(**settings).training.lora
    assert (lora.r, lora.alpha, lora.dropout, lora.target_modules) == adapter


def test_an_adapter_as_an_object():
    trainer = SFTTrainer(MODEL, args=SFTConfig(), train_dataset=CHATS, peft_config=LoraConfig(r=4, lora_alpha=8))
    lora = planned(trainer).training.lora
    assert (lora.r, lora.alpha, lora.dropout) == (4, 8.0, 0.0)


@pytest.mark.parametrize("dialect, kinds", [(easydel, [TensorboardConfig]), (script, []), (trl, [])])
def test_trackers_that_nobody_asked_for_are_used_where_they_can_be(dialect, kinds, monkeypatch, tmp_path):
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert [type(tracker) for tracker in dialect().training.trackers] == kinds
    with_key = kinds if dialect is trl else [WandbConfig, *kinds]
    (tmp_path / "netrc").write_text("machine api.wandb.ai\n  login user\n  password key\n")
    assert [type(tracker) for tracker in dialect().training.trackers] == with_key
    (tmp_path / "netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "key")
    assert [type(tracker) for tracker in dialect().training.trackers] == with_key
    assert [type(tracker) for tracker in dialect(report_to="none").training.trackers] == kinds
    assert [type(tracker) for tracker in dialect(use_wandb=False).training.trackers] == kinds


@pytest.mark.parametrize("dialect", [easydel, script])
def test_steps_and_epochs(dialect):
    """EasyDeL ends with whichever comes first; elsewhere steps replace epochs."""
    training = dialect(max_steps=7).training
    assert training.num_train_steps == 7 and (training.num_train_epochs is None) == (dialect is script)
    assert dialect(max_steps=-1).training.num_train_epochs is not None


def test_precisions():
    assert trl(bf16=False).training.precision == "fp32"
    assert script(bf16=True).training.precision == "bf16"
    assert easydel(dtype="bfloat16", param_dtype="bfloat16").training.precision == "bf16_full"


def test_prompts_are_trained_where_it_is_said():
    rows = [{"prompt": "hi", "completion": "ho"}]

    def train_on(**settings):
        return planned(SFTTrainer(MODEL, args=SFTConfig(**settings), train_dataset=rows)).format.train_on

    assert train_on() == train_on(completion_only_loss=True) == "completion"
    assert train_on(completion_only_loss=False) == train_on(train_on_inputs=True) == "everything"
    assert train_on(assistant_only_loss=True) == train_on(train_on_inputs=False) == "assistant"
    texts = SFTTrainer(MODEL, args=SFTConfig(), train_dataset=rows, formatting_func=lambda row: row["prompt"])
    assert planned(texts).format == TextLmDatasetFormat()  # whole, and no mistake where nobody asked for a part
    hub = SFTTrainer(MODEL, args=SFTConfig(), train_dataset="trl-lib/Capybara")
    assert planned(hub).format.train_on == "completion"  # decided for each row when they are read
