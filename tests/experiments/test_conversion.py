"""A field of a Simple config reaches the step, or is refused when its class is defined: none is dropped."""

import dataclasses
from dataclasses import dataclass

import pytest

from experiments.defaults import default_dpo, default_sft, default_tokenize, default_train
from experiments.llama import llama_8b
from marin_sft.data import ChatLmDatasetFormat, PreferenceChatLmDatasetFormat
from marin_sft.errors import ConfigError
from marin_sft.execution.configs import settings_of
from marin_sft.execution.identity import fingerprint_of_payload, payload_of
from marin_sft.execution.resources import CpuConfig, GpuConfig, TpuPodConfig
from marin_sft.recipes.conversion import reads
from marin_sft.recipes.simple_configs import FineTuning, SimpleDPOConfig, SimpleSFTConfig, SimpleTrainConfig
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.metrics.trackers import WandbConfig
from marin_sft.training.stops import EarlyStopping

TOKENIZER = "marin-community/marin-tokenizer"
CHAT = default_tokenize("chat", "gs://bucket/chat/*.jsonl", TOKENIZER, ChatLmDatasetFormat())
PAIRS = default_tokenize("pairs", "gs://bucket/pairs/*.jsonl", TOKENIZER, PreferenceChatLmDatasetFormat())
FINE_TUNING = {"tpu_type": "v4-8", "model_name_or_path": "meta-llama/Llama-3.1-8B"}
MAKE = {
    SimpleSFTConfig: (
        FINE_TUNING,
        lambda config: default_sft("x", {"chat": CHAT}, llama_8b, config, mixture_weights={"chat": 1}),
    ),
    SimpleDPOConfig: (FINE_TUNING, lambda config: default_dpo("x", PAIRS, llama_8b, config)),
    SimpleTrainConfig: (
        {"resources": CpuConfig(), "train_batch_size": 8, "learning_rate": 1e-3, "num_train_steps": 10},
        lambda config: default_train("x", CHAT, llama_8b, config, base_model="Qwen/Qwen3-0.6B"),
    ),
}


def made(of, **fields):
    """All that a step is: what counts for its identity and what does not, where it runs, and its trackers."""
    base, make = MAKE[of]
    step = make(of(**{**base, **fields}))

    def fingerprint_of(step):
        return fingerprint_of_payload(payload_of(step, fingerprint_of))

    config = step.config
    return fingerprint_of(step), settings_of(config), step.resources, repr((config.mesh, config.trackers))


# Another legal value of each field.
VALUES = {
    "stop_after": 0.5,
    "attention_backend": "vanilla", "bco_delta": 0.5, "beta": 0.3, "beta1": 0.8, "beta2": 0.99, "cooldown": 0.3,
    "decay": 0.2, "discopop_tau": 0.1, "do_eval": True, "early_stopping": EarlyStopping(steps=1000, patience=2),
    "epsilon": 1e-6, "f_alpha_divergence_coef": 0.3, "f_divergence_type": "forward_kl", "frozen_parameters": "embed",
    "gradient_checkpointing": "full", "hf_exports_kept": 2, "hf_generation_eos_token_ids": [7],
    "initialize_from_checkpoint_path": "gs://bucket/model", "initialize_from_hf": "org/model", "label_smoothing": 0.2,
    "ld_alpha": 0.4, "learning_rate": 1e-4, "learning_rate_end": 1e-8, "lora": LoraConfig(r=4, alpha=8),
    "lora_alpha": 4, "lora_dropout": 0.1, "lora_r": 4, "loss_type": "ipo", "loss_weights": [1.0, 0.2],
    "lr_schedule": "wsd", "max_completion_length": 90, "max_evaluation_steps": 4, "max_grad_norm": 2.0,
    "max_prompt_length": 100, "max_seq_len": 2048, "mesh": {"tensor": 2}, "min_lr_ratio": 0.2,
    "minutes_per_checkpoint": 5.0, "mixture_block_size": 512, "model_name_or_path": "Qwen/Qwen3-0.6B",
    "neftune_noise_alpha": 5.0, "node_count": 2, "num_epochs": 3, "num_train_epochs": 2, "num_train_steps": 9000,
    "optimizer": "lion", "optimizer_options": {"nesterov": True}, "per_device_parallelism": 2,
    "per_epoch_training_steps": 5, "precision": "fp32", "progress_bar": "json", "ref_model_mixup_alpha": 0.5,
    "ref_model_sync_steps": 5, "reference_free": True, "gradient_accumulation_steps": 2, "save_optimizer_state": True,
    "eval_on_start": True, "resume_from": "elsewhere", "rope_scaling": {"rope_type": "linear", "factor": 2.0},
    "steps_per_report": 3, "reference_model_path": "Qwen/Qwen3-1.7B",
    "reinit_tokens": ["<a>"], "resources": GpuConfig(gpu_count=2), "save_total_limit": 3, "seed": 3,
    "share_prefix": True, "simpo_gamma": 0.2, "skip_bad_steps": 10, "steps_per_checkpoint": 9, "steps_per_eval": 7,
    "steps_per_hf_export": 99, "steps_per_log": 3, "stop_strategy": "exit", "tpu_type": "v4-16", "track_memory": True,
    "trackers": (WandbConfig(project="x"),), "train_batch_size": 64, "train_seq_len": 300,
    "training_time_limit": "2h", "unfreeze": {"embed": 5}, "use_lora": True, "use_weighting": True,
    "validation_split_fraction": 0.2, "warmup": 0.1, "weight_decay": 0.3, "weight_decay_parameters": "mlp",
    "weight_distribution_log_steps": 5, "weight_distribution_pattern": "mlp", "z_loss_weight": 0.1,
}  # fmt: skip
LORA = {"use_lora": True}
NEEDS = {
    "early_stopping": {"steps_per_eval": None},
    "lora_alpha": LORA,
    "lora_dropout": LORA,
    "lora_r": LORA,
    "loss_weights": {"loss_type": ["sigmoid", "sft"]},
    "per_epoch_training_steps": {"num_train_steps": None, "num_train_epochs": 2},
    "weight_decay_parameters": {"weight_decay": 0.3},
    "weight_distribution_log_steps": {"trackers": (WandbConfig(),)},
}
TAKES_THE_PLACE_OF = {
    "initialize_from_hf": "model_name_or_path",
    "num_train_epochs": "num_train_steps",
    "resources": "tpu_type",
}
REFUSED = {
    "input_role": ("human", "but 'chat' was tokenized with"),
    "output_role": ("gpt", "but 'chat' was tokenized with"),
    "tokenizer": ("Qwen/Qwen3-14B", "was tokenized with 'marin-community/marin-tokenizer@"),
    "int8": (True, "there is no int8 training"),
    "pad_tokenizer_to_match_model": (False, "never cut down"),
}
FIELDS = [(of, field.name) for of in MAKE for field in dataclasses.fields(of)]


@pytest.mark.parametrize(("of", "name"), FIELDS, ids=lambda part: getattr(part, "__name__", part))
def test_every_field_changes_the_step_or_is_refused(of, name):
    if name in REFUSED:
        value, message = REFUSED[name]
        with pytest.raises(ConfigError, match=message):
            made(of, **{name: value})
        return
    needed, replaced = NEEDS.get(name, {}), TAKES_THE_PLACE_OF.get(name)
    others = {replaced: None} if (of, replaced) in FIELDS else {}
    assert made(of, **needed, **others, **{name: VALUES[name]}) != made(of, **needed)


def test_a_subclass_may_have_other_defaults():
    @dataclass(frozen=True, kw_only=True)
    class Mine(SimpleSFTConfig):
        minutes_per_checkpoint: float = 5
        warmup = 0.2

    assert Mine(**FINE_TUNING).warmup == 0.2 and Mine(**FINE_TUNING, warmup=0.1).warmup == 0.1
    step = MAKE[SimpleSFTConfig][1](Mine(**FINE_TUNING))
    assert (step.config.warmup, step.config.minutes_per_checkpoint) == (0.2, 5)


def test_a_subclass_may_have_a_field_of_its_own_that_it_reads():
    @dataclass(frozen=True, kw_only=True)
    class Mine(SimpleDPOConfig):
        hours: float | None = None

        @reads("hours")
        def arguments(self):
            return {**super().arguments(), "training_time_limit": None if self.hours is None else f"{self.hours}h"}

    step = MAKE[SimpleDPOConfig][1](Mine(**FINE_TUNING, hours=3))
    assert step.config.training_time_limit == "3h"


@pytest.mark.parametrize("of", [SimpleSFTConfig, SimpleDPOConfig, SimpleTrainConfig, FineTuning])
def test_a_field_that_would_be_dropped_is_refused_when_its_class_is_defined(of):
    with pytest.raises(ConfigError, match=r"Mine\.minuts_per_checkpoint: training has no such setting"):

        @dataclass(frozen=True, kw_only=True)
        class Mine(of):
            minuts_per_checkpoint: float = 5


@pytest.mark.parametrize("body", [{"__annotations__": {"warmup": "float"}, "warmup": 0.2}, {"warmup": 0.2}])
def test_a_subclass_that_is_no_dataclass_is_refused(body):
    mine = type("Mine", (SimpleSFTConfig,), body)
    with pytest.raises(ConfigError, match=r"Mine is not a dataclass, .* decorate it with @dataclass"):
        mine(**FINE_TUNING)


def test_hardware_has_two_spellings():
    assert SimpleDPOConfig(**FINE_TUNING, node_count=2).hardware() == TpuPodConfig(tpu_type="v4-8", slice_count=2)
    with pytest.raises(ConfigError, match="SimpleTrainConfig: resources=None; expected what training runs on"):
        SimpleTrainConfig(train_batch_size=8, learning_rate=1e-3, num_train_steps=10)
