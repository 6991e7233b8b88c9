import dataclasses
import subprocess
import sys

import pytest

from marin_sft.data import (
    ChatLmDatasetFormat,
    TokenizeConfig,
    add_validation_sets_to_mixture,
    interpolate_mixture_weights,
    lm_data_config,
    lm_mixture_data_config,
    lm_varying_mixture_data_config,
    mixture_for_evaluation,
)
from marin_sft.errors import ConfigError
from marin_sft.execution.graph import build_graph
from marin_sft.execution.step import ExecutorStep, InputName, unversioned
from marin_sft.steps import mixture, sft, train_tokenizer
from marin_sft.steps import tokenize as tokenize_rows

TOKENIZER = train_tokenizer("t", ["rows.jsonl"], vocab_size=400)


def tokenized(name, tokenizer=TOKENIZER, **format):
    config = TokenizeConfig(("rows.jsonl",), tokenizer, ChatLmDatasetFormat(**format))
    return ExecutorStep(f"tokenized/{name}", config=config)


CHAT, CODE, HELD_OUT = tokenized("chat"), tokenized("code", pack=4), tokenized("held_out", pack=False)
PARTS = {"chat": CHAT, "code": CODE, "held_out": HELD_OUT}


def test_mixture():
    data = lm_mixture_data_config(PARTS, {"chat": 3, "code": 1})
    assert data.train_weights == ((0, {"chat": 3, "code": 1, "held_out": 0.0}),)
    assert data.tokenized == PARTS and data.training == ["chat", "code"]
    assert data.pack == {"chat": True, "code": 4, "held_out": False}
    assert lm_mixture_data_config(PARTS, {"chat": 3}, pack=False).pack == dict.fromkeys(PARTS, False)
    with pytest.raises(ConfigError, match=r"differ in \['held_out'\]"):
        lm_mixture_data_config(PARTS, {"chat": 3, "code": 1}, missing_weights_are_validation=False)


def test_equal_mixtures_have_one_identity(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}")
    tokenizer = train_tokenizer("t", [rows], vocab_size=400)
    parts = {name: tokenize_rows(name, rows, tokenizer=tokenizer) for name in "ab"}

    def fingerprint(order, weights, **options):
        step = mixture("m", {name: parts[name] for name in order}, weights=weights, seq_len=64, **options)
        return build_graph([step]).roots[0].fingerprint

    base = fingerprint("ab", {"a": 1.0, "b": 2.0})
    assert fingerprint("ba", {"b": 2, "a": 1}) == fingerprint("ab", [(0, {"a": 1, "b": 2})]) == base
    assert fingerprint("ab", {"a": 1.0, "b": 2.0}, missing_weights_are_validation=False) == base
    assert fingerprint("ab", {"a": 2.0, "b": 1.0}) != base


def test_one_training_set():
    data = lm_data_config(CHAT, {"held_out": HELD_OUT}, shuffle=100, max_train_batches={"chat": 3})
    assert data.training == ["chat"] and set(data.tokenized) == {"chat", "held_out"}
    assert data.shuffle == 100 and data.max_train_batches == {"chat": 3}
    with pytest.raises(ConfigError, match="training set's name"):
        lm_data_config(CHAT, {"chat": HELD_OUT})


def test_varying_weights():
    data = lm_varying_mixture_data_config(PARTS, [(0, {"chat": 1}), (100, {"chat": 1, "code": 1})])
    assert [start for start, _ in data.train_weights] == [0, 100] and data.training == ["chat", "code"]
    for starts in ([1, 2], [0, 5, 5], [0, 9, 4], []):
        with pytest.raises(ConfigError, match="ascending steps, the first 0"):
            lm_varying_mixture_data_config(PARTS, [(start, {"chat": 1}) for start in starts])
    with pytest.raises(ConfigError, match=r"from step \[5\] on; expected one in each stage"):
        lm_varying_mixture_data_config(PARTS, [(0, {"chat": 1}), (5, {})])


def test_validation_sets_are_added():
    data = lm_varying_mixture_data_config({"chat": CHAT}, [(0, {"chat": 1}), (9, {"chat": 2})])
    more = add_validation_sets_to_mixture(data, {"held_out": HELD_OUT, "chat": CODE})
    assert more.train_weights == ((0, {"chat": 1, "held_out": 0.0}), (9, {"chat": 2, "held_out": 0.0}))
    assert more.tokenized == {"chat": CHAT, "held_out": HELD_OUT} and more.pack == {"chat": True, "held_out": False}
    assert mixture_for_evaluation(PARTS).training == []


def test_interpolated_weights():
    mixed = interpolate_mixture_weights([{"a": 3, "b": 1}, {"b": 10}], [0.4, 0.6])
    assert mixed == pytest.approx({"a": 0.3, "b": 0.7})
    for weights in ([0.5, 0.4], [1.0]):
        with pytest.raises(ConfigError, match="expected"):
            interpolate_mixture_weights([{"a": 3}, {"b": 10}], weights)
    with pytest.raises(ConfigError, match="above 0"):
        interpolate_mixture_weights([{"a": 0}], [1.0])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"weights": {"chat": 1, "typo": 1}}, r"differ in \['typo'\]"),
        ({"weights": {}}, "expected one above 0"),
        ({"weights": {"chat": -1.0}}, "at least 0"),
        ({"weights": {"chat": float("nan")}}, "finite"),
        ({"over_length": "cut"}, "over_length='cut'; expected"),
        ({"weights_are": "bytes"}, "weights_are='bytes'; expected"),
        ({"stop_strategy": "never"}, "stop_strategy='never'; expected"),
        ({"stop_strategy": "restrat"}, r"expected one of .*; did you mean 'restart'\?"),
        ({"stop_strategy": ["restart"]}, r"stop_strategy=\['restart'\]; expected one of"),
        ({"over_length": "truncat"}, r"did you mean 'truncate'\?"),
        ({"pack": 0}, r"pack\['chat'\]=0; expected"),
        ({"shuffle": 0}, "shuffle=0; expected True, False, or a window"),
        ({"mixture_block_size": 0}, "mixture_block_size=0"),
        ({"max_documents": {"chat": 0}}, r"max_documents\['chat'\]=0"),
        ({"max_train_batches": {"typo": 1}}, "max_train_batches names 'typo'"),
        ({"max_documents": {"held_out": 1}}, "max_documents names 'held_out'; expected one to train"),
        ({"num_validation_sequences": {"chat": 1.5}}, r"num_validation_sequences\['chat'\]=1.5"),
        ({"components": {"../b": CHAT}, "weights": {"../b": 1}}, "component '../b'"),
    ],
)
def test_config_errors(changes, message):
    with pytest.raises(ConfigError, match=message):
        lm_mixture_data_config(**{"components": PARTS, "weights": {"chat": 1}} | changes)


def test_tokenizers_are_told_apart_before_anything_runs():
    again = train_tokenizer("t", ["rows.jsonl"], vocab_size=400)
    lm_mixture_data_config({"a": CHAT, "b": tokenized("b", again), "c": InputName(CODE, "sub")}, {"a": 1})
    for other in (train_tokenizer("t", ["rows.jsonl"], vocab_size=500), "some/path", TOKENIZER / "sub"):
        different = {"a": CHAT, "b": tokenized("b", other)}
        for refused in (
            lambda different=different: lm_mixture_data_config(different, {"a": 1}),
            lambda different=different: mixture_for_evaluation(different),
            lambda different=different: add_validation_sets_to_mixture(lm_data_config(CHAT), different),
        ):
            with pytest.raises(ConfigError, match="different tokenizers: (a|chat): .*expected the same"):
                refused()


def test_values_that_identity_leaves_out():
    data = dataclasses.replace(lm_data_config(CHAT), shuffle=unversioned(5))
    assert dataclasses.replace(data, shuffle=5).shuffle == 5


def test_a_path_from_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert train_tokenizer("t", ["~/rows.jsonl"], vocab_size=400).config.train_paths == (tmp_path / "rows.jsonl",)


def test_steps():
    data = lm_mixture_data_config(PARTS, {"chat": 3, "code": 1})
    assert mixture("m", data, seq_len=8).config == mixture("m", PARTS, weights={"chat": 3, "code": 1}, seq_len=8).config
    with pytest.raises(ConfigError, match=r"got \['pack', 'weights'\] and an LmDataConfig"):
        mixture("m", data, weights={"chat": 1}, pack=True, seq_len=8)
    blend = mixture("m", mixture_for_evaluation(PARTS), seq_len=8)
    with pytest.raises(ConfigError, match="'mixtures/m': no component has a weight above 0"):
        sft("s", mixture=blend, base_model="base", train_batch_size=1, learning_rate=1.0, num_train_steps=1)
    once = mixture("m", PARTS, weights={"chat": 1}, seq_len=8, stop_strategy="first_exhausted")
    with pytest.raises(ConfigError, match="at most 1, got 2, or stop_strategy='restart'"):
        sft("s", mixture=once, base_model="base", train_batch_size=1, learning_rate=1.0, num_train_epochs=2)


def test_light():
    code = "import sys, marin_sft.data; found = {'numpy', 'jax', 'pyarrow'} & set(sys.modules); assert not found, found"
    subprocess.run([sys.executable, "-c", code], check=True)
