"""The reader of rows that were tokenized elsewhere."""

from __future__ import annotations

from typing import Any

from marin_sft.data.messages.dialogues import Fields
from marin_sft.data.messages.examples import BadRow, Tokens
from marin_sft.data.messages.tool_calls import kind_of
from marin_sft.data.messages.turns import MessageFormat

IGNORED_LABEL = -100
_MAX_ID = 2**31 - 1
_MASKS = ("completion_mask", "assistant_masks")
UNCLEAR_MASKS = ("loss_mask", "target_mask", "train_mask")
"""Some writers put them at the token that is trained, others at the token before it."""


def read_tokens(fields: Fields, format: MessageFormat) -> Tokens:
    """Ids as they are. A token is a target if all masks and labels of the row say so; without any, all tokens are.

    `labels` are as in transformers: the id at its own position, or -100 if it is not trained. `loss_weights` are as in
    Levanter: the one at i is for the token at i + 1. Tokens with `attention_mask` 0 at either end are padding, and are
    left out.
    """
    ids = fields["input_ids"]
    if not isinstance(ids, list) or not ids or not all(type(i) is int and 0 <= i <= _MAX_ID for i in ids):
        raise BadRow("bad_tokens", f"input_ids is {kind_of(ids)}, expected a non-empty list of ids, 0 to {_MAX_ID}")
    unclear = [name for name in UNCLEAR_MASKS if name in fields]
    if unclear:
        raise BadRow(
            "ambiguous_format",
            f"{unclear[0]} may mark the token that is trained, or the one before it; say which: "
            f"columns={{'completion_mask': {unclear[0]!r}}} or columns={{'loss_weights': {unclear[0]!r}}}",
        )
    masks = [_flags(fields[name], name, len(ids)) for name in _MASKS if name in fields]
    if "labels" in fields:
        masks.append(_labels_mask(_list(fields["labels"], "labels", len(ids)), ids))
    if "loss_weights" in fields:
        masks.append([0, *_flags(fields["loss_weights"], "loss_weights", len(ids))[:-1]])
    mask = [int(all(flags)) for flags in zip(*masks, strict=True)] if masks else [1] * len(ids)
    if "attention_mask" not in fields:
        return Tokens(ids, mask)
    start, stop = _real_tokens(_flags(fields["attention_mask"], "attention_mask", len(ids)))
    return Tokens(ids[start:stop], mask[start:stop])


def _labels_mask(labels: list[object], ids: list[int]) -> list[int]:
    for index, (label, token) in enumerate(zip(labels, ids, strict=True)):
        if label not in (token, IGNORED_LABEL):
            raise BadRow(
                "bad_tokens",
                f"labels[{index}] is {str(label)[:20]}, expected {token} as in input_ids, or {IGNORED_LABEL}; "
                "labels are not shifted",
            )
    return [int(label != IGNORED_LABEL) for label in labels]


def _real_tokens(attention: list[int]) -> tuple[int, int]:
    if not any(attention):
        raise BadRow("bad_tokens", "attention_mask is 0 everywhere, expected at least one token")
    start, stop = attention.index(1), len(attention) - attention[::-1].index(1)
    if not all(attention[start:stop]):
        raise BadRow("bad_tokens", "attention_mask has a 0 between tokens, expected padding at the ends only")
    return start, stop


def _flags(value: object, name: str, length: int) -> list[int]:
    flags = _list(value, name, length)
    if not all(isinstance(flag, bool | int | float) and flag in (0, 1) for flag in flags):
        raise BadRow("bad_tokens", f"{name}: expected only 0 and 1; other weights cannot be kept")
    return [int(flag) for flag in flags]


def _list(value: object, name: str, length: int) -> list[Any]:
    if not isinstance(value, list):
        raise BadRow("bad_tokens", f"{name} is {kind_of(value)}, expected a list")
    if len(value) != length:
        raise BadRow("bad_tokens", f"{name} has {len(value)} elements, expected {length} as in input_ids")
    return value
