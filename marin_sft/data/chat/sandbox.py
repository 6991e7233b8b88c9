"""The sandbox that chat templates run in: transformers', with limits of time and size.

A template is a program that somebody published. One rendering is limited in steps (iterations of loops, and calls) and
in the characters of all values it makes, not in seconds, so a slow machine drops the same rows. A value above the limit
is refused before it is made. Rendering is deterministic: the only clock is the one passed in, and there is no
randomness.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

STEPS = 1_000_000
"""Iterations of loops and calls that one rendering may take: about a second."""
CHARACTERS = 2**30
"""Characters and list items that one rendering may make in all. One value may have a sixteenth of them."""

T = TypeVar("T")
_LONGEST = CHARACTERS // 16
_BITS = 100_000  # of a number
_COUNTED = "rounds of a loop"  # a name that no template can write
_BY_PRODUCT = frozenset("center ljust rjust zfill expandtabs indent wordwrap batch slice tojson".split())
_BY_CHANCE = ("random", "lipsum")
_WIDE = re.compile(r"\d{6}|\*|:[^}]*\{")  # of a format: a large width, or one given elsewhere


class TemplateLimit(Exception):
    """A template exceeded a limit."""


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """Renders one template at a time; `begin` is called before each rendering."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, extensions: Iterable[type[Extension]] = ()) -> None:
        from transformers.utils.chat_template_utils import _compile_jinja_template

        theirs = _compile_jinja_template("").environment
        super().__init__(
            trim_blocks=theirs.trim_blocks,
            lstrip_blocks=theirs.lstrip_blocks,
            extensions=[loopcontrols, *extensions],
        )
        self.begin()
        self.globals = {name: value for name, value in theirs.globals.items() if name != "strftime_now"}
        self.filters = {name: self._limited(name, filter) for name, filter in theirs.filters.items()}
        self.filters[_COUNTED] = self._rounds
        for name in _BY_CHANCE:
            self.globals.pop(name, None)
            self.filters.pop(name, None)

    def begin(self) -> None:
        self._steps, self._characters = STEPS, CHARACTERS

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        return super()._generate(_CountedLoops().visit(source), *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: object, right: object) -> object:
        if operator != "+":
            _check_operator(operator, left, right)
        return self._measured(self.binop_table[operator](left, right))

    def call(__self, __context: Context, __obj: object, *args: object, **kwargs: object) -> object:  # noqa: N805, as in Jinja
        __self._step(1)
        method = getattr(__obj, "__wrapped__", __obj)  # Jinja wraps the `format` of a string
        if args or kwargs:
            _check_growth(getattr(method, "__name__", ""), getattr(method, "__self__", None), args, kwargs)
        return __self._measured(super().call(__context, __obj, *args, **kwargs))

    def concat(self, blocks: Iterable[str]) -> str:  # of outputs, macros and set blocks
        blocks = list(blocks)
        self._spend(sum(map(len, blocks)))
        return "".join(blocks)

    def _limited(self, name: str, filter: Callable[..., object]) -> Callable[..., object]:
        place = 1 if hasattr(filter, "jinja_pass_arg") else 0  # of the value, after Jinja's own argument

        @functools.wraps(filter)
        def limited(*args: object, **kwargs: object) -> object:
            if args[place + 1 :] or kwargs or name == "join":
                _check_growth(name, args[place], args[place + 1 :], kwargs)
            self._spend(_size(args[place]))
            return self._measured(filter(*args, **kwargs))

        return limited

    def _rounds(self, items: Any) -> Any:
        if not hasattr(items, "__len__"):
            items = list(items)
        self._step(len(items))
        return items

    def _step(self, count: int) -> None:
        self._steps -= count
        if self._steps < 0:
            raise TemplateLimit(f"more than {STEPS:,} rounds of loops and calls")

    def _measured(self, value: T) -> T:
        self._spend(_size(value))
        return value

    def _spend(self, size: int) -> None:
        self._characters -= size
        if self._characters < 0:
            raise TemplateLimit(f"more than {CHARACTERS:,} characters made")
        _check_size(size)


class _CountedLoops(NodeTransformer):
    """Passes the items of every loop through `_rounds`, and measures `a ~ b` like `a + b`."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802, as in Jinja
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, _COUNTED, [], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return nodes.Filter(node, "string", [], [], None, None, lineno=node.lineno)


def _size(value: object) -> int:
    return len(value) if isinstance(value, str | list | tuple | dict) else 0


def _check_size(size: int) -> None:
    if size > _LONGEST:
        raise TemplateLimit(f"a value of {size:,} characters or items; at most {_LONGEST:,}")


def _check_bits(bits: int) -> None:
    if bits > _BITS:
        raise TemplateLimit(f"a number of {bits:,} bits; at most {_BITS:,}")


def _check_operator(operator: str, left: object, right: object) -> None:
    if operator == "**":
        if isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() * abs(right))
    elif operator == "%":
        if isinstance(left, str) and _WIDE.search(left):
            raise TemplateLimit("a format with a large or a computed width")
    elif isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() + right.bit_length())
    else:
        count, item = (left, right) if isinstance(left, int) else (right, left)
        if isinstance(count, int):
            _check_size(_size(item) * count)


def _check_growth(name: str, value: object, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
    """Refuse a filter or a method of `value` whose result may be much larger than its arguments."""
    given = [*args, *kwargs.values()]
    if name in _BY_PRODUCT:
        factors = [abs(arg) if isinstance(arg, int) else _size(arg) for arg in given]
        _check_size(max(_size(value), 1) * max(factors, default=1))
    elif name == "replace" and isinstance(value, str) and len(args) > 1 and isinstance(args[0], str):
        _check_size(len(value) + value.count(args[0]) * _size(args[1]))
    elif name == "join":
        items, glue = (args[0], value) if isinstance(value, str) and args else (value, next(iter(given), ""))
        if isinstance(items, list | tuple):
            _check_size(sum(map(_size, items)) + len(items) * _size(glue))
    elif name in ("format", "format_map") and isinstance(value, str) and _WIDE.search(value):
        raise TemplateLimit("a format with a large or a computed width")
