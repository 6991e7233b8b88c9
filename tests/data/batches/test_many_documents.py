"""What many documents cost in memory: nothing is read of them, so they need not exist."""

import gc
import tracemalloc

import numpy as np
import pytest

from marin_sft.data.batches.packed_batches import PackedBatches
from marin_sft.data.batches.pair_batches import PairBatches
from marin_sft.data.data_configs import lm_mixture_data_config
from marin_sft.data.files import write_array, write_json
from marin_sft.data.mixture import MixtureConfig, mixture
from marin_sft.data.packing.packed_mixture import PackedMixture
from marin_sft.data.packing.pairs import PairRows
from marin_sft.data.token_cache import TokenCache

MANY, SEQ_LEN = 400_000, 4096


@pytest.fixture
def tokenized(tmp_path):
    """The lengths of many documents, and no tokens."""
    lengths = np.clip(np.random.default_rng(0).lognormal(5.5, 0.8, MANY), 8, SEQ_LEN).astype(np.int64)
    write_array(f"{tmp_path}/tokens/train/lengths.npy", lengths)
    write_array(f"{tmp_path}/tokens/train/trained.npy", lengths // 2)
    write_json(f"{tmp_path}/tokens/train/shard_ledger.json", {"shard_rows": {"shard_00000": MANY}})
    write_json(f"{tmp_path}/tokens/stats.json", {"vocabulary": "v", "train": {"documents": MANY}})
    return {"a": f"{tmp_path}/tokens"}


def bytes_per_document(call):
    """The most that is in use while `call` runs, and after it, for each document."""
    call()  # imports
    gc.collect()
    tracemalloc.start()
    kept = call()
    after, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return kept, most / MANY, after / MANY


def test_packed_documents(tmp_path, tokenized):
    config = MixtureConfig(lm_mixture_data_config(tokenized, {"a": 1.0}), SEQ_LEN, output_path=f"{tmp_path}/mixture")
    _, most, _ = bytes_per_document(lambda: mixture(config))
    assert most < 150, "a dozen and a half arrays, and no Python object for each"
    packed = PackedMixture.open(f"{tmp_path}/mixture", tokenized)
    assert packed.about["components"]["a"]["train"]["documents"] == MANY

    def first_batch():
        batches = PackedBatches(packed, 128)
        batches.lines(0)
        return batches

    _, most, after = bytes_per_document(first_batch)
    assert most < 30 and after < 20, "1.5 and 1 GB for 50 million"


def test_pairs(tmp_path, tokenized):
    lengths = TokenCache.open(f"{tokenized['a']}/train").lengths.reshape(-1, 2)
    zeros = np.zeros_like(lengths)
    rows = PairRows("train", lengths // 2, np.arange(MANY // 2), zeros, lengths, zeros[:, 0])
    rows.write(f"{tmp_path}/mixture/packs/a/train")
    order = {"stages": [{"start_step": 0, "share_of_rows": {"a": 1.0}}], "stop_strategy": "restart", "shuffle": True}
    longest = {"longest": SEQ_LEN, "longest_shared": SEQ_LEN, "source": "train"}
    write_json(
        f"{tmp_path}/mixture/mixture.json",
        {
            "kind": "pairs",
            "seq_len": SEQ_LEN,
            "components": {"a": {"train": longest}},
            "order": {**order, "block_size": None, "max_train_batches": {}},
        },
    )
    _, most, after = bytes_per_document(lambda: PairBatches(PackedMixture.open(f"{tmp_path}/mixture", tokenized), 128))
    assert most < 55 and after < 40, "2.6 and 1.9 GB for 50 million"
