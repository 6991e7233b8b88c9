"""A dialogue -> token ids, and which of them are trained.

Ids are those of transformers' `apply_chat_template`; so is the mask where the template marks what is generated with
`{% generation %}`. Where it does not, the assistant's turns are found by rendering the template and then verified.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from marin_sft.data.formats import ChatLmDatasetFormat
from marin_sft.data.messages import BadRow, Message
from marin_sft.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)
_GENERATION_TAG = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
_REASONING_END = "</think>"


@dataclass(frozen=True, eq=False)
class TokenRow:
    """`input_ids` int32[n]; `mask` uint8[n], 1 where the token is a target."""

    input_ids: np.ndarray
    mask: np.ndarray


def has_generation_tags(template: str) -> bool:
    """Whether a chat template marks what the model generates, in any spelling of the tag."""
    return _GENERATION_TAG.search(_COMMENT.sub("", template)) is not None


def encode_chat(
    tokenizer: PreTrainedTokenizerFast,
    messages: list[Message],
    format: ChatLmDatasetFormat,
    tools: list[dict[str, Any]] | None = None,
    chat_template_kwargs: dict[str, Any] | None = None,
) -> TokenRow:
    """Token ids and target mask of one dialogue.

    Raises:
        ConfigError: neither the format nor the tokenizer has a chat template.
        BadRow: `template_error`, `doubled_bos`, `no_assistant_turn`, `empty_mask`, `full_mask`, `unverified_mask`.
    """
    chat = _Chat(tokenizer, _template(tokenizer, format, tools), messages, tools, chat_template_kwargs or {})
    if not format.mask_user_turns:
        ids, _ = chat.encode()
        mask = np.ones(len(ids), np.uint8)
    elif not any(message["role"] == "assistant" for message in messages):
        roles = sorted({message["role"] for message in messages})
        raise BadRow("no_assistant_turn", f"roles {roles}; expected an assistant turn to train on")
    elif has_generation_tags(chat.template):
        ids, mask = chat.encode_tagged()
        _check_partial(mask, "its {% generation %} tags")
    else:
        ids, mask = _encode_untagged(chat)
        _check_partial(mask, "the turns found by rendering it")
    bos = tokenizer.bos_token_id
    if bos is not None and len(ids) > 1 and ids[0] == ids[1] == bos:
        raise BadRow("doubled_bos", f"the template begins with {tokenizer.bos_token!r} twice; expected one or none")
    return TokenRow(ids, mask)


def _template(tokenizer: PreTrainedTokenizerFast, format: ChatLmDatasetFormat, tools: Any) -> str:
    try:
        return tokenizer.get_chat_template(format.chat_template, tools)
    except ValueError as error:
        raise ConfigError(
            f"no chat template: {error}; set format.chat_template, or use a tokenizer that has one"
        ) from error


def _check_partial(mask: np.ndarray, origin: str) -> None:
    """A mask that trains nothing or everything hides a template error behind a healthy loss."""
    if mask.all() or not mask.any():
        kind = "full" if mask.any() else "empty"
        raise BadRow(
            f"{kind}_mask", f"by {origin}, the chat template trains {int(mask.sum())} of {len(mask)} tokens of the row"
        )


@dataclass(frozen=True)
class _Chat:
    """One dialogue with all that its rendering depends on."""

    tokenizer: PreTrainedTokenizerFast
    template: str
    messages: list[Message]
    tools: Any
    kwargs: dict[str, Any]

    def render(self, count: int, add_generation_prompt: bool = False) -> str:
        """The text of the first `count` messages; of none, too."""
        # A batch of one: transformers refuses a bare empty dialogue.
        return self._apply([self.messages[:count]], tokenize=False, add_generation_prompt=add_generation_prompt)[0]

    def encode(self) -> tuple[np.ndarray, list[tuple[int, int]]]:
        """Ids of the whole dialogue, and the characters [start, end) that each token stands for."""
        out = self._apply(self.messages, tokenize=True, return_dict=True, tokenizer_kwargs=_WITH_OFFSETS)
        if not out["input_ids"]:
            raise BadRow("empty_text", "the chat template renders nothing for this row")
        return np.asarray(out["input_ids"], np.int32), out["offset_mapping"]

    def encode_tagged(self) -> tuple[np.ndarray, np.ndarray]:
        out = self._apply(self.messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
        return np.asarray(out["input_ids"], np.int32), np.asarray(out["assistant_masks"], np.uint8)

    def special_tokens(self) -> set[str]:
        """Also those that are not named bos, eos and so on, such as the end of turn of a base model's tokenizer."""
        added = self.tokenizer.added_tokens_decoder.values()
        return {*self.tokenizer.all_special_tokens, *(token.content for token in added if token.special)}

    def _apply(self, conversation: list[Any], **options: Any) -> Any:
        try:
            return self.tokenizer.apply_chat_template(
                conversation,
                tools=self.tools,
                chat_template=self.template,
                **{**self.kwargs, "add_generation_prompt": False, **options},
            )
        except Exception as error:  # a template is a program: it may raise anything on a row it does not expect
            raise BadRow("template_error", f"{type(error).__name__}: {error}") from error


_WITH_OFFSETS = {"return_offsets_mapping": True}


def _encode_untagged(chat: _Chat) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask with a template that does not say what is generated."""
    text = chat.render(len(chat.messages))
    ids, offsets = chat.encode()
    starts, ends = (np.asarray(column) for column in zip(*offsets, strict=True))
    mask = np.zeros(len(ids), np.uint8)
    special = chat.special_tokens()
    for index, message in enumerate(chat.messages):
        if message["role"] != "assistant":
            continue
        start, end = _turn_span(chat, text, index, special)
        # A token that straddles the edge of a turn counts as part of it, as in transformers.
        first, last = int(np.argmax(ends > start)), int(np.flatnonzero(starts < end)[-1])
        decoded = chat.tokenizer.decode(ids[first : last + 1], clean_up_tokenization_spaces=False)
        if _comparable(decoded) != _comparable(text[start:end]):
            raise _unverified(index, f"its tokens decode to {decoded[:80]!r}, the turn is {text[start:end][:80]!r}")
        mask[first : last + 1] = 1
    return ids, mask


def _turn_span(chat: _Chat, text: str, index: int, special: set[str]) -> tuple[int, int]:
    """Characters [start, end) of `text` that the model generates in assistant turn `index`.

    From the end of the generation prompt, through the content, to the end of the special token that closes the turn.
    """
    message = chat.messages[index]
    if message.get("tool_calls"):
        raise _unverified(index, "it has tool_calls, which cannot be verified")
    before, prompt = chat.render(index), chat.render(index, add_generation_prompt=True)
    if not text.startswith(prompt):
        raise _unverified(index, "the dialogue does not begin with what is rendered as its prompt")
    header = prompt.removeprefix(before)
    # What opens a turn or a text closes none; some tokenizers end with the token that they begin with.
    bos, eos = chat.tokenizer.bos_token, chat.tokenizer.eos_token
    closers = {token for token in special if token not in header and (token != bos or token == eos)}
    content = message["content"].strip()
    # Templates for reasoning models drop or rewrap the reasoning of a turn; its answer stays.
    for answer in dict.fromkeys([content, content.split(_REASONING_END)[-1].strip()]):
        match = re.compile(re.escape(answer) + r"\s*" + _any_of(closers)).search(text, len(prompt))
        if match is None:
            continue
        lead = text[len(prompt) : match.start()]
        # Text before the answer is the model's own (a reasoning block) only after a generation prompt; without one it
        # is the header of the turn. With a special token in it, the answer was found in another turn.
        if not lead.strip() or (header and not re.search(_any_of(special), lead)):
            return len(prompt), match.end()
    raise _unverified(index, f"its content {content[:80]!r} and an end-of-turn token do not follow its prompt")


def _any_of(tokens: set[str]) -> str:
    """A pattern for the longest of `tokens`; for none, one that never matches."""
    longest_first = sorted(tokens, key=len, reverse=True)
    return f"(?:{'|'.join(re.escape(token) for token in longest_first)})" if tokens else "(?!)"


def _unverified(index: int, what: str) -> BadRow:
    return BadRow(
        "unverified_mask",
        f"assistant turn {index}: {what}. The chat template has no {{% generation %}} tags: put them around what the "
        "assistant says, its end-of-turn token included, and pass the text as format.chat_template",
    )


def _comparable(text: str) -> str:
    """Tokenizers may normalise Unicode and spaces around special tokens; neither changes which turn it is."""
    return "".join(unicodedata.normalize("NFKC", text).split())
