"""A trainer's settings -> the arguments of the training step."""

from __future__ import annotations

import netrc
import os
from typing import Any

from marin_sft.errors import ConfigError
from marin_sft.execution.flags import absolute_prefix
from marin_sft.execution.resources import Resources
from marin_sft.paths import names_in
from marin_sft.trainers.configs import SFTConfig
from marin_sft.trainers.enums import ATTENTION, CHECKPOINTERS, LossConfig
from marin_sft.trainers.hardware import devices_seen
from marin_sft.trainers.models import ModelHandle, precision_of
from marin_sft.trainers.peft import DEFAULT_TARGETS
from marin_sft.trainers.settings import SETTINGS, Dialect, Group
from marin_sft.training.checkpoints import nothing_to_resume
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.metrics.tracker import TrackerConfig
from marin_sft.training.metrics.trackers import TensorboardConfig, WandbConfig
from marin_sft.training.optimization.optimizer_specs import DEFAULT_BETAS

NEVER = -1
_OF_LORA = frozenset(s.name for s in SETTINGS if s.group is Group.LORA and s.name != "use_lora")
_IDLE_LORA = "without effect here: {} (use_lora=True trains adapters)"
_OPTIMIZERS = {
    **dict.fromkeys(("adamw_torch", "adamw_torch_fused", "adamw_hf"), "adamw"),
    "lion_32bit": "lion",
}
_LIKE_ADAM = ("adamw", "adam_mini", "adopt", "cautious", "mars")
# Settings that training has under the same name. None: left to it.
_SAME = (
    "learning_rate",
    "learning_rate_end",
    "gradient_accumulation_steps",
    "max_grad_norm",
    "weight_decay",
    "beta1",
    "beta2",
    "epsilon",
    "seed",
    "neftune_noise_alpha",
    "label_smoothing",
    "per_epoch_training_steps",
    "frozen_parameters",
    "rope_scaling",
    "training_time_limit",
    "max_evaluation_steps",
    "steps_per_log",
    "steps_per_report",
    "progress_bar",
    "track_memory",
    "weight_distribution_log_steps",
    "weight_distribution_pattern",
    "resume_from",
)
_SAME_SFT = ("z_loss_weight",)
_SAME_DPO = (
    "beta",
    "reference_free",
    "f_divergence_type",
    "f_alpha_divergence_coef",
    "ld_alpha",
    "use_weighting",
    "discopop_tau",
)


class TrainingArguments:
    """The arguments of `steps.sft` and `steps.dpo` that settings ask for.

    values: the settings by our names, with the defaults of `dialect`. lora: an adapter that was given as an object.
    name: of the training. notes: where lines for the user are added.
    """

    def __init__(
        self,
        config: SFTConfig,
        values: dict[str, Any],
        dialect: Dialect,
        model: ModelHandle,
        lora: LoraConfig | None,
        resources: Resources,
        name: str,
        notes: list[str],
    ) -> None:
        self._config, self._values, self._dialect, self._pairs = config, values, dialect, config.pairs
        self._model, self._given_lora, self._resources = model, lora, resources
        self._name, self._notes = name, notes

    def build(self, held_out: bool) -> dict[str, Any]:
        """held_out: whether there are rows to evaluate on. Raises ConfigError for what cannot be used."""
        values = {**self._values, **self._of_loss_config()}
        same = (*_SAME, *(_SAME_DPO if self._pairs else _SAME_SFT))
        found = {name: values[name] for name in same if values[name] is not None or name == "max_grad_norm"}
        found["max_grad_norm"] = values["max_grad_norm"] or None
        if values["resume_from"] is not None:
            found["resume_from"] = _state_at(str(values["resume_from"]))
        return {
            **found,
            **self._rate(),
            **self._size(),
            **self._devices(),
            **self._evaluation(held_out),
            **self._saving(),
            **(self._pair_loss() if self._pairs else {}),
            **self._optimizer(),
            "lora": self._lora(),
            "trackers": self._trackers(),
        }

    def _of_loss_config(self) -> dict[str, Any]:
        """What an EasyDeL `LossConfig` says, but for zeros."""
        loss: LossConfig | None = self._values["loss_config"]
        if loss is None:
            return {}
        if self._pairs and loss.z_loss:
            raise ConfigError(f"LossConfig.z_loss = {loss.z_loss} is not supported: the loss of DPO has no such term")
        given = {"z_loss_weight": loss.z_loss, "label_smoothing": loss.label_smoothing}
        for name, value in given.items():
            if value and self._values[name] not in (None, value):
                raise ConfigError(f"LossConfig says {name} = {value}, and {name} = {self._values[name]}; expected one")
        return {name: value for name, value in given.items() if value}

    def _rate(self) -> dict[str, Any]:
        """The learning rate of each step."""
        values, given = self._values, self._config.given()
        schedule = {"none": "constant", None: None, "constant_with_warmup": "constant"}.get(
            values["lr_schedule"], values["lr_schedule"]
        )
        if schedule is None:
            schedule = "constant" if values["learning_rate_end"] is None else "linear"
        steps = values["warmup_steps"]
        of_transformers = self._dialect in (Dialect.TRL, Dialect.SCRIPT)
        if of_transformers and values["lr_schedule"] == "constant" and (steps or values["warmup_ratio"]):
            if {"warmup_steps", "warmup_ratio"} & given.keys():
                self._notes.append(
                    "without effect here: warmup with lr_scheduler_type = 'constant', as in transformers; "
                    "'constant_with_warmup' has one"
                )
            values = {**values, "warmup_steps": None, "warmup_ratio": None}
            steps = None
        warmup = (int(steps) if steps >= 1 else steps) if steps else values["warmup_ratio"] or 0
        if values["warmup_steps"] and "warmup_ratio" in given and values["warmup_ratio"]:
            raise ConfigError(
                f"{type(self._config).__name__}: warmup_steps = {warmup} and warmup_ratio = "
                f"{values['warmup_ratio']} say the same thing; expected one of them"
            )
        if (
            self._dialect is Dialect.EASYDEL
            and values["warmup_steps"]
            and schedule == "constant"
            and values["lr_schedule"] is None
        ):
            raise ConfigError(
                f"{type(self._config).__name__}: warmup_steps = {warmup} without a scheduler; expected "
                "scheduler=EasyDeLSchedulers.COSINE or LINEAR"
            )
        if self._dialect is Dialect.OURS:
            return {"lr_schedule": schedule, "warmup": warmup}
        floor = (
            {}
            if schedule in ("constant", "inv_sqrt") or values["learning_rate_end"] is not None
            else {"min_lr_ratio": 0.0}
        )
        return {"lr_schedule": schedule, "warmup": warmup, **floor}

    def _size(self) -> dict[str, Any]:
        """Batches, and how many."""
        values, devices, said = self._values, devices_seen(self._resources), self._config.given()
        each, at_once = values["per_device_batch_size"], values["batch_size"]
        if each is not None and ("per_device_batch_size" in said or at_once is None):
            if "batch_size" in said and at_once is not None and at_once != each * devices:
                raise ConfigError(
                    f"total_batch_size = {at_once} and per_device_train_batch_size = {each} on {devices} devices "
                    "disagree; expected one of them"
                )
            at_once, counted = each * devices, f"{each} x {devices} device{'s' if devices > 1 else ''}"
        else:
            counted = str(at_once)
        parts = values["gradient_accumulation_steps"]
        parts = 1 if parts is None else parts
        for name, count in (("gradient_accumulation_steps", parts), ("batch_size", at_once)):
            if count < 1:
                raise ConfigError(f"{self._config.spelling(name)} = {count}: expected at least 1")
        if parts > 1 or counted != str(at_once):
            self._notes.append(f"an update takes {at_once * parts} examples: {counted} x {parts} accumulated")
        steps = values["max_steps"] if values["max_steps"] and values["max_steps"] > 0 else None
        # Steps replace the epochs in transformers; EasyDeL ends with whichever comes first.
        epochs = None if steps is not None and self._dialect is not Dialect.EASYDEL else values["num_train_epochs"]
        return {
            "train_batch_size": at_once * parts,
            "gradient_accumulation_steps": parts if parts > 1 else None,
            "num_train_epochs": epochs,
            "num_train_steps": steps,
        }

    def _devices(self) -> dict[str, Any]:
        """Number types, the mesh, and how memory is saved."""
        values, model = self._values, self._model
        attention = values["attention"] or model.attention or "auto"
        if attention not in ATTENTION:
            known = ", ".join(ATTENTION)
            raise ConfigError(f"attn_mechanism = {attention!r} is not supported: expected one of {known}")
        remat: Any = values["gradient_checkpointing"]
        remat = model.gradient_checkpointing if remat is None else remat
        if isinstance(remat, str):
            if remat not in CHECKPOINTERS:
                raise ConfigError(f"gradient_checkpointing = {remat!r}: expected one of {', '.join(CHECKPOINTERS)}")
            remat = CHECKPOINTERS[remat]
        precision = self._precision()
        for name, asked in (
            ("attn_dtype", values["attention_dtype"] or model.attention_dtype),
            ("attn_softmax_dtype", values["softmax_dtype"] or model.softmax_dtype),
        ):
            computed = "float32" if precision in ("fp32", "p=bf16,c=f32") else "bfloat16"
            if asked not in (None, computed):
                raise ConfigError(
                    f"{name} = {asked} is not supported: attention computes in {computed}, as all passes do; dtype "
                    "chooses that"
                )
        return {
            "precision": precision,
            "mesh": _mesh(values["mesh"] if values["mesh"] is not None else model.mesh),
            "attention_backend": ATTENTION[attention],
            "gradient_checkpointing": remat,
        }

    def _precision(self) -> str:
        values, said = self._values, self._config.given()
        if values["fp16"] and "bf16" in said and values["bf16"]:
            raise ConfigError(f"{type(self._config).__name__}: fp16 and bf16 are both set; expected one of them")
        if values["fp16"]:
            self._notes.append("fp16: trained in bfloat16, which needs as much memory and no loss scaling")
            return "bf16"
        if values["dtype"] is not None or values["param_dtype"] is not None:
            if said.get("bf16", ("", None))[1] is not None and values["bf16"] != (values["dtype"] == "bfloat16"):
                raise ConfigError(
                    f"{type(self._config).__name__}: bf16 = {values['bf16']} and dtype = {values['dtype']} disagree; "
                    "expected one of them"
                )
            return precision_of(values["dtype"], values["param_dtype"])
        if values["bf16"] is None:
            return self._model.precision
        return "bf16" if values["bf16"] else "fp32"

    def _evaluation(self, held_out: bool) -> dict[str, Any]:
        values = self._values
        asked = values["do_eval"]
        if values["eval_strategy"] not in (None, "no", "steps"):
            raise ConfigError(
                f"eval_strategy = {values['eval_strategy']!r} is not supported: expected no, or steps with eval_steps; "
                "the last step is always followed by an evaluation"
            )
        if values["no_eval"] or values["eval_strategy"] == "no":
            if asked:
                raise ConfigError("do_eval = True, but no_eval or eval_strategy = 'no'; expected one of them")
            asked = False
        if held_out and asked is None:
            asked = True
            if self._dialect is Dialect.EASYDEL:
                self._notes.append("do_eval: on, because there is an eval_dataset")
        if values["eval_strategy"] == "steps" and not held_out:
            raise ConfigError("eval_strategy = 'steps': there is no evaluation data; expected eval_dataset or its path")
        every = values["steps_per_eval"] if asked and held_out else None
        if every and values["eval_strategy"] == "steps" and "steps_per_eval" not in self._config.given():
            every = values["steps_per_log"]  # as in transformers
        return {"do_eval": asked, "steps_per_eval": every, "eval_on_start": bool(asked and values["eval_on_start"])}

    def _saving(self) -> dict[str, Any]:
        values = self._values
        every = None if values["save_strategy"] == "no" else values["save_steps"]
        if values["save_strategy"] not in (None, "no", "steps"):
            raise ConfigError(
                f"save_strategy = {values['save_strategy']!r} is not supported: expected no, or steps with save_steps"
            )
        if not every or every < 0:
            return {"steps_per_hf_export": NEVER}
        states = values["keep_states"] and not values["save_only_model"]
        return {
            "steps_per_hf_export": every,
            "hf_exports_kept": values["save_total_limit"] or None,
            "save_optimizer_state": bool(states),
            **({"steps_per_checkpoint": every} if states else {}),  # what is killed goes on from there
        }

    def _pair_loss(self) -> dict[str, Any]:
        values = self._values
        losses = values["loss_type"] if isinstance(values["loss_type"], tuple) else (values["loss_type"],)
        loss: Any = losses[0] if len(losses) == 1 else list(losses)
        if values["loss_weights"] is not None and len(values["loss_weights"]) != len(losses):
            raise ConfigError(
                f"loss_weights = {list(values['loss_weights'])}: expected one for each of loss_type = {list(losses)}"
            )
        if values["loss_weights"] is not None:
            loss = dict(zip(losses, map(float, values["loss_weights"]), strict=True))
        found: dict[str, Any] = {"loss_type": loss}
        if values["sync_ref_model"] and self._config.said.get("precompute_ref_log_probs"):
            raise ConfigError("sync_ref_model and precompute_ref_log_probs contradict each other; expected one of them")
        if values["sync_ref_model"]:
            found |= {name: values[name] for name in ("ref_model_sync_steps", "ref_model_mixup_alpha")}
        return found

    def _optimizer(self) -> dict[str, Any]:
        """The optimizer under our name, and what the library it comes from does with it."""
        values, said = self._values, self._config.given()
        name = _OPTIMIZERS.get(values["optimizer"], values["optimizer"])
        found: dict[str, Any] = {"optimizer": name}
        if name not in _LIKE_ADAM:  # 0.999 is the usual decay of Adam's second moments, and of no other optimizer
            found |= {beta: default for beta, default in DEFAULT_BETAS.items() if beta not in said}
        if self._dialect is Dialect.EASYDEL and values["weight_decay"] and self._lora() is None:
            found["weight_decay_parameters"] = ".*"  # EasyDeL decays all tensors
        return found

    def _lora(self) -> LoraConfig | None:
        values = self._values
        if self._given_lora is not None:
            said = [spelling for name, (spelling, _) in self._config.given().items() if name in _OF_LORA]
            if said:
                raise ConfigError(f"peft_config and {', '.join(said)} are both given; expected one of them")
            return self._given_lora
        if not values["use_lora"]:
            idle = [spelling for name, (spelling, _) in self._config.given().items() if name in _OF_LORA]
            if idle and _IDLE_LORA.format(", ".join(idle)) not in self._notes:
                self._notes.append(_IDLE_LORA.format(", ".join(idle)))
            return None
        targets = values["lora_target_modules"]
        if targets is None and self._dialect is Dialect.TRL:
            targets = DEFAULT_TARGETS
        return LoraConfig(
            r=values["lora_r"],
            alpha=float(values["lora_alpha"]),
            dropout=values["lora_dropout"],
            target_modules=targets if targets != ("all-linear",) else "all-linear",
            use_rslora=bool(values["use_rslora"]),
            use_dora=bool(values["use_dora"]),
        )

    def _trackers(self) -> tuple[TrackerConfig, ...]:
        values = self._values
        asked = set(values["report_to"] or ())
        if "all" in asked:
            asked |= {"wandb", "tensorboard"}
        for name in asked - {"wandb", "tensorboard", "all", "none"}:
            raise ConfigError(f"report_to = {name!r} is not supported: expected wandb, tensorboard, all or none")
        if values["use_wandb"] is False and "wandb" in asked:
            raise ConfigError("use_wandb = False, but report_to has wandb; expected one of them")
        wanted = values["use_wandb"] if values["use_wandb"] is not None else ("wandb" in asked or None)
        if wanted is None and self._dialect is not Dialect.TRL and not asked:
            wanted = _has_wandb_key()  # a default is used where it can be
        trackers: list[TrackerConfig] = []
        if wanted:
            trackers.append(WandbConfig(project=self._name, entity=values["wandb_entity"], name=values["run_name"]))
        distributions = values["weight_distribution_log_steps"] is not None
        if self._dialect is Dialect.EASYDEL or "tensorboard" in asked or distributions:
            trackers.append(TensorboardConfig())
        return tuple(trackers)


def _state_at(path: str) -> str:
    """`path`, which steps can find from wherever they run.

    Raises:
        ConfigError: no training state is there, with those that there are.
    """
    found = absolute_prefix(path)
    if not names_in(f"{found}/checkpoints"):
        raise ConfigError(nothing_to_resume(path))
    return found


def _has_wandb_key() -> bool:
    """In the environment, or saved by `wandb login`."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        saved = netrc.netrc(os.environ.get("NETRC"))
    except (OSError, netrc.NetrcParseError):
        return False
    return saved.authenticators("api.wandb.ai") is not None


def _mesh(given: Any) -> Any:
    """EasyDeL's sizes: five (dp, fsdp, ep, tp, sp), or four as older versions have them (dp, fsdp, tp, sp)."""
    if given is None:
        return None
    sizes = [int(size) for size in given.strip("()[] ").split(",")] if isinstance(given, str) else list(given)
    if len(sizes) == 4:
        sizes = [*sizes[:2], 1, *sizes[2:]]
    return tuple(sizes)
