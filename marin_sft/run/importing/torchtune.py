"""torchtune's YAML (`tune run RECIPE --config config.yaml`). The keys are those of its recipes; a `_component_` names a
class or function, whose arguments the other keys of its mapping are."""

from __future__ import annotations

import os
import re
from typing import Any

from marin_sft.errors import UserError
from marin_sft.nearest import one_of
from marin_sft.run.importing.config_file import Section, read_text, shown
from marin_sft.run.importing.draft import Draft
from marin_sft.run.importing.keys import Key, ignore, leave_out, note_unknown, read_settings, refuse, required
from marin_sft.run.importing.torchtune_rows import read_rows
from marin_sft.run.python_source import Call

COMPONENT = "_component_"
# torchtune's key: our setting, and torchtune's default where ours is another.
TRAINING: dict[str, Key] = {
    "epochs": Key("num_train_epochs", 1, "count"),
    "seed": Key("seed", kind="count"),
    "enable_activation_checkpointing": Key("gradient_checkpointing", kind="flag"),
    "log_every_n_steps": Key("steps_per_log", kind="count"),
    "run_val_every_n_steps": Key("steps_per_eval", kind="count"),
    "max_val_steps": Key("max_evaluation_steps", kind="count"),
    "save_every_n_steps": Key("steps_per_hf_export", kind="count"),
}
# Of torch.optim.AdamW, whose defaults these are.
OPTIMIZER: dict[str, Key] = {
    "lr": Key("learning_rate", 1e-3),
    "weight_decay": Key("weight_decay", 0.01),
    "eps": Key("epsilon"),
}
BETAS = (0.9, 0.999)
LORA: dict[str, Key] = {
    "lora_rank": Key("r", 8, "count"),
    "lora_alpha": Key("alpha", 16),
    "lora_dropout": Key("dropout", 0.0),
    "use_dora": Key("use_dora", False, "flag"),
}
LOSS: dict[str, Key] = {"beta": Key("beta", 0.1), "label_smoothing": Key("label_smoothing")}
SIMPO: dict[str, Key] = {"beta": Key("beta", 2.0), "gamma": Key("simpo_gamma", 0.5)}
WANDB = {"project": "project", "entity": "entity", "group": "group", "name": "name"}

OPTIMIZERS = {
    "torch.optim.AdamW": "adamw",
    "torch.optim.Adam": "adamw",
    "bitsandbytes.optim.AdamW": "adamw",
    "bitsandbytes.optim.PagedAdamW": "adamw",
    "bitsandbytes.optim.AdamW8bit": "adamw",
    "bitsandbytes.optim.PagedAdamW8bit": "adamw",
    "torchao.prototype.low_bit_optim.AdamW8bit": "adamw",
    "torchao.prototype.low_bit_optim.CPUOffloadOptimizer": "adamw",
    "torchao.optim.AdamW8bit": "adamw",
}
SCHEDULES = {"get_cosine_schedule_with_warmup": "cosine"}
LOSSES = {"DPOLoss": "sigmoid", "SimPOLoss": "simpo"}
LINEAR = {"q_proj": "q_proj", "k_proj": "k_proj", "v_proj": "v_proj", "output_proj": "o_proj"}
MLP = ["gate_proj", "up_proj", "down_proj"]
PRECISIONS = {"bf16": "bf16_full", "fp32": "fp32"}
ALL = ".*"
"""torch's AdamW decays all tensors."""
SEQ_LEN = 4096
"""Where torchtune has no limit."""

_QUANTIZED = "nothing is trained on quantised weights here; take a lora_ builder with dtype: bf16"
REFUSED = {
    "quantizer": "there is no quantised training here; use a recipe without qat",
    "teacher_model": "distillation is not supported",
    "policy_model": "PPO is not supported; the dpo recipes train on pairs",
    "reward_and_value_model": "PPO is not supported; the dpo recipes train on pairs",
    "reward_functions": "GRPO is not supported; the dpo recipes train on pairs",
}
LEFT_OUT = {
    "save_adapter_weights_only": "the output has the adapter, and the model merged with it",
    "tensor_parallel_dim": "use mesh, which says how devices share the work",
    "context_parallel_dim": "use mesh, which says how devices share the work",
    "custom_sharded_layers": "use mesh, which says how devices share the work",
    "data_parallel_shard_dim": "use mesh, which says how devices share the work",
    "data_parallel_replicate_dim": "use mesh, which says how devices share the work",
}
WITHOUT_EFFECT = """
    output_dir resume_from_checkpoint device compile log_peak_memory_stats log_level profiler optimizer_in_bwd
    fused_optimizer enable_activation_offloading activation_offloading_use_streams fsdp_cpu_offload
    fsdp_reshard_after_forward tensor_parallel_plan enable_async_checkpointing memory_efficient_fsdp_wrap
    ac_mode ac_option cudnn_deterministic_mode collate_fn ref_checkpointer_files
""".split()
_DOWNLOADED = re.compile(r"tune download (\S+) --output-dir (\S+)")


def read_torchtune(config: Section) -> Draft:
    """Raises UserError: an unsupported training, or a value that cannot be used."""
    _resolve(config, config)
    draft = Draft("torchtune", config, batch_keys=("batch_size", "gradient_accumulation_steps"))
    refuse(config, REFUSED)
    draft.training |= read_settings(config, TRAINING)
    if not config.has("seed"):
        draft.note_default("seed", "0; torchtune takes another each time")
    _set_loss(draft)
    _set_model(draft)
    _set_optimizer(draft)
    _set_schedule(draft)
    _set_precision(draft)
    draft.micro_batch = config.count("batch_size", 1)
    draft.accumulate = config.count("gradient_accumulation_steps", 1)
    if "single_device" in read_text(config.file).lower():
        draft.devices = 1
    draft.training["max_grad_norm"] = _clip(config)
    _set_data(draft)
    _set_tracker(draft)
    if draft.training.get("steps_per_hf_export"):
        draft.training["steps_per_checkpoint"] = draft.training["steps_per_hf_export"]
    _set_steps(draft)
    leave_out(draft, config, LEFT_OUT)
    ignore(draft, config, WITHOUT_EFFECT)
    note_unknown(draft, config)
    return draft


def _resolve(section: Section, top: Section) -> None:
    """Put values in the place of `${key.key}`."""
    for key, value in section.items():
        if isinstance(value, str):
            section[key] = _interpolated(value, section, key, top)
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, Section):
                _resolve(inner, top)


def _interpolated(text: str, section: Section, key: str, top: Section, depth: int = 0) -> Any:
    match = re.search(r"\$\{([\w.]+)\}", text)
    if match is None or depth > 9:
        return text
    found: Any = top
    for part in match[1].split("."):
        found = found.value(part) if isinstance(found, Section) else None
    if found is None:
        section.refuse(key, f"keys of this file in it; there is no {match[1]}")
    if match[0] == text:
        return _interpolated(found, section, key, top, depth + 1) if isinstance(found, str) else found
    return _interpolated(text.replace(match[0], str(found)), section, key, top, depth + 1)


def component(section: Section | None) -> str:
    """The last part of the component's name; "" where there is none."""
    return ("" if section is None else section.text(COMPONENT, "")).rpartition(".")[2]


def _set_loss(draft: Draft) -> None:
    loss = draft.config.section("loss")
    name = component(loss)
    if loss is None or "rlhf" not in loss.text(COMPONENT, ""):
        if loss is not None:
            ignore(draft, loss, ("num_output_chunks", "ignore_index", "reduction", "tiling", "mask_ignored_tokens"))
            note_unknown(draft, loss)
        return
    if name not in LOSSES:
        raise UserError(f"{loss.where(COMPONENT)}: {name}: no such loss here; expected {one_of(LOSSES, name)}")
    draft.kind = "dpo"
    draft.training |= {"loss_type": LOSSES[name], **read_settings(loss, SIMPO if name == "SimPOLoss" else LOSS)}
    note_unknown(draft, loss)


def _set_model(draft: Draft) -> None:
    config = draft.config
    model, checkpointer = config.section("model"), config.section("checkpointer")
    required(config, "model", "torchtune")
    required(config, "checkpointer", "torchtune")
    assert model is not None and checkpointer is not None
    draft.model = _weights(config, checkpointer)
    if component(checkpointer) not in ("FullModelHFCheckpointer", "FullModelTorchTuneCheckpointer", ""):
        draft.note(checkpointer, COMPONENT, f"a Hugging Face directory is read from {draft.model}")
    checkpointer.read |= checkpointer.keys()
    reference = config.section("ref_checkpointer")
    if reference is not None:
        path = _weights(config, reference)
        draft.reference = None if path == draft.model else path
        reference.read |= reference.keys()
    builder = component(model)
    if builder.startswith("qlora_") or model.flag("quantize_base"):
        key = "quantize_base" if model.flag("quantize_base") else COMPONENT
        raise UserError(f"{model.where(key)}: {shown(model[key])}: {_QUANTIZED}")
    if builder.startswith("lora_"):
        _set_lora(draft, model)
    tokenizer = config.section("tokenizer")
    if tokenizer is not None:
        tokenizer.read |= {COMPONENT, "path", "merges_file", "max_seq_len"}
        if tokenizer.has("prompt_template"):
            draft.note(tokenizer, "prompt_template", "left out; use formatting_func of ChatLmDatasetFormat")
        note_unknown(draft, tokenizer)
    note_unknown(draft, model)


def _weights(config: Section, checkpointer: Section) -> str:
    """The directory of the weights, or what the comment of the file says was downloaded to it."""
    required(checkpointer, "checkpoint_dir", "torchtune")
    directory = checkpointer.text("checkpoint_dir", "").rstrip("/")
    if not os.path.isdir(os.path.expanduser(directory)):
        for id, place in _DOWNLOADED.findall(read_text(config.file)):
            if place.rstrip("/") == directory:
                return str(id)
    return directory


def _set_lora(draft: Draft, model: Section) -> None:
    lora = read_settings(model, LORA)
    if not lora["use_dora"]:
        del lora["use_dora"]
    names = model.texts("lora_attn_modules")
    for name in names:
        if name not in LINEAR:
            raise UserError(f"{model.where('lora_attn_modules')}: {name}: expected some of {', '.join(LINEAR)}")
    targets = [LINEAR[name] for name in names] + (MLP if model.flag("apply_lora_to_mlp") else [])
    if len(targets) < len(LINEAR) + len(MLP):
        lora["target_modules"] = targets
    if model.flag("apply_lora_to_output"):
        draft.note(model, "apply_lora_to_output", "left out; the output layer gets no adapter")
    draft.lora = lora


def _set_optimizer(draft: Draft) -> None:
    optimizer = draft.config.section("optimizer")
    required(draft.config, "optimizer", "torchtune")
    assert optimizer is not None
    name = optimizer.text(COMPONENT, "")
    if name not in OPTIMIZERS:
        raise UserError(
            f"{optimizer.where(COMPONENT) if name else optimizer.file}: {name or 'no optimizer._component_'}: no such "
            f"optimizer here; expected {one_of(OPTIMIZERS, name)}"
        )
    if name == "torch.optim.Adam" and optimizer.number("weight_decay"):
        optimizer.refuse("weight_decay", "none with Adam; AdamW's weight decay is ours")
    settings = read_settings(optimizer, OPTIMIZER)
    if name == "torch.optim.Adam":
        settings["weight_decay"] = 0.0
    betas = optimizer.value("betas") or BETAS
    draft.training |= {**settings, "beta1": betas[0], "beta2": betas[1]}
    if "8bit" in name:
        draft.note(optimizer, COMPONENT, "AdamW keeps full moments here, which takes more memory than 8 bits")
    if settings["weight_decay"] and draft.lora is None:
        draft.training["weight_decay_parameters"] = ALL
    ignore(draft, optimizer, ("fused", "foreach", "capturable", "base_optimizer_class", "offload_gradients"))
    note_unknown(draft, optimizer)


def _set_schedule(draft: Draft) -> None:
    """Without one, the rate stays as it is."""
    schedule = draft.config.section("lr_scheduler")
    if schedule is None:
        draft.training |= {"lr_schedule": "constant", "warmup": 0}
        return
    name = component(schedule)
    if name not in SCHEDULES:
        raise UserError(
            f"{schedule.where(COMPONENT)}: {name}: no such schedule here; expected {one_of(SCHEDULES, name)}"
        )
    if schedule.number("num_cycles", 0.5) != 0.5:
        schedule.refuse("num_cycles", "0.5: the rate falls once")
    warmup = schedule.count("num_warmup_steps", 0)
    draft.training |= {"lr_schedule": SCHEDULES[name], "warmup": warmup, "min_lr_ratio": 0.0}
    note_unknown(draft, schedule)


def _set_precision(draft: Draft) -> None:
    name = draft.config.text("dtype", "bf16")
    if name not in PRECISIONS:
        draft.config.refuse("dtype", f"one of {', '.join(PRECISIONS)}")
    draft.training["precision"] = PRECISIONS[name]


def _set_steps(draft: Draft) -> None:
    """The steps of all epochs, as far as the data make so many."""
    config, epochs = draft.config, draft.training["num_train_epochs"]
    most = config.count("max_steps_per_epoch")
    if most is None:
        return
    draft.training["num_train_steps"] = epochs * most
    if epochs > 1:
        draft.note(
            config, "max_steps_per_epoch", "an epoch goes on where the one before ended, until all rows were trained on"
        )


def _clip(config: Section) -> float | None:
    value = config.value("clip_grad_norm")
    return None if value in (None, "inf") else config.number("clip_grad_norm")


def _set_data(draft: Draft) -> None:
    config = draft.config
    datasets = config.sections("dataset")
    if not datasets:
        raise UserError(f"{config.file}: no dataset; expected one with a {COMPONENT}")
    tokenizer = config.section("tokenizer")
    limit = tokenizer.count("max_seq_len") if tokenizer is not None else None
    limits = [one.count("max_seq_len") for one in datasets if one.has("max_seq_len")]
    limit = limit or (limits[0] if limits else None)
    draft.seq_len = limit or SEQ_LEN
    packed = config.flag("packed") or any(one.flag("packed") for one in datasets)
    splits = any(one.flag("split_across_pack") for one in datasets)
    if limit is None:
        draft.note_default(
            "tokenizer.max_seq_len", f"seq_len={SEQ_LEN}, and a longer row is an error; torchtune has no limit"
        )
    draft.mixture["over_length"] = "raise" if limit is None else "split" if packed and splits else "truncate"
    if draft.kind == "sft" and not packed:
        draft.mixture["pack"] = False
    if not config.flag("shuffle", True):
        draft.mixture["shuffle"] = False
    draft.training_rows = [read_rows(draft, one) for one in datasets]
    draft.held_out_rows = [read_rows(draft, one) for one in config.sections("dataset_val")]
    if draft.held_out_rows and "steps_per_eval" not in draft.training:
        draft.training["do_eval"] = True


def _set_tracker(draft: Draft) -> None:
    logger = draft.config.section("metric_logger")
    name = component(logger)
    if logger is None:
        return
    if name == "WandBLogger":
        given = {ours: logger.text(key) for key, ours in WANDB.items()}
        draft.trackers.append(Call("WandbConfig", keywords={ours: value for ours, value in given.items() if value}))
    elif name == "TensorBoardLogger":
        draft.trackers.append(Call("TensorboardConfig"))
    elif name not in ("DiskLogger", "StdoutLogger"):
        draft.note(logger, COMPONENT, "trackers are WandbConfig and TensorboardConfig")
    logger.read |= {"log_dir", "filename", "organize_logs", COMPONENT}
    note_unknown(draft, logger)
