"""EasyDeL's enumerations and small configs, each member with what it means here."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from marin_sft.errors import ConfigError
from marin_sft.trainers.settings import MODEL_OPTIONS_WITHOUT_EFFECT


class EasyDeLOptimizers(enum.StrEnum):
    """Values are names of `marin_sft.training.optimization.optimizer_specs.OPTIMIZERS`, or of those it refuses."""

    ADAMW = "adamw"
    ADAFACTOR = "adafactor"
    LION = "lion"
    RMSPROP = "rmsprop"
    MUON = "muon"
    MARS = "mars"
    SKEW = "skew"
    QUAD = "quad"
    KRON = "kron"
    SOAP = "soap"


class EasyDeLSchedulers(enum.StrEnum):
    """How the learning rate falls."""

    NONE = "none"
    LINEAR = "linear"
    COSINE = "cosine"


class EasyDeLGradientCheckPointers(enum.StrEnum):
    """What of the activations is kept for the backward pass."""

    NONE = ""
    EVERYTHING_SAVEABLE = "everything_saveable"
    NOTHING_SAVEABLE = "nothing_saveable"
    CHECKPOINT_DOTS = "checkpoint_dots"
    CHECKPOINT_DOTS_WITH_NO_BATCH_DMIS = "checkpoint_dots_with_no_batch_dims"
    DOTS_SAVEABLE = "dots_saveable"
    DOTS_WITH_NO_BATCH_DIMS_SAVEABLE = "dots_with_no_batch_dims_saveable"


CHECKPOINTERS: dict[str, bool | str] = {
    "": False,
    "everything_saveable": "save_all",
    "nothing_saveable": True,
    **dict.fromkeys(
        (
            "checkpoint_dots",
            "checkpoint_dots_with_no_batch_dims",
            "dots_saveable",
            "dots_with_no_batch_dims_saveable",
        ),
        "save_products",
    ),
}
"""Our `gradient_checkpointing` for each. No result depends on it."""


class AttentionMechanisms(enum.StrEnum):
    """Backends of attention."""

    AUTO = "auto"
    VANILLA = "vanilla"
    FLASH_ATTN2 = "flash_attn2"
    SPLASH = "splash"
    BLOCKSPARSE = "blocksparse"
    CUDNN = "cudnn"
    CUDA_FLASH_ATTN2 = "cuda_flash_attn2"
    SDPA = "sdpa"
    RING = "ring"
    BLOCKWISE = "blockwise"
    PAGED_ATTENTION = "paged_attention"
    REGRESSIVE_DECODE = "autoregressive_decodeattn"


ATTENTION: dict[str, str | None] = {
    "auto": None,
    "vanilla": "vanilla",
    "eager": "vanilla",
    "flash_attn2": "jax_flash",
    "flash_attention_2": None,
    "splash": "splash",
    "blocksparse": "splash",
    "cudnn": "nvte",
    "cuda_flash_attn2": "nvte",
    "sdpa": "default",
}
"""Our `attention_backend` for each; None: the best for device and model."""


class EasyDeLQuantizationMethods(enum.StrEnum):
    """Quantised weights. There is no quantised training, so all but NONE are refused where they are used."""

    NONE = "none"
    NF4 = "nf4"
    A8BIT = "8bit"


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """EasyDeL's options of a loss.

    Raises:
        ConfigError: an option that cannot be had.
    """

    z_loss: float = 0.0
    label_smoothing: float = 0.0
    ignore_index: int = -100
    reduction: str | None = None
    divide_weight_sum: bool = False
    loss_normalizing_factor: str | float | None = None

    def __post_init__(self) -> None:
        for name in ("reduction", "divide_weight_sum", "loss_normalizing_factor"):
            if getattr(self, name):
                raise ConfigError(
                    f"LossConfig.{name} = {getattr(self, name)!r} is not supported: the loss is the mean over the "
                    "trained tokens of the whole batch; leave it out"
                )
        if self.ignore_index != -100:
            raise ConfigError("LossConfig.ignore_index: labels are never seen here; leave it out")


@dataclass(frozen=True, kw_only=True)
class PartitionAxis:
    """EasyDeL's names of the mesh axes. Heads lie on "tp" here, and rows on "fsdp" and "dp".

    Raises:
        ConfigError: another axis for heads.
    """

    kv_head_axis: str = "tp"
    head_axis: str = "tp"

    def __post_init__(self) -> None:
        for name in ("kv_head_axis", "head_axis"):
            if getattr(self, name) != "tp":
                raise ConfigError(f"PartitionAxis.{name} = {getattr(self, name)!r} is not supported: expected 'tp'")


_MODEL_OPTIONS = (
    *MODEL_OPTIONS_WITHOUT_EFFECT,
    "attn_mechanism",
    "gradient_checkpointing",
    "attn_dtype",
    "attn_softmax_dtype",
)


class EasyDeLBaseConfigDict(dict[str, object]):
    """EasyDeL's options of a model, for `from_pretrained(config_kwargs=...)`.

    Raises:
        ConfigError: an option that there is not, with the nearest.
    """

    def __init__(self, **options: object) -> None:
        from marin_sft.nearest import nearest_text

        for name in options:
            if name not in _MODEL_OPTIONS:
                raise ConfigError(f"EasyDeLBaseConfigDict: unknown option {name!r}{nearest_text(name, _MODEL_OPTIONS)}")
        super().__init__(**options)
