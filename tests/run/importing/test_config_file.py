"""YAML as the tools read it, with the line of each key."""

import pytest

from marin_sft.errors import UserError
from marin_sft.run.importing.config_file import parse_config


def parsed(text):
    return parse_config(text, "c.yml")


def test_numbers():
    config = parsed("a: 2e-5\nb: '1e-4'\nc: 3.0\nd: 5\ne: 1_000\nf: 2E-5\ng: -1.5e+3\nh: 0.5\n")
    found = {key: config.number(key) for key in config}
    assert found == {"a": 2e-5, "b": 1e-4, "c": 3, "d": 5, "e": 1000, "f": 2e-5, "g": -1500.0, "h": 0.5}
    assert isinstance(config.number("c"), int) and config.number("missing", 7) == 7


def test_texts_that_look_like_numbers_stay_texts():
    assert dict(parsed("a: 1e\nb: e5\nc: v1e5\nd: 12e4b\n")) == {"a": "1e", "b": "e5", "c": "v1e5", "d": "12e4b"}


def test_a_key_without_a_value_is_absent():
    config = parsed("adapter:\nlora_r: null\n")
    assert not config.has("adapter") and config.text("adapter", "none") == "none" and config.count("lora_r", 8) == 8
    assert list(config.unread()) == []


def test_lines_of_keys_in_lists_and_mappings():
    config = parsed("# one\na:\n  - b: 1\n    c: 2\n  - b: 3\nd:\n  e: {f: 4}\n")
    first, second = config.sections("a")
    assert (config.where("a"), first.where("c")) == ("c.yml:2: a", "c.yml:4: a[0].c")
    assert second.where("b") == "c.yml:5: a[1].b"
    inner = config.section("d").section("e")
    assert inner.where("f") == "c.yml:7: d.e.f"
    assert list(first.unread()) == ["b", "c"]


def test_merged_mappings():
    config = parsed("base: &base\n  a: 1\n  b: 2\nmine:\n  <<: *base\n  b: 3\n")
    mine = config.section("mine")
    assert (mine.number("a"), mine.number("b")) == (1, 3) and mine.where("b") == "c.yml:6: mine.b"


@pytest.mark.parametrize(
    ("text", "read", "said"),
    [
        ("a: x", "number", "c.yml:1: a: got x; expected a number"),
        ("a: true", "number", "c.yml:1: a: got true; expected a number"),
        ("a: 1.5", "count", "c.yml:1: a: got 1.5; expected a whole number"),
        ("a: 2", "flag", "c.yml:1: a: got 2; expected true or false"),
        ("a: [1]", "text", "c.yml:1: a: got [1]; expected a text"),
        ("a: 1", "section", "c.yml:1: a: got 1; expected a mapping"),
        ("a: [1]", "sections", "c.yml:1: a: got [1]; expected a list of mappings"),
        ("a: {b: 1}", "texts", "expected a list of texts"),
    ],
)
def test_values_of_another_kind(text, read, said):
    with pytest.raises(UserError) as caught:
        getattr(parsed(text), read)("a")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2\n", "c.yml:4: b.c is there twice, first in line 3"),
        ("- a\n", "c.yml: expected a mapping of keys to values"),
        ("", "c.yml: expected a mapping of keys to values"),
        ("a: b: c\n", "c.yml: not YAML: mapping values are not allowed here"),
    ],
)
def test_files_that_cannot_be_read(text, said):
    with pytest.raises(UserError) as caught:
        parsed(text)
    assert said in str(caught.value)
