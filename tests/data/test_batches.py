import threading
from collections import Counter

import numpy as np
import pytest

from marin_sft.data.batches import PackedBatches, ValidationBatches, assemble, prefetched, validation_splits
from marin_sft.data.chat import TokenRow
from marin_sft.data.mixture import MixtureConfig, mixture
from marin_sft.data.token_cache import TokenCache
from marin_sft.data.tokenize import TokenizeConfig, tokenize
from marin_sft.errors import ConfigError

SEQ_LEN = 96


@pytest.fixture(scope="module")
def made(tmp_path_factory, tokenizer_path, helpers):
    root = tmp_path_factory.mktemp("mixture")
    rows = helpers.chat_rows(90)
    tokenized = {}
    for name, some in (("big", rows[:60]), ("small", rows[60:70]), ("held_out", rows[70:])):
        path = helpers.write_jsonl(root / f"{name}.jsonl", some)
        tokenized[name] = f"{root}/{name}"
        tokenize(TokenizeConfig((path,), tokenizer_path, output_path=tokenized[name]))
    weights = {"big": 3.0, "small": 1.0, "held_out": 0.0}
    mixture(MixtureConfig(tokenized, weights, SEQ_LEN, output_path=f"{root}/mixture"))
    return f"{root}/mixture", tokenized


def document(ids, mask):
    return TokenRow(np.array(ids, np.int32), np.array(mask, np.uint8))


def test_assemble():
    batch = assemble([[document([1, 2, 3], [1, 0, 1]), document([4, 5], [1, 1])], []], 7)
    assert batch.tokens.tolist() == [[1, 2, 3, 4, 5, 0, 0], [0] * 7]
    assert batch.loss_weight.tolist() == [[0, 1, 0, 1, 0, 0, 0], [0] * 7]
    assert batch.segment_ids.tolist() == [[0, 0, 0, 1, 1, -1, -1], [-1] * 7]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1, 0, 0], [0] * 7]
    assert batch.trained_tokens == 2
    types = (batch.tokens.dtype, batch.loss_weight.dtype, batch.segment_ids.dtype, batch.position_ids.dtype)
    assert types == (np.int32, np.float32, np.int32, np.int32)


def test_assemble_truncates():
    batch = assemble([[document(range(1, 9), [0, 0, 0, 1, 1, 1, 1, 1])]], 5)
    assert batch.tokens.tolist() == [[1, 2, 3, 4, 5]]
    assert batch.loss_weight.tolist() == [[0, 0, 1, 1, 0]]


def targets(batch):
    """Each trained token of a batch with the text before it in its document: what the loss sees."""
    found = Counter()
    for r, i in np.argwhere(batch.loss_weight > 0):
        assert batch.segment_ids[r, i] == batch.segment_ids[r, i + 1] >= 0
        start = i - batch.position_ids[r, i]
        found[tuple(batch.tokens[r, start : i + 2].tolist())] += 1
    return found


def test_packing_keeps_every_trained_token(made):
    path, tokenized = made
    batches = ValidationBatches(path, tokenized, "held_out", batch_size=3)
    packed = sum((targets(batch) for batch in batches), Counter())
    cache = TokenCache.open(f"{tokenized['held_out']}/train")
    alone = Counter()
    for row in cache.read(range(len(cache))):
        alone += targets(assemble([[row]], SEQ_LEN))
    assert packed == alone and packed.total() > 100


def test_padding_and_documents(made):
    batch = PackedBatches(*made, batch_size=8).batch(0)
    assert batch.tokens.shape == (8, SEQ_LEN)
    padding = batch.segment_ids == -1
    assert padding.any() and not batch.loss_weight[padding].any()
    for segments, positions in zip(batch.segment_ids, batch.position_ids, strict=True):
        real = segments[segments >= 0]
        assert (np.diff(real) >= 0).all() and (np.diff(real) <= 1).all()
        begins = np.flatnonzero(np.diff(segments, prepend=-2))
        assert (positions[begins] == 0).all()


def test_any_batch_by_its_step(made):
    first, again = PackedBatches(*made, batch_size=4, seed=5), PackedBatches(*made, batch_size=4, seed=5)
    run = list(first.iterate(0, 12))
    for step in (11, 3, 7, 0):
        np.testing.assert_array_equal(run[step].tokens, again.batch(step).tokens)
        np.testing.assert_array_equal(run[step].loss_weight, again.batch(step).loss_weight)
    np.testing.assert_array_equal(next(iter(again.iterate(9))).tokens, run[9].tokens)
    assert (PackedBatches(*made, batch_size=4, seed=6).batch(0).tokens != run[0].tokens).any()


def test_batch_size_does_not_change_the_order(made):
    one = [b.tokens for b in PackedBatches(*made, batch_size=1).iterate(0, 12)]
    four = [b.tokens for b in PackedBatches(*made, batch_size=4).iterate(0, 3)]
    np.testing.assert_array_equal(np.concatenate(one), np.concatenate(four))


def test_epoch_of_one_component(made, tmp_path):
    tokenized = {"big": made[1]["big"]}
    mixture(MixtureConfig(tokenized, {"big": 1.0}, SEQ_LEN, output_path=str(tmp_path)))
    batches = PackedBatches(str(tmp_path), tokenized, batch_size=1)
    assert batches.documents_per_epoch == 60
    for epoch in range(2):
        start = epoch * batches.rows_per_epoch
        rows = [batches.batch(start + i).tokens[0] for i in range(batches.rows_per_epoch)]
        assert len({row.tobytes() for row in rows}) == batches.rows_per_epoch
    whole = PackedBatches(str(tmp_path), tokenized, batch_size=3 * batches.rows_per_epoch).batch(0)
    assert set(Counter(row.tobytes() for row in whole.tokens).values()) == {3}


def test_last_validation_batch_is_padded(made):
    path, tokenized = made
    assert validation_splits(path) == {"held_out": "train"}
    rows = len(ValidationBatches(path, tokenized, "held_out", batch_size=1))
    batches = ValidationBatches(path, tokenized, "held_out", batch_size=rows - 1)
    assert len(batches) == 2
    last = list(batches)[-1]
    assert (last.segment_ids[1:] == -1).all() and last.trained_tokens > 0


def test_errors(made):
    path, tokenized = made
    with pytest.raises(ConfigError, match="no 'small'"):
        PackedBatches(path, {"big": tokenized["big"]}, 4)
    with pytest.raises(ConfigError, match="at least 1"):
        PackedBatches(path, tokenized, 0)
    with pytest.raises(ConfigError, match="no validation rows"):
        ValidationBatches(path, tokenized, "big", 4)


def test_prefetched():
    caller = threading.get_ident()
    threads = set()

    def make(step):
        threads.add(threading.get_ident())
        if step == 5:
            raise ValueError("five")
        return step

    assert list(prefetched(make, range(5))) == [0, 1, 2, 3, 4]
    assert caller not in threads and len(threads) == 1
    seen = []
    with pytest.raises(ValueError, match="five"):
        for step in prefetched(make, range(10)):
            seen.append(step)
    assert seen == [0, 1, 2, 3, 4]
    endless = prefetched(make, iter(int, 1))
    assert next(endless) == 0
    endless.close()
    assert not any(t.name.startswith("batches") for t in threading.enumerate())
