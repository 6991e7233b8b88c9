"""axolotl's YAML (`axolotl train config.yml`). Its keys are those of `AxolotlInputConfig`."""

from __future__ import annotations

from marin_sft.errors import UserError
from marin_sft.run.importing.axolotl_rows import read_rows
from marin_sft.run.importing.config_file import Section
from marin_sft.run.importing.draft import Draft
from marin_sft.run.importing.keys import Key, ignore, leave_out, note_unknown, read_settings, refuse, required
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
)
from marin_sft.run.python_source import Call

# axolotl's key: our setting, and axolotl's default where ours is another.
TRAINING: dict[str, Key] = {
    **TRAINER,
    "learning_rate": Key("learning_rate"),
    "num_epochs": Key("num_train_epochs", 1),
    "max_steps": Key("num_train_steps", kind="count"),
    "gradient_checkpointing": Key("gradient_checkpointing", kind="value"),
    "noisy_embedding_alpha": Key("neftune_noise_alpha"),
}
PAIRS: dict[str, Key] = {
    "rl_beta": Key("beta", 0.1),
    "dpo_beta": Key("beta", 0.1),
    "dpo_label_smoothing": Key("label_smoothing"),
    "dpo_use_weighting": Key("use_weighting", kind="flag"),
    "simpo_gamma": Key("simpo_gamma"),
}
LORA: dict[str, Key] = {
    "lora_r": Key("r", kind="count"),
    "lora_alpha": Key("alpha"),
    "lora_dropout": Key("dropout", 0.0),
    "peft_use_rslora": Key("use_rslora", kind="flag"),
    "peft_use_dora": Key("use_dora", kind="flag"),
    "lora_model_dir": Key("adapter_path", kind="text"),
}
WANDB = {"wandb_project": "project", "wandb_entity": "entity", "wandb_name": "name"}
LOSSES = {"dpo": "sigmoid", "ipo": "ipo", "simpo": "simpo"}
# The weight of the chosen answers' NLL in the loss, and TRL's default; SimPO is its CPOTrainer, which adds it.
TERM_OF_ANSWERS = {"dpo": ("rpo_alpha", 0.0), "ipo": ("rpo_alpha", 0.0), "simpo": ("cpo_alpha", 1.0)}
FASTER = ("CutCrossEntropyPlugin", "LigerPlugin")
"""Plugins that compute the same with less memory or time."""
SEQ_LEN, WARMUP = 512, 0.03
# What becomes of rows that are too long; `completion` rows are cut in pieces before that.
OVER_LENGTH = {"drop": "drop", "truncate": "truncate", "raise": "raise"}

_QUANTIZED = (
    "nothing is trained on quantised weights here; delete it for LoRA on bfloat16 weights, which take 2 bytes each, or "
    "take a smaller base_model"
)
REFUSED = {
    "load_in_8bit": _QUANTIZED,
    "load_in_4bit": _QUANTIZED,
    "gptq": _QUANTIZED,
    "fp8": "there is no 8-bit training here; use bf16: true",
    "qat": "there is no quantised training here; delete it",
    "pretraining_dataset": "streamed datasets are not supported; list the dataset under datasets",
    "reward_model": "reward models are not supported; rl: dpo trains on pairs",
    "process_reward_model": "reward models are not supported; rl: dpo trains on pairs",
    "processor_type": "models with images are not supported",
    "relora": "not supported; delete it for plain LoRA",
    "relora_steps": "not supported; delete it for plain LoRA",
    "unfrozen_parameters": "delete it, and set frozen_parameters, its opposite, in the experiment",
    "use_pose": "not supported; delete it",
    "diffusion": "diffusion training is not supported",
}
LEFT_OUT = {
    "evals_per_epoch": "use steps_per_eval, a number of steps",
    "saves_per_epoch": "the model is exported at the end; steps_per_hf_export=N also exports it every N steps",
    "eval_strategy": "use steps_per_eval, a number of steps",
    "save_strategy": "the model is exported at the end; steps_per_hf_export=N also exports it every N steps",
    "early_stopping_patience": "use early_stopping=EarlyStopping(steps=, patience=)",
    "load_best_model_at_end": "the last model is exported; steps_per_hf_export=N keeps earlier ones",
    "lora_modules_to_save": "LoRA trains only adapters of linear layers",
    "lora_target_parameters": "LoRA trains only adapters of linear layers",
    "peft_layers_to_transform": "Llama and Qwen models adapt a linear layer in all transformer layers or in none",
    "peft_init_lora_weights": 'use init_lora_weights=True or "gaussian"',
    "loraplus_lr_ratio": "A and B have the same learning rate",
    "loraplus_lr_embedding": "all weights have the same learning rate",
    "lr_groups": "all weights have the same learning rate",
    "embedding_lr": "all weights have the same learning rate",
    "embedding_lr_scale": "all weights have the same learning rate",
    "cosine_constant_lr_ratio": "use decay, the share of the steps in which the rate falls",
    "optim_args": "use optimizer_options",
    "optim_target_modules": "one optimizer updates all weights",
    "adam_beta3": "there are two betas",
    "adam_epsilon2": "there is one epsilon",
    "tokens": "use add_tokens of marin_sft.steps, and its step as model and tokenizer",
    "added_tokens_overrides": "change the tokenizer files first",
    "resize_token_embeddings_to_32x": "embeddings keep their size",
    "fix_untrained_tokens": "use reinit_tokens, a list of tokens",
    "default_system_message": "use default_system of ChatLmDatasetFormat",
    "eot_tokens": "the token that the chat template puts after an answer is trained",
    "min_sample_len": "short rows are trained on too",
    "trl": "use beta and loss_type of dpo",
    "dataset_exact_deduplication": "duplicate rows are kept",
    "group_by_length": "batches are drawn at random",
    "auto_find_batch_size": "use gradient_accumulation_steps if memory runs out",
    "hub_model_id": "upload the directory that `marin-sft path hf/NAME` prints",
    "hub_strategy": "upload the directory that `marin-sft path hf/NAME` prints",
    "use_mlflow": "trackers are WandbConfig and TensorboardConfig",
    "mlflow_experiment_name": "trackers are WandbConfig and TensorboardConfig",
    "use_comet": "trackers are WandbConfig and TensorboardConfig",
    "wandb_log_model": "models stay in the store",
    "do_bench_eval": "use evaluate or lm_eval of marin_sft.steps",
    "do_causal_lm_eval": "use evaluate of marin_sft.steps",
    "eval_table_size": "use evaluate of marin_sft.steps",
    "loss_watchdog_threshold": "a diverging loss is reported, and training goes on",
    "skip_prepare_dataset": "rows are always tokenized first",
    "curriculum_sampling": "use shuffle=False of mixture",
    "sample_packing_sequentially": "use shuffle=False of mixture",
}
# How fast, how much memory, what is printed or cached; and what is always so here.
WITHOUT_EFFECT = """
    strict model_type tokenizer_type tokenizer_use_fast tokenizer_legacy is_llama_derived_model is_mistral_derived_model
    is_qwen_derived_model is_falcon_derived_model trust_remote_code hf_use_auth_token
    dataset_prepared_path dataset_processes dataset_num_proc dataset_keep_in_memory dataset_shard_num
    dataloader_num_workers dataloader_pin_memory dataloader_prefetch_factor remove_unused_columns
    shuffle_merged_datasets push_dataset_to_hub
    output_dir resume_from_checkpoint auto_resume_from_checkpoints save_safetensors save_only_model save_first_step
    pad_to_sequence_len eval_sample_packing eval_batch_size batch_flattening multipack_real_batches
    sample_packing_group_size sample_packing_bin_size sample_packing_eff_est group_size
    gradient_checkpointing_kwargs activation_offloading flash_attention sdp_attention xformers_attention
    eager_attention flex_attention s2_attention attn_implementation flash_attn_cross_entropy flash_attn_rms_norm
    flash_attn_fuse_qkv flash_attn_fuse_mlp flash_optimum unsloth_cross_entropy_loss unsloth_lora_mlp
    unsloth_lora_qkv unsloth_lora_o lora_mlp_kernel lora_qkv_kernel lora_o_kernel liger_rope liger_rms_norm
    liger_glu_activation liger_layer_norm liger_fused_linear_cross_entropy cut_cross_entropy torch_compile
    torch_compile_backend torch_compile_mode low_cpu_mem_usage lora_on_cpu lora_fan_in_fan_out tf32 gc_steps
    deepspeed fsdp fsdp_config fsdp_version fsdp_final_state_dict_type ddp ddp_timeout ddp_bucket_cap_mb
    ddp_broadcast_buffers ddp_find_unused_parameters local_rank device device_map max_memory gpu_memory_limit
    accelerator_config heads_k_stride ring_attn_func sequence_parallel_degree context_parallel_size
    tensor_parallel_size merge_lora merge_method debug profiler_steps include_tokens_per_second wandb_watch
    wandb_run_id wandb_mode use_wandb loss_watchdog_patience precompute_ref_log_probs
    dpo_use_logits_to_keep use_ray ray_run_name resources_per_worker val_set_size_seed
""".split()


def read_axolotl(config: Section) -> Draft:
    """Raises UserError: an unsupported training, or a value that cannot be used."""
    draft = Draft("axolotl", config, batch_keys=("micro_batch_size", "gradient_accumulation_steps"))
    refuse(config, REFUSED)
    _set_kind(draft)
    draft.model = with_revision(config.text("base_model", ""), config.text("revision_of_model"))
    own = config.text("base_model_config")
    if own not in (None, draft.model):
        draft.note(config, "base_model_config", "the model's own config.json is read")
    draft.tokenizer = config.text("tokenizer_config")
    draft.tokenizer = None if draft.tokenizer == draft.model else draft.tokenizer
    required(config, "learning_rate", "axolotl")
    draft.training |= read_settings(config, TRAINING)
    if "gradient_checkpointing" in draft.training:
        draft.training["gradient_checkpointing"] = draft.training["gradient_checkpointing"] not in (False, "")
    if draft.training.get("num_train_steps"):  # it wins there
        del draft.training["num_train_epochs"]
    _set_positions(draft)
    _set_lora(draft)
    _set_batch(draft)
    _set_precision(draft)
    set_optimizer(draft, config, "optimizer", "adamw_torch_fused")
    set_schedule(draft, config, "lr_scheduler", "cosine", WARMUP)
    floor = config.number("cosine_min_lr_ratio")
    if floor is not None:
        draft.training["min_lr_ratio"] = floor
    if not config.has("warmup_steps") and not config.has("warmup_ratio"):
        draft.note_default("warmup_steps", "3% of the steps; axolotl takes at most 100 steps")
    set_decayed_tensors(draft, DECAYED)
    _set_data(draft)
    set_save_points(draft, config)
    _set_trackers(draft)
    _note_tokens(draft)
    _note_plugins(draft)
    leave_out(draft, config, LEFT_OUT)
    ignore(draft, config, WITHOUT_EFFECT)
    note_unknown(draft, config)
    return draft


def _set_kind(draft: Draft) -> None:
    config = draft.config
    kind = config.text("rl")
    if not kind:
        return
    if kind not in LOSSES:
        raise UserError(
            f"{config.where('rl')}: {kind}: no such training here; expected one of {', '.join(LOSSES)}, or SFT, which "
            "is what no rl means"
        )
    draft.kind = "dpo"
    key, default = TERM_OF_ANSWERS[kind]
    share = config.number(key, default)
    loss = {LOSSES[kind]: 1.0, "sft": share} if share else LOSSES[kind]
    draft.training |= {"loss_type": loss, **read_settings(config, PAIRS)}
    if kind != "simpo":
        draft.training.pop("simpo_gamma", None)


def _set_positions(draft: Draft) -> None:
    overrides = draft.config.section("overrides_of_model_config")
    for section in (draft.config, overrides):
        given = None if section is None else section.section("rope_scaling")
        if section is not None and given is not None:
            kind = given.text("rope_type") or given.text("type", "")
            factors = {key: value for key, value in given.items() if key not in ("rope_type", "type")}
            set_rope_scaling(draft, section, "rope_scaling", {"rope_type": kind, **factors})
    for key in () if overrides is None else overrides.unread():
        assert overrides is not None
        draft.note(overrides, key, "left out; change the model's config.json first")


def _set_lora(draft: Draft) -> None:
    config = draft.config
    adapter = config.text("adapter")
    if not adapter:
        return
    if adapter != "lora":
        raise UserError(f"{config.where('adapter')}: {adapter}: expected lora; {_QUANTIZED}")
    lora = read_settings(config, LORA)
    if "adapter_path" in lora:  # which says the others itself
        config.read |= {"lora_target_modules", "lora_target_linear"}
        draft.lora = {"adapter_path": lora["adapter_path"]}
        return
    for key in ("lora_r", "lora_alpha"):
        required(config, key, "axolotl")
    lora = {name: value for name, value in lora.items() if value is not False}
    targets = config.value("lora_target_modules")
    every = config.flag("lora_target_linear")
    if targets and not every:
        lora["target_modules"] = targets if isinstance(targets, str) else config.texts("lora_target_modules")
    elif not every:
        lora["target_modules"] = ["q_proj", "v_proj"]
        draft.note_default("lora_target_modules", "q_proj and v_proj, as PEFT has it for Llama and Qwen")
    draft.lora = lora


def _set_batch(draft: Draft) -> None:
    config = draft.config
    draft.micro_batch = config.count("micro_batch_size", 1)
    draft.accumulate = config.count("gradient_accumulation_steps", 1)
    size = config.count("batch_size")
    if size is not None and not config.has("gradient_accumulation_steps"):
        if not config.has("micro_batch_size"):
            draft.micro_batch, draft.batch_keys = size, ("batch_size", "1")
        else:
            draft.accumulate = max(size // draft.micro_batch, 1)
            draft.batch_keys = ("micro_batch_size", "batch_size / micro_batch_size")
    draft.devices = config.count("ray_num_workers") or config.count("world_size")


def _set_precision(draft: Draft) -> None:
    """axolotl holds the weights in bfloat16; only those of an adapter are float32."""
    config = draft.config
    half = config.value("bf16")
    bf16 = half in ("auto", "full") or config.flag("bf16", not config.flag("fp16") and not config.flag("float32"))
    bf16 = config.flag("bfloat16") or bf16
    if config.flag("fp16") or config.flag("float16"):
        draft.note(config, "fp16" if config.flag("fp16") else "float16", "trained in bfloat16")
        bf16 = True
    if not bf16:
        draft.training["precision"] = "fp32"
    elif draft.lora is None:
        draft.training["precision"] = "bf16_full"


def _set_data(draft: Draft) -> None:
    config = draft.config
    draft.seq_len = config.count("sequence_len", SEQ_LEN)
    datasets = config.sections("datasets")
    if not datasets:
        raise UserError(f"{config.file}: no datasets; expected a list of them, each with a path and a type")
    draft.training_rows = [read_rows(draft, dataset) for dataset in datasets]
    draft.held_out_rows = [read_rows(draft, dataset, "validation") for dataset in config.sections("test_datasets")]
    completion = draft.kind == "sft" and all(
        rows.format.function == "TextLmDatasetFormat" for rows in draft.training_rows
    )
    strategy = config.text("excess_length_strategy", "drop")
    if strategy not in OVER_LENGTH:
        config.refuse("excess_length_strategy", f"one of {', '.join(OVER_LENGTH)}")
    packs = config.flag("sample_packing")
    if draft.kind == "sft" and not packs:
        draft.mixture["pack"] = False
    draft.mixture["over_length"] = "split" if completion else OVER_LENGTH[strategy]
    if not completion and any(rows.format.function == "TextLmDatasetFormat" for rows in draft.training_rows):
        draft.note(config, "datasets", f"texts longer than sequence_len are not cut in pieces: {strategy}")
    longest = config.count("max_prompt_len")
    if longest is not None and draft.kind == "dpo":
        draft.mixture["max_prompt_length"] = longest
    for key in {"chat_template", "chat_template_jinja"}.difference(config.read):
        if config.has(key):
            draft.note(config, key, "not used: each dataset's type says how its rows are worded")
    if keep_out(draft, config, "val_set_size") or draft.held_out_rows:
        draft.training["do_eval"] = True


def _set_trackers(draft: Draft) -> None:
    config = draft.config
    given = {ours: config.text(key) for key, ours in WANDB.items()}
    if given["project"]:
        draft.trackers.append(Call("WandbConfig", keywords={ours: value for ours, value in given.items() if value}))
    if config.flag("use_tensorboard"):
        draft.trackers.append(Call("TensorboardConfig"))


def _note_tokens(draft: Draft) -> None:
    """Padding is neither trained nor seen; other special tokens are the tokenizer's."""
    tokens = draft.config.section("special_tokens")
    for key in tokens or ():
        assert tokens is not None
        if tokens.has(key) and key != "pad_token":
            draft.note(
                tokens,
                key,
                "left out; a token that the tokenizer lacks is cut in pieces: add it to the model's files first",
            )
    if tokens is not None and tokens.has("pad_token"):
        draft.without_effect.append("special_tokens.pad_token")


def _note_plugins(draft: Draft) -> None:
    plugins = draft.config.texts("plugins")
    others = [name for name in plugins if name.rpartition(".")[2] not in FASTER]
    if others:
        draft.note(draft.config, "plugins", f"left out: {', '.join(others)}")
    draft.without_effect += ["plugins"] if len(others) < len(plugins) else []
