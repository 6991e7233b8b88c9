"""Settings of other trainers that have another name here, or another meaning, and what to use for them.

The names are those of transformers' TrainingArguments, TRL, PEFT, axolotl, torchtune, LLaMA-Factory and EasyDeL.
"""

from __future__ import annotations

_BATCH = (
    "use train_batch_size, which counts the examples of a whole step: elsewhere those of each device, times the "
    "devices, times the accumulation"
)
_LENGTH = "the length of a row is the mixture's: mixture(..., seq_len=...)"
_LORA = "use lora=LoraConfig(r=..., alpha=..., dropout=..., target_modules=...), from marin_sft.training.lora_config"
_NOTHING = "there is nothing to set; leave it out"

_ANSWERS = (
    ("epochs num_epochs", "use num_train_epochs"),
    ("max_steps max_training_steps num_steps", "use num_train_steps, the steps of the whole training"),
    ("per_epoch_evaluation_steps", "max_evaluation_steps says how many batches an evaluation takes"),
    (
        "per_device_train_batch_size micro_batch_size",
        f"{_BATCH}. per_device_parallelism is how many a device takes at once; it changes the memory, not the result",
    ),
    ("batch_size total_batch_size global_batch_size", _BATCH),
    ("per_device_eval_batch_size eval_batch_size", f"evaluation takes batches as training does; {_NOTHING}"),
    ("max_seq_length max_sequence_length max_length max_seq_len model_max_length", _LENGTH),
    ("seq_len sequence_len cutoff_len", _LENGTH),
    ("max_prompt_length max_completion_length", "it is the mixture's: mixture(..., max_prompt_length=...)"),
    ("warmup_ratio warmup_steps num_warmup_steps", "use warmup, a fraction of all steps (0.03) or a whole number"),
    (
        "lr_scheduler_type lr_scheduler scheduler",
        "use lr_schedule, which falls to min_lr_ratio of the rate, a tenth by default; in transformers to 0: "
        "min_lr_ratio=0",
    ),
    ("cosine_min_lr_ratio", "use min_lr_ratio"),
    ("lr", "use learning_rate"),
    ("optim optimizer_type", "use optimizer; 'adamw_torch' and its variants are 'adamw'"),
    ("adam_beta1", "use beta1"),
    ("adam_beta2", "use beta2"),
    ("adam_epsilon", "use epsilon"),
    ("clip_grad grad_clip gradient_clipping max_gradient_norm", "use max_grad_norm"),
    (
        "fp16",
        "use precision='bf16', the default, which takes the same memory; float16 needs its loss scaled, which is not "
        "done here",
    ),
    ("bf16 tf32 mixed_precision", "use precision: 'bf16' is the default, 'fp32' is full precision"),
    ("dtype param_dtype torch_dtype", "use precision: 'bf16', 'bf16_full' (weights and optimizer too) or 'fp32'"),
    (
        "load_in_8bit load_in_4bit quantization_config quantization",
        f"there is no quantized training; LoRA with precision='bf16_full' takes the least memory: {_LORA}",
    ),
    ("logging_steps log_steps", "use steps_per_log"),
    ("report_steps", "use steps_per_report"),
    ("eval_steps evaluation_steps", "use steps_per_eval"),
    ("eval_strategy evaluation_strategy evals_per_epoch", "use steps_per_eval, the steps between two evaluations"),
    (
        "save_steps save_strategy saves_per_epoch",
        "use steps_per_checkpoint for states that an interrupted training resumes from, and steps_per_hf_export for "
        "models in Hugging Face format",
    ),
    (
        "resume_from_checkpoint auto_resume_from_checkpoints",
        "an interrupted training goes on when the same experiment is run again; resume_from names a state that an "
        "export kept",
    ),
    (
        "early_stopping_patience",
        "use early_stopping=EarlyStopping(metric=..., steps=..., patience=...), from marin_sft.training.stops",
    ),
    ("packing sample_packing", "documents share rows by default; mixture(..., pack=False) gives each a row of its own"),
    (
        "train_on_inputs assistant_only_loss completion_only_loss mask_prompt",
        "the data's format says what is trained: tokenize(..., format=ChatLmDatasetFormat(train_on=...))",
    ),
    ("dataset_text_field", "it is the data's: tokenize(..., format=TextLmDatasetFormat(text_key=...))"),
    ("chat_template", "it is the data's: tokenize(..., format=ChatLmDatasetFormat(chat_template=...))"),
    ("peft_config use_lora use_peft adapter lora_r lora_alpha lora_dropout lora_target_modules", _LORA),
    ("neftune_alpha noisy_embedding_alpha", "in sft it is neftune_noise_alpha"),
    (
        "report_to use_wandb wandb_project wandb_entity wandb_name run_name",
        "use trackers=(WandbConfig(project=..., entity=..., name=...),), from marin_sft.training.metrics.trackers",
    ),
    ("progress_bar_type", "use progress_bar"),
    (
        "flash_attention use_flash_attention_2 attn_implementation attn_mechanism",
        "use attention_backend; None, the default, takes the best for the device",
    ),
    ("activation_checkpointing", "use gradient_checkpointing"),
    (
        "deepspeed fsdp fsdp_config sharding_axis_dims",
        "use mesh; None, the default, shards weights and optimizer over all devices, as ZeRO 3 does",
    ),
    (
        "output_dir save_directory",
        "outputs lie below --prefix; export(...) makes the model's directory, and `marin-sft path hf/NAME` prints it",
    ),
    ("push_to_hub hub_model_id", "nothing is uploaded; upload the export with `hf upload`"),
    ("model model_name model_name_or_path", "use base_model, a step or a directory"),
    (
        "train_dataset eval_dataset dataset datasets data data_path train_file",
        "data are steps: mixture=mixture(NAME, {NAME: tokenize(NAME, rows, tokenizer=...)}, seq_len=...)",
    ),
    ("tokenizer processing_class", "the tokenizer is that of tokenize(..., tokenizer=...)"),
    ("dataloader_num_workers dataset_num_proc", f"work is spread over what there is; {_NOTHING}"),
    ("group_by_length remove_unused_columns data_collator", f"rows are packed; {_NOTHING}"),
)
INSTEAD = {name: answer for names, answer in _ANSWERS for name in names.split()}
"""By the other name, what to use here."""

_OF_DEFAULTS = (
    ("max_seq_length max_sequence_length max_length seq_len sequence_len cutoff_len", "use max_seq_len"),
    ("model model_name base_model", "use model_name_or_path"),
    ("train_dataset dataset datasets data data_path", "the data are given to default_sft(..., tokenized=...)"),
)
OF_DEFAULTS = INSTEAD | {name: answer for names, answer in _OF_DEFAULTS for name in names.split()}
"""The same for configs with Marin's names."""
