"""The fields of generation_config.json: which tokens end an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from marin_sft.training.models.model_config import Fields

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def generation_config(tokenizer: PreTrainedTokenizerFast, source: Fields | None = None) -> Fields:
    """`source` (the fields of a generation_config.json) with every id that ends an answer in `eos_token_id`: those of
    `source`, the tokenizer's EOS, and the token with which the chat template closes an assistant's turn."""
    source = dict(source or {})
    listed = source.get("eos_token_id")
    ends = listed if isinstance(listed, list) else [listed]
    ends = [*ends, tokenizer.eos_token_id, end_of_turn(tokenizer)]
    source["eos_token_id"] = list(dict.fromkeys(end for end in ends if is_id(end)))
    for name in ("bos_token_id", "pad_token_id"):
        if not is_id(source.get(name)):
            source[name] = getattr(tokenizer, name)
        if source[name] is None:
            del source[name]
    return source


def is_id(id: int | None) -> bool:
    """False for None and -1: the first Llamas have -1 for a token that they do not use."""
    return id is not None and id >= 0


def end_of_turn(tokenizer: PreTrainedTokenizerFast) -> int | None:
    """The id of the token that the chat template puts after an assistant's message. None: there is none."""
    from jinja2 import TemplateError

    if tokenizer.chat_template is None:
        return None
    answer = "an answer that no template contains"
    dialogue = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": answer}]
    try:
        _, _, tail = tokenizer.apply_chat_template(dialogue, tokenize=False).rpartition(answer)
    except TemplateError:  # the template refuses this dialogue, e.g. because it has no system turn
        return None
    # Some tokenizers have runs of spaces as added tokens; these do not end a turn.
    added = {i: token for i, token in tokenizer.added_tokens_decoder.items() if token.content.strip()}
    return next((i for i in tokenizer.encode(tail, add_special_tokens=False) if i in added), None)
