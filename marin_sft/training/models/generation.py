"""What a generation_config.json says: which tokens end an answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def generation_config(tokenizer: Any, source: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`source` (a generation_config.json), with every id that ends an answer in its `eos_token_id` list: those of
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
    """Whether it is one: the first Llamas have -1 for a token that they do without."""
    return id is not None and id >= 0


def end_of_turn(tokenizer: Any) -> int | None:
    """The id of the token that the chat template puts behind an assistant's message; None without one."""
    from jinja2 import TemplateError

    if tokenizer.chat_template is None:
        return None
    answer = "an answer that no template contains"
    dialogue = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": answer}]
    try:
        _, _, tail = tokenizer.apply_chat_template(dialogue, tokenize=False).rpartition(answer)
    except TemplateError:  # one that does not take such a dialogue, e.g. without a system turn
        return None
    # Runs of spaces are added tokens of some tokenizers, and end nothing.
    added = {i: token for i, token in tokenizer.added_tokens_decoder.items() if token.content.strip()}
    return next((i for i in tokenizer.encode(tail, add_special_tokens=False) if i in added), None)
