import json

import numpy as np
import pytest

from marin_sft.data.chat import TokenRow
from marin_sft.data.files import read_array, write_json
from marin_sft.data.mixture import MixtureConfig, mixture, read_mixture, read_packs
from marin_sft.data.token_cache import TokenCache, write_token_cache
from marin_sft.errors import ConfigError, DataError


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


def test_counts(parts, tmp_path):
    out = f"{tmp_path}/out"
    mixture(MixtureConfig(parts, WEIGHTS, seq_len=8, output_path=out))
    about = read_mixture(out)
    assert about["seq_len"] == 8 and about["vocabulary"] == "v"
    a = about["components"]["a"]
    # 8 | 20 -> 8 | 5 + 3 | 2
    assert a == {
        "weight": 2.0,
        "train": {
            "documents": 5,
            "rows": 4,
            "tokens": 26,
            "trained_tokens": 21,
            "truncated": 1,
            "dropped": {"over_length": 0, "no_trained_token": 0},
        },
    }
    assert about["components"]["b/c"]["train"]["rows"] == 2 and about["components"]["b/c"]["validation"]["rows"] == 1
    assert about["components"]["eval"]["train"]["documents"] == 2
    trained = read_array(f"{out}/packs/a/train/trained.npy")
    packs = read_packs(out, "a", "train")
    lengths = np.minimum(TokenCache.open(f"{parts['a']}/train").lengths, 8)
    assert trained.tolist() == packs.sums(lengths - 1).tolist() and trained.sum() == 21
    assert json.loads((tmp_path / "out/metrics.json").read_text())["rows"] == 6


def test_no_packing_and_drop(parts, tmp_path):
    out = f"{tmp_path}/out"
    mixture(MixtureConfig(parts, WEIGHTS, 8, packing=False, over_length="drop", output_path=out))
    a = read_mixture(out)["components"]["a"]["train"]
    assert (a["documents"], a["rows"], a["dropped"]["over_length"]) == (4, 4, 1)
    assert read_packs(out, "a", "train").docs.tolist() == [0, 1, 2, 4]


def test_truncated_to_nothing_trained(tmp_path):
    tokenized = {"a": write_tokenized(tmp_path / "a", [5, 20], trained_from=4)}
    out = f"{tmp_path}/out"
    mixture(MixtureConfig(tokenized, {"a": 1.0}, 5, output_path=out))
    assert read_mixture(out)["components"]["a"]["train"]["trained_tokens"] == 2
    with pytest.raises(DataError, match="none of 2 documents"):
        mixture(MixtureConfig(tokenized, {"a": 1.0}, 4, output_path=out))
    tokenized = {"b": write_tokenized(tmp_path / "b", [9, 9, 5], trained_from=4)}
    mixture(MixtureConfig(tokenized, {"b": 1.0}, 5, over_length="drop", output_path=out))
    assert read_packs(out, "b", "train").docs.tolist() == [2]


def test_same_input_same_bytes(parts, tmp_path, helpers):
    for name in ("x", "y/z"):
        mixture(MixtureConfig(parts, WEIGHTS, 8, output_path=f"{tmp_path}/{name}"))
    assert helpers.tree_hash(tmp_path / "x") == helpers.tree_hash(tmp_path / "y/z")


def test_data_errors(parts, tmp_path):
    out = f"{tmp_path}/out"
    with pytest.raises(DataError, match="longer than 8"):
        mixture(MixtureConfig(parts, WEIGHTS, 8, over_length="raise", output_path=out))
    other = write_tokenized(tmp_path / "other", [4], vocabulary="w")
    with pytest.raises(DataError, match="different tokenizers"):
        mixture(MixtureConfig(parts | {"o": other}, WEIGHTS | {"o": 1.0}, 8, output_path=out))
    held_out = write_tokenized(tmp_path / "held_out", [4], split="validation")
    with pytest.raises(DataError, match="no train split"):
        mixture(MixtureConfig({"h": held_out}, {"h": 1.0}, 8, output_path=out))
    with pytest.raises(DataError, match="no stats.json"):
        mixture(MixtureConfig({"h": str(tmp_path)}, {"h": 1.0}, 8, output_path=out))
    with pytest.raises(DataError, match="no mixture.json"):
        read_mixture(str(tmp_path))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"weights": {"a": 1.0}}, "differ in .'b'"),
        ({"weights": {"a": 0.0, "b": 0.0}}, "at least one above 0"),
        ({"weights": {"a": -1.0, "b": 1.0}}, "at least 0"),
        ({"weights": {"a": float("nan"), "b": 1.0}}, "finite"),
        ({"seq_len": 1}, "at least 2"),
        ({"over_length": "split"}, "expected one of"),
        ({"tokenized": {"a": "", "../b": ""}, "weights": {"a": 1.0, "../b": 1.0}}, "component name"),
    ],
)
def test_config_errors(changes, message):
    with pytest.raises(ConfigError, match=message):
        MixtureConfig(**{"tokenized": {"a": "", "b": ""}, "weights": {"a": 1.0, "b": 1.0}, "seq_len": 8} | changes)
