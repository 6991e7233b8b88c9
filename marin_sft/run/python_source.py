"""Values as Python source, laid out as `ruff format` does for lines of 88 and of 120 characters."""

from __future__ import annotations

import itertools
import json
from collections.abc import Container, Iterable, Mapping
from dataclasses import Field, dataclass, field
from decimal import Decimal
from typing import Any

WIDTH = 88
MODULES = {
    **dict.fromkeys(("CpuConfig", "GpuConfig", "TpuPodConfig", "executor_main"), "marin_sft"),
    **dict.fromkeys(
        (
            "ChatLmDatasetFormat",
            "HfDataset",
            "PreferenceChatLmDatasetFormat",
            "TextLmDatasetFormat",
            "lm_mixture_data_config",
        ),
        "marin_sft.data",
    ),
    **dict.fromkeys(
        ("default_download", "default_tokenize", "model_step", "tokenizer_step"), "marin_sft.recipes.defaults"
    ),
    "rows_of": "marin_sft.recipes.sources",
    **dict.fromkeys(("download", "dpo", "export", "mixture", "sft", "tokenize"), "marin_sft.steps"),
    "LoraConfig": "marin_sft.training.lora_config",
    **dict.fromkeys(("TensorboardConfig", "WandbConfig"), "marin_sft.training.metrics.trackers"),
}
"""Where experiments import names of ours from."""


@dataclass(frozen=True)
class Name:
    """A name, or any other expression that fits in a line."""

    text: str


@dataclass(frozen=True)
class Call:
    """A call of a function or class of ours. comments: lines before an argument, by its name."""

    function: str
    arguments: tuple[object, ...] = ()
    keywords: Mapping[str, object] = field(default_factory=dict)
    comments: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def with_comment(self, keyword: str, *lines: str) -> Call:
        return Call(self.function, self.arguments, self.keywords, {**self.comments, keyword: lines})


def default_of(field: Field[Any]) -> object:
    """The value of a dataclass's field where none is given."""
    return field.default_factory() if callable(field.default_factory) else field.default


def assignment(name: str, value: object) -> str:
    prefix = f"{name} = "
    return prefix + source(value, before=len(prefix))


def source(value: object, *, indent: int = 0, before: int = 0, after: int = 0) -> str:
    """`value` as source, in one line where it fits.

    indent: of the line that it begins in. before, after: characters of that line around it.
    """
    line = _in_line(value)
    if line is not None and before + len(line) + after <= WIDTH:
        return line
    items, (left, right) = _items(value)
    if not items:
        return line or left + right
    inner = indent + 4
    pad = " " * inner
    body = ""
    for comment, prefix, item in items:
        body += "".join(f"{pad}# {text}\n" for text in comment)
        body += f"{pad}{prefix}{source(item, indent=inner, before=inner + len(prefix), after=1)},\n"
    return f"{left}\n{body}{' ' * indent}{right}"


def _in_line(value: object) -> str | None:
    """None: comments need lines of their own."""
    if isinstance(value, Call) and value.comments:
        return None
    items, (left, right) = _items(value)
    if not items:
        return _atom(value) if not isinstance(value, Call | dict | list | tuple) else left + right
    parts = [_in_line(item) for _, _, item in items]
    if any(part is None for part in parts):
        return None
    text = ", ".join(f"{prefix}{part}" for (_, prefix, _), part in zip(items, parts, strict=True))
    return f"{left}{text}{',' if isinstance(value, tuple) and len(value) == 1 else ''}{right}"


def _items(value: object) -> tuple[list[tuple[tuple[str, ...], str, object]], tuple[str, str]]:
    """Of each part: the comment before it, what stands before its value, its value; and the brackets."""
    match value:
        case Call():
            plain: list[tuple[tuple[str, ...], str, object]] = [((), "", item) for item in value.arguments]
            named = [(value.comments.get(key, ()), f"{key}=", item) for key, item in value.keywords.items()]
            return plain + named, (f"{value.function}(", ")")
        case dict():
            return [((), f"{_atom(key)}: ", item) for key, item in value.items()], ("{", "}")
        case list():
            return [((), "", item) for item in value], ("[", "]")
        case tuple():
            return [((), "", item) for item in value], ("(", ")")
    return [], ("", "")


def _atom(value: object) -> str:
    if isinstance(value, Name):
        return value.text
    if isinstance(value, str):
        return text(value)
    return _number(value) if isinstance(value, float) else repr(value)


def _number(value: float) -> str:
    """As people write it: 2e-5 and 2.5e-4, but 0.001."""
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    if not value or abs(value) >= 1e-3 or not isinstance(exponent, int):
        return repr(value)
    first, rest = str(digits[0]), "".join(map(str, digits[1:]))
    return f"{'-' * sign}{first}{'.' * bool(rest)}{rest}e{exponent + len(rest)}"


def text(value: str) -> str:
    """A string in double quotes, or in single ones where that saves escapes."""
    plain = json.dumps(value, ensure_ascii=False)
    if '"' in value and "'" not in value:
        return f"'{plain[1:-1].replace(chr(92) + chr(34), chr(34))}'"
    return plain


def names_in(value: object) -> set[str]:
    """The functions that are called and the names that are used in `value`."""
    if isinstance(value, Name):
        return {value.text}
    if isinstance(value, Call):
        inside = [*value.arguments, *value.keywords.values()]
        return {value.function}.union(*map(names_in, inside))
    if isinstance(value, dict):
        return set().union(*map(names_in, value.values()))
    return set().union(*map(names_in, value)) if isinstance(value, list | tuple) else set()


def imports(used: Iterable[str]) -> str:
    """The import statements for those of `used` that are ours."""
    by_module: dict[str, list[str]] = {}
    for name in sorted(used, key=lambda name: (name[0].islower(), name)):
        if name in MODULES:
            by_module.setdefault(MODULES[name], []).append(name)
    lines = []
    for module, names in sorted(by_module.items()):
        line = f"from {module} import {', '.join(names)}"
        listed = "".join(f"    {name},\n" for name in names)
        lines.append(line if len(line) <= WIDTH else f"from {module} import (\n{listed})")
    return "\n".join(lines)


def free_name(name: str, taken: Container[str]) -> str:
    """`name`, or one with a number that is not taken."""
    others = (f"{name}_{i}" for i in itertools.count(2))
    return next(free for free in itertools.chain([name], others) if free not in taken)
