"""The special tokens of a GGUF file: where a text begins, what ends an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from marin_sft.errors import ExportError
from marin_sft.training.models.generation import end_of_turn, is_id
from marin_sft.training.models.model_config import Fields

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PreTrainedTokenizerFast

# llama.cpp ends an answer at tokens with these texts, whatever the file says.
_ALWAYS_END = {"<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>"}
_ALWAYS_END |= {"<|end_of_text|>", "<eos>"}


@dataclass(frozen=True)
class SpecialTokens:
    """Ids; None: the tokenizer has none.

    eot, eom: further tokens that end an answer. begins: whether every text gets the BOS, ends: and the EOS.
    limits: what llama.cpp does otherwise, one sentence each.
    """

    bos: int | None
    eos: int | None
    eot: int | None
    eom: int | None
    unknown: int | None
    padding: int | None
    begins: bool
    ends: bool
    limits: tuple[str, ...] = ()

    def add_to(self, writer: GGUFWriter) -> None:
        ids = {
            writer.add_bos_token_id: self.bos,
            writer.add_eos_token_id: self.eos,
            writer.add_eot_token_id: self.eot,
            writer.add_eom_token_id: self.eom,
            writer.add_unk_token_id: self.unknown,
            writer.add_pad_token_id: self.padding,
        }
        for add, id in ids.items():
            if id is not None:
                add(id)
        writer.add_add_bos_token(self.begins)
        writer.add_add_eos_token(self.ends)


def special_tokens(tokenizer: PreTrainedTokenizerFast, config: Fields, generation: Fields) -> SpecialTokens:
    """`config`, `generation`: the fields of config.json and generation_config.json.

    Raises:
        ExportError: llama.cpp would not end an answer where transformers does.
    """
    ends = _ends(tokenizer, generation)
    eos = tokenizer.eos_token_id if tokenizer.eos_token_id in ends else ends[0]
    eot = end_of_turn(tokenizer)
    eot = eot if eot in ends and eot != eos else None
    others = [id for id in ends if id not in (eos, eot)]
    if eot is None and others:
        eot = others.pop(0)
    eom = others.pop(0) if others else None
    unheard = [token for token in tokenizer.convert_ids_to_tokens(others) if token not in _ALWAYS_END]
    if unheard:
        raise ExportError(
            f"formats: a GGUF file has room for three tokens that end an answer, generation_config.json has "
            f"{tokenizer.convert_ids_to_tokens(ends)}: give generation_eos_token_ids with three of them, or leave out "
            "'gguf'"
        )
    plain, whole = (tokenizer.encode("a", add_special_tokens=special) for special in (False, True))
    bos = next((id for id in (tokenizer.bos_token_id, config.get("bos_token_id")) if is_id(id)), None)
    adds = len(whole) > len(plain) and whole[0] == bos
    begins = adds and (tokenizer.chat_template is None or _starts_with(tokenizer, str(tokenizer.bos_token)))
    limits: tuple[str, ...] = ()
    if adds and not begins:
        limits = (
            f"the chat template does not begin with {tokenizer.bos_token!r}, which the tokenizer puts before other "
            "texts: llama.cpp puts it before none, so that chats are as in training",
        )
    return SpecialTokens(
        bos=bos,
        eos=eos,
        eot=eot,
        eom=eom,
        unknown=tokenizer.unk_token_id,
        padding=next((id for id in (tokenizer.pad_token_id, generation.get("pad_token_id")) if is_id(id)), None),
        begins=begins,
        ends=len(whole) > len(plain) and whole[-1] != plain[-1],
        limits=limits,
    )


def end_texts(tokenizer: PreTrainedTokenizerFast, generation: Fields) -> Sequence[str]:
    """The tokens that end an answer."""
    return [str(token) for token in tokenizer.convert_ids_to_tokens(_ends(tokenizer, generation))]


def _ends(tokenizer: PreTrainedTokenizerFast, generation: Fields) -> list[int]:
    """The ids that end an answer, without those that are no tokens."""
    ids: list[int] = generation["eos_token_id"]
    found = [id for id in ids if tokenizer.convert_ids_to_tokens(id) is not None]
    if not found:
        raise ExportError(
            f"generation_config.json has eos_token_id {ids}, but the tokenizer has none of them, so no answer "
            "would end: give generation_eos_token_ids to export(), or correct that file"
        )
    return found


def _starts_with(tokenizer: PreTrainedTokenizerFast, token: str) -> bool:
    """Whether a chat begins with `token`."""
    from jinja2 import TemplateError

    try:
        chat = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    except TemplateError:  # it refuses this dialogue
        return True
    return str(chat).startswith(token)
