"""A kind of data that the package does not have, added as anyone would: a class of rows, listed, and a layout."""

import os
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from marin_sft.data.batches.batches import EachOnce, TrainingBatches
from marin_sft.data.batches.packed_batches import PackedBatches, ValidationBatches
from marin_sft.data.batches.table import Table
from marin_sft.data.data_configs import lm_mixture_data_config
from marin_sft.data.files import write_json
from marin_sft.data.mixture import MixtureConfig, mixture
from marin_sft.data.packing.packed_mixture import KINDS, PackedMixture
from marin_sft.data.packing.rows import Rows
from marin_sft.errors import ConfigError, DataError
from tests.data.on_disk import read_mixture, write_token_cache
from tests.data.pair_data import branch
from tests.data.test_mixture import write_tokenized as write_documents


@dataclass(frozen=True, eq=False)
class TripleRows(Rows):
    """Three answers to one prompt, of which the shortest is the best."""

    kind: ClassVar[str] = "triples"
    called: ClassVar[str] = "ranked triples"
    rows_are: ClassVar[str] = "triples"
    card: ClassVar[str] = "The best of three answers, of at most {seq_len} tokens."
    documents_each: ClassVar[int] = 3

    triples: np.ndarray
    best: np.ndarray

    @classmethod
    def check(cls, config):
        if config.data.over_length != "drop":
            raise ConfigError("triples are dropped, or kept whole")

    @classmethod
    def pack(cls, config, name, selection):
        lengths = selection.cache.lengths.reshape(-1, 3)[selection.chosen]
        fits = lengths.max(axis=1) <= config.seq_len
        trained = selection.cache.trained.reshape(-1, 3)[selection.chosen][fits]
        counts = {"documents": 3 * int(fits.sum()), "tokens": int(lengths[fits].sum())}
        rows = cls(selection.source, trained, selection.chosen[fits], lengths[fits].argmin(axis=1))
        return rows, {**counts, "dropped": {"over_length": int((~fits).sum())}}

    def read(self, cache, rows, _):
        return [row.input_ids for row in cache.read(3 * self.triples[rows] + self.best[rows])]


class BestAnswers:
    def __init__(self, table):
        self.table = table

    def batch(self, lines, part, parts):
        return self.table.numbers(lines), self.table.read(lines, TripleRows.read, absent=None)


class TripleBatches(TrainingBatches):
    def __init__(self, mixture, batch_size, seed=0):
        table = Table(mixture, TripleRows, mixture.trained, "train")
        super().__init__(table, batch_size, seed, cut_epochs=True)
        self._layout = BestAnswers(table)


class TripleValidation(EachOnce):
    def __init__(self, mixture, component, batch_size):
        table = Table(mixture, TripleRows, [component], "validation")
        super().__init__(table, batch_size)
        self._layout = BestAnswers(table)


def write_triples(directory, sizes, first):
    rows = [branch([7, 8], range(first + 10 * i + 3 * j, first + 10 * i + 3 * j + n)) for i, three in enumerate(sizes)
            for j, n in enumerate(three)]  # fmt: skip
    write_token_cache(f"{directory}/train", rows)
    write_json(f"{directory}/stats.json", {"vocabulary": "v", "train": {"kind": "triples"}})
    return str(directory)


@pytest.fixture
def triples(monkeypatch):
    monkeypatch.setitem(KINDS, TripleRows.kind, TripleRows)


def test_a_third_kind_is_a_class_and_a_line(triples, tmp_path):
    tokenized = {
        "a": write_triples(tmp_path / "a", [(3, 1, 2)] * 4 + [(1, 2, 30), (2, 3, 1)], 100),
        "b": write_triples(tmp_path / "b", [(1, 2, 3)] * 6, 1000),
    }
    data = lm_mixture_data_config(
        tokenized, {"a": 5, "b": 4}, over_length="drop", num_validation_sequences={"b": 2}, weights_are="rows"
    )
    mixture(MixtureConfig(data, 8, output_path=f"{tmp_path}/out"))
    about = read_mixture(f"{tmp_path}/out")
    assert about["kind"] == "triples"
    counts = about["components"]["a"]["train"]
    assert (counts["rows"], counts["documents"], counts["dropped"]) == (5, 15, {"over_length": 1})
    assert about["components"]["b"]["validation"]["rows"] == 2
    opened = PackedMixture.open(f"{tmp_path}/out", tokenized)
    batches = TripleBatches(opened, 4)
    assert batches.rows_per_epoch == 9 and batches.trained_tokens(0) > 0
    seen = Counter()
    for step in range(3):
        numbers, answers = batches.batch(step)
        for component, answer in zip(numbers[:, 0].tolist(), answers, strict=True):
            assert (component < 0) == (answer is None)
            if answer is not None:
                assert len(answer) == 3  # the shortest: two tokens of the prompt, one of the answer
                seen[component, int(answer[2])] += 1
    assert len(seen) == 9 and seen.keys() >= {(0, 103), (0, 113), (0, 156)}
    (held_out,) = TripleValidation(opened, "b", 2)
    assert not {int(answer[2]) for answer in held_out[1]} & {token for _, token in seen}


def test_kinds_are_told_apart_by_name(triples, tmp_path):
    held = {"t": write_triples(tmp_path / "t", [(1, 2, 3)] * 3, 100)}
    documents = {"d": write_documents(tmp_path / "d", [4, 4])}
    data = lm_mixture_data_config(held | documents, {"t": 1, "d": 1}, over_length="drop")
    with pytest.raises(DataError, match=r"\['t'\] hold ranked triples, and \['d'\] single documents"):
        mixture(MixtureConfig(data, 8, output_path=f"{tmp_path}/x"))
    with pytest.raises(ConfigError, match="dropped, or kept whole"):
        mixture(MixtureConfig(lm_mixture_data_config(held, {"t": 1}), 8, output_path=f"{tmp_path}/x"))
    data = lm_mixture_data_config(held, {"t": 1}, over_length="drop")
    with pytest.raises(ConfigError, match="max_prompt_length.*hold no preference pairs"):
        mixture(MixtureConfig(data, 8, output_path=f"{tmp_path}/x", max_prompt_length=3))
    mixture(MixtureConfig(data, 8, output_path=f"{tmp_path}/out"))
    with pytest.raises(ConfigError, match="a mixture of ranked triples; expected one of documents"):
        PackedBatches(PackedMixture.open(f"{tmp_path}/out", held), 2)


def test_mixture_json_is_read_once(tmp_path):
    tokenized = {name: write_documents(tmp_path / name, [5, 6, 7, 8]) for name in "abc"}
    data = lm_mixture_data_config(tokenized, dict.fromkeys(tokenized, 1), num_validation_sequences={"a": 1, "b": 1})
    mixture(MixtureConfig(data, 16, output_path=f"{tmp_path}/out"))
    opened = PackedMixture.open(f"{tmp_path}/out", tokenized)
    os.remove(tmp_path / "out/mixture.json")
    assert PackedBatches(opened, 2).batch(0).trained_tokens > 0
    assert [len(list(ValidationBatches(opened, name, 1))) for name in opened.validated] == [1, 1]
