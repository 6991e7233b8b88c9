import json

import numpy as np
import pytest

from marin_sft.data.chat.alignment import TokenRow
from marin_sft.data.data_configs import lm_mixture_data_config, mixture_for_evaluation
from marin_sft.data.files import write_json
from marin_sft.data.mixture import MixtureConfig, mixture
from marin_sft.data.token_cache import TokenCache
from marin_sft.errors import ConfigError, DataError
from tests.data.on_disk import read_mixture, read_packs, write_token_cache


def write_tokenized(directory, lengths, trained_from=1, split="train", vocabulary="v"):
    """A tokenize output; documents count up, and are trained from position `trained_from` on."""
    rows, next_token = [], 1
    for n in lengths:
        mask = (np.arange(n) >= trained_from).astype(np.uint8)
        rows.append(TokenRow(np.arange(next_token, next_token + n, dtype=np.int32), mask))
        next_token += n
    write_token_cache(f"{directory}/{split}", rows)
    stats = {"vocabulary": vocabulary, split: {}}
    path = directory / "stats.json"
    if path.exists():
        stats = json.loads(path.read_text()) | stats
    write_json(str(path), stats)
    return str(directory)


@pytest.fixture
def parts(tmp_path):
    write_tokenized(tmp_path / "a", [5, 3, 8, 20, 2])
    write_tokenized(tmp_path / "b/c", [4, 4, 4], split="train")
    write_tokenized(tmp_path / "b/c", [6], split="validation")
    write_tokenized(tmp_path / "eval", [7, 7])
    return {"a": f"{tmp_path}/a", "b/c": f"{tmp_path}/b/c", "eval": f"{tmp_path}/eval"}


WEIGHTS = {"a": 2.0, "b/c": 1.0, "eval": 0.0}


def make(tokenized, weights, seq_len, output_path, **options):
    data = lm_mixture_data_config(tokenized, weights, **options)
    mixture(MixtureConfig(data, seq_len, output_path=str(output_path)))
    return read_mixture(str(output_path))


def test_counts(parts, tmp_path):
    about = make(parts, WEIGHTS, 8, tmp_path / "out")
    assert about["seq_len"] == 8 and about["vocabulary"] == "v"
    a = about["components"]["a"]
    # 8 | 20 -> 8 | 5 + 3 | 2
    assert a == {
        "train": {
            "source": "train",
            "documents": 5,
            "rows": 4,
            "tokens": 26,
            "trained_tokens": 21,
            "truncated": 1,
            "split": 0,
            "dropped": {"over_length": 0, "no_trained_token": 0},
        },
    }
    assert about["components"]["b/c"]["train"]["rows"] == 2 and about["components"]["b/c"]["validation"]["rows"] == 1
    assert about["components"]["eval"]["validation"]["documents"] == 2
    rows = read_packs(f"{tmp_path}/out", "a", "train")
    assert rows.docs.tolist() == [0, 1, 2, 3, 4] and rows.offsets.tolist() == [0, 2, 3, 4, 5]
    assert rows.trained.tolist() == [6, 7, 7, 1]
    assert json.loads((tmp_path / "out/metrics.json").read_text())["rows"] == 6


def stages(about):
    return about["order"]["stages"]


def test_weights_count_what_they_say(parts, tmp_path):
    # a: 5 documents, 26 tokens, 4 rows; b/c: 3 documents, 12 tokens, 2 rows.
    weights = {"a": 1, "b/c": 1}
    by_documents = make(parts, weights, 8, tmp_path / "documents")
    (stage,) = stages(by_documents)
    share = stage["share_of_rows"]["a"]
    assert share * 5 / 4 == pytest.approx((1 - share) * 3 / 2)
    assert stage["times_seen_per_epoch"]["a"] == pytest.approx(share * 6 / 4)
    (stage,) = stages(make(parts, weights, 8, tmp_path / "tokens", weights_are="tokens"))
    share = stage["share_of_rows"]["a"]
    assert share * 26 / 4 == pytest.approx((1 - share) * 12 / 2)
    (stage,) = stages(make(parts, weights, 8, tmp_path / "rows", weights_are="rows"))
    assert stage["share_of_rows"] == {"a": 0.5, "b/c": 0.5}
    # Weights that are the numbers of documents: each is seen once in an epoch.
    (stage,) = stages(make(parts, {"a": 5, "b/c": 3}, 8, tmp_path / "once"))
    assert stage["times_seen_per_epoch"] == pytest.approx({"a": 1.0, "b/c": 1.0})


def test_policies(parts, tmp_path):
    a = make(parts, WEIGHTS, 8, tmp_path / "drop", pack=False, over_length="drop")["components"]["a"]["train"]
    assert (a["documents"], a["rows"], a["dropped"]["over_length"]) == (4, 4, 1)
    assert read_packs(f"{tmp_path}/drop", "a", "train").docs.tolist() == [0, 1, 2, 4]
    a = make(parts, WEIGHTS, 8, tmp_path / "split", over_length="split")["components"]["a"]["train"]
    assert (a["documents"], a["split"], a["tokens"], a["trained_tokens"]) == (5, 1, 38, 31)
    rows = read_packs(f"{tmp_path}/split", "a", "train")
    assert rows.starts[rows.docs == 3].tolist() == [0, 8, 16]
    a = make(parts, WEIGHTS, 8, tmp_path / "two", pack=2)["components"]["a"]["train"]
    assert a["rows"] == 4
    a = make(parts, WEIGHTS, 32, tmp_path / "most", pack=2)["components"]["a"]["train"]
    assert a["rows"] == 3 and np.diff(read_packs(f"{tmp_path}/most", "a", "train").offsets).max() == 2


def test_truncated_to_nothing_trained(tmp_path):
    tokenized = {"a": write_tokenized(tmp_path / "a", [5, 20], trained_from=4)}
    out = f"{tmp_path}/out"
    assert make(tokenized, {"a": 1.0}, 5, out)["components"]["a"]["train"]["trained_tokens"] == 2
    with pytest.raises(DataError, match="none of 2 documents"):
        make(tokenized, {"a": 1.0}, 4, out)
    tokenized = {"b": write_tokenized(tmp_path / "b", [9, 9, 5], trained_from=4)}
    make(tokenized, {"b": 1.0}, 5, out, over_length="drop")
    assert read_packs(out, "b", "train").docs.tolist() == [2]


def tokens_of(out, tokenized, split):
    rows = read_packs(str(out), "a", split)
    cache = TokenCache.open(f"{tokenized['a']}/{rows.source}")
    return {tuple(row.input_ids.tolist()) for row in cache.read(rows.docs)}


def test_documents_kept_out_and_left_out(tmp_path):
    tokenized = {"a": write_tokenized(tmp_path / "a", range(4, 44))}
    options = {"num_validation_sequences": {"a": 6}, "max_documents": {"a": 10}}
    about = make(tokenized, {"a": 1}, 64, tmp_path / "out", **options)["components"]["a"]
    assert about["validation"]["documents"] == 6 and about["train"]["documents"] == 10
    assert about["train"]["dropped"]["max_documents"] == 24
    train, validation = (tokens_of(tmp_path / "out", tokenized, split) for split in ("train", "validation"))
    assert not train & validation
    # Another ten documents, none of those before: what was validated stays, unless a new hash is lower.
    grown = {"a": write_tokenized(tmp_path / "grown", range(4, 54))}
    make(grown, {"a": 1}, 64, tmp_path / "out2", **options)
    assert not tokens_of(tmp_path / "out2", grown, "validation") & (
        tokens_of(tmp_path / "out", tokenized, "train") - tokens_of(tmp_path / "out2", grown, "train")
    )
    assert len(tokens_of(tmp_path / "out2", grown, "validation") & validation) >= 3
    with pytest.raises(DataError, match="leaves none to train on"):
        make(tokenized, {"a": 1}, 64, tmp_path / "x", num_validation_sequences={"a": 40})


def test_copies_of_a_validated_document_are_not_trained(tmp_path):
    rows = [TokenRow(np.full(5, i % 10, np.int32), np.ones(5, np.uint8)) for i in range(40)]
    write_token_cache(f"{tmp_path}/a/train", rows)
    write_json(f"{tmp_path}/a/stats.json", {"vocabulary": "v", "train": {}})
    tokenized = {"a": f"{tmp_path}/a"}
    about = make(tokenized, {"a": 1}, 8, tmp_path / "out", num_validation_sequences={"a": 2})["components"]["a"]
    assert about["validation"]["documents"] == 4 and about["train"]["documents"] == 36
    assert not tokens_of(tmp_path / "out", tokenized, "train") & tokens_of(tmp_path / "out", tokenized, "validation")


def test_for_evaluation(parts, tmp_path):
    mixture(MixtureConfig(mixture_for_evaluation(parts), 8, output_path=f"{tmp_path}/out"))
    about = read_mixture(f"{tmp_path}/out")
    assert {name: list(splits) for name, splits in about["components"].items()} == dict.fromkeys(parts, ["validation"])
    assert about["components"]["b/c"]["validation"]["source"] == "validation"


def test_same_input_same_bytes(parts, tmp_path, helpers):
    for name in ("x", "y/z"):
        make(parts, WEIGHTS, 8, tmp_path / name)
    assert helpers.tree_hash(tmp_path / "x") == helpers.tree_hash(tmp_path / "y/z")


def test_data_errors(parts, tmp_path):
    out = f"{tmp_path}/out"
    with pytest.raises(DataError, match="a/train: 1 of 5 documents are longer than 8"):
        make(parts, WEIGHTS, 8, out, over_length="raise")
    other = write_tokenized(tmp_path / "other", [4], vocabulary="w")
    with pytest.raises(DataError, match="different tokenizers"):
        make(parts | {"o": other}, WEIGHTS | {"o": 1.0}, 8, out)
    held_out = write_tokenized(tmp_path / "held_out", [4], split="validation")
    with pytest.raises(DataError, match="no train split"):
        make({"h": held_out}, {"h": 1.0}, 8, out)
    with pytest.raises(DataError, match="num_validation_sequences names 'b/c', which has a validation split"):
        make(parts, WEIGHTS, 8, out, num_validation_sequences={"b/c": 1})
    with pytest.raises(DataError, match="no stats.json"):
        make({"h": str(tmp_path)}, {"h": 1.0}, 8, out)
    with pytest.raises(DataError, match="no mixture.json"):
        read_mixture(str(tmp_path))


def test_a_row_holds_at_least_two_tokens():
    with pytest.raises(ConfigError, match="at least 2"):
        MixtureConfig(mixture_for_evaluation({"a": ""}), seq_len=1)
