"""Values as source: it says the value, and `ruff format` leaves it as it is."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marin_sft.run.python_source import Call, Name, assignment, names_in, source

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.lists(inner).map(tuple),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(VALUES)
def test_source_says_the_value(value):
    scope = {}
    exec(assignment("value", value), scope)
    assert scope["value"] == value


@settings(max_examples=1, deadline=None)
@given(st.lists(VALUES, min_size=40, max_size=40))
def test_ruff_format_leaves_it(values):
    text = "".join(f"{assignment(f'value_{i}', value)}\n" for i, value in enumerate(values))
    for width in (88, 120):
        assert formatted(text, width) == text


def formatted(text, width):
    ruff = str(Path(sys.executable).with_name("ruff"))
    command = [ruff, "format", "--isolated", f"--line-length={width}", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2e-5, "2e-5"), (0.00025, "2.5e-4"), (0.001, "0.001"), (-1e-6, "-1e-6"), (0.0, "0.0"), (1e-12, "1e-12"),
        ('say "hi"', "'say \"hi\"'"), ("a\nb", '"a\\nb"'), (("x",), '("x",)'), (Name("MODEL"), "MODEL"),
        (Call("f", (1,), {"a": [2]}), "f(1, a=[2])"), (Call("f"), "f()"), ({}, "{}"), ((), "()"),
    ],
)  # fmt: skip
def test_as_people_write_it(value, text):
    assert source(value) == text


def test_a_long_call_has_an_argument_a_line():
    call = Call("train", (Name("NAME"),), {"rate": 1e-4, "modules": [f"layer_{i}" for i in range(12)]})
    text = assignment("trained", call.with_comment("rate", "as there"))
    assert text.startswith("trained = train(\n    NAME,\n    # as there\n    rate=1e-4,\n    modules=[\n        ")
    assert formatted(f"{text}\n", 88) == f"{text}\n"
    assert names_in(call) == {"train", "NAME"}
