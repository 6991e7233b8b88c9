"""How users describe their rows. Light values, used in experiment files.

ChatLmDatasetFormat covers everything. The others are Levanter's names for simple cases of it, see their `as_chat`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from datetime import date
from typing import Literal, get_args

from marin_sft.arguments import NamedFields
from marin_sft.data.files import Json
from marin_sft.data.messages.shapes import KEYS, SHAPE_BY_NAME, SHAPES
from marin_sft.data.messages.turns import CONTENT_KEYS, ROLE_KEYS, ROLES
from marin_sft.errors import ConfigError
from marin_sft.execution.step import omitted_when
from marin_sft.nearest import did_you_mean

_INSIDE_MESSAGES = ("role", "content")
HistoryThinking = Literal["keep", "strip"]
TrainOn = Literal["assistant", "last", "all", "completion", "everything"]
SpecialTokensInText = Literal["keep", "escape", "drop", "raise"]
NotRendered = Literal["calls", "reasoning", "content"]

TEMPLATE_DATE = "2024-07-26"
"""The date that Llama 3's templates write if they are given no clock."""

_NOT_FOR_TEMPLATES = frozenset(
    "messages conversation conversations tools chat_template tokenize return_dict return_assistant_tokens_mask "
    "continue_final_message return_tensors padding truncation max_length tokenizer_kwargs strftime_now "
    "raise_exception".split()
)


@dataclass(frozen=True)
class ChatLmDatasetFormat(metaclass=NamedFields):
    """Rows that hold a dialogue, in any of the shapes of shapes.py.

    Raises:
        ConfigError: a value that cannot be used.
    """

    messages_field: str = "messages"
    """The key of the list of messages, if it is an unusual one."""

    chat_template: str | None = None
    """Jinja text to use instead of the tokenizer's template."""

    mask_user_turns: bool = True
    """False is another spelling of train_on="all"."""

    input_field: str = "user"
    """The name of the user's role in the rows."""

    output_field: str = "assistant"
    """The name of the assistant's role in the rows."""

    shape: str | None = None
    """The name of the rows' shape ("messages", "alpaca", "sharegpt", ...). None: detected row by row."""

    columns: dict[str, str] = field(default_factory=dict)
    """Unusual keys of the rows, as {our name: theirs}, e.g. {"instruction": "q"}. `role` and `content` are keys of each
    message."""

    role_map: dict[str, str] = field(default_factory=dict)
    """More role names, as {name in the rows: name for the template}."""

    formatting_func: Callable[[Json], object] | None = None
    """A module-level function from a row to a text or a list of messages. Takes precedence over the rest."""

    default_system: str | None = None
    """The system turn of dialogues that have none. A row's own system turn takes precedence, then its system column,
    then this."""

    drop_system: bool = False
    """Leave out the rows' own system turns. `default_system`, if set, replaces them."""

    chat_template_kwargs: Json = field(default_factory=dict)
    """Arguments of the template for all rows. A row's own take precedence."""

    history_thinking: HistoryThinking | None = None
    """Whether to "keep" or "strip" the reasoning of all assistant turns but the last. None: up to the template."""

    train_on: TrainOn = "assistant"
    """What to train: "assistant" turns with their end-of-turn tokens, the "last" of them, or "all" tokens. A
    message's own `train` flag takes precedence. Of rows with a prompt and a completion, "all" leaves out a prompt in
    plain text and earlier answers in a chat; "everything" trains prompts, too; "completion" trains the completion, and
    rows without one whole."""

    pack: bool | int | None = None
    """Whether documents share rows of a mixture, or how many may. None: up to the mixture."""

    template_date: str = omitted_when(TEMPLATE_DATE, default=TEMPLATE_DATE)
    """The date, e.g. 2024-07-26, for templates that ask for today's."""

    special_tokens_in_text: SpecialTokensInText = omitted_when("keep", default="keep")
    """What to do with special tokens such as "<|im_end|>" that somebody wrote in a text: "keep" them as the control
    tokens that transformers makes of them, "escape" them to ordinary text, "drop" the row, or "raise"."""

    allow_not_rendered: tuple[NotRendered, ...] = omitted_when((), default=())
    """Keep rows even if the template leaves out "calls" of tools, the "reasoning" of the last turn, or the "content"
    of messages."""

    def __post_init__(self) -> None:
        for name, kinds in _KINDS.items():
            _check_kind(name, getattr(self, name), kinds)
        if self.input_field == self.output_field:
            raise ConfigError(
                f"input_field and output_field are both {self.input_field!r}; expected two different role names, "
                "e.g. input_field='human', output_field='gpt'"
            )
        _check_names("columns", self.columns)
        _check_names("role_map", self.role_map)
        _check_columns(self)
        if self.formatting_func is not None and not callable(self.formatting_func):
            raise ConfigError(f"formatting_func={self.formatting_func!r}; expected a module-level function")
        if self.formatting_func is not None and self.shape is not None:
            raise ConfigError("formatting_func and shape are both set; expected one: the function reads the rows")
        check_choice("shape", self.shape, (None, *SHAPE_BY_NAME))
        check_choice("history_thinking", self.history_thinking, (None, *get_args(HistoryThinking)))
        check_choice("train_on", self.train_on, get_args(TrainOn))
        check_choice("special_tokens_in_text", self.special_tokens_in_text, get_args(SpecialTokensInText))
        for kind in self.allow_not_rendered:
            check_choice("allow_not_rendered", kind, get_args(NotRendered))
        check_template_date("template_date", self.template_date)
        check_template_kwargs("chat_template_kwargs", self.chat_template_kwargs)
        if not self.mask_user_turns and self.train_on in ("last", "completion"):
            raise ConfigError(
                f"mask_user_turns=False trains all tokens, train_on={self.train_on!r} does not; expected one of them"
            )
        if self.pack is not None and self.pack is not False and self.pack < 1:
            raise ConfigError(f"pack={self.pack}; expected True, False, or how many documents share a row, 1 or more")

    def as_chat(self) -> ChatLmDatasetFormat:
        return self

    @functools.cached_property
    def roles(self) -> dict[str, str]:
        """From the role names of the rows to those of the template."""
        usual = {name: role for role, names in ROLES.items() for name in names}
        return {**usual, self.input_field: "user", self.output_field: "assistant", **self.role_map}

    @functools.cached_property
    def named_keys(self) -> dict[str, str]:
        """The keys of a row that the format names itself, from our names to theirs."""
        named = {ours: theirs for ours, theirs in self.columns.items() if ours not in _INSIDE_MESSAGES}
        return named if self.messages_field == "messages" else {"messages": self.messages_field, **named}

    @functools.cached_property
    def role_keys(self) -> tuple[str, ...]:
        return (self.columns["role"],) if "role" in self.columns else ROLE_KEYS

    @functools.cached_property
    def content_keys(self) -> tuple[str, ...]:
        return (self.columns["content"],) if "content" in self.columns else CONTENT_KEYS


@dataclass(frozen=True)
class TextLmDatasetFormat(metaclass=NamedFields):
    """Rows that hold plain text, all of it trained; no template. An EOS ends every text."""

    text_key: str = "text"
    """The key of the text in a row."""

    add_special_tokens: bool | None = omitted_when(None, default=None, kw_only=True)
    """Whether to put the tokenizer's BOS before each text that has none. None: as the tokenizer itself does."""

    def __post_init__(self) -> None:
        _check_kind("text_key", self.text_key, (str,))
        _check_kind("add_special_tokens", self.add_special_tokens, (bool, type(None)))

    def as_chat(self) -> ChatLmDatasetFormat:
        return ChatLmDatasetFormat(shape="text", columns={"text": self.text_key})


@dataclass(frozen=True)
class SupervisedLmDatasetFormat(metaclass=NamedFields):
    """Rows that hold two plain texts. Only the target is trained; no template."""

    input_key: str = "input"
    target_key: str = "target"

    def as_chat(self) -> ChatLmDatasetFormat:
        return ChatLmDatasetFormat(
            shape="prompt_completion", columns={"prompt": self.input_key, "completion": self.target_key}
        )


@dataclass(frozen=True)
class PrebuiltLmDatasetFormat(metaclass=NamedFields):
    """Rows of token ids and, under `loss_weights_key`, of loss weights 0 or 1.

    As in Levanter, the loss weight at a position is that of the next token.
    """

    input_ids_key: str = "input_ids"
    loss_weights_key: str | None = None

    def as_chat(self) -> ChatLmDatasetFormat:
        weights = {} if self.loss_weights_key is None else {"loss_weights": self.loss_weights_key}
        return ChatLmDatasetFormat(shape="tokens", columns={"input_ids": self.input_ids_key, **weights})


@dataclass(frozen=True)
class PreferenceChatLmDatasetFormat(metaclass=NamedFields):
    """Rows that hold a better and a worse dialogue. `system_prompt` is the key of a system turn for both."""

    chosen_field: str = "chosen"
    rejected_field: str = "rejected"
    chat_template: str | None = None
    system_prompt: str | None = None
    pack: bool | int | None = None
    mask_user_turns: bool = True

    def as_chat(self) -> ChatLmDatasetFormat:
        system = {} if self.system_prompt is None else {"system": self.system_prompt}
        return ChatLmDatasetFormat(
            shape="preference",
            columns={"chosen": self.chosen_field, "rejected": self.rejected_field, **system},
            chat_template=self.chat_template,
            pack=self.pack,
            mask_user_turns=self.mask_user_turns,
        )


LmDatasetFormat = (
    ChatLmDatasetFormat
    | TextLmDatasetFormat
    | SupervisedLmDatasetFormat
    | PrebuiltLmDatasetFormat
    | PreferenceChatLmDatasetFormat
)

_KINDS: dict[str, tuple[type, ...]] = {
    "messages_field": (str,),
    "chat_template": (str, type(None)),
    "mask_user_turns": (bool,),
    "input_field": (str,),
    "output_field": (str,),
    "shape": (str, type(None)),
    "columns": (dict,),
    "role_map": (dict,),
    "default_system": (str, type(None)),
    "drop_system": (bool,),
    "chat_template_kwargs": (dict,),
    "history_thinking": (str, type(None)),
    "train_on": (str,),
    "template_date": (str,),
    "special_tokens_in_text": (str,),
    "allow_not_rendered": (tuple,),
    "pack": (bool, int, type(None)),
}


def not_for_templates(kwargs: Iterable[str]) -> list[str]:
    """Those of the names that no template argument may have: the template or its renderer uses them."""
    return sorted(_NOT_FOR_TEMPLATES.intersection(kwargs))


def check_template_kwargs(where: str, kwargs: Iterable[str]) -> None:
    """Raises ConfigError for names that no template argument may have."""
    if wrong := not_for_templates(kwargs):
        raise ConfigError(
            f"{where} has {wrong}; expected the template's own arguments. The template itself is format.chat_template"
        )


def check_template_date(where: str, day: str) -> None:
    """Raises ConfigError for anything but a date."""
    try:
        date.fromisoformat(day)
    except ValueError:
        raise ConfigError(f"{where}={day!r}; expected a day, as in {TEMPLATE_DATE!r}") from None


def shape_names() -> dict[str, str]:
    """Every name that `shape` takes, with a line about it."""
    return {name: shape.about for shape in SHAPES for name in (shape.name, *shape.aliases)}


def _check_kind(name: str, value: object, kinds: tuple[type, ...]) -> None:
    if not isinstance(value, kinds):
        expected = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
        raise ConfigError(f"{name}={value!r}; expected {expected}")


def check_choice(name: str, value: object, choices: Collection[str | None]) -> None:
    """Raises ConfigError, with the choices and the nearest one, unless `value` is one of them."""
    if value not in choices:
        near = did_you_mean(str(value or ""), filter(None, choices))
        raise ConfigError(f"{name}={value!r}; expected one of {list(choices)}{near}")


def _check_names(name: str, mapping: dict[str, str]) -> None:
    if not all(isinstance(text, str) for pair in mapping.items() for text in pair):
        raise ConfigError(f"{name}={mapping!r}; expected a dict from strings to strings")


def _check_columns(format: ChatLmDatasetFormat) -> None:
    columns = format.columns
    known = [*sorted(KEYS), *_INSIDE_MESSAGES]
    for ours in columns:
        if ours not in known:
            raise ConfigError(
                f"columns: {ours!r} is not one of our names; expected one of {known}{did_you_mean(ours, known)}"
            )
    if "messages" in columns and format.messages_field not in ("messages", columns["messages"]):
        raise ConfigError(
            f"messages_field={format.messages_field!r} and columns['messages']={columns['messages']!r}; expected one"
        )
    theirs = list(format.named_keys.values())
    for their in theirs:
        if theirs.count(their) > 1:
            raise ConfigError(f"columns: {their!r} is named twice; expected a different key for each of our names")
    shapes = [SHAPE_BY_NAME[format.shape]] if format.shape in SHAPE_BY_NAME else list(SHAPES)
    if not any(format.named_keys.keys() <= shape.keys for shape in shapes):
        what = f"the shape {format.shape}" if format.shape else "no one shape"
        verb = "does not know all of" if format.shape else "knows all of"
        raise ConfigError(f"columns: {what} {verb} {list(format.named_keys)}; expected keys of one shape")
