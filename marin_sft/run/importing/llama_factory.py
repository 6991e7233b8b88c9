"""LLaMA-Factory's YAML (`llamafactory-cli train config.yaml`). Its keys are those of `ModelArguments`, `DataArguments`,
`FinetuningArguments`, and of the Trainer of transformers."""

from __future__ import annotations

import math

from marin_sft.errors import TrainingError, UserError
from marin_sft.run.importing.config_file import Section
from marin_sft.run.importing.draft import Draft, Settings
from marin_sft.run.importing.keys import Key, ignore, leave_out, note_unknown, read_settings, refuse
from marin_sft.run.importing.llama_factory_rows import read_datasets
from marin_sft.run.importing.rows import with_revision
from marin_sft.run.importing.transformers_keys import (
    DECAYED,
    TRAINER,
    keep_out,
    set_decayed_tensors,
    set_optimizer,
    set_rope_scaling,
    set_save_points,
    set_schedule,
    set_trackers,
)
from marin_sft.training.models.model_directory import ModelDirectory
from marin_sft.training.models.rope_scaling import ORIGINAL

# LLaMA-Factory's key: our setting, and its default (mostly the Trainer's) where ours is another.
TRAINING: dict[str, Key] = {
    **TRAINER,
    "learning_rate": Key("learning_rate", 5e-5),
    "num_train_epochs": Key("num_train_epochs", 3),
    "max_steps": Key("num_train_steps", kind="count"),
    "label_smoothing_factor": Key("label_smoothing"),
}
PAIRS: dict[str, Key] = {
    "pref_beta": Key("beta", 0.1),
    "dpo_label_smoothing": Key("label_smoothing"),
    "simpo_gamma": Key("simpo_gamma"),
    "ld_alpha": Key("ld_alpha"),
}
LORA: dict[str, Key] = {
    "lora_rank": Key("r", 8, "count"),
    "lora_alpha": Key("alpha"),
    "lora_dropout": Key("dropout", 0.0),
    "use_rslora": Key("use_rslora", kind="flag"),
    "use_dora": Key("use_dora", kind="flag"),
    "adapter_name_or_path": Key("adapter_path", kind="text"),
}
LOSSES = {"sigmoid": "sigmoid", "hinge": "hinge", "ipo": "ipo", "simpo": "simpo"}
STAGES = ("sft", "dpo")
CUTOFF_LEN, BATCH = 2048, 8
STOPS = {"concat": None, "interleave_under": "first_exhausted", "interleave_over": "all_exhausted"}

_QUANTIZED = (
    "nothing is trained on quantised weights here; delete it for LoRA on bfloat16 weights, which take 2 bytes each"
)
_OPTIMIZER = "there is no such optimizer here; delete it, and choose an optimizer in the experiment"
REFUSED = {
    "quantization_bit": _QUANTIZED,
    "quantization_method": _QUANTIZED,
    "fp8": "there is no 8-bit training here; use bf16: true",
    "streaming": "streamed datasets are not supported; delete it",
    "use_galore": _OPTIMIZER,
    "use_apollo": _OPTIMIZER,
    "use_badam": _OPTIMIZER,
    "use_dft_loss": "not supported; delete it",
    "use_llama_pro": "not supported; delete it",
    "pissa_init": "not supported; delete it for plain LoRA",
    "shift_attn": "not supported; delete it",
    "mixture_of_depths": "not supported; delete it",
    "ref_model_adapters": "merge the adapter into the reference model first",
}
LEFT_OUT = {
    "loraplus_lr_ratio": "A and B have the same learning rate",
    "additional_target": "LoRA trains only adapters of linear layers",
    "add_tokens": "use add_tokens of marin_sft.steps, and its step as model and tokenizer",
    "add_special_tokens": "use add_tokens of marin_sft.steps, and its step as model and tokenizer",
    "new_special_tokens_config": "use add_tokens of marin_sft.steps, and its step as model and tokenizer",
    "resize_vocab": "add_tokens of marin_sft.steps resizes the embeddings",
    "early_stopping_steps": "use early_stopping=EarlyStopping(steps=, patience=)",
    "load_best_model_at_end": "the last model is exported; steps_per_hf_export=N keeps earlier ones",
    "eval_strategy": "use steps_per_eval, a number of steps",
    "evaluation_strategy": "use steps_per_eval, a number of steps",
    "save_strategy": "the model is exported at the end; steps_per_hf_export=N also exports it every N steps",
    "compute_accuracy": "use evaluate of marin_sft.steps",
    "predict_with_generate": "use evaluate of marin_sft.steps",
    "do_predict": "use evaluate of marin_sft.steps",
    "tool_format": "the chat template formats tools",
    "default_system": "use default_system of ChatLmDatasetFormat",
    "group_by_length": "batches are drawn at random",
    "push_to_hub": "upload the directory that `marin-sft path hf/NAME` prints",
    "hub_model_id": "upload the directory that `marin-sft path hf/NAME` prints",
    "use_swanlab": "trackers are WandbConfig and TensorboardConfig",
    "pref_bco_weight": "use loss_type, which takes weights of several losses",
    "optim_args": "use optimizer_options",
    "callbacks": "write a step that reads the output",
    "freeze_vision_tower": "models with images are not supported",
}
# How fast, how much memory, what is printed or cached; and what is always so here.
WITHOUT_EFFECT = """
    do_train trust_remote_code flash_attn enable_liger_kernel use_unsloth use_fast_tokenizer low_cpu_mem_usage
    upcast_layernorm upcast_lmhead_output use_cache cache_dir hf_hub_token ms_hub_token split_special_tokens
    use_reentrant_gc offload_folder device_map
    overwrite_cache preprocessing_num_workers preprocessing_batch_size dataloader_num_workers dataloader_pin_memory
    remove_unused_columns tokenized_path data_shared_file_system buffer_size media_dir ignore_pad_token_for_loss
    neat_packing
    output_dir overwrite_output_dir plot_loss save_only_model save_safetensors resume_from_checkpoint
    include_num_input_tokens_seen include_tokens_per_second include_effective_tokens_per_second logging_first_step
    log_level disable_tqdm
    deepspeed fsdp fsdp_config ddp_timeout ddp_find_unused_parameters ddp_bucket_cap_mb local_rank tf32
    torch_compile torch_empty_cache_steps per_device_eval_batch_size eval_accumulation_steps bf16_full_eval
    eval_on_each_dataset gradient_checkpointing gradient_checkpointing_kwargs
    ray_run_name ray_storage_path ray_storage_filesystem ray_init_kwargs resources_per_worker placement_strategy
    data_seed batch_eval_metrics do_eval
""".split()


def read_llama_factory(config: Section) -> Draft:
    """Raises UserError: an unsupported training, or a value that cannot be used."""
    keys = ("per_device_train_batch_size", "gradient_accumulation_steps")
    draft = Draft("LLaMA-Factory", config, batch_keys=keys)
    refuse(config, REFUSED)
    draft.model = with_revision(config.text("model_name_or_path", ""), config.text("model_revision"))
    draft.training |= read_settings(config, TRAINING)
    _set_stage(draft)
    if draft.training.get("num_train_steps", 0) > 0:  # it wins there
        del draft.training["num_train_epochs"]
    else:
        draft.training.pop("num_train_steps", None)
    _set_lora(draft)
    draft.micro_batch = config.count(keys[0], BATCH)
    draft.accumulate = config.count(keys[1], 1)
    draft.devices = config.count("ray_num_workers")
    _set_precision(draft)
    if config.flag("disable_gradient_checkpointing"):
        draft.training["gradient_checkpointing"] = False
    set_optimizer(draft, config, "optim", "adamw_torch")
    if config.flag("use_adam_mini"):
        draft.training["optimizer"] = "adam_mini"
    if config.flag("use_muon"):
        draft.training["optimizer"] = "muon"
        draft.note(config, "use_muon", "optimizer_options are our defaults")
    set_schedule(draft, config, "lr_scheduler_type", "linear", 0.0)
    set_decayed_tensors(draft, DECAYED)
    _set_data(draft)
    _set_positions(draft)
    set_save_points(draft, config)
    reports = config.texts("report_to") if config.value("report_to") is not None else []
    set_trackers(draft, config, reports, config.text("run_name"))
    leave_out(draft, config, LEFT_OUT)
    ignore(draft, config, WITHOUT_EFFECT)
    note_unknown(draft, config)
    return draft


def _set_stage(draft: Draft) -> None:
    config = draft.config
    stage = config.text("stage", "sft")
    if stage not in STAGES:
        raise UserError(f"{config.where('stage')}: {stage}: no such training here; expected one of {', '.join(STAGES)}")
    if stage == "sft":
        return
    loss = config.text("pref_loss", "sigmoid")
    if loss not in LOSSES:
        raise UserError(
            f"{config.where('pref_loss')}: {loss}: no such loss here; expected one of {', '.join(LOSSES)}, or in the "
            "experiment another loss_type of docs/guides/dpo.md"
        )
    draft.kind = "dpo"
    draft.training.pop("label_smoothing", None)
    draft.training |= read_settings(config, PAIRS)
    share = config.number("pref_ftx", 0.0)
    draft.training["loss_type"] = {LOSSES[loss]: 1.0, "sft": share} if share else LOSSES[loss]
    draft.reference = config.text("ref_model")
    if loss != "simpo":
        draft.training.pop("simpo_gamma", None)


def _set_positions(draft: Draft) -> None:
    """The factor is how many times `cutoff_len` is longer than the model, in whole numbers."""
    config = draft.config
    kind = config.text("rope_scaling")
    if not kind:
        return
    if kind == "dynamic":
        return set_rope_scaling(draft, config, "rope_scaling", {"rope_type": kind})
    original = _length_of(draft.model)
    if original is None:
        draft.note(
            config,
            "rope_scaling",
            f"left out, as the model is not here; if it was made for N tokens, fewer than {draft.seq_len}: "
            f'rope_scaling={{"rope_type": "{kind}", "factor": {draft.seq_len} / N rounded up, "{ORIGINAL}": N}}',
        )
        return
    if draft.seq_len <= original:
        draft.without_effect.append("rope_scaling")
        return
    factors: Settings = {"rope_type": kind, "factor": float(math.ceil(draft.seq_len / original))}
    if kind != "linear":
        factors[ORIGINAL] = original
    if kind == "llama3":
        factors |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    set_rope_scaling(draft, config, "rope_scaling", factors)


def _length_of(model: str) -> int | None:
    """The tokens that a model in a local directory was made for; None: there is no such directory."""
    try:
        config = ModelDirectory(model).config
    except TrainingError:
        return None
    return (config.get("rope_scaling") or {}).get(ORIGINAL) or config.get("max_position_embeddings")


def _set_lora(draft: Draft) -> None:
    config = draft.config
    kind = config.text("finetuning_type", "lora")
    if kind == "full":
        return
    if kind != "lora":
        raise UserError(
            f"{config.where('finetuning_type')}: {kind}: expected lora or full; frozen_parameters of the experiment "
            "keeps some weights as they are"
        )
    lora = {name: value for name, value in read_settings(config, LORA).items() if value is not False}
    if "adapter_path" in lora:  # which says the others itself
        config.read.add("lora_target")
        draft.lora = {"adapter_path": lora["adapter_path"]}
        return
    lora = {"r": lora["r"], "alpha": lora.get("alpha", 2 * lora["r"]), **lora}
    targets = config.texts("lora_target")
    if targets not in ([], ["all"]):
        lora["target_modules"] = targets
    draft.lora = lora


def _set_precision(draft: Draft) -> None:
    """Trained weights are float32, unless pure_bf16."""
    config = draft.config
    if config.flag("fp16"):
        draft.note(config, "fp16", "trained in bfloat16")
    if config.flag("pure_bf16"):
        draft.training["precision"] = "bf16_full"
    elif not config.flag("bf16") and not config.flag("fp16"):
        draft.training["precision"] = "fp32"


def _set_data(draft: Draft) -> None:
    config = draft.config
    draft.seq_len = config.count("cutoff_len", CUTOFF_LEN)
    packs = config.flag("packing") or config.flag("neat_packing")
    if draft.kind == "sft":
        if not packs:
            draft.mixture["pack"] = False
        elif not config.flag("neat_packing"):
            draft.note(config, "packing", "documents of a row do not see each other, as with neat_packing")
    if config.flag("disable_shuffling"):
        draft.mixture["shuffle"] = False
    strategy = config.text("mix_strategy", "concat")
    if strategy not in STOPS:
        config.refuse("mix_strategy", f"one of {', '.join(STOPS)}")
    draft.training_rows = read_datasets(draft, "dataset")
    if STOPS[strategy] is not None and draft.training.get("num_train_epochs", 2) <= 1:
        draft.mixture["stop_strategy"] = STOPS[strategy]
    elif STOPS[strategy] is not None:
        draft.note(config, "mix_strategy", "an epoch is as many rows as all datasets have")
    draft.held_out_rows = read_datasets(draft, "eval_dataset")
    if not draft.training_rows:
        raise UserError(f"{config.file}: no dataset; expected names of dataset_info.json")
    text = "the end of a longer row is cut; LLaMA-Factory shortens prompt and answer in proportion"
    if config.has("cutoff_len"):
        draft.note(config, "cutoff_len", text)
    else:
        draft.note_default("cutoff_len", f"{CUTOFF_LEN} tokens; {text}")
    if keep_out(draft, config, "val_size") or draft.held_out_rows:
        draft.training["do_eval"] = True
