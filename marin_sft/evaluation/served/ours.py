"""What the export should answer: our own rendering, tokenizer and generation in JAX, from its weights."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

import jax
import numpy as np

from marin_sft.data.chat.renderer import ChatRenderer
from marin_sft.data.tokenizer import load_tokenizer
from marin_sft.errors import ExportError
from marin_sft.evaluation.answerer import base_of, load_model, tokenizer_of
from marin_sft.evaluation.decoding import decode
from marin_sft.evaluation.served.questions import Question, todays_format
from marin_sft.evaluation.step_configs import ServedConfig
from marin_sft.export.serving import with_defaults
from marin_sft.training.compilation_cache import use_compilation_cache
from marin_sft.training.models import levanter_model
from marin_sft.training.models.generation import generation_config
from marin_sft.training.models.model_directory import ModelDirectory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_BATCH = 8


class Ours:
    """An export, or an adapter on its base, as we compute it, with the tokenizer and template that the config names.

    model_directory: the export, or the adapter's base.

    Raises:
        ExportError: there is no chat template.
        TrainingError, ConfigError: there is no model, or no tokenizer.
    """

    def __init__(self, config: ServedConfig, export: ModelDirectory) -> None:
        use_compilation_cache()
        base = base_of(export, config.base)
        self.adapter = None if base is None else export
        self.model_directory = export if base is None else ModelDirectory(base)
        self.tokenizer = _tokenizer(config, export, base)
        self.renderer = ChatRenderer(self.tokenizer, todays_format())
        stored = self.model_directory
        fields = stored.json("generation_config.json") or {"eos_token_id": stored.config.get("eos_token_id")}
        listed = fields.get("eos_token_id")
        self.listed_ends = [end for end in (listed if isinstance(listed, list) else [listed]) if end is not None]
        """The ids by which a server knows the end of an answer."""
        self.ends: list[int] = generation_config(self.tokenizer, fields)["eos_token_id"]
        """Those that should end one."""
        self.model = load_model(export, base)

    @property
    def max_length(self) -> int:
        return int(self.model.max_length)

    @property
    def vocabulary_size(self) -> int:
        """The rows of the embedding."""
        return int(self.model_directory.config["vocab_size"])

    @functools.cached_property
    def template(self) -> str:
        return str(self.tokenizer.get_chat_template())

    def answers(self, questions: Sequence[Question], max_new_tokens: int) -> list[list[int]]:
        """The greedy answer to each, up to a token of `ends`."""
        longest = max(len(question.ids) for question in questions)
        found: list[list[int]] = []
        for start in range(0, len(questions), _BATCH):
            ids = [question.ids for question in questions[start : start + _BATCH]]
            found += decode(self.model, ids, self.ends, max_new_tokens, longest, rows=_BATCH)
        return found

    def logprobs(self, prompt: list[int], answer: list[int], room: int) -> np.ndarray:
        """float32 [len(answer), vocab]: of each token, at each place of `answer`. Calls with equal `room`, at least
        the number of ids, share one compilation."""
        ids = np.zeros((1, room), np.int32)
        ids[0, : len(prompt) + len(answer)] = list(chain(prompt, answer))
        logits = levanter_model.logits(self.model, ids)[0, len(prompt) - 1 : len(prompt) + len(answer) - 1]
        return np.asarray(jax.nn.log_softmax(logits, axis=-1))


def _tokenizer(config: ServedConfig, export: ModelDirectory, base: str | None) -> PreTrainedTokenizerFast:
    tokenizer = tokenizer_of(export, base) if config.tokenizer is None else load_tokenizer(config.tokenizer)
    template = config.chat_template or tokenizer.chat_template
    tokenizer.chat_template = with_defaults(template, config.chat_template_kwargs)
    named = tokenizer.chat_template
    if named is None or (isinstance(named, dict) and "default" not in named):
        found = f"templates {sorted(named)}, and none named 'default'" if named else "no chat template"
        raise ExportError(
            f"{config.tokenizer or config.model}: {found}, so a server would refuse chats or make up a template; set "
            "chat_template in the format of tokenize() (marin-sft sft: --chat_template FILE) and export again"
        )
    return tokenizer
