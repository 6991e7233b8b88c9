"""The settings of the trainers, one line each: our name, other libraries' names, and each library's default.

`SFTConfig` and `DPOConfig` keep what was said. How a trainer is called decides whose defaults fill in the rest, see
`Dialect`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from marin_sft.errors import ConfigError
from marin_sft.nearest import nearest

Value = object
"""A value of a setting as somebody gave it."""


class Dialect(enum.Enum):
    """Whose defaults hold for what a call leaves out."""

    EASYDEL = "easydel"
    """`SFTTrainer(arguments=..., model=...)` and `marin_sft.scripts.finetune`."""

    SCRIPT = "script"
    """`SFTTrainer(config)` and `train_sft.py`: a training script over transformers' Trainer."""

    TRL = "trl"
    """`SFTTrainer(model, args=...)` and `marin-sft sft --model_name_or_path`."""

    OURS = "ours"
    """`marin-sft sft --data FILE --model MODEL`: see `recommended` for what depends on model and data."""


class Group(enum.Enum):
    """Where `--help` shows a setting."""

    MODEL = "model and data"
    TRAINING = "training"
    LORA = "LoRA"
    DPO = "DPO"
    OUTPUT = "evaluation, checkpoints and reports"


@dataclass(frozen=True)
class Setting:
    """A setting of the trainers.

    name: ours. Where training has a field of that name, the value goes there unchanged.
    kind: the type of its values: bool, int, float, str; `list` for one or several strings.
    names: all its spellings, the usual one first.
    easydel, script, trl, ours: the default in each dialect. dpo: the default of a DPO training where it is another.
    usual: whether `--help` shows it without being asked for everything.
    """

    name: str
    kind: type
    names: tuple[str, ...]
    about: str
    group: Group = Group.TRAINING
    easydel: Value = None
    script: Value = None
    trl: Value = None
    dpo: Mapping[Dialect, Value] | None = None
    usual: bool = False
    ours: Value = None

    def default(self, dialect: Dialect, pairs: bool) -> Value:
        """What holds where nothing was said. `pairs`: of a DPO training."""
        if pairs and self.dpo is not None and dialect in self.dpo:
            return self.dpo[dialect]
        return getattr(self, dialect.value)


_SLOW: Mapping[Dialect, Value] = {Dialect.EASYDEL: 1e-6, Dialect.TRL: 1e-6}
_SHORT: Mapping[Dialect, Value] = {Dialect.EASYDEL: 512}
M, T, L, D, O = Group  # noqa: E741  # one letter each, so that a setting fits a line

S = Setting
# fmt: off
SETTINGS = (
    # name, type, spellings, meaning, group, defaults of EasyDeL, the script and TRL
    S("model", str, ("model_name_or_path", "repo_id", "model"), "hub id or directory of the model to start from", M,
      script="Qwen/Qwen2.5-1.5B", usual=True),
    S("model_revision", str, ("model_revision",), "branch, tag or commit of the model", M),
    S("rope_scaling", dict, ("rope_scaling",),
      'positions beyond the model\'s own: {"rope_type": "yarn", "factor": 4}', M),
    S("tokenizer", str, ("processor_repo_id", "tokenizer_name_or_path"), "the tokenizer, if not the model's", M),
    S("reference", str, ("reference_model_repo_id", "refrence_model_repo_id", "ref_model"),
      "the model that DPO compares with", D),
    S("data", str, ("data_path", "dataset_name", "data"),
      "hub id, file, directory or glob of rows to train on", M, script="", usual=True),
    S("subset", str, ("dataset_config", "dataset_config_name"), "configuration of a dataset on the hub", M),
    S("split", str, ("dataset_split", "dataset_train_split"), "split of it, slices allowed: train[:10%]", M,
      "train", "train", "train", ours="train"),
    S("eval_data", str, ("eval_data_path", "eval_data"), "rows to evaluate on", M, usual=True),
    S("eval_split", str, ("dataset_test_split",), "split of the dataset to evaluate on", M),
    S("shape", str, ("format_type",), "shape of the rows: alpaca, sharegpt, custom (found out row by row)", M),
    S("text_field", str, ("dataset_text_field",), "the column that holds texts, or messages", M),
    S("chat_template", str, ("chat_template_path", "chat_template"),
      "file or text of a chat template, if the tokenizer has none", M, usual=True),
    S("plain_prompts", bool, ("no_chat_template",), "'### Instruction:' and '### Response:' instead of a chat template",
      M, False, False, False),
    S("add_special_tokens", bool, ("add_special_tokens",), "texts begin with BOS; left out: as the tokenizer does", M),
    S("answers_only", bool, ("assistant_only_loss",), "train the assistant's turns only", M, None, True, ours=True),
    S("completion_only", bool, ("completion_only_loss",), "train the completions of prompt/completion rows only", M,
      None, None, True),
    S("prompts_too", bool, ("train_on_inputs",), "train prompts as well", M),
    S("packing", bool, ("packing",), "several examples share a row", M, False, False, False, usual=True, ours=True),
    S("seq_len", int, ("max_length", "max_sequence_length", "max_seq_length"), "tokens of an example, or of a row", M,
      4096, 2048, 1024, _SHORT, usual=True),
    S("tokens_given", bool, ("skip_prepare_dataset",), "rows hold token ids and labels", M, False, False, False),
    S("dataset_kwargs", dict, ("dataset_kwargs",), "more of these settings, as a dictionary", M),

    S("num_train_epochs", float, ("num_train_epochs",), "passes over the data", T, 10, 3, 3, usual=True),
    S("max_steps", int, ("max_steps", "max_training_steps"), "optimizer steps; -1: as the epochs say", T, usual=True),
    S("batch_size", int, ("total_batch_size",), "examples that all devices take at once", T, 32),
    S("per_device_batch_size", int, ("per_device_train_batch_size",), "examples that each device takes at once", T,
      None, 4, 8, usual=True),
    S("gradient_accumulation_steps", int, ("gradient_accumulation_steps",), "so many of these make one update", T,
      1, 4, 1, usual=True),
    S("learning_rate", float, ("learning_rate",), "the highest learning rate", T, 2e-5, 2e-5, 2e-5, _SLOW, usual=True),
    S("learning_rate_end", float, ("learning_rate_end",), "the rate at the end", T),
    S("lr_schedule", str, ("lr_scheduler_type", "scheduler"), "constant, linear, cosine, inv_sqrt, wsd", T,
      None, "cosine", "linear", ours="cosine"),
    S("warmup_steps", float, ("warmup_steps",), "steps over which the rate rises; below 1: share of them", T, 0),
    S("warmup_ratio", float, ("warmup_ratio",),
      "share of the steps over which the rate rises", T, None, 0.03, 0.0, ours=0.03),
    S("max_grad_norm", float, ("max_grad_norm", "clip_grad"), "norm at which gradients are clipped; 0: not", T,
      None, 1.0, 1.0, ours=1.0),
    S("weight_decay", float, ("weight_decay",), "decoupled weight decay", T, 0.01, 0.0, 0.0, ours=0.0),
    S("optimizer", str, ("optim", "optimizer"), "adamw, adafactor, lion, rmsprop, muon, mars ...", T,
      "adamw", "adamw", "adamw", ours="adamw"),
    S("beta1", float, ("adam_beta1",), "decay of the running mean of gradients", T, 0.9, 0.9, 0.9, ours=0.9),
    S("beta2", float, ("adam_beta2",), "decay of the running mean of their squares", T, 0.999, 0.999, 0.999, ours=0.95),
    S("epsilon", float, ("adam_epsilon",), "what the optimizer adds to a divisor", T),
    S("sampling", str, ("train_sampling_strategy",), "order of the examples: random or sequential", T),
    S("seed", int, ("seed", "shuffle_seed_train"), "seed of everything random", T, 0, 42, 42, ours=0),
    S("bf16", bool, ("bf16",), "compute in bfloat16", T, None, False, True, usual=True, ours=True),
    S("fp16", bool, ("fp16",), "compute in half precision: bfloat16 is used, which needs no loss scaling", T,
      None, False, False),
    S("dtype", str, ("dtype", "torch_dtype"), "type to compute in: float32 or bfloat16", T),
    S("param_dtype", str, ("param_dtype",), "type of the weights: float32 or bfloat16", T),
    S("gradient_checkpointing", bool, ("gradient_checkpointing", "activation_checkpointing"),
      "recompute activations to save memory", T,
      script=False, usual=True),
    S("attention_dtype", str, ("attn_dtype",), "type that attention computes in: that of the passes", T),
    S("softmax_dtype", str, ("attn_softmax_dtype",), "type that its softmax computes in: that of the passes", T),
    S("attention", str, ("attn_mechanism", "attn_implementation"), "backend of attention", T),
    S("mesh", str, ("sharding_axis", "sharding_axis_dims"), "sizes (dp, fsdp, ep, tp, sp), or (dp, fsdp, tp, sp)", T),
    S("z_loss_weight", float, ("z_loss_weight",), "weight of log(Z)^2 in the loss of SFT", T),
    S("label_smoothing", float, ("label_smoothing", "label_smoothing_factor"), "label smoothing of the loss", T),
    S("loss_config", object, ("loss_config",), "an EasyDeL LossConfig", T),
    S("neftune_noise_alpha", float, ("neftune_noise_alpha",), "noise on embeddings (NEFTune)", T),
    S("per_epoch_training_steps", int, ("per_epoch_training_steps",), "steps that count as an epoch", T),
    S("frozen_parameters", str, ("frozen_parameters",), "regular expression of tensors that are not trained", T),
    S("training_time_limit", str, ("training_time_limit",), "90min, 23h: then a checkpoint, and stop", T),

    S("use_lora", bool, ("use_lora", "use_peft"),
      "train low-rank adapters only", L, False, False, False, usual=True, ours=False),
    S("lora_r", int, ("lora_r",), "rank", L, 8, 8, 16, usual=True, ours=16),
    S("lora_alpha", float, ("lora_alpha",), "scale: alpha / r", L, 16, 16, 32, usual=True, ours=32),
    S("lora_dropout", float, ("lora_dropout",), "dropout of the adapters' inputs", L, 0.05, 0.05, 0.05, ours=0.0),
    S("lora_target_modules", list, ("lora_target_modules",), "names of the layers to adapt", L),
    S("use_rslora", bool, ("use_rslora",), "scale: alpha / sqrt(r)", L),
    S("use_dora", bool, ("use_dora",), "adapters with magnitudes", L),

    S("beta", float, ("beta",), "how strongly the policy is held to the reference", D, 0.1, 0.1, 0.1, ours=0.1),
    S("loss_type", list, ("loss_type",), "sigmoid, hinge, ipo, ...: one loss, or several", D,
      "sigmoid", "sigmoid", "sigmoid", ours="sigmoid"),
    S("loss_weights", list, ("loss_weights",), "weights of several losses", D),
    S("max_prompt_length", int, ("max_prompt_length",), "tokens of a prompt; its end is kept", D, 256),
    S("max_completion_length", int, ("max_completion_length",), "tokens of a completion", D),
    S("reference_free", bool, ("reference_free",), "compare with a uniform distribution", D),
    S("f_divergence_type", str, ("f_divergence_type",), "divergence between policy and reference", D),
    S("f_alpha_divergence_coef", float, ("f_alpha_divergence_coef",), "alpha of the alpha divergence", D),
    S("ld_alpha", float, ("ld_alpha",), "weight of what the longer completion has more", D),
    S("use_weighting", bool, ("use_weighting",), "weight pairs as WPO does", D),
    S("discopop_tau", float, ("discopop_tau",), "temperature of the discopop loss", D),
    S("sync_ref_model", bool, ("sync_ref_model",), "move the reference towards the policy", D),
    S("ref_model_sync_steps", int, ("ref_model_sync_steps",), "steps between two moves", D, 512, 512, 512, ours=512),
    S("ref_model_mixup_alpha", float, ("ref_model_mixup_alpha",), "how far it moves", D, 0.6, 0.6, 0.6, ours=0.6),

    S("output_dir", str, ("output_dir", "save_directory"), "where the model is copied to", O,
      "./marin_sft-Checkpoints", "./output", "./trainer_output", usual=True, ours="./output"),
    S("run", str, ("model_name",), "name of the training, and of its directory", O),
    S("save_steps", int, ("save_steps",), "steps between two models saved while training", O, None, 500, 500,
      usual=True),
    S("save_strategy", str, ("save_strategy",), "no or steps", O),
    S("save_total_limit", int, ("save_total_limit",), "how many of them to keep; 0: all", O, None, 3, usual=True),
    S("keep_states", bool, ("save_optimizer_state",), "keep the training state with each", O, False, True, True),
    S("save_only_model", bool, ("save_only_model",), "keep no training state with them", O),
    S("last_save", bool, ("do_last_save",),
      "copy the model to the output directory at the end", O, True, True, True, ours=True),
    S("resume_from", str, ("resume_from_checkpoint",), "checkpoint-N of the same training to resume", O, usual=True),
    S("validation_fraction", float, ("validation_fraction",), "share of the rows to hold out and evaluate on", O),
    S("eval_on_start", bool, ("eval_on_start",), "evaluate before training, too", O, False, False, False, ours=True),
    S("do_eval", bool, ("do_eval",), "evaluate; left out: where there are rows for it", O),
    S("no_eval", bool, ("no_eval",), "do not evaluate", O),
    S("eval_strategy", str, ("eval_strategy", "evaluation_strategy"), "no, or steps: every eval_steps", O),
    S("steps_per_eval", int, ("eval_steps", "evaluation_steps"), "steps between two evaluations", O, None, 500, 500),
    S("max_evaluation_steps", int, ("max_evaluation_steps", "per_epoch_evaluation_steps"),
      "most batches of an evaluation", O),
    S("steps_per_log", int, ("logging_steps", "log_steps"),
      "steps between two lines of the log", O, 10, 10, 10, ours=10),
    S("steps_per_report", int, ("report_steps",), "steps between two reports to the trackers", O, 5),
    S("progress_bar", str, ("progress_bar_type",), "tqdm, rich or json", O, "tqdm", "rich", "rich", ours="rich"),
    S("track_memory", float, ("track_memory",), "log the peak memory; a number: seconds between two looks", O),
    S("weight_distribution_log_steps", int, ("weight_distribution_log_steps",),
      "steps between two reports of each tensor's distribution", O),
    S("weight_distribution_pattern", str, ("weight_distribution_pattern",), "regular expression of these tensors", O),
    S("report_to", list, ("report_to",), "wandb, tensorboard, all or none", O),
    S("use_wandb", bool, ("use_wandb",), "report to Weights & Biases", O),
    S("wandb_entity", str, ("wandb_entity",), "user or team there", O),
    S("run_name", str, ("run_name", "wandb_name"), "name of the run there", O),
)
# fmt: on
BY_NAME = {setting.name: setting for setting in SETTINGS}
BY_SPELLING = {spelling: setting for setting in SETTINGS for spelling in setting.names}

MODEL_OPTIONS_WITHOUT_EFFECT: Mapping[str, str] = {
    **dict.fromkeys(
        ("freq_max_position_embeddings", "mask_max_position_embeddings"), "positions are computed, not looked up"
    ),
    **dict.fromkeys(
        (
            "decode_attn_mechanism",
            "kv_cache_quantization_blocksize",
            "kv_cache_quantization_method",
            "kv_cache_sharding_sequence_axis_name",
            "kvdtype",
            "use_sharded_kv_caching",
        ),
        "there is no cache in training",
    ),
}
"""Those of NO_EFFECT that EasyDeL's models have."""

NO_EFFECT: Mapping[str, str] = {
    **dict.fromkeys(("num_of_sequences", "chars_per_token"), "packing counts the tokens of all documents"),
    **dict.fromkeys(
        ("dataset_num_proc", "dataset_batch_size", "dataloader_num_workers", "dataloader_pin_memory"),
        "tokenizing and loading use what the machine has",
    ),
    **dict.fromkeys(
        ("padding_value", "label_pad_token_id", "pad_token", "pad_to_multiple_of"), "padding is never seen"
    ),
    "eval_packing": "the loss of a document is the same packed or not",
    **dict.fromkeys(("use_cpu", "ddp_find_unused_parameters", "tf32"), "the devices that are there are used"),
    "gradient_checkpointing_kwargs": "recomputation has no variants",
    "torch_compile": "everything is compiled",
    "use_liger_kernel": "it is a kernel of torch",
    "disable_dropout": "models are trained without their dropout",
    **dict.fromkeys(("logging_first_step", "logging_dir", "logging_strategy"), "the first step is always logged"),
    "padding_free": "on packed rows documents do not see each other",
    "packing_strategy": "documents in a packed row do not see each other",
    **dict.fromkeys(
        (
            "auto_shard_model",
            "auto_shard_states",
            "init_tx",
            "is_fine_tuning",
            "low_mem_usage",
            "process_zero_is_admin",
            "remove_unused_columns",
            "use_data_collator",
            "use_data_collactor",
            "verbose",
        ),
        "it is always so",
    ),
    **dict.fromkeys(("remove_ckpt_after_load", "resume_if_possible"), "the same command goes on where it stopped"),
    **MODEL_OPTIONS_WITHOUT_EFFECT,
    **dict.fromkeys(("overwrite_output_dir", "do_train", "disable_tqdm"), "there is nothing to choose"),
    "per_device_eval_batch_size": "the loss does not depend on it",
    "precompute_ref_log_probs": "they are always computed once, by a step of their own",
    "use_logits_to_keep": "logits of prompts are not needed",
    "save_safetensors": "weights are always written as safetensors",
}
"""Settings of other libraries that cannot change the result, and why."""

ALWAYS_TRUE: Mapping[str, str] = {
    "auto_shard_model": "weights are always sharded over the devices, by sharding_axis_dims",
    "auto_shard_states": "states are always sharded over the devices, by sharding_axis_dims",
    "is_fine_tuning": "training starts from the model's weights; marin_sft.steps.random_model makes others",
    "resume_if_possible": "the same call goes on where it stopped; --force_run runs a step from its beginning again",
}
"""Those of them that cannot be False, and what to do instead."""

_QUANTISED = "there is no quantised training; bfloat16 weights with LoRA need little memory: bf16=True, use_lora=True"
_NO_START = "resuming finds its step itself; resume_from_checkpoint names another place to go on from"
REFUSED: Mapping[str, str] = {
    **dict.fromkeys(("load_in_8bit", "load_in_4bit", "quantization_mode", "use_bnb_nested_quant"), _QUANTISED),
    "custom_scheduler": "a function of steps has no stable text to know it by; use scheduler, warmup_steps and "
    "learning_rate_end",
    **dict.fromkeys(("sparsify_module", "pruning_module", "aux_loss_enabled"), "there is no such training here"),
    **dict.fromkeys(("step_start_point", "force_step_start_point"), _NO_START),
    "data_seed": "seed is that of the data, too",
    "model_init_kwargs": "torch_dtype, attn_implementation, model_revision and rope_scaling are settings of their own",
    "eos_token": "texts end with the tokenizer's EOS token, and turns as the chat template says",
    "rpo_alpha": "use loss_type=['sigmoid', 'sft'], loss_weights=[1.0, ALPHA]",
    "truncation_mode": "prompts keep their end, and completions their beginning",
    "dataloader_drop_last": "the last batch of an epoch takes what is left",
    "lr_scheduler_kwargs": "use warmup_steps and learning_rate_end",
    "generate_during_eval": "use marin_sft.steps.evaluate",
    **dict.fromkeys(("hub_model_id", "hub_token"), "nothing is uploaded; upload output_dir with huggingface_hub"),
    "data_collator": "batches are packed from tokens; formatting_func or format_type says what a row is",
    "deepspeed": "devices share the work by sharding_axis_dims",
    "fsdp": "weights are always sharded over the devices (FSDP), unless sharding_axis_dims says otherwise",
    "tp_size": "use sharding_axis_dims=(1, -1, 1, TP, 1)",
    **dict.fromkeys(("metric_for_best_model", "load_best_model_at_end"), "use early_stopping of marin_sft.steps.sft"),
    "push_to_hub": "nothing is uploaded; upload output_dir with huggingface_hub",
    "group_by_length": "use packing=True, which wastes no padding at all",
    "compute_metrics": "evaluation reports the loss; marin_sft.steps.evaluate compares answers",
}
"""Settings of other libraries that cannot be had, and what to use instead."""


def setting_named(spelling: str, where: str) -> Setting | None:
    """The setting that a spelling stands for; None where it has no effect, or none but in other libraries.

    Raises:
        ConfigError: an unknown name, with the nearest.
    """
    if spelling in NO_EFFECT or spelling in REFUSED:
        return None
    if spelling not in BY_SPELLING:
        near = nearest(spelling, [*BY_SPELLING, *NO_EFFECT], most=3)
        told = f"did you mean {' or '.join(near)}?" if near else "marin-sft sft --help all lists those there are"
        raise ConfigError(f"{where}: unknown setting {spelling!r}: {told}")
    return BY_SPELLING[spelling]


def check_possible(spelling: str, value: Value, where: str) -> None:
    """Raise ConfigError for a value that cannot be had, with what to use instead. None and False switch nothing on."""
    if spelling in REFUSED and value is not None and value is not False:
        raise ConfigError(f"{where}: {spelling} is not supported: {REFUSED[spelling]}")
    if spelling in ALWAYS_TRUE and value is False:
        raise ConfigError(f"{where}: {spelling} = False is not supported: {ALWAYS_TRUE[spelling]}")


def without_effect(spellings: Iterable[str]) -> str | None:
    """One line about those that have no effect, or None."""
    idle = sorted(NO_EFFECT.keys() & set(spellings))
    return f"without effect here: {', '.join(f'{name} ({NO_EFFECT[name]})' for name in idle)}" if idle else None
