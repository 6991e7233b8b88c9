"""Hidden states of packed rows."""

from __future__ import annotations

from typing import Protocol, cast

import haliax as hax
import jax
from levanter.layers.attention import AttentionMask
from levanter.models.lm_model import LmHeadModel

from marin_sft.errors import TrainingError
from marin_sft.training.attention.choice import kernel_for
from marin_sft.training.attention.packed import PackedMask, with_packed_attention
from marin_sft.training.axes import POSITION
from marin_sft.training.cpu.one_cpu import on_one_cpu
from marin_sft.training.models.model_check import Limits

KEY_POSITION = "key_position"


class PackedRows(Protocol):
    """Axes (batch, position): see `marin_sft.training.loss.Batch`."""

    @property
    def tokens(self) -> hax.NamedArray: ...
    @property
    def segment_ids(self) -> hax.NamedArray: ...
    @property
    def position_ids(self) -> hax.NamedArray: ...


def activations(
    model: LmHeadModel, rows: PackedRows, key: jax.Array | None = None, branch: hax.NamedArray | None = None
) -> hax.NamedArray:
    """Hidden states, axes (batch, position, embed) in any order.

    A token sees the tokens before it in its own segment; with `branch` (batch, position), only those of branch 0 and of
    its own branch.
    """
    kernel = kernel_for(model)
    if kernel is None:
        mask = _mask(rows.segment_ids, branch)
    else:
        model, mask = with_packed_attention(model, kernel), PackedMask.of(rows.segment_ids, branch)
    found = model.activations(rows.tokens, attn_mask=mask, pos_ids=rows.position_ids, key=key)
    return cast(hax.NamedArray, found)


def shares_prefix(asked: bool | None, *models: Limits) -> bool:
    """Whether completions of one prompt follow a single copy of it, distinguished by `branch`.

    `asked`: `share_prefix` of `DPOConfig`.

    Raises:
        TrainingError: asked for with a model that has sliding windows. They are measured along the row, and would end
            too early for the second completion.
    """
    windowed = any(model.windowed for model in models)
    if asked and windowed:
        raise TrainingError(
            "share_prefix = True: got a model with sliding windows (sliding_window in its config.json), for which "
            "completions cannot share a prompt; expected share_prefix = None or False"
        )
    return on_one_cpu() and not windowed if asked is None else asked


def _mask(segment_ids: hax.NamedArray, branch: hax.NamedArray | None) -> AttentionMask:
    mask = AttentionMask.causal().with_segment_ids(segment_ids)
    if branch is None:
        return mask
    keys = branch.rename({POSITION: KEY_POSITION})
    return mask & AttentionMask.explicit((keys == 0) | (keys == branch.broadcast_axis(keys.axes)))
