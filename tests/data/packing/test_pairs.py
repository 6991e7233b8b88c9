import json

import numpy as np
import pytest

from marin_sft import steps
from marin_sft.data.batches.packed_batches import PackedBatches
from marin_sft.data.batches.pair_batches import PairBatches
from marin_sft.data.data_configs import lm_mixture_data_config, mixture_for_evaluation
from marin_sft.data.mixture import MixtureConfig
from marin_sft.data.packing.packed_mixture import PackedMixture
from marin_sft.data.token_cache import TokenCache
from marin_sft.errors import ConfigError, DataError
from marin_sft.execution.identity import payload_of
from tests.data.on_disk import read_packs, read_pairs
from tests.data.pair_data import branch, made_up, write_mixture, write_tokenized
from tests.data.test_mixture import write_tokenized as write_documents

SIZES = [(4, 3, 2), (9, 1, 1), (2, 8, 3), (6, 4, 4)]


def test_counts_and_arrays(tmp_path):
    alike = branch([90, 91], [*range(92, 98), 98]), branch([90, 91], [*range(92, 98), 99])
    other = branch([80, 81, 82], [83]), branch([80, 82], [84])
    tokenized = {"a": write_tokenized(tmp_path / "a", [*made_up(SIZES), alike, other])}
    about = write_mixture(tmp_path / "out", tokenized, 8, limits={"max_prompt_length": 5})
    assert (about["kind"], about["seq_len"], about["max_prompt_length"], about["max_completion_length"]) == (
        "pairs", 8, 5, None,
    )  # fmt: skip
    assert about["components"]["a"]["train"] == {
        "source": "train",
        "pairs": 5,
        "documents": 10,
        "rows": 5,
        "tokens": (7 + 6) + (6 + 6) + (8 + 5) + (8 + 8) + (4 + 3),
        "trained_tokens": (3 + 2) + (1 + 1) + (6 + 3) + (3 + 3) + (1 + 1),
        "longest": 8,
        "longest_shared": 12,  # 5 + 3 + 3 and one more copy of the prompt's last token
        "truncated_prompts": 2,
        "truncated_completions": 2,
        "dropped": {"over_length": 0, "no_trained_token": 0, "identical_pair": 1},
    }
    rows = read_pairs(f"{tmp_path}/out", "a", "train")
    assert rows.pairs.tolist() == [0, 1, 2, 3, 5]
    assert rows.starts.tolist() == [[0, 0], [4, 4], [0, 0], [1, 1], [0, 0]]
    assert rows.lengths.tolist() == [[7, 6], [6, 6], [8, 5], [8, 8], [4, 3]]
    assert rows.trained.tolist() == [[3, 2], [1, 1], [6, 3], [3, 3], [1, 1]]
    assert rows.prompts.tolist() == [4, 5, 2, 5, 0]
    assert rows.units(False).tolist() == rows.lengths.tolist()
    assert rows.units(True).tolist() == [[10, 0], [8, 0], [12, 0], [12, 0], [4, 3]]
    assert all(getattr(rows, name).dtype == np.int64 for name in ("pairs", "starts", "lengths", "trained", "prompts"))
    assert json.loads((tmp_path / "out/metrics.json").read_text())["rows"] == 5


def test_policies(tmp_path):
    tokenized = {"a": write_tokenized(tmp_path / "a", made_up(SIZES))}
    out = tmp_path / "out"
    a = write_mixture(out, tokenized, 8, over_length="drop")["components"]["a"]["train"]
    assert a["pairs"] == 1 and a["dropped"]["over_length"] == 3
    assert read_pairs(str(out), "a", "train").pairs.tolist() == [0]
    a = write_mixture(out, tokenized, 9)["components"]["a"]["train"]
    assert a["dropped"] == {"over_length": 0, "no_trained_token": 1, "identical_pair": 0}
    assert (a["truncated_prompts"], a["truncated_completions"]) == (0, 2)
    with pytest.raises(DataError, match="a/train: 3 of 4 pairs have a branch longer than 8"):
        write_mixture(out, tokenized, 8, over_length="raise")
    with pytest.raises(DataError, match="a/train: none of 4 pairs .*'no_trained_token': 4"):
        write_mixture(out, tokenized, 2)
    with pytest.raises(ConfigError, match="over_length='split'"):
        write_mixture(out, tokenized, 8, over_length="split")
    with pytest.raises(ConfigError, match="pack={'a': False}"):
        write_mixture(out, tokenized, 8, pack=False)


def test_pairs_and_documents_do_not_mix(tmp_path):
    pairs = write_tokenized(tmp_path / "pairs", made_up(SIZES))
    documents = write_documents(tmp_path / "documents", [4, 4])
    with pytest.raises(DataError, match=r"\['p'\] hold preference pairs, and \['d'\] single documents"):
        write_mixture(tmp_path / "out", {"p": pairs, "d": documents}, 16)
    for name in ("max_prompt_length", "max_completion_length"):
        with pytest.raises(ConfigError, match=f"{name}.*hold no preference pairs"):
            write_mixture(tmp_path / "out", {"d": documents}, 16, limits={name: 5})
        with pytest.raises(ConfigError, match=f"{name}=0; expected at least 1"):
            MixtureConfig(mixture_for_evaluation({"a": ""}), 16, **{name: 0})
    write_mixture(tmp_path / "p", {"p": pairs}, 16)
    with pytest.raises(ConfigError, match="a mixture of preference pairs"):
        PackedBatches(PackedMixture.open(f"{tmp_path}/p", {"p": pairs}), 4)
    with pytest.raises(ConfigError, match="a mixture of preference pairs"):
        read_packs(f"{tmp_path}/p", "p", "train")
    assert "kind" not in write_mixture(tmp_path / "d", {"d": documents}, 16)
    with pytest.raises(ConfigError, match="a mixture of documents"):
        PairBatches(PackedMixture.open(f"{tmp_path}/d", {"d": documents}), 4)


def tokens_of(out, tokenized, split):
    rows = read_pairs(str(out), "a", split)
    cache = TokenCache.open(f"{tokenized['a']}/{rows.source}")
    documents = np.stack([2 * rows.pairs, 2 * rows.pairs + 1], 1).ravel()
    found = [tuple(row.input_ids.tolist()) for row in cache.read(documents)]
    return list(zip(found[::2], found[1::2], strict=True))


def test_kept_out_pairs_are_whole_and_copies_stay_together(tmp_path):
    pairs = made_up([(3, 2 + i % 5, 2 + i % 3) for i in range(30)])
    turned = [(rejected, chosen) for chosen, rejected in pairs[:3]]  # no copies of them
    tokenized = {"a": write_tokenized(tmp_path / "a", [*pairs, *pairs[:15], *turned])}
    options = {"num_validation_sequences": {"a": 6}, "max_documents": {"a": 20}}
    about = write_mixture(tmp_path / "out", tokenized, 32, **options)["components"]["a"]
    train, validation = (tokens_of(tmp_path / "out", tokenized, split) for split in ("train", "validation"))
    assert not set(train) & set(validation) and len(train) == 20 and len(validation) in (6, 7)
    assert (about["train"]["pairs"], about["validation"]["pairs"]) == (20, len(validation))
    assert about["train"]["dropped"]["max_documents"] == 48 - 20 - len(validation)
    known = {(tuple(c.input_ids.tolist()), tuple(r.input_ids.tolist())) for c, r in [*pairs, *turned]}
    assert {*train, *validation} <= known
    # In another order it is the same pairs.
    again = {"a": write_tokenized(tmp_path / "again", [*turned, *pairs[::-1], *pairs[:15]])}
    write_mixture(tmp_path / "out2", again, 32, **options)
    assert set(tokens_of(tmp_path / "out2", again, "validation")) == set(validation)


def test_weights_count_pairs(tmp_path):
    tokenized = {
        "a": write_tokenized(tmp_path / "a", made_up([(3, 5, 5)] * 6)),
        "b": write_tokenized(tmp_path / "b", made_up([(3, 2, 1)] * 2)),
        "eval": write_tokenized(tmp_path / "eval", made_up([(2, 2, 2)] * 3), split="validation"),
    }
    about = write_mixture(tmp_path / "out", tokenized, 32, {"a": 1, "b": 1})
    (stage,) = about["order"]["stages"]
    assert stage["share_of_rows"] == {"a": 0.5, "b": 0.5}
    assert stage["times_seen_per_epoch"] == pytest.approx({"a": 4 / 6, "b": 4 / 2})
    assert about["components"]["eval"]["validation"]["pairs"] == 3
    (stage,) = write_mixture(tmp_path / "tokens", tokenized, 32, {"a": 1, "b": 1}, weights_are="tokens")["order"][
        "stages"
    ]
    assert stage["share_of_rows"]["a"] * 16 == pytest.approx(stage["share_of_rows"]["b"] * 9)


def test_same_input_same_bytes(tmp_path, helpers):
    tokenized = {"a": write_tokenized(tmp_path / "a", made_up(SIZES))}
    for name in ("x", "y/z"):
        write_mixture(tmp_path / name, tokenized, 8)
    assert helpers.tree_hash(tmp_path / "x") == helpers.tree_hash(tmp_path / "y/z")


def test_limits_that_are_not_given_leave_the_identity_as_it_was():
    data = lm_mixture_data_config({"a": "x"}, {"a": 1})
    for limits in ({}, {"max_prompt_length": 5}, {"max_completion_length": 5}):
        step = steps.mixture("m", data, seq_len=8, **limits)
        identity = json.dumps(payload_of(step, lambda _: ""), default=vars)
        for name in ("max_prompt_length", "max_completion_length"):
            assert (name in identity) == (name in limits)
