"""A dialogue -> its text, and which of its characters are trained.

Ids are those of transformers' `apply_chat_template`. So is the mask, if the template marks what is generated with
`{% generation %}`. If it does not, the assistant's turns are found by rendering the template, see turn_spans.py.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from marin_sft.data.chat.alignment import Aligner, Noted, Range, SpannedText, TokenRow
from marin_sft.data.chat.frame import Frame, frame_of
from marin_sft.data.chat.notes import NoteTaker
from marin_sft.data.chat.reasoning import reveal, with_history_thinking
from marin_sft.data.chat.sandbox import TemplateLimit
from marin_sft.data.chat.special_tokens import special_tokens
from marin_sft.data.chat.templates import ChatTemplate, PinnedClock
from marin_sft.data.chat.turn_spans import find_turns, spans_of_turns, unverified
from marin_sft.data.files import Json
from marin_sft.data.formats import ChatLmDatasetFormat, TrainOn, not_for_templates
from marin_sft.data.messages.examples import BadRow, Dialogue, Message
from marin_sft.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def encode_chat(
    tokenizer: PreTrainedTokenizerFast,
    messages: list[Message],
    format: ChatLmDatasetFormat,
    tools: list[Json] | None = None,
    chat_template_kwargs: Json | None = None,
) -> TokenRow:
    """Token ids and target mask of one dialogue. For many, see encode.py.

    Raises:
        ConfigError: neither the format nor the tokenizer has a chat template.
        BadRow: `template_error`, `template_limit`, `bad_template_kwargs`, `empty_text`, `invalid_unicode`,
            `doubled_bos`, `no_assistant_turn`, `no_trained_token`, `empty_mask`, `full_mask`, `unverified_mask`,
            `calls_not_rendered`, `reasoning_not_rendered`, `content_not_rendered`, `special_tokens_in_text`.
    """
    renderer, aligner = ChatRenderer(tokenizer, format), Aligner(tokenizer)
    spanned = renderer.render(Dialogue(messages, tools, chat_template_kwargs or {}))
    row = aligner.encode([spanned])[0]
    return renderer.checked(aligner.escaped(row, spanned) if spanned.escaped else row, spanned)


@dataclass(frozen=True, eq=False)
class ChatRenderer:
    """Renders dialogues with the template of the format, else of the tokenizer."""

    tokenizer: PreTrainedTokenizerFast
    format: ChatLmDatasetFormat
    _frames: dict[ChatTemplate, Frame] = field(default_factory=dict, repr=False)
    _usual_templates: dict[bool, ChatTemplate] = field(default_factory=dict, repr=False)

    def render(self, dialogue: Dialogue, train_on: TrainOn | None = None) -> SpannedText:
        """The text of `dialogue` and what is trained. `train_on` overrides the format. Raises as `encode_chat`."""
        chat = self._chat(dialogue)
        self._clock.asked = False
        chosen = train_on or ("all" if not self.format.mask_user_turns else self.format.train_on)
        if chosen == "completion":
            chosen = "assistant" if dialogue.completes else "all"
        elif chosen == "everything":
            chosen = "all"
        flags = {i: message["train"] for i, message in enumerate(dialogue.messages) if "train" in message}
        if chosen == "all" and all(flags.values()):
            spanned = SpannedText(_checked_text(chat.render(chat.messages)))
        else:
            spanned = self._spanned(chat, chosen, flags)
        return self._noted(chat, spanned, dialogue)

    def prompt(self, dialogue: Dialogue) -> str:
        """The prompt for a model to continue `dialogue`. Raises ConfigError and BadRow as `encode_chat`."""
        chat = self._chat(dialogue)
        return _checked_text(chat.render(chat.messages, add_generation_prompt=True))

    def prompt_ids(self, prompt: str) -> list[int]:
        """The ids of the text of a prompt. The template writes the special tokens; adding them would double the BOS."""
        ids: list[int] = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        return ids

    def _spanned(self, chat: _Chat, chosen: TrainOn, flags: dict[int, bool]) -> SpannedText:
        text, tagged = chat.render_tagged()
        _checked_text(text)
        answers = [i for i, message in enumerate(chat.messages) if message["role"] == "assistant"]
        if chosen == "all":
            spans = self._spans(chat, text, tagged, [i for i, flag in flags.items() if not flag])
            return SpannedText(text, _complement(spans, len(text)))
        if not answers and not any(flags.values()):
            roles = sorted({message["role"] for message in chat.messages})
            raise BadRow("no_assistant_turn", f"roles {roles}; expected an assistant turn to train on")
        usual = set(answers[-1:] if chosen == "last" else answers)
        trained = [i for i in range(len(chat.messages)) if flags.get(i, i in usual)] if flags else sorted(usual)
        if not trained:
            raise BadRow("no_trained_token", "the `train` flags of the row leave no turn to train")
        if tagged is not None and trained == answers:
            return SpannedText(text, tagged)
        return SpannedText(text, self._spans(chat, text, tagged, trained))

    def checked(self, row: TokenRow, spanned: SpannedText) -> TokenRow:
        """`row`, made of `spanned`. Raises BadRow: `doubled_bos`, `empty_mask`, `full_mask`."""
        ids, mask = row.input_ids, row.mask
        if self._bos is not None and len(ids) > 1 and ids[0] == ids[1] == self._bos:
            token = self.tokenizer.bos_token
            raise BadRow("doubled_bos", f"the template begins with {token!r} twice; expected one or none")
        # A mask of nothing or everything is a template error that a healthy loss would hide.
        count = np.count_nonzero(mask)
        if spanned.trained is not None and count in (0, len(mask)):
            kind = "full" if count else "empty"
            raise BadRow(f"{kind}_mask", f"the chat template trains {count} of {len(mask)} tokens of the row")
        return row

    def _chat(self, dialogue: Dialogue) -> _Chat:
        kwargs = self.format.chat_template_kwargs
        if own := dialogue.chat_template_kwargs:
            kwargs = {**kwargs, **_checked_kwargs(own, self._names)}
        if kwargs:
            kwargs = {
                key: value for key, value in kwargs.items() if key != "add_generation_prompt"
            }  # it has its answer
        messages = dialogue.messages
        if any("train" in message for message in messages):
            messages = [{key: value for key, value in m.items() if key != "train"} for m in messages]
        if self.format.history_thinking:
            messages = with_history_thinking(messages, self.format.history_thinking)
        given = {**self._given, **kwargs, "tools": dialogue.tools}
        return _Chat(self._template(dialogue.tools), messages, given, self.closers)

    def _template(self, tools: list[Json] | None) -> ChatTemplate:
        # If a tokenizer has several templates, tools make the choice.
        usual = self._usual_templates.get(tools is not None)
        if usual is not None:
            return usual
        try:
            text = self.tokenizer.get_chat_template(self.format.chat_template, tools)
        except ValueError as error:
            why = "" if self.tokenizer.chat_template is None else f" ({error})"
            raise ConfigError(
                f"no chat template in the tokenizer {self.tokenizer.name_or_path!r}{why}, and the rows hold dialogues. "
                "Set format.chat_template (marin-sft sft: --chat_template FILE), or use a tokenizer that has one, such "
                "as that of an instruct model (--tokenizer_name_or_path NAME). Rows of plain text need none "
                "(TextLmDatasetFormat)"
            ) from error
        with _errors_of_templates():
            template = ChatTemplate.of(text)
        self._usual_templates[tools is not None] = template
        return template

    @functools.cached_property
    def _names(self) -> Json:
        return dict(self.tokenizer.special_tokens_map)

    @functools.cached_property
    def _clock(self) -> PinnedClock:
        return PinnedClock(self.format.template_date)

    @functools.cached_property
    def _given(self) -> Json:
        """Variables for every template."""
        return {"documents": None, "strftime_now": self._clock, **self._names}

    @functools.cached_property
    def notes(self) -> NoteTaker:
        return NoteTaker(special_tokens(self.tokenizer), self.format)

    @functools.cached_property
    def _bos(self) -> int | None:
        return self.tokenizer.bos_token_id

    @functools.cached_property
    def closers(self) -> frozenset[str]:
        """Special tokens that may close a turn, including those without a name such as bos or eos."""
        special = special_tokens(self.tokenizer)
        # A token that opens a text closes no turn, unless the tokenizer uses the same one for both.
        return frozenset(special - ({self.tokenizer.bos_token} - {self.tokenizer.eos_token}))

    def _spans(self, chat: _Chat, text: str, tagged: list[Range] | None, indices: Sequence[int]) -> list[Range]:
        """Where the messages with these numbers are in `text`: an assistant's answer, or the whole turn of another."""
        answers = [i for i in indices if chat.messages[i]["role"] == "assistant"]
        found: dict[int, list[Range]] = {}
        if answers and tagged is not None:
            found = _owners(chat, text, tagged)
        elif answers:
            found = {i: [span] for i, span in self._found_turns(chat, text, answers).items()}
        spans = [span for i in indices for span in (found.get(i, []) if i in answers else [_whole_turn(chat, text, i)])]
        return sorted(spans)

    def _noted(self, chat: _Chat, spanned: SpannedText, dialogue: Dialogue) -> SpannedText:
        """`spanned` with what `notes` finds. Raises BadRow for anything that the format does not allow."""
        if spanned.trained is not None and not any(start < end for start, end in spanned.trained):
            return spanned  # `checked` refuses it
        text, counts = spanned.text, self.notes.of_text(chat, spanned.text)
        unread = self.notes.unread_keys(chat, text, dialogue.chat_template_kwargs)
        if self._clock.asked:
            counts["template_date"] = 1
        frame = self._frames.get(chat.template)
        if frame and frame.ended_by_next and spanned.trained and frame.is_open(text, spanned.trained[-1]):
            counts["no_end_of_turn"] = 1
        if not counts and not unread:
            return spanned
        written = counts.get("special_tokens_in_text")
        escaped = self.notes.to_escape(chat, text) if written else ()
        return spanned._replace(noted=Noted(counts, unread), escaped=escaped)

    def _found_turns(self, chat: _Chat, text: str, trained: Sequence[int]) -> dict[int, Range]:
        frame = self._frame(chat, text)
        spans = spans_of_turns(chat, text, frame)
        if all(frame.is_open(text, spans[i]) for i in trained):
            raise unverified(trained[-1], "it is the last turn, which the template does not end")
        return spans

    def _frame(self, chat: _Chat, text: str) -> Frame:
        frame = self._frames.get(chat.template)
        if frame is None or not frame.header or frame.header not in text:
            frame = self._frames[chat.template] = frame_of(chat, text)
        return frame


class _Chat(NamedTuple):
    """One dialogue with everything that its rendering depends on. `special`: tokens that may close a turn."""

    template: ChatTemplate
    messages: list[Message]
    given: Json
    special: frozenset[str]

    @property
    def read(self) -> frozenset[str]:
        return self.template.names

    @property
    def variables(self) -> frozenset[str]:
        return self.template.variables

    @property
    def tools(self) -> list[Json] | None:
        tools: list[Json] | None = self.given["tools"]
        return tools

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = False, **changed: object) -> str:
        with _errors_of_templates():
            return reveal(self.template.render({**self._with(messages, add_generation_prompt), **changed}))

    def render_tagged(self) -> tuple[str, list[Range] | None]:
        """The text, and the ranges inside generation tags: None without tags."""
        if not self.template.is_tagged:
            return self.render(self.messages), None
        with _errors_of_templates():
            text, ranges = self.template.render_tagged(self._with(self.messages, False))
        return reveal(text), ranges

    def _with(self, messages: Sequence[Message], add_generation_prompt: bool) -> Json:
        return {**self.given, "messages": messages, "add_generation_prompt": add_generation_prompt}


class _errors_of_templates:
    """Turns what is raised inside into BadRow. A class, because it is entered for every row and a generator is slow."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        # A template is a program, and may raise anything.
        if isinstance(error, TemplateLimit):
            raise BadRow("template_limit", f"rendering took {error}") from error
        if isinstance(error, Exception):
            raise BadRow("template_error", f"{type(error).__name__}: {error}") from error


def _checked_kwargs(kwargs: Json, names: Json) -> Json:
    """A row's own `kwargs`, if it may give them to the template. `names` are the tokenizer's."""
    if wrong := [*not_for_templates(kwargs), *sorted(names.keys() & kwargs.keys())]:
        raise BadRow("bad_template_kwargs", f"chat_template_kwargs has {wrong}, which a row may not set")
    documents = kwargs.get("documents")
    if documents is not None and not (isinstance(documents, list) and all(isinstance(d, dict) for d in documents)):
        raise BadRow("bad_template_kwargs", "documents: expected a list of objects")
    return kwargs


def _checked_text(text: str) -> str:
    if not text:
        raise BadRow("empty_text", "the chat template renders nothing for this row")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BadRow("invalid_unicode", f"the text cannot be encoded: {error}") from error
    return text


def _owners(chat: _Chat, text: str, tagged: list[Range]) -> dict[int, list[Range]]:
    """The tagged ranges by the number of the message that they belong to."""
    turns = find_turns(chat, text)
    owned: dict[int, list[Range]] = {}
    for start, end in tagged:
        # A separate range for the end-of-turn token belongs to the turn before it.
        begun = [turn.index for turn in turns if turn.first <= end]
        if not begun:
            raise BadRow(
                "unverified_mask", f"generation tags enclose {text[start:end][:40]!r}, which belongs to no turn"
            )
        owned.setdefault(begun[-1], []).append((start, end))
    return owned


def _whole_turn(chat: _Chat, text: str, index: int) -> Range:
    start = chat.render(chat.messages[:index]) if index else ""
    end = chat.render(chat.messages[: index + 1])
    if not end.startswith(start) or not text.startswith(end):
        raise unverified(index, "its `train` flag needs a template that renders turns one after another")
    return len(start), len(end)


def _complement(spans: Sequence[Range], length: int) -> list[Range]:
    edges = [0, *(edge for span in spans for edge in span), length]
    return [(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True) if start < end]
