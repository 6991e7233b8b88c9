"""Functions and classes in configs: what of a module counts with them, and what does not."""

import importlib.util
import itertools
import subprocess
import sys

import pytest

from marin_sft.errors import ConfigError
from marin_sft.execution.executor import ExecutorStep
from marin_sft.execution.graph import build_graph

_count = itertools.count()

RULES = """
import functools
import json
import logging
import re
from dataclasses import dataclass
from enum import Enum

log = logging.getLogger(__name__)
SYSTEM = "Be kind."
UNUSED = 1
_TAG = re.compile("<b>")
_strip = re.compile("x+").sub

class Tone(Enum):
    WARM = "warm"

@dataclass(frozen=True)
class Limits:
    longest: int = 100
    names: tuple = ("a",)

LIMITS = Limits()

def decorated(function):
    @functools.wraps(function)
    def wrapper(row):
        return function(row) + "!"
    return wrapper

@functools.cache
def cached(text):
    return text + "cached"

def deep(text):
    return text.upper() if LIMITS.longest else HANDLERS["deep"](text)

@decorated
def helper(row, suffix="?"):
    return deep(cached(row["text"])) + suffix

HANDLERS = {"deep": deep, "helper": helper}

def unused(row):
    return UNUSED

def fmt(row, start="-"):
    log.info("row")
    inner = [HANDLERS[name](row) for name in HANDLERS]
    return start + SYSTEM + _strip("", _TAG.sub("", json.dumps(inner))) + Tone.WARM.value

@dataclass(frozen=True)
class Base:
    def clean(self, text):
        return text + SYSTEM

@dataclass(frozen=True)
class Cleaner(Base):
    level: int = 1
    PREFIX = "p"

    def __post_init__(self):
        assert self.level

    def canonical(self, row):
        return self.clean(self.PREFIX + deep(row))

@dataclass(frozen=True)
class Plain:
    level: int = 1

    def __post_init__(self):
        assert self.level
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    """A module made from a text; of several, each is called `rules` and takes the place of the one before."""

    def load(text: str):
        path = tmp_path / str(next(_count)) / "rules.py"
        path.parent.mkdir()
        path.write_text(text)
        spec = importlib.util.spec_from_file_location("rules", path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "rules", module)
        spec.loader.exec_module(module)
        return module

    return load


def body(config) -> None: ...


def fingerprint(value) -> str:
    return build_graph([ExecutorStep("s", body, {"value": value})]).roots[0].fingerprint


EDITS_OF_A_FUNCTION = [
    ('SYSTEM = "Be kind."', 'SYSTEM = "Be rude."'),
    ("return start +", "return start + start +"),
    ('start="-"', 'start="="'),
    ("text.upper()", "text.lower()"),
    ('+ "!"', '+ "!!"'),
    ('+ "cached"', '+ "kept"'),
    ('suffix="?"', 'suffix="."'),
    ('compile("<b>")', 'compile("<i>")'),
    ('compile("x+")', 'compile("y+")'),
    ("LIMITS = Limits()", "LIMITS = Limits(50)"),
    ('WARM = "warm"', 'WARM = "hot"'),
    ("import json\n", "import pickle as json\n"),
]


@pytest.mark.parametrize(("old", "new"), EDITS_OF_A_FUNCTION)
def test_what_a_function_refers_to_counts(load, old, new):
    assert RULES.count(old) == 1
    assert fingerprint(load(RULES).fmt) != fingerprint(load(RULES.replace(old, new)).fmt)


def test_what_is_written_in_a_module_is_not_told(load):
    (node,) = build_graph([ExecutorStep("s", body, {"value": load(RULES).fmt})]).nodes
    assert sorted(node.payload["config"]["value"]["refers_to"]) == [
        *("HANDLERS", "LIMITS", "SYSTEM", "Tone", "_TAG", "_strip", "cached", "deep", "json", "log"),
    ]
    assert "Be kind" not in str(node.payload)


def test_what_it_does_not_refer_to_does_not_count(load):
    edited = RULES.replace("UNUSED = 1", "UNUSED = 2").replace('PREFIX = "p"', 'PREFIX = "q"')
    assert fingerprint(load(RULES).fmt) == fingerprint(load(RULES).fmt) == fingerprint(load(edited).fmt)


EDITS_OF_A_CLASS = [
    ('PREFIX = "p"', 'PREFIX = "q"'),
    ("self.clean(", "self.clean(row + "),
    ("text.upper()", "text.lower()"),
    ("return text + SYSTEM", "return SYSTEM + text"),
    ('SYSTEM = "Be kind."', 'SYSTEM = "Be rude."'),
]


@pytest.mark.parametrize(("old", "new"), EDITS_OF_A_CLASS)
def test_a_class_with_methods_counts_as_functions_do(load, old, new):
    assert RULES.count(old) == 1
    assert fingerprint(load(RULES).Cleaner()) != fingerprint(load(RULES.replace(old, new)).Cleaner())


def test_what_a_class_does_not_refer_to_does_not_count(load):
    edited = RULES.replace("UNUSED = 1", "UNUSED = 2").replace('start="-"', 'start="="')
    assert fingerprint(load(RULES).Cleaner()) == fingerprint(load(edited).Cleaner())


def test_a_class_that_checks_its_fields_is_its_fields_alone(load):
    edited = RULES.replace("        assert self.level\n", "        assert self.level > 0\n")
    assert fingerprint(load(RULES).Plain()) == fingerprint(load(edited).Plain()) != fingerprint(load(edited).Plain(2))


def test_what_another_module_has_counts_by_name(load, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    other = tmp_path / "other_rules.py"
    other.write_text("def clip(text): return text[:3]\ndef cut(text): return text\n")
    text = "from other_rules import clip as take\ndef fmt(row):\n    return take(row)\n"
    monkeypatch.delitem(sys.modules, "other_rules", raising=False)
    before = fingerprint(load(text).fmt)
    other.write_text("def clip(text): return text[:40]\ndef cut(text): return text\n")
    importlib.reload(sys.modules["other_rules"])
    assert fingerprint(load(text).fmt) == before
    assert fingerprint(load(text.replace("clip as", "cut as")).fmt) != before


def test_a_file_that_a_function_refers_to_counts_by_its_contents(load, tmp_path):
    template = tmp_path / "template.jinja"
    template.write_text("one")
    text = f"from pathlib import Path\nFILE = Path({str(template)!r})\ndef fmt(row):\n    return FILE.read_text()\n"
    before = fingerprint(load(text).fmt)
    template.write_text("two")
    assert fingerprint(load(text).fmt) != before
    node = build_graph([ExecutorStep("s", body, {"value": load(text).fmt})]).roots[0]
    assert [content.location for content in node.contents] == [str(template)], "and is looked at again by the worker"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "MODEL = object()\n",
            r"config\.value: fmt refers to a value that cannot be part of its identity: MODEL: .* got object\.",
        ),
        ("MODEL = {1: [object()]}\n", r"MODEL: expected a value with a stable text"),
        ("from pathlib import Path\nMODEL = Path('/')\n", r"MODEL: expected a file, got the directory '/'"),
    ],
)
def test_what_cannot_count_is_an_error_that_names_it(load, text, message):
    with pytest.raises(ConfigError, match=message):
        fingerprint(load(f"{text}def fmt(row):\n    return MODEL\n").fmt)


def test_a_function_without_source_is_refused():
    names = {"__name__": "typed"}
    exec("def fmt(row):\n    return row\n", names)
    message = "the source of fmt is part of the identity but cannot be read; put it into a file"
    with pytest.raises(ConfigError, match=message):
        fingerprint(names["fmt"])


def test_a_script_has_one_identity_run_and_imported(tmp_path):
    package = tmp_path / "mine"
    package.mkdir()
    (package / "script.py").write_text(
        f"{RULES}\n"
        "from marin_sft import ExecutorStep\n"
        "from marin_sft.execution.graph import build_graph\n"
        "def body(config): ...\n"
        "config = {'a': Plain(), 'b': Cleaner(), 'c': fmt, 'd': Tone.WARM}\n"
        "print(build_graph([ExecutorStep('s', body, config)]).roots[0].directory)\n"
    )
    commands = (
        ["mine/script.py"],
        ["-m", "mine.script"],
        ["-c", "import mine.script"],
        ["-m", "marin_sft.run.command", "plan", "mine/script.py"],
    )
    printed = {
        subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        for command in commands
    }
    assert len(printed) == 1 and printed.pop().startswith("s-")
