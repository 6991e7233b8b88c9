"""What a call of a trainer asks for reaches the training step, or is refused or named."""

import json

import pytest

from marin_sft.errors import ConfigError
from marin_sft.execution.executor import ExecutorFlags
from marin_sft.trainers.commands import trainer_of
from marin_sft.trainers.publishing import publish, published_before
from marin_sft.trainers.settings import Dialect
from marin_sft.trl import DPOConfig, DPOTrainer, LoraConfig, SFTConfig, SFTTrainer

CHATS = [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}] * 4
TEXTS = [{"text": "one"}, {"text": "two"}]
PAIRS = [{"prompt": "q", "chosen": "a", "rejected": "b"}] * 4


def trained(rows, *, of=SFTTrainer, config=SFTConfig, **settings):
    more = {name: settings.pop(name) for name in ("peft_config", "formatting_func") if name in settings}
    trainer = of("org/model", args=config(**settings), train_dataset=rows, flags=ExecutorFlags(dry_run=True), **more)
    return trainer, trainer.steps[0].config


def test_a_constant_rate_has_no_warmup_as_in_transformers():
    trainer, config = trained(CHATS, lr_scheduler_type="constant", warmup_ratio=0.03)
    assert (config.lr_schedule, config.warmup) == ("constant", 0)
    assert any("without effect here: warmup" in note for note in trainer._pipeline().notes)
    assert trained(CHATS, lr_scheduler_type="constant_with_warmup", warmup_steps=5)[1].warmup == 5


def test_evaluation_follows_the_log_unless_its_steps_are_given():
    trainer = SFTTrainer(
        "org/model", args=SFTConfig(eval_strategy="steps", logging_steps=3), train_dataset=CHATS, eval_dataset=CHATS
    )
    assert trainer.steps[0].config.steps_per_eval == 3


def test_what_is_saved_with_its_state_is_resumed_from():
    assert trained(CHATS, save_steps=7)[1].steps_per_checkpoint == 7
    assert trained(CHATS, save_steps=7, save_only_model=True)[1].steps_per_checkpoint is None


REFUSED = {
    "a mask of texts": (lambda: trained(TEXTS, dataset_text_field="text", assistant_only_loss=True), "trained whole"),
    "a mask of formatted rows": (
        lambda: trained(CHATS, formatting_func=lambda row: "x", completion_only_loss=True),
        "formatting_func: they are trained whole",
    ),
    "a column of formatted rows": (
        lambda: trained(CHATS, formatting_func=lambda row: "x", dataset_text_field="text"),
        "names a column; expected one",
    ),
    "no length": (lambda: trained(CHATS, max_length=None), "max_length = None: how long rows may be is not known"),
    "no data to evaluate on": (lambda: trained(CHATS, eval_strategy="steps", eval_steps=5), "no evaluation data"),
    "two adapters": (lambda: trained(CHATS, use_lora=True, lora_r=4, peft_config=LoraConfig(r=8)), "expected one of"),
    "no accumulation": (lambda: trained(CHATS, gradient_accumulation_steps=0), "= 0: expected at least 1"),
    "pairs for SFT": (lambda: trained(PAIRS), "marin-sft dpo trains on preferences"),
    "settings of DPO": (lambda: trained(CHATS, config=DPOConfig), "expected marin_sft.SFTConfig"),
    "chats for DPO": (lambda: trained(CHATS, of=DPOTrainer, config=DPOConfig), "chosen and rejected answers"),
    "too long a prompt": (
        lambda: trained(PAIRS, of=DPOTrainer, config=DPOConfig, max_prompt_length=600, max_length=512),
        "max_prompt_length = 600",
    ),
    "too few weights": (
        lambda: trained(PAIRS, of=DPOTrainer, config=DPOConfig, loss_type=["sigmoid", "sft"], loss_weights=[1.0]),
        "expected one for each of loss_type",
    ),
    "a reference that moves and is computed before": (
        lambda: trained(PAIRS, of=DPOTrainer, config=DPOConfig, sync_ref_model=True, precompute_ref_log_probs=True),
        "contradict each other",
    ),
    "a function that fails": (lambda: trained(CHATS, formatting_func=lambda row: row["nope"]), "failed on row 0"),
    "PEFT's names": (lambda: LoraConfig(lora_r=4), "has no field 'lora_r'"),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_what_cannot_hold_is_refused(mistake):
    make, message = REFUSED[mistake]
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_small_file_is_trained_on_in_one_process_unless_a_backend_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    rows = tmp_path / "chats.jsonl"
    rows.write_text(json.dumps(CHATS[0]) + "\n")
    command = ["--data", str(rows), "--model", "org/model"]

    def backend(*more: str, dialect: Dialect = Dialect.OURS) -> str:
        return trainer_of(SFTTrainer, [*command, *more], dialect, "marin-sft sft")._flags.backend

    assert backend() == "inline"
    assert backend("--backend", "ray") == backend("--gpu_count", "2") == backend(dialect=Dialect.TRL) == "ray"
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert backend() == "ray"


def test_names_that_mean_nothing_here_when_they_are_off():
    _, config = trained(CHATS, push_to_hub=False, fsdp="", deepspeed=None, gradient_checkpointing_kwargs={})
    assert config.train_batch_size == 8


def test_a_model_of_another_training_is_replaced_with_a_word(tmp_path):
    for name in ("hf/one-0123456789/1", "hf/two-0123456789/1"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    one, two = (str(tmp_path / "hf" / f"{name}-0123456789/1") for name in ("one", "two"))
    target = str(tmp_path / "output")
    assert published_before(target, one) is None
    publish(one, target)
    assert published_before(target, one) is None
    assert published_before(target, two) == "hf/one-0123456789"
