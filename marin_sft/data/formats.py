"""What the user says about the shape of the rows. Light values: used in experiment files.

ChatLmDatasetFormat can say everything; the others are Levanter's names for simple cases of it, see their `as_chat`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date
from typing import Literal, get_args

from marin_sft.data.files import Json
from marin_sft.data.messages.shapes import KEYS, SHAPE_BY_NAME, SHAPES
from marin_sft.data.messages.turns import CONTENT_KEYS, ROLE_KEYS, ROLES
from marin_sft.errors import ConfigError
from marin_sft.execution.step import omitted_when
from marin_sft.nearest import did_you_mean

_INSIDE_MESSAGES = ("role", "content")
HistoryThinking = Literal["keep", "strip"]
TrainOn = Literal["assistant", "last", "all"]
SpecialTokensInText = Literal["keep", "escape", "drop", "raise"]
NotRendered = Literal["calls", "reasoning", "content"]

TEMPLATE_DATE = "2024-07-26"
"""The day that Llama 3's templates name where there is no clock."""

_NOT_FOR_TEMPLATES = frozenset(
    "messages conversation conversations tools chat_template tokenize return_dict return_assistant_tokens_mask "
    "continue_final_message return_tensors padding truncation max_length tokenizer_kwargs strftime_now "
    "raise_exception".split()
)


@dataclass(frozen=True)
class ChatLmDatasetFormat:
    """Rows that hold a dialogue, in any of the shapes of shapes.py.

    Which keys of a row hold what:
    `shape`: the name of the rows' shape ("messages", "alpaca", "sharegpt", ...); None finds it out row by row.
    `messages_field`: the key of a list of messages, where it is another than the usual ones.
    `columns`: where the rows' keys are not the usual ones: from our names to theirs, e.g. {"instruction": "q"}. `role`
    and `content` are those of each message.
    `input_field`, `output_field`: the role names that the rows use for the user and for the assistant.
    `role_map`: further role names, from the rows' to the template's.
    `formatting_func`: a module-level function from a row to a text, or to a list of messages; goes before all others.

    What the dialogue is made to be:
    `default_system`: a system turn for dialogues that have none. `drop_system`: the rows' own system turns are left
    out. Both: the default replaces them. A system turn goes before the row's system column, that before the default.
    `chat_template`: Jinja text used instead of the tokenizer's own template.
    `chat_template_kwargs`: arguments of the template for all rows; a row's own go before them.
    `template_date`: the day, as in 2024-07-26, that templates are told which ask for today's.
    `special_tokens_in_text`: what becomes of "<|im_end|>" and its like where somebody wrote them: "keep" them as the
    control tokens that transformers makes of them, "escape" them to be ordinary text, "drop" the row, or "raise".
    `allow_not_rendered`: rows are kept although the template leaves out some of what they hold: "calls" of tools, the
    "reasoning" of the last turn, the "content" of messages.
    `history_thinking`: "keep" or "strip" the reasoning of all assistant turns but the last; None leaves that to the
    template.

    What is trained: `train_on` "assistant" turns (their end-of-turn token included), the "last" of them, or "all"
    tokens; a message's own `train` flag goes before it. `mask_user_turns=False` is another spelling of "all".
    `pack`: whether and how many documents share a row of a mixture; None leaves that to the mixture.

    Raises:
        ConfigError: a value that cannot be used.
    """

    messages_field: str = "messages"
    chat_template: str | None = None
    mask_user_turns: bool = True
    input_field: str = "user"
    output_field: str = "assistant"
    shape: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    role_map: dict[str, str] = field(default_factory=dict)
    formatting_func: Callable[[Json], object] | None = None
    default_system: str | None = None
    drop_system: bool = False
    chat_template_kwargs: Json = field(default_factory=dict)
    history_thinking: HistoryThinking | None = None
    train_on: TrainOn = "assistant"
    pack: bool | int | None = None
    template_date: str = omitted_when(TEMPLATE_DATE, default=TEMPLATE_DATE)
    special_tokens_in_text: SpecialTokensInText = omitted_when("keep", default="keep")
    allow_not_rendered: tuple[NotRendered, ...] = omitted_when((), default=())

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
        _check_choice("shape", self.shape, (None, *SHAPE_BY_NAME))
        _check_choice("history_thinking", self.history_thinking, (None, *get_args(HistoryThinking)))
        _check_choice("train_on", self.train_on, get_args(TrainOn))
        _check_choice("special_tokens_in_text", self.special_tokens_in_text, get_args(SpecialTokensInText))
        for kind in self.allow_not_rendered:
            _check_choice("allow_not_rendered", kind, get_args(NotRendered))
        check_template_date("template_date", self.template_date)
        check_template_kwargs("chat_template_kwargs", self.chat_template_kwargs)
        if not self.mask_user_turns and self.train_on == "last":
            raise ConfigError("mask_user_turns=False trains all tokens, train_on='last' does not; expected one of them")
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
class TextLmDatasetFormat:
    """Rows that hold plain text, all of it trained; no template."""

    text_key: str = "text"

    def as_chat(self) -> ChatLmDatasetFormat:
        return ChatLmDatasetFormat(shape="text", columns={"text": self.text_key})


@dataclass(frozen=True)
class SupervisedLmDatasetFormat:
    """Rows that hold two plain texts, of which the target is trained; no template."""

    input_key: str = "input"
    target_key: str = "target"

    def as_chat(self) -> ChatLmDatasetFormat:
        return ChatLmDatasetFormat(
            shape="prompt_completion", columns={"prompt": self.input_key, "completion": self.target_key}
        )


@dataclass(frozen=True)
class PrebuiltLmDatasetFormat:
    """Rows of token ids, and of loss weights, 0 or 1, where `loss_weights_key` names them.

    A loss weight is about the token after the one it stands at, as in Levanter.
    """

    input_ids_key: str = "input_ids"
    loss_weights_key: str | None = None

    def as_chat(self) -> ChatLmDatasetFormat:
        weights = {} if self.loss_weights_key is None else {"loss_weights": self.loss_weights_key}
        return ChatLmDatasetFormat(shape="tokens", columns={"input_ids": self.input_ids_key, **weights})


@dataclass(frozen=True)
class PreferenceChatLmDatasetFormat:
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
    """Those names of template arguments that mean something else, to the template or to what renders it."""
    return sorted(_NOT_FOR_TEMPLATES.intersection(kwargs))


def check_template_kwargs(where: str, kwargs: Iterable[str]) -> None:
    """Raises ConfigError for arguments that no template is given as such."""
    if wrong := not_for_templates(kwargs):
        raise ConfigError(
            f"{where} has {wrong}; expected the template's own arguments. A template is format.chat_template"
        )


def check_template_date(where: str, day: str) -> None:
    """Raises ConfigError for what is no day."""
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


def _check_choice(name: str, value: str | None, choices: Iterable[str | None]) -> None:
    if value not in choices:
        raise ConfigError(
            f"{name}={value!r}; expected one of {list(choices)}{did_you_mean(value or '', filter(None, choices))}"
        )


def _check_names(name: str, mapping: dict[str, str]) -> None:
    if not all(isinstance(text, str) for pair in mapping.items() for text in pair):
        raise ConfigError(f"{name}={mapping!r}; expected a dict from strings to strings")


def _check_columns(format: ChatLmDatasetFormat) -> None:
    columns = format.columns
    known = [*sorted(KEYS), *_INSIDE_MESSAGES]
    for ours in columns:
        if ours not in known:
            raise ConfigError(
                f"columns: {ours!r} is none of our names{did_you_mean(ours, known)}; expected one of {known}"
            )
    if "messages" in columns and format.messages_field not in ("messages", columns["messages"]):
        raise ConfigError(
            f"messages_field={format.messages_field!r} and columns['messages']={columns['messages']!r}; expected one"
        )
    theirs = list(format.named_keys.values())
    for their in theirs:
        if theirs.count(their) > 1:
            raise ConfigError(f"columns: {their!r} is named twice; expected a key for each of our names")
    shapes = [SHAPE_BY_NAME[format.shape]] if format.shape in SHAPE_BY_NAME else list(SHAPES)
    if not any(format.named_keys.keys() <= shape.keys for shape in shapes):
        what = f"the shape {format.shape}" if format.shape else "no one shape"
        verb = "does not know all of" if format.shape else "knows all of"
        raise ConfigError(f"columns: {what} {verb} {list(format.named_keys)}; expected keys of one shape")
