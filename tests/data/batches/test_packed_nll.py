"""Packing changes no loss: the whole way from mixture through batches, model and loss, on a real (tiny) model."""

import dataclasses

import haliax as hax
import numpy as np
import pytest

from marin_sft.data.batches.packed_batches import PackedBatches
from marin_sft.data.data_configs import lm_mixture_data_config
from marin_sft.data.mixture import MixtureConfig, mixture
from marin_sft.data.packing.packed_mixture import PackedMixture
from marin_sft.data.tokenize import TokenizeConfig, tokenize
from marin_sft.training.loss import LossBatch, nll
from marin_sft.training.models import Qwen3Config, levanter_model
from marin_sft.training.models.random_model import random_model
from marin_sft.training.models.random_model_config import RandomModelConfig

SEQ_LEN = 128


@pytest.fixture(scope="module")
def model(tmp_path_factory, tokenizer_path):
    path = str(tmp_path_factory.mktemp("model"))
    shape = Qwen3Config(
        max_seq_len=SEQ_LEN,
        hidden_dim=32,
        intermediate_dim=64,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
    )
    random_model(RandomModelConfig(model=shape, tokenizer=tokenizer_path, seed=3, output_path=path))
    return levanter_model.load_model(path)


@pytest.fixture(scope="module")
def epoch(tmp_path_factory, tokenizer_path, helpers):
    """`epoch(pack)`: all rows of a mixture as one batch."""
    root = tmp_path_factory.mktemp("packed_nll")
    rows = helpers.write_jsonl(root / "rows.jsonl", helpers.chat_rows(30))
    tokenized = {"chat": f"{root}/tokenized"}
    tokenize(TokenizeConfig((rows,), tokenizer_path, output_path=tokenized["chat"]))

    def build(pack):
        path = f"{root}/{pack}"
        mixture(MixtureConfig(lm_mixture_data_config(tokenized, {"chat": 1}, pack=pack), SEQ_LEN, output_path=path))
        mixed = PackedMixture.open(path, tokenized)
        return PackedBatches(mixed, PackedBatches(mixed, 1).rows_per_epoch).batch(0)

    return build


def mean_nll(model, batch):
    arrays = {"tokens": batch.tokens, "weight": batch.loss_weight, "segment_ids": batch.segment_ids}
    arrays["position_ids"] = batch.position_ids
    named = {name: hax.named(array, ("batch", "position")) for name, array in arrays.items()}
    return float(nll(model, LossBatch(**named))) / batch.trained_tokens


def test_packed_equals_unpacked(model, epoch):
    alone = epoch(False)
    assert len(alone.tokens) == 30 and alone.segment_ids.max() == 0
    expected = mean_nll(model, alone)
    for pack in (True, 2):
        packed = epoch(pack)
        assert len(packed.tokens) < 30 and packed.trained_tokens == alone.trained_tokens
        assert mean_nll(model, packed) == pytest.approx(expected, abs=1e-5)


def test_naive_packing_does_not(model, epoch):
    packed = epoch(True)
    expected = mean_nll(model, packed)
    one_segment = dataclasses.replace(packed, segment_ids=np.where(packed.segment_ids < 0, -1, 0).astype(np.int32))
    counting_on = np.broadcast_to(np.arange(SEQ_LEN, dtype=np.int32), packed.tokens.shape)
    for naive in (one_segment, dataclasses.replace(one_segment, position_ids=counting_on)):
        assert abs(mean_nll(model, naive) - expected) > 1e-3
