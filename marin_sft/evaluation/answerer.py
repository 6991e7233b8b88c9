"""A model ready to answer: its weights, its template, and what ends an answer."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from marin_sft.data.chat.renderer import ChatRenderer
from marin_sft.data.download import PROVENANCE
from marin_sft.data.formats import ChatLmDatasetFormat
from marin_sft.data.messages.examples import BadRow, Dialogue
from marin_sft.errors import ConfigError, TrainingError
from marin_sft.evaluation import decoding, kv_cache
from marin_sft.evaluation.sampling import Sampling
from marin_sft.training.compilation_cache import use_compilation_cache
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.models import levanter_model
from marin_sft.training.models.generation import generation_config
from marin_sft.training.models.model_directory import ModelDirectory
from marin_sft.training.models.peft_directory import CONFIG as ADAPTER

if TYPE_CHECKING:
    from levanter.models.lm_model import LmHeadModel
    from transformers import PreTrainedTokenizerFast

FORMAT = ChatLmDatasetFormat(shape="messages")


@dataclass(frozen=True, eq=False)
class Answerer:
    """`ends`: the ids that end an answer."""

    model: LmHeadModel
    renderer: ChatRenderer
    ends: Sequence[int]

    @staticmethod
    def load(path: str, base: str | None = None) -> Answerer:
        """The model, or the adapter on its `base`, in a local or remote directory.

        Raises:
            ConfigError, TrainingError: no such directory, one without weights, tokenizer or template, or an adapter
                whose base is unknown or another one.
        """
        use_compilation_cache()
        directory = ModelDirectory(path)
        base = base_of(directory, base)
        tokenizer = tokenizer_of(directory, base)
        check_template(path, tokenizer)
        renderer = ChatRenderer(tokenizer, FORMAT)
        try:  # before anything large is loaded
            renderer.prompt(Dialogue([{"role": "user", "content": "a question"}]))
        except BadRow as error:
            raise ConfigError(f"{path}: its chat template cannot be used: {error.message}") from error
        ends = _ends(directory, base, tokenizer)
        return Answerer(kv_cache.unstacked(load_model(directory, base)), renderer, ends)

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        return self.renderer.tokenizer

    @property
    def longest(self) -> int:
        """How many tokens a dialogue may have."""
        return int(self.model.max_length)

    def prompt(self, dialogue: Dialogue) -> list[int]:
        """The ids that the model continues.

        Raises:
            BadRow: the template refuses the dialogue, or the model has no embedding for a token of it.
        """
        ids = self.renderer.prompt_ids(self.renderer.prompt(dialogue))
        if ids and max(ids) >= self.model.Vocab.size:
            token, rows = self.tokenizer.convert_ids_to_tokens(max(ids)), self.model.Vocab.size
            raise BadRow(
                "unknown_token",
                f"token {token!r} has id {max(ids)}, and the model has {rows} embeddings: it was made for another "
                "tokenizer",
            )
        return ids

    def stream(self, prompt: Sequence[int], max_new_tokens: int, sampling: Sampling, number: int) -> Iterator[int]:
        """See `decoding.stream`."""
        return decoding.stream(self.model, prompt, self.ends, max_new_tokens, sampling, number)

    def text(self, answer: Sequence[int]) -> str:
        """Of an answer's ids, without the one that ends it."""
        return text_of(self.tokenizer, answer[:-1] if decoding.has_ended(answer, self.ends) else answer)


def text_of(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> str:
    """Nothing is tidied up, so that the text of some ids is a part of the text of more."""
    text: str = tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
    return text


def check_template(path: str, tokenizer: PreTrainedTokenizerFast) -> None:
    """Raise ConfigError if the tokenizer of the model at `path` has no chat template."""
    try:
        tokenizer.get_chat_template()
    except ValueError as error:
        several = tokenizer.chat_template
        what = f"several chat templates, {', '.join(several)}, and no default" if several else "no chat template"
        raise ConfigError(
            f"{path} has {what}, so it is not known how it was asked in training; expected the template in "
            f"{path}/chat_template.jinja, or in chat_template of its tokenizer_config.json, as the exports of chat "
            "models have it"
        ) from error


def load_model(directory: ModelDirectory, base: str | None) -> LmHeadModel:
    """The model, or the adapter on its `base`: see `base_of`."""
    place = base or directory.path
    try:
        if base is None:
            return levanter_model.load_model(directory)
        return levanter_model.load_model(base, lora=LoraConfig(adapter_path=directory.path))
    except TrainingError as error:
        text = str(error) if any(path in str(error) for path in (place, directory.path)) else f"{place}: {error}"
        if base is not None and (place in text or "base model" in text):
            text += f". The base is {base}; {directory.path}/{ADAPTER} names {_named_base(directory)!r}"
        raise TrainingError(text) from error


def base_of(directory: ModelDirectory, base: str | None) -> str | None:
    """The directory of an adapter's base model: `base`, or what the adapter says. None: it is a model itself.

    Raises:
        ConfigError: there is no such directory, it has no model, or a base is given for a model.
    """
    if directory.json(ADAPTER) is None:
        if base is None:
            return None
        raise ConfigError(
            f"base {base!r}: {directory.path} is a model and no adapter: it has no {ADAPTER}; leave the base out"
        )
    named = _named_base(directory)
    what = f"{directory.path}/{ADAPTER}: it names no base model"
    if place := base or named:
        said = f"base {base!r}" if base else f"{directory.path}/{ADAPTER}: base_model_name_or_path = {named!r}"
        what = f"{said}: no such directory"
        with suppress(TrainingError):
            found = ModelDirectory(place)
            if found.json("config.json") is not None:
                return found.path
            is_adapter = found.json(ADAPTER) is not None
            what = f"{said}: that directory has {'an adapter too' if is_adapter else 'no config.json'}"
    raise ConfigError(f"{what}; give the directory of the model that the adapter was trained on with --base")


def _named_base(adapter: ModelDirectory) -> str:
    return str((adapter.json(ADAPTER) or {}).get("base_model_name_or_path") or "")


def note_on_base(path: str, base: str) -> str | None:
    """A sentence if the adapter at `path` names another base than the model in the directory `base`."""
    named, origin = _named_base(ModelDirectory(path)), (ModelDirectory(base).json(PROVENANCE) or {}).get("id")
    name = os.path.basename(named.rstrip("/"))
    same = named in ("", base, origin) or os.path.realpath(named) == os.path.realpath(base)
    if same or (name == os.path.basename(base.rstrip("/")) and not name.isdecimal()):
        return None
    what = f"{path} was trained on {named!r}, its {ADAPTER} says; on another model than that in {base}"
    return f"note: {what}, its answers mean nothing"


def tokenizer_of(directory: ModelDirectory, base: str | None) -> PreTrainedTokenizerFast:
    """That of an adapter, if it has one: its template may be another than the base's."""
    if base is None or directory.json("tokenizer_config.json") is not None:
        return directory.tokenizer()
    return ModelDirectory(base).tokenizer()


def _ends(directory: ModelDirectory, base: str | None, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    stored = directory.json("generation_config.json")
    if stored is None and base is not None:
        stored = ModelDirectory(base).json("generation_config.json")
    listed = (stored or {}).get("eos_token_id")
    if not all(end is None or type(end) is int for end in (listed if isinstance(listed, list) else [listed])):
        raise TrainingError(
            f"generation_config.json of {directory.path}: eos_token_id = {listed!r}: expected ids of tokens"
        )
    ends: list[int] = generation_config(tokenizer, stored)["eos_token_id"]
    if not ends:
        raise TrainingError(
            f"{directory.path}: neither generation_config.json nor the tokenizer says which token ends an answer, so "
            "none would end; set eos_token_id in generation_config.json"
        )
    return ends
