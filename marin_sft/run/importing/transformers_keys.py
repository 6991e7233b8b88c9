"""What axolotl and LLaMA-Factory hand to transformers: its Trainer's optimizers, schedules and save points, and the
scaling of positions."""

from __future__ import annotations

from marin_sft.errors import UserError
from marin_sft.nearest import did_you_mean, one_of
from marin_sft.run.importing.config_file import Section
from marin_sft.run.importing.draft import Draft, Settings
from marin_sft.run.importing.keys import Key
from marin_sft.run.python_source import Call
from marin_sft.training.optimization.optimizer_specs import OPTIMIZERS

# The Trainer's own defaults where ours differ: AdamW's second moment decays by 0.999, and the seed is 42.
TRAINER: dict[str, Key] = {
    "weight_decay": Key("weight_decay", 0.0),
    "max_grad_norm": Key("max_grad_norm", 1.0),
    "adam_beta1": Key("beta1", 0.9),
    "adam_beta2": Key("beta2", 0.999),
    "adam_epsilon": Key("epsilon"),
    "neftune_noise_alpha": Key("neftune_noise_alpha"),
    "logging_steps": Key("steps_per_log", kind="count"),
    "seed": Key("seed", 42, "count"),
}

_ADAMW = "adamw_torch adamw_torch_fused adamw_hf adamw_apex_fused adamw_anyprecision paged_adamw_32bit paged_adamw"
_ADAMW_SMALL = (
    "adamw_8bit adamw_bnb_8bit paged_adamw_8bit adamw_torch_8bit adamw_torch_4bit ao_adamw_8bit ao_adamw_4bit "
    "ao_adamw_fp8"
)
_LION, _LION_SMALL = "lion_32bit paged_lion_32bit lion", "lion_8bit paged_lion_8bit"
OPTIMIZERS_OF_TRAINER = {
    **dict.fromkeys([*_ADAMW.split(), *_ADAMW_SMALL.split()], "adamw"),
    **dict.fromkeys([*_LION.split(), *_LION_SMALL.split()], "lion"),
    "adafactor": "adafactor",
}
_SMALL_STATES = frozenset([*_ADAMW_SMALL.split(), *_LION_SMALL.split()])

# The Trainer's schedules: ours, and whether there is a warmup.
SCHEDULES = {
    "linear": ("linear", True),
    "cosine": ("cosine", True),
    "cosine_with_min_lr": ("cosine", True),
    "constant": ("constant", False),
    "constant_with_warmup": ("constant", True),
    "inverse_sqrt": ("inv_sqrt", True),
}
# Weight decay of the Trainer: of all tensors but norms and biases, so of the embeddings, too.
DECAYED = r"^((?!norm|bias).)*$"


def set_optimizer(draft: Draft, config: Section, key: str, default: str) -> None:
    name = config.text(key, default)
    ours = OPTIMIZERS_OF_TRAINER.get(name)
    if ours is None:
        raise UserError(
            f"{config.where(key)}: {name}: no such optimizer here; expected one that is: "
            f"{', '.join(OPTIMIZERS_OF_TRAINER)}; then choose among ours in the experiment: "
            f"{', '.join(OPTIMIZERS)}{did_you_mean(name, OPTIMIZERS_OF_TRAINER)}"
        )
    draft.training["optimizer"] = ours
    if name in _SMALL_STATES:
        draft.note(config, key, "AdamW and Lion keep full moments here, which takes more memory than 8 bits")
    spec = OPTIMIZERS[ours]
    for beta in {"beta1", "beta2"}.difference(spec.betas):
        draft.training.pop(beta, None)
    if spec.epsilon is None or ours == "adafactor":
        draft.training.pop("epsilon", None)


def set_schedule(draft: Draft, config: Section, key: str, default: str, warmup: float) -> None:
    """warmup: what the tool takes where the file does not say."""
    name = config.text(key, default)
    if name not in SCHEDULES:
        raise UserError(f"{config.where(key)}: {name}: no such schedule here; expected {one_of(SCHEDULES, name)}")
    ours, warms_up = SCHEDULES[name]
    steps, ratio = config.count("warmup_steps"), config.number("warmup_ratio")
    wanted: float = steps or (float(ratio) if ratio is not None else warmup if steps is None else 0.0)
    options = config.section("lr_scheduler_kwargs") or Section(config.file)
    draft.training |= {"lr_schedule": ours, "warmup": wanted if warms_up and wanted else 0}
    floor, rate = options.number("min_lr_rate"), options.number("min_lr")
    if ours != "constant":
        draft.training["min_lr_ratio"] = floor if floor is not None else 0.0
    if rate is not None:
        del draft.training["min_lr_ratio"]
        draft.training["learning_rate_end"] = rate
    for other in options.unread():
        draft.note(options, other, "not a setting of the schedule here; left out")


def set_decayed_tensors(draft: Draft, pattern: str) -> None:
    """Which tensors decay, where any do; an adapter's all do."""
    if draft.training.get("weight_decay") and draft.lora is None:
        draft.training["weight_decay_parameters"] = pattern


def set_save_points(draft: Draft, config: Section, kept: str = "save_total_limit") -> None:
    """`save_steps` and `eval_steps`, where they count steps."""
    for key, names in (
        ("save_steps", ("steps_per_checkpoint", "steps_per_hf_export")),
        ("eval_steps", ("steps_per_eval",)),
    ):
        every = config.number(key)
        if every is None:
            continue
        if every < 1:
            draft.note(config, key, f"left out; {names[-1]} is a number of steps")
        else:
            draft.training |= dict.fromkeys(names, int(every))
    limit = config.count(kept)
    if limit and "steps_per_hf_export" in draft.training:
        draft.training["hf_exports_kept"] = limit
    elif limit:
        draft.without_effect.append(kept)


def set_trackers(draft: Draft, config: Section, names: list[str], run_name: str | None) -> None:
    for name in names:
        if name == "wandb":
            draft.trackers.append(Call("WandbConfig", keywords={"name": run_name} if run_name else {}))
        elif name == "tensorboard":
            draft.trackers.append(Call("TensorboardConfig"))
        elif name not in ("none", "all"):
            draft.note(config, "report_to", f"no tracker {name!r} here; trackers are WandbConfig and TensorboardConfig")


def keep_out(draft: Draft, config: Section, key: str) -> bool:
    """`val_set_size` or `val_size`: a share of the rows or a number of them. Whether there are any."""
    size = config.number(key, 0)
    if not size:
        return False
    if size < 1:
        draft.mixture["validation_fraction"] = size
    else:
        draft.mixture["num_validation_sequences"] = int(size)
    return True


def set_rope_scaling(draft: Draft, section: Section, key: str, scaling: Settings) -> None:
    """`scaling`: what the key means, as config.json has it."""
    if scaling.get("rope_type") == "dynamic":
        draft.note(section, key, "left out; it changes nothing up to the model's own length, and longer rows need yarn")
        return
    draft.training["rope_scaling"] = scaling
    section.origins["rope_scaling"] = section.where(key)
