from collections import Counter

import numpy as np
import pytest

from marin_sft.data.batches.packed_batches import PackedBatches, ValidationBatches, assemble
from marin_sft.data.chat.alignment import TokenRow
from marin_sft.data.data_configs import lm_mixture_data_config, lm_varying_mixture_data_config, mixture_for_evaluation
from marin_sft.data.mixture import MixtureConfig, mixture
from marin_sft.data.packing.packed_mixture import PackedMixture
from marin_sft.data.token_cache import TokenCache
from marin_sft.data.tokenize import TokenizeConfig, tokenize
from marin_sft.errors import ConfigError
from tests.data.on_disk import read_packs

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
    return mixed(root / "mixture", tokenized), tokenized


WEIGHTS = {"big": 3.0, "small": 1.0}


def mixed(output_path, tokenized, weights=WEIGHTS, seq_len=SEQ_LEN, **options):
    data = lm_mixture_data_config(tokenized, weights, **options)
    mixture(MixtureConfig(data, seq_len, output_path=str(output_path)))
    return str(output_path)


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
    batches = ValidationBatches(PackedMixture.open(path, tokenized), "held_out", batch_size=3)
    packed = sum((targets(batch) for batch in batches), Counter())
    cache = TokenCache.open(f"{tokenized['held_out']}/train")
    alone = Counter()
    for row in cache.read(range(len(cache))):
        alone += targets(assemble([[row]], SEQ_LEN))
    assert packed == alone and packed.total() > 100


def test_padding_and_documents(made):
    batch = PackedBatches(PackedMixture.open(*made), batch_size=8).batch(0)
    assert batch.tokens.shape == (8, SEQ_LEN)
    padding = batch.segment_ids == -1
    assert padding.any() and not batch.loss_weight[padding].any()
    for segments, positions in zip(batch.segment_ids, batch.position_ids, strict=True):
        real = segments[segments >= 0]
        assert (np.diff(real) >= 0).all() and (np.diff(real) <= 1).all()
        begins = np.flatnonzero(np.diff(segments, prepend=-2))
        assert (positions[begins] == 0).all()


def test_any_batch_by_its_step(made):
    first, again = (
        PackedBatches(PackedMixture.open(*made), batch_size=4, seed=5),
        PackedBatches(PackedMixture.open(*made), batch_size=4, seed=5),
    )
    run = [first.batch(step) for step in range(12)]
    for step in (11, 3, 7, 0):
        np.testing.assert_array_equal(run[step].tokens, again.batch(step).tokens)
        np.testing.assert_array_equal(run[step].loss_weight, again.batch(step).loss_weight)
    np.testing.assert_array_equal(again.batch(9).tokens, run[9].tokens)
    assert (PackedBatches(PackedMixture.open(*made), batch_size=4, seed=6).batch(0).tokens != run[0].tokens).any()


def test_batch_size_does_not_change_the_order(made):
    ones, fours = (PackedBatches(PackedMixture.open(*made), batch_size=size) for size in (1, 4))
    one = [ones.batch(step).tokens for step in range(12)]
    four = [fours.batch(step).tokens for step in range(3)]
    np.testing.assert_array_equal(np.concatenate(one), np.concatenate(four))


def test_epoch_of_one_component(made, tmp_path):
    tokenized = {"big": made[1]["big"]}
    mixed(tmp_path, tokenized, {"big": 1.0})
    batches = PackedBatches(PackedMixture.open(str(tmp_path), tokenized), batch_size=1)
    assert sorted(read_packs(str(tmp_path), "big", "train").docs.tolist()) == list(range(60))
    for epoch in range(2):
        start = epoch * batches.rows_per_epoch
        rows = [batches.batch(start + i).tokens[0] for i in range(batches.rows_per_epoch)]
        assert len({row.tobytes() for row in rows}) == batches.rows_per_epoch
    whole = PackedBatches(PackedMixture.open(str(tmp_path), tokenized), batch_size=3 * batches.rows_per_epoch).batch(0)
    assert set(Counter(row.tobytes() for row in whole.tokens).values()) == {3}


def test_last_validation_batch_is_padded(made):
    path, tokenized = made
    assert PackedMixture.open(path, tokenized).validated == ["held_out"]
    rows = len(ValidationBatches(PackedMixture.open(path, tokenized), "held_out", batch_size=1))
    batches = ValidationBatches(PackedMixture.open(path, tokenized), "held_out", batch_size=rows - 1)
    assert len(batches) == 2
    last = list(batches)[-1]
    assert (last.segment_ids[1:] == -1).all() and last.trained_tokens > 0


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_processes_make_exact_slices_of_the_batch(made, parts):
    whole = PackedBatches(PackedMixture.open(*made), batch_size=8).batch(3)
    slices = [PackedBatches(PackedMixture.open(*made), batch_size=8).batch(3, part, parts) for part in range(parts)]
    for name in ("tokens", "loss_weight", "segment_ids", "position_ids"):
        np.testing.assert_array_equal(
            np.concatenate([getattr(some, name) for some in slices]), getattr(whole, name), err_msg=name
        )
    assert PackedBatches(PackedMixture.open(*made), batch_size=8).trained_tokens(3) == whole.trained_tokens


def test_split_documents_are_trained_piece_by_piece(made, tmp_path):
    tokenized = {"held_out": made[1]["held_out"]}
    path = mixed(tmp_path / "split", tokenized, {"held_out": 1}, seq_len=24, over_length="split")
    opened = PackedMixture.open(path, tokenized)
    batches = PackedBatches(opened, batch_size=PackedBatches(opened, 1).rows_per_epoch)
    found = targets(batches.batch(0))
    cache = TokenCache.open(f"{tokenized['held_out']}/train")
    expected = Counter()
    for row in cache.read(range(len(cache))):
        for start in range(0, len(row.input_ids), 24):
            piece = TokenRow(row.input_ids[start : start + 24], row.mask[start : start + 24])
            expected += targets(assemble([[piece]], 24))
    assert found == expected and cache.lengths.max() > 24


def of_component(batches, rows, name, made, path):
    """How many of the first `rows` rows are of one component, told by their first document."""
    cache = TokenCache.open(f"{made[1][name]}/train")
    firsts = {tuple(row.input_ids[:SEQ_LEN].tolist()) for row in cache.read(read_packs(path, name, "train").docs)}
    count = 0
    for step in range(-(-rows // batches.batch_size)):
        batch = batches.batch(step)
        for ids, segments in zip(batch.tokens, batch.segment_ids, strict=True):
            count += tuple(ids[segments == 0].tolist()) in firsts
    return count


def test_stages_begin_at_their_training_step(made, tmp_path):
    components = {name: made[1][name] for name in ("big", "small")}
    data = lm_varying_mixture_data_config(components, [(0, {"big": 1}), (3, {"small": 1}), (5, WEIGHTS)])
    mixture(MixtureConfig(data, SEQ_LEN, output_path=str(tmp_path)))
    batches = PackedBatches(PackedMixture.open(str(tmp_path), components), batch_size=4)
    assert of_component(batches, 12, "big", made, str(tmp_path)) == 12
    assert of_component(batches, 20, "small", made, str(tmp_path)) == 8


def test_epochs_and_ends(made, tmp_path):
    components = {name: made[1][name] for name in ("big", "small")}
    rows = {name: len(read_packs(made[0], name, "train")) for name in components}
    endless = PackedBatches(PackedMixture.open(*made), batch_size=2)
    assert endless.num_steps is None and endless.rows_per_epoch == sum(rows.values())
    endless.require_steps(10**9)

    first = mixed(tmp_path / "first", components, stop_strategy="first_exhausted")
    batches = PackedBatches(PackedMixture.open(first, components), batch_size=2)
    assert batches.rows_per_epoch == 2 * batches.num_steps <= endless.rows_per_epoch
    batches.require_steps(batches.num_steps)
    with pytest.raises(ConfigError, match=f"ends the data after {batches.num_steps} "):
        batches.require_steps(batches.num_steps + 1)
    seen = [row.tobytes() for step in range(batches.num_steps) for row in batches.batch(step).tokens]
    assert len(set(seen)) == len(seen)
    with pytest.raises(ConfigError, match="within the first batch"):
        PackedBatches(PackedMixture.open(first, components), batch_size=100)

    every = mixed(tmp_path / "all", components, stop_strategy="all_exhausted")
    batches = PackedBatches(PackedMixture.open(every, components), batch_size=2)
    assert batches.num_steps == -(-batches.rows_per_epoch // 2)
    seen = {row.tobytes() for step in range(batches.num_steps) for row in batches.batch(step).tokens}
    assert len(seen) == sum(rows.values())


@pytest.mark.parametrize("weights", [{"big": 1.0}, None])
@pytest.mark.parametrize("larger", [False, True])
def test_a_cut_epoch_has_every_row_once(made, tmp_path, weights, larger):
    components = {name: made[1][name] for name in weights or WEIGHTS}
    sizes = {name: len(read_packs(made[0], name, "train")) for name in components}
    path = mixed(tmp_path, components, weights or dict(sizes), weights_are="rows")
    rows = sum(sizes.values())
    size = rows + 3 if larger else rows // 2 - 1
    full, cut = (
        PackedBatches(PackedMixture.open(path, components), size, seed=2, cut_epochs=cuts) for cuts in (False, True)
    )
    assert cut.rows_per_epoch == full.rows_per_epoch == rows and rows % size
    steps = -(-rows // size)
    np.testing.assert_array_equal(cut.batch(0).tokens[: min(size, rows)], full.batch(0).tokens[: min(size, rows)])
    orders = []
    for epoch in range(2):
        batches = [cut.batch(epoch * steps + step) for step in range(steps)]
        assert all(batch.tokens.shape == (size, SEQ_LEN) for batch in batches)
        present = [(batch.segment_ids >= 0).any(axis=1) for batch in batches]
        assert [int(some.sum()) for some in present] == [min(size, rows - step * size) for step in range(steps)]
        orders.append(
            [row.tobytes() for batch, some in zip(batches, present, strict=True) for row in batch.tokens[some]]
        )
        assert len(set(orders[-1])) == len(orders[-1]) == rows
        for step, batch in enumerate(batches):
            assert batch.trained_tokens == cut.trained_tokens(epoch * steps + step) > 0
            padding = batch.segment_ids == -1
            assert not batch.loss_weight[padding].any() and not batch.tokens[padding].any()
    assert orders[0] != orders[1] and set(orders[0]) == set(orders[1])


def test_stages_begin_at_their_training_step_of_cut_epochs_too(made, tmp_path):
    components = {name: made[1][name] for name in ("big", "small")}
    data = lm_varying_mixture_data_config(components, [(0, {"big": 1}), (5, {"small": 1})])
    mixture(MixtureConfig(data, SEQ_LEN, output_path=str(tmp_path)))
    rows = PackedBatches(PackedMixture.open(str(tmp_path), components), 1).rows_per_epoch
    batches = PackedBatches(
        PackedMixture.open(str(tmp_path), components), rows // 2 + 1, cut_epochs=True
    )  # two steps an epoch
    assert {tuple(np.unique(batches.places(step)[:, 0])) for step in (0, 2, 4)} == {(0,)}
    assert {tuple(np.unique(batches.places(step)[:, 0])) for step in (1, 3)} == {(-1, 0)}
    assert tuple(np.unique(batches.places(5)[:, 0])) == (-1, 1) and set(batches.places(6)[:, 0]) == {1}


def test_caps_in_batches(made, tmp_path):
    components = {"big": made[1]["big"]}
    path = mixed(tmp_path, components, {"big": 1}, max_train_batches={"big": 2})
    batches = PackedBatches(PackedMixture.open(path, components), batch_size=3)
    assert batches.rows_per_epoch == 6
    seen = [row.tobytes() for step in range(4) for row in batches.batch(step).tokens]
    assert len(set(seen)) == 6


def test_errors(made, tmp_path):
    path, tokenized = made
    with pytest.raises(ConfigError, match="no 'small'"):
        PackedBatches(PackedMixture.open(path, {"big": tokenized["big"]}), 4)
    with pytest.raises(ConfigError, match="at least 1"):
        PackedBatches(PackedMixture.open(path, tokenized), 0)
    with pytest.raises(ConfigError, match="multiple of the 3 parts"):
        PackedBatches(PackedMixture.open(path, tokenized), 4).batch(0, 0, 3)
    with pytest.raises(ConfigError, match="no validation rows"):
        ValidationBatches(PackedMixture.open(path, tokenized), "big", 4)
    mixture(MixtureConfig(mixture_for_evaluation(tokenized), SEQ_LEN, output_path=str(tmp_path)))
    with pytest.raises(ConfigError, match="for evaluation only"):
        PackedBatches(PackedMixture.open(str(tmp_path), tokenized), 4)
