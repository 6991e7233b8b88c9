"""A YAML file of another tool: its values, the line of each key, and which keys were read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NoReturn, TypeVar

import yaml

from marin_sft.errors import UserError
from marin_sft.paths import nearest_path

T = TypeVar("T")
_YES, _NO = ("true", "yes", "on"), ("false", "no", "off")


class Section(dict[str, Any]):
    """A mapping of the file. A key without a value counts as absent.

    file: as the user named it. name: the keys that lead here, with a dot after each. lines: of each key.
    read: the keys that were asked for. origins: where a setting of ours was given, by its name.
    """

    def __init__(self, file: str, name: str = "") -> None:
        super().__init__()
        self.file, self.name = file, name
        self.lines: dict[str, int] = {}
        self.read: set[str] = set()
        self.origins: dict[str, str] = {}

    def has(self, key: str) -> bool:
        self.read.add(key)
        return self.get(key) is not None

    def value(self, key: str, default: Any = None) -> Any:
        self.read.add(key)
        value = self.get(key)
        return default if value is None else value

    def text(self, key: str, default: T = None) -> str | T:  # type: ignore[assignment]
        value = self.value(key)
        if value is None:
            return default
        return value if isinstance(value, str) else self.refuse(key, "a text")

    def number(self, key: str, default: T = None) -> float | T:  # type: ignore[assignment]
        """A number in quotes counts, as it does for the tools; 3.0 is 3."""
        value = self.value(key)
        if value is None:
            return default
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                self.refuse(key, "a number")
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse(key, "a number")
        return int(value) if value >= 1 and value == int(value) else value

    def count(self, key: str, default: T = None) -> int | T:  # type: ignore[assignment]
        value = self.number(key)
        if value is None:
            return default
        return int(value) if value == int(value) else self.refuse(key, "a whole number")

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.value(key)
        if value is None or value == "":
            return default
        if isinstance(value, str) and value.lower() in (*_YES, *_NO):
            return value.lower() in _YES
        return value if isinstance(value, bool) else self.refuse(key, "true or false")

    def section(self, key: str) -> Section | None:
        value = self.value(key)
        return value if value is None or isinstance(value, Section) else self.refuse(key, "a mapping")

    def sections(self, key: str) -> list[Section]:
        """A list of mappings, or one mapping."""
        value = self.value(key)
        found = [] if value is None else value if isinstance(value, list) else [value]
        return found if all(isinstance(one, Section) for one in found) else self.refuse(key, "a list of mappings")

    def texts(self, key: str) -> list[str]:
        """A list of texts, or texts with commas between."""
        value = self.value(key)
        found = [] if value is None else value.split(",") if isinstance(value, str) else value
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            self.refuse(key, "a list of texts")
        return [one.strip() for one in found]

    def unread(self) -> Iterator[str]:
        """The keys with a value that nothing asked for."""
        return (key for key, value in self.items() if value is not None and key not in self.read)

    def where(self, key: str) -> str:
        return f"{self.file}:{self.lines[key]}: {self.name}{key}"

    def refuse(self, key: str, expected: str) -> NoReturn:
        raise UserError(f"{self.where(key)}: got {shown(self.get(key))}; expected {expected}")


def shown(value: object) -> str:
    """A value in a message: in one line, and not long."""
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_config(path: str) -> Section:
    """The top of the file.

    Raises:
        UserError: no such file, no YAML, or no mapping.
    """
    return parse_config(read_text(path), path)


def read_text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(
            f"{path}: expected the YAML file of a training; there is no such file{nearest_path(path)}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


def parse_config(text: str, path: str) -> Section:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        top = _value(loader, node, path, "") if node is not None else None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {error}") from None
    finally:
        loader.dispose()
    if not isinstance(top, Section):
        raise UserError(f"{path}: expected a mapping of keys to values")
    return top


class _Loader(yaml.SafeLoader):
    """Reads 2e-5 as a number, as the tools do."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def _value(loader: _Loader, node: yaml.Node, file: str, name: str) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return [_value(loader, item, file, f"{name.removesuffix('.')}[{i}].") for i, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node, deep=True)
    section = Section(file, name)
    own = {key.value: key.start_mark.line + 1 for key, _ in node.value}
    if len(own) < len(node.value):
        _refuse_twice(node, file, name)
    loader.flatten_mapping(node)  # what `<<` takes over comes first
    for key, item in node.value:
        section[str(key.value)] = _value(loader, item, file, f"{name}{key.value}.")
        section.lines[str(key.value)] = own.get(key.value, key.start_mark.line + 1)
    return section


def _refuse_twice(node: yaml.MappingNode, file: str, name: str) -> NoReturn:
    first: dict[str, int] = {}
    for key, _ in node.value:
        if key.value in first:
            line = key.start_mark.line + 1
            raise UserError(f"{file}:{line}: {name}{key.value} is there twice, first in line {first[key.value]}")
        first[key.value] = key.start_mark.line + 1
    raise AssertionError(name)
