"""Every field does something: it changes what is trained, or where and how often, or it is refused by name."""

import dataclasses

import pytest

from experiments.defaults import default_sft, default_tokenize
from experiments.llama import llama_8b
from experiments.marin_models import marin_tokenizer
from experiments.simple_sft_config import SimpleSFTConfig
from marin_sft.data import ChatLmDatasetFormat
from marin_sft.data.data_configs import lm_mixture_data_config
from marin_sft.errors import ConfigError
from marin_sft.execution.identity import fingerprint_of_payload, payload_of
from marin_sft.execution.resources import CpuConfig, GpuConfig, TpuPodConfig
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.metrics.trackers import WandbConfig
from marin_sft.training.stops import EarlyStopping

BASE = {
    "tpu_type": "v4-128",
    "model_name_or_path": "meta-llama/Llama-3.1-8B",
    "tokenizer": marin_tokenizer,
    "input_role": "user",
    "output_role": "assistant",
}


def tokenized(name, **options):
    return default_tokenize(name, f"gs://bucket/{name}/*.jsonl", marin_tokenizer, ChatLmDatasetFormat(**options))


BOTH = {"chat": tokenized("chat"), "code": tokenized("code")}


def training(**fields):
    data = lm_mixture_data_config(BOTH, {"chat": 2, "code": 1})
    return default_sft("x", data, llama_8b, SimpleSFTConfig(**{**BASE, **fields}))


def path(step):
    def fingerprint_of(step):
        return fingerprint_of_payload(payload_of(step, fingerprint_of))

    return f"{step.name}-{fingerprint_of(step)}"


def numbers(step):
    """The plain values of its config."""
    return {
        name: value for name, value in vars(step.config).items() if isinstance(value, int | float | str | tuple | None)
    }


RESULT, EXECUTION = "another result", "the same result, made otherwise"
TABLE = {
    "resources": (EXECUTION, {"resources": GpuConfig(gpu_count=8), "tpu_type": None}),
    "tpu_type": (EXECUTION, {"tpu_type": "v4-8"}),
    "node_count": (EXECUTION, {"node_count": 2}),
    "train_batch_size": (RESULT, {"train_batch_size": 64}),
    "num_train_steps": (RESULT, {"num_train_steps": 9000}),
    "num_train_epochs": (RESULT, {"num_train_epochs": 2}),
    "stop_after": (RESULT, {"stop_after": 0.5}),
    "learning_rate": (RESULT, {"learning_rate": 1e-5}),
    "tokenizer": ("tokenized with 'marin-community/marin-tokenizer@", {"tokenizer": "Qwen/Qwen3-14B"}),
    "model_name_or_path": (RESULT, {"model_name_or_path": "meta-llama/Llama-3.1-8B-Instruct"}),
    "initialize_from_hf": (RESULT, {"initialize_from_hf": "org/other", "model_name_or_path": None}),
    "initialize_from_checkpoint_path": (RESULT, {"initialize_from_checkpoint_path": "gs://bucket/trained/model"}),
    "pad_tokenizer_to_match_model": ("never cut down", {"pad_tokenizer_to_match_model": False}),
    "max_seq_len": (RESULT, {"max_seq_len": 2048}),
    "input_role": ("input_role='human', but 'chat' was tokenized with 'user'", {"input_role": "human"}),
    "output_role": ("output_role='gpt', but 'chat' was tokenized with 'assistant'", {"output_role": "gpt"}),
    "weight_decay": (RESULT, {"weight_decay": 0.1}),
    "beta1": (RESULT, {"beta1": 0.8}),
    "beta2": (RESULT, {"beta2": 0.999}),
    "warmup": (RESULT, {"warmup": 0.1}),
    "decay": (RESULT, {"decay": 0.2}),
    "cooldown": (RESULT, {"cooldown": 0.2}),
    "lr_schedule": (RESULT, {"lr_schedule": "cosine"}),
    "min_lr_ratio": (RESULT, {"min_lr_ratio": 0.1}),
    "max_grad_norm": (RESULT, {"max_grad_norm": 1.0}),
    "z_loss_weight": (RESULT, {"z_loss_weight": 1e-4}),
    "steps_per_eval": (EXECUTION, {"steps_per_eval": 10}),
    "steps_per_checkpoint": (EXECUTION, {"steps_per_checkpoint": 10}),
    "minutes_per_checkpoint": (EXECUTION, {"minutes_per_checkpoint": 5.0}),
    "steps_per_log": (EXECUTION, {"steps_per_log": 1}),
    "steps_per_hf_export": (RESULT, {"steps_per_hf_export": 100}),
    "hf_generation_eos_token_ids": (RESULT, {"hf_generation_eos_token_ids": [128009]}),
    "lora": (RESULT, {"lora": LoraConfig(r=16, alpha=32)}),
    "use_lora": (RESULT, {"use_lora": True}),
    "lora_r": ("lora_r=16.*expected lora alone, or use_lora=True", {"lora_r": 16}),
    "lora_alpha": ("lora_alpha=8.*expected lora alone, or use_lora=True", {"lora_alpha": 8}),
    "lora_dropout": ("lora_dropout=0.1.*expected lora alone, or use_lora=True", {"lora_dropout": 0.1}),
    "mixture_block_size": (RESULT, {"mixture_block_size": 2048}),
    "stop_strategy": (RESULT, {"stop_strategy": "first_exhausted"}),
    "per_device_parallelism": (EXECUTION, {"per_device_parallelism": 2}),
    "gradient_accumulation_steps": (EXECUTION, {"gradient_accumulation_steps": 2}),
    "eval_on_start": (EXECUTION, {"eval_on_start": True}),
    "resume_from": (EXECUTION, {"resume_from": "elsewhere"}),
    "save_optimizer_state": (RESULT, {"save_optimizer_state": True}),
    "steps_per_report": (EXECUTION, {"steps_per_report": 5}),
    "seed": (RESULT, {"seed": 1}),
    "int8": ("there is no int8 training", {"int8": True}),
    "reinit_tokens": (RESULT, {"reinit_tokens": ["<|start_header_id|>"]}),
    "rope_scaling": (RESULT, {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
    "label_smoothing": (RESULT, {"label_smoothing": 0.1}),
    "neftune_noise_alpha": (RESULT, {"neftune_noise_alpha": 5.0}),
    "learning_rate_end": (RESULT, {"learning_rate_end": 1e-7}),
    "optimizer": (RESULT, {"optimizer": "lion"}),
    "optimizer_options": (RESULT, {"optimizer_options": {"nesterov": True}}),
    "epsilon": (RESULT, {"epsilon": 1e-6}),
    "weight_decay_parameters": ("weight_decay is 0", {"weight_decay_parameters": "mlp"}),
    "skip_bad_steps": (RESULT, {"skip_bad_steps": 128}),
    "precision": (RESULT, {"precision": "bf16_full"}),
    "frozen_parameters": (RESULT, {"frozen_parameters": "embed"}),
    "unfreeze": (RESULT, {"unfreeze": {"embed": 100}}),
    "mesh": (EXECUTION, {"mesh": {"tensor": 2}}),
    "gradient_checkpointing": (EXECUTION, {"gradient_checkpointing": "offload"}),
    "attention_backend": (EXECUTION, {"attention_backend": "jax_flash"}),
    "early_stopping": (RESULT, {"early_stopping": EarlyStopping(steps=1000, patience=2)}),
    "max_evaluation_steps": (RESULT, {"max_evaluation_steps": 10}),
    "per_epoch_training_steps": ("num_train_epochs is not given", {"per_epoch_training_steps": 10}),
    "hf_exports_kept": (RESULT, {"hf_exports_kept": 2}),
    "do_eval": (EXECUTION, {"do_eval": True}),
    "training_time_limit": (EXECUTION, {"training_time_limit": "23h"}),
    "save_total_limit": (EXECUTION, {"save_total_limit": 1}),
    "trackers": (EXECUTION, {"trackers": (WandbConfig(project="chat"),)}),
    "progress_bar": (EXECUTION, {"progress_bar": "tqdm"}),
    "track_memory": (EXECUTION, {"track_memory": 10.0}),
    "weight_distribution_log_steps": ("None without trackers", {"weight_distribution_log_steps": 500}),
    "weight_distribution_pattern": (EXECUTION, {"weight_distribution_pattern": "mlp"}),
}


def test_every_field_is_in_the_table():
    assert TABLE.keys() == {field.name for field in dataclasses.fields(SimpleSFTConfig)}


@pytest.mark.parametrize("field", TABLE)
def test_no_field_is_dead(field):
    effect, fields = TABLE[field]
    before = training()
    if effect not in (RESULT, EXECUTION):
        with pytest.raises(ConfigError, match=effect):
            training(**fields)
        return
    after = training(**fields)
    assert (path(after) != path(before)) == (effect == RESULT)
    if effect == EXECUTION:
        assert (after.resources, numbers(after)) != (before.resources, numbers(before))


SPELLINGS = {
    "tpu_type": ({"tpu_type": "v4-128"}, {"tpu_type": None, "resources": TpuPodConfig(tpu_type="v4-128")}),
    "node_count": (
        {"tpu_type": "v4-128", "node_count": 2},
        {"tpu_type": None, "resources": TpuPodConfig(tpu_type="v4-128", slice_count=2)},
    ),
    "slices": (
        {"tpu_type": "v4-128", "node_count": 2},
        {"tpu_type": None, "resources": TpuPodConfig(tpu_type="v4-128"), "node_count": 2},
    ),
    "one node": (
        {"tpu_type": None, "resources": CpuConfig()},
        {"tpu_type": None, "resources": CpuConfig(), "node_count": 1},
    ),
    "cooldown": ({"decay": 0.2}, {"cooldown": 0.2}),
    "a decay and no cooldown": ({"decay": 0.2}, {"decay": 0.2, "cooldown": 0.0}),
    "no cooldown": ({}, {"cooldown": 0.0}),
    "initialize_from_hf": ({}, {"initialize_from_hf": "meta-llama/Llama-3.1-8B", "model_name_or_path": None}),
    "initialize_from_hf=True": ({}, {"initialize_from_hf": True}),
    "both names": ({}, {"initialize_from_hf": "meta-llama/Llama-3.1-8B"}),
    "initialize_from_hf=False": (
        {"initialize_from_checkpoint_path": "gs://b/m"},
        {"initialize_from_checkpoint_path": "gs://b/m", "model_name_or_path": None, "initialize_from_hf": False},
    ),
    "an alias on the hub": ({}, {"model_name_or_path": "meta-llama/Meta-Llama-3.1-8B"}),
    "stop_strategy": ({"stop_strategy": "exit"}, {"stop_strategy": "first_exhausted"}),
    "the default number of steps": ({}, {"num_train_steps": 10_000}),
    "LoRA": ({"lora": LoraConfig(r=8, alpha=16, dropout=0.05)}, {"use_lora": True}),
    "LoRA with other values": (
        {"lora": LoraConfig(r=4, alpha=4, dropout=0.0)},
        {"use_lora": True, "lora_r": 4, "lora_alpha": 4, "lora_dropout": 0.0},
    ),
    "what is not checked": ({}, {"tokenizer": None, "input_role": None, "output_role": None}),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_two_spellings_of_one_thing(name):
    one, other = (training(**fields) for fields in SPELLINGS[name])
    assert path(one) == path(other) and one.resources == other.resources


CONTRADICTIONS = {
    "no hardware": ({"tpu_type": None}, "resources=None, tpu_type=None; expected exactly one of them, e.g. tpu_type="),
    "two kinds of hardware": ({"resources": CpuConfig()}, "tpu_type='v4-128'; expected exactly one"),
    "nodes without a TPU": ({"tpu_type": None, "resources": CpuConfig(), "node_count": 2}, "node_count=2"),
    "two numbers of slices": (
        {"tpu_type": None, "resources": TpuPodConfig(tpu_type="v4-8", slice_count=4), "node_count": 2},
        "expected node_count=None",
    ),
    "no model": ({"model_name_or_path": None}, "expected one model to start from.* default_train"),
    "two models": ({"initialize_from_hf": "org/other"}, "initialize_from_hf='org/other', model_name_or_path='meta"),
    "from HF, but not from which": ({"initialize_from_hf": True, "model_name_or_path": None}, "expected one model"),
    "from HF and a checkpoint": (
        {"initialize_from_hf": True, "initialize_from_checkpoint_path": "gs://b/m"},
        "expected one model",
    ),
    "not from HF, nor a checkpoint": ({"initialize_from_hf": False}, "expected one model"),
    "steps and epochs": ({"num_train_steps": 1, "num_train_epochs": 1}, "expected exactly one of them"),
    "decay and cooldown": ({"decay": 0.1, "cooldown": 0.1}, "two names of one setting"),
    "a decay of a constant rate": ({"decay": 0.1, "lr_schedule": "constant"}, "'wsd' decays at the end"),
    "two floors": ({"min_lr_ratio": 0.5, "learning_rate_end": 1e-7}, "no value, because learning_rate_end"),
    "tokens that are not named": ({"reinit_tokens": True}, "expected a list of them"),
    "two adapters": ({"use_lora": True, "lora": LoraConfig(r=8, alpha=16)}, "expected lora alone, or use_lora=True"),
    "a schedule of batch sizes": ({"train_batch_size": [(0, 64)]}, "expected a whole number of rows"),
    "longer than the model": ({"max_seq_len": 8192}, "rows of 8192 tokens, but the model config's max_seq_len is 4096"),
    "a directory that is not there": ({"model_name_or_path": "no/such/model"}, "base model 'no/such/model'; expected"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_contradictions_are_errors(name):
    fields, reason = CONTRADICTIONS[name]
    with pytest.raises(ConfigError, match=reason):
        training(**fields)
