import dataclasses
import datetime
import enum
import hashlib
import json
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marin_sft.errors import ConfigError
from marin_sft.execution.configs import resolve, settings_of
from marin_sft.execution.executor import (
    CpuConfig,
    ExecutorStep,
    InputName,
    earlier_attempts,
    execution_only,
    omitted_when,
    output_path_of,
    step_fn,
    this_output_path,
    unversioned,
    versioned,
)
from marin_sft.execution.graph import build_graph


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 0.1


@dataclasses.dataclass(frozen=True)
class OtherInner:
    rate: float = 0.1


@dataclasses.dataclass(frozen=True)
class Config:
    value: Any = None
    mesh: int = execution_only(default=1)
    added_later: str = omitted_when("old", default="old")
    output_path: str = this_output_path()


class Colour(enum.Enum):
    RED = 1


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclasses.dataclass(frozen=True)
class Numbers:
    weight: float = 1.0
    weights: dict[str, float] = dataclasses.field(default_factory=dict)
    floor: float | None = None
    warmup: int | float = 1
    anything: Any = None
    added_later: float = omitted_when(0.0, default=0.0)


def body(config: Config) -> None: ...


def formatting(row: dict) -> str:
    return row["text"]


def fingerprint(value: Any = None, fn: Any = body, name: str = "s", **fields: Any) -> str:
    return build_graph([ExecutorStep(name, fn, Config(value, **fields))]).roots[0].fingerprint


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_payload_survives_json(value):
    payload = build_graph([ExecutorStep("s", body, Config(value))]).roots[0].payload
    assert json.loads(json.dumps(payload)) == payload


@given(json_values, json_values)
def test_two_values_share_a_fingerprint_only_if_they_are_the_same_json(one, other):
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (fingerprint(one) == fingerprint(other)) == same


@given(st.dictionaries(st.text(max_size=6), st.integers(), max_size=5))
def test_order_of_a_mapping_makes_no_difference(mapping):
    assert fingerprint(mapping) == fingerprint(dict(reversed(mapping.items())))


def test_what_counts():
    base = fingerprint(Inner(0.1))
    assert fingerprint(Inner(0.2)) != base
    assert fingerprint(OtherInner(0.1)) != base, "a nested dataclass carries its class name"
    assert fingerprint(Pair(1, 2)) != fingerprint((1, 2)), "and so does a named tuple"
    assert fingerprint(versioned(Inner(0.1))) == base
    assert fingerprint({"$class": "Inner", "rate": 0.1}) != base, "a mapping cannot pass for a dataclass"


def test_what_does_not_count():
    base = fingerprint(1)
    assert fingerprint(1, name="renamed") == base
    assert fingerprint(1, mesh=4) == base
    assert fingerprint(1, added_later="old") == base
    assert fingerprint(1, added_later="new") != base
    assert fingerprint([1, unversioned(2)]) == fingerprint([1, unversioned(3)])
    assert fingerprint([CpuConfig(1)]) == fingerprint([CpuConfig(2)])
    assert fingerprint([earlier_attempts()]) == fingerprint([])


def test_kind_and_version():
    renamed = step_fn(kind="body")(partial(body))
    assert fingerprint(1, fn=renamed) == fingerprint(1), "a declared kind stands for the qualified name"
    assert fingerprint(1, fn=step_fn(kind="body", version=2)(partial(body))) != fingerprint(1)


def test_inputs_count_by_their_fingerprint():
    upstream = ExecutorStep("up", body, Config(1))
    changed = ExecutorStep("up", body, Config(2))
    renamed = ExecutorStep("renamed", body, Config(1))
    assert fingerprint(upstream) == fingerprint(output_path_of(upstream)) == fingerprint(renamed)
    assert fingerprint(upstream) != fingerprint(changed)
    assert fingerprint(upstream) != fingerprint(upstream / "x") != fingerprint(upstream / "y")
    assert fingerprint((upstream / "a").cd("b")) == fingerprint(upstream / "a/b")
    assert fingerprint(upstream.nonblocking()) != fingerprint(changed.nonblocking())
    assert fingerprint(InputName.hardcoded("x")) != fingerprint(InputName.hardcoded("y"))


def test_other_plain_values():
    values = [
        b"a",
        Colour.RED,
        datetime.timedelta(1),
        datetime.date(2026, 1, 1),
        {1, 2},
        formatting,
        this_output_path("x"),
    ]
    assert len({fingerprint(value) for value in values}) == len(values)
    assert fingerprint({"b", "a"}) == fingerprint({"a", "b"})


def test_a_float_may_be_written_as_a_whole_number():
    base = fingerprint(Numbers(1.0, {"a": 2.0}, 0.0))
    assert fingerprint(Numbers(1, {"a": 2}, 0, added_later=0)) == base
    assert fingerprint(Numbers(weight=2)) != fingerprint(Numbers())
    assert fingerprint(Numbers(weight=True)) != fingerprint(Numbers())
    assert fingerprint(Numbers(weight=2**60 + 1)) != fingerprint(Numbers(weight=2.0**60)), "which no float holds"
    # Where both may stand they are told apart: 1 is one step of warmup, 1.0 would be all of them.
    assert fingerprint(Numbers(warmup=1)) != fingerprint(Numbers(warmup=1.0))
    assert fingerprint(Numbers(anything=1)) != fingerprint(Numbers(anything=1.0))


def test_an_enum_counts_by_its_value():
    def colour(value: Any, name: str = "RED") -> enum.Enum:
        return enum.Enum("Colour", {name: value}, module=__name__)[name]

    assert fingerprint(colour(1)) == fingerprint(Colour.RED)
    assert len({fingerprint(colour(value)) for value in (1, 2, "1", ("a", 1))} | {fingerprint(colour(1, "BLUE"))}) == 5
    with pytest.raises(ConfigError, match=r"config\.value: expected a value with a stable text .* got object"):
        fingerprint(colour(object()))


def test_a_class_counts_with_its_module_and_ours_may_move():
    def made(module: str, name: str = "Inner") -> Any:
        cls = dataclasses.make_dataclass(name, [("rate", float, 0.1)], frozen=True)
        cls.__module__ = module
        return cls()

    assert fingerprint(made(__name__)) == fingerprint(made("elsewhere.test_fingerprint")) == fingerprint(Inner())
    assert fingerprint(made("strip")) != fingerprint(made("keep"))
    assert fingerprint(made("marin_sft.data.formats")) == fingerprint(made("marin_sft.data.chat.formats"))
    assert fingerprint(made("marin_sft.data.formats")) != fingerprint(made("marin_sft.data.formats", "Other"))
    assert fingerprint(made("marin_sft.data.formats")) != fingerprint(made("formats"))


def test_the_order_of_inputs_makes_no_difference():
    a, b = (ExecutorStep(name, body, Config(name)) for name in "ab")
    assert fingerprint({"a": a, "b": b}) == fingerprint({"b": b, "a": a})
    assert fingerprint({"a": a, "b": b}) != fingerprint({"a": b, "b": a})
    assert fingerprint([a, b]) != fingerprint([b, a]), "a list has an order"
    assert fingerprint([a, a]) != fingerprint([a])


def test_the_end_of_a_file_s_name_counts(tmp_path: Path):
    text = "a\tb\n1\t2\n"
    for name in ("x.csv", "x.tsv", "y.csv", "y.csv.gz"):
        (tmp_path / name).write_text(text)
    assert fingerprint(tmp_path / "x.csv") == fingerprint(tmp_path / "y.csv"), "the rest of it does not"
    assert len({fingerprint(tmp_path / name) for name in ("x.csv", "x.tsv", "y.csv.gz")}) == 3


def test_a_path_counts_by_content(tmp_path: Path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.txt").write_text("x")
    before = fingerprint(tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "two")
    assert fingerprint(tmp_path / "two") == before
    (tmp_path / "two" / "a.txt").write_text("y")
    assert fingerprint(tmp_path / "two") != before
    of_glob = fingerprint(tmp_path / "*" / "*.txt")
    (tmp_path / "two" / "b.json").write_text("not matched")
    assert fingerprint(tmp_path / "*" / "*.txt") == of_glob
    (tmp_path / "two" / "b.txt").write_text("matched")
    assert fingerprint(tmp_path / "*" / "*.txt") != of_glob
    with pytest.raises(ConfigError, match=r"config\.value: expected an existing file"):
        fingerprint(tmp_path / "absent")


def test_files_behind_links_count_and_names_are_no_patterns(tmp_path: Path):
    for name in ("big/b.txt", "data/a.txt", "rows[1].txt", "rows1.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "data/link").symlink_to("../big")
    (tmp_path / "data/link/back").symlink_to("..")
    paths = [tmp_path / "data", tmp_path / "data/**/*.txt", tmp_path / "data/*/*.txt", tmp_path / "rows[1].txt"]
    before = [fingerprint(path) for path in paths]
    (tmp_path / "big/b.txt").write_text("other")
    assert [fingerprint(path) == old for path, old in zip(paths, before, strict=True)] == [False, False, False, True]
    (tmp_path / "rows1.txt").write_text("what the name means as a pattern")
    assert fingerprint(paths[3]) == before[3]
    with pytest.raises(ConfigError, match=r"config\.value: .*dat'; did you mean '.*/data'"):
        fingerprint(tmp_path / "dat")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (object(), r"step 's' config\.value: expected a value with a stable text .* got object"),
        ([{"a": math.nan}], r"step 's' config\.value\[0\]\.a: expected a finite number, got nan"),
        (lambda row: row, r"config\.value: expected a module-level function"),
        ({1: "x"}, r"step 's' config\.value: expected string keys, got the key 1 of type int"),
        (Inner, r"config\.value: expected a value with a stable text"),
    ],
)
def test_values_without_a_stable_text_are_refused(value, message):
    with pytest.raises(ConfigError, match=message):
        fingerprint(value)


def test_versioned_takes_no_step():
    with pytest.raises(ConfigError):
        versioned(ExecutorStep("s", body, Config()))
    assert versioned(versioned(1)) == 1


@pytest.mark.parametrize("fn", [lambda config: None, partial(body)])
def test_functions_without_a_name_are_refused(fn):
    with pytest.raises(ConfigError, match="step 's' fn: expected a function that its name identifies"):
        fingerprint(1, fn=fn)


def test_the_same_in_another_process_with_another_hash_seed(tmp_path: Path):
    program = (
        "from marin_sft.execution.executor import ExecutorStep\n"
        "from marin_sft.execution.graph import build_graph\n"
        "def body(config): ...\n"
        "sets = {'x', 'y', 'z', 1, None, frozenset({'v', 'w', 2}), frozenset({3})}\n"
        "step = ExecutorStep('s', body, {'a': sets, 'b': [1.5, None, True], 'c': 'text'})\n"
        "print(build_graph([step]).roots[0].fingerprint)\n"
    )
    runs = set()
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", program]
        runs.add(subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, check=True).stdout)
    # Frozen: if this text changes, every output that anybody has is orphaned.
    text = (
        '{"config":{"a":{"$set":["x","y","z",1,null,{"$set":["v","w",2]},{"$set":[3]}]},"b":[1.5,null,true],"c":"text"},'
        '"kind":"body","schema":2,"version":1}'
    )
    assert runs == {hashlib.sha256(text.encode()).hexdigest().encode() + b"\n"}


def test_resolve_keeps_types_and_untouched_objects():
    config = {"a": [1, this_output_path("x")], "b": (Inner(), unversioned(2)), "c": [Inner()]}
    resolved = resolve(config, lambda leaf: "/out/x" if leaf == this_output_path("x") else leaf)
    assert resolved == {"a": [1, "/out/x"], "b": (Inner(), 2), "c": [Inner()]}
    assert resolved["c"] is config["c"]


@dataclasses.dataclass(frozen=True)
class Leafy:
    """Fields of many kinds, to be changed one at a time."""

    text: str = "a"
    number: float = 1.0
    flag: bool = False
    items: tuple = (1, 2)
    mapping: dict = dataclasses.field(default_factory=lambda: {"k": 1})
    inner: Inner = Inner()
    mesh: int = execution_only(default=1)
    hidden: Any = dataclasses.field(default_factory=lambda: unversioned(1))


changes = st.fixed_dictionaries(
    {},
    optional={
        "text": st.text(max_size=5),
        "number": st.floats(allow_nan=False, allow_infinity=False),
        "flag": st.booleans(),
        "items": st.tuples(st.integers(), st.text(max_size=3)),
        "mapping": st.dictionaries(st.text(max_size=3), json_values, max_size=3),
        "inner": st.floats(allow_nan=False, allow_infinity=False).map(Inner),
        "mesh": st.integers(),
        "hidden": st.integers().map(unversioned),
    },
)


@given(changes, changes)
def test_any_identity_field_counts_and_no_other(one, other):
    """Two configs have one fingerprint exactly when they agree in all fields but the execution-only ones."""
    a, b = Leafy(**one), Leafy(**other)
    identity = [f.name for f in dataclasses.fields(Leafy) if f.name not in ("mesh", "hidden")]
    texts = [repr([_plain(getattr(config, name)) for name in identity]) for config in (a, b)]
    assert (fingerprint(a) == fingerprint(b)) == (texts[0] == texts[1])


def _plain(value):
    """A text for a value in which equal values look the same: mappings sorted, tuples as lists."""
    if dataclasses.is_dataclass(value):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, dict):
        return sorted((key, _plain(item)) for key, item in value.items())
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


@given(changes)
def test_settings_are_the_fields_that_do_not_count(change):
    config = Leafy(**change)
    assert settings_of(config) == {"mesh": config.mesh, "hidden": config.hidden.value}


def test_prefix_and_working_directory_make_no_difference(tmp_path, monkeypatch):
    before = fingerprint(Leafy(), name="x")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MARIN_SFT_PREFIX", "gs://elsewhere")
    assert fingerprint(Leafy(), name="x") == before


def test_a_signed_url_counts_without_its_signature():
    def payload(text):
        return next(iter(build_graph([ExecutorStep("a", body, Config(text))]))).payload["config"]["value"]

    signed = "https://host/rows.jsonl?version=2&X-Amz-Signature={}&X-Amz-Credential=x"
    assert payload(signed.format("one")) == payload(signed.format("two")) == "https://host/rows.jsonl?version=2"
    for text in ("read https://me@host/a?sig=1", "https://host/rows.jsonl?version=2", "https://[x/?sig=1"):
        assert payload(text) == text
