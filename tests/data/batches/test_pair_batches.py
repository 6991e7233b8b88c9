import itertools
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marin_sft.data.batches.pair_batches import PairBatches, PairValidation
from marin_sft.data.packing.packed_mixture import PackedMixture
from marin_sft.data.token_cache import TokenCache
from marin_sft.data.tokenize import TokenizeConfig, tokenize
from marin_sft.data.train_tokenizer import TrainTokenizerConfig, train_tokenizer
from marin_sft.errors import ConfigError
from tests.data.on_disk import read_pairs
from tests.data.pair_data import branch, made_up, write_mixture, write_tokenized

SEQ_LEN = 40
ARRAYS = ("tokens", "segment_ids", "position_ids", "completion")
REAL = Path(__file__).parents[4] / "shared/data"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two components to train on, the first with pairs kept out, and one to validate on."""
    root = tmp_path_factory.mktemp("pairs")
    sizes = [(1 + i % 7, 1 + 3 * i % 17, 1 + 5 * i % 40) for i in range(60)]
    odd = [
        (branch([7, 8, 9], [5001, 5002, 5003, 5004], gaps=(1, 2)), branch([7, 8, 9], [5005, 5006])),
        (branch([7, 8, 9], [5007]), branch([7, 9], [5008, 5009])),  # different prompts
        (branch([], [5010, 5011]), branch([], [5012, 5013, 5014])),
    ]
    tokenized = {
        "a": write_tokenized(root / "a", made_up(sizes[:43])),
        "b": write_tokenized(root / "b", [*made_up(sizes[43:50], first=3000), *odd]),
        "held_out": write_tokenized(root / "held_out", made_up(sizes[50:], first=4000)),
    }
    mixture = f"{root}/mixture"
    options = {"num_validation_sequences": {"a": 5}}
    write_mixture(mixture, tokenized, SEQ_LEN, {"a": 3, "b": 1}, {"max_prompt_length": 5}, **options)
    return mixture, tokenized


def targets(batch):
    """Of each completion: ((micro-batch, number), its targets, each with the tokens that it is predicted from)."""
    found = Counter()
    micro_batches, rows, _ = batch.tokens.shape
    for m, r in itertools.product(range(micro_batches), range(rows)):
        tokens, segments, positions, completion = (getattr(batch, name)[m, r] for name in ARRAYS)
        sees = tree_mask(segments, None if batch.branch is None else batch.branch[m, r])
        for i in np.flatnonzero(completion >= 0):
            seen = np.flatnonzero(sees[i])
            assert positions[seen].tolist() == list(range(len(seen)))
            found[m, int(completion[i]), tuple(tokens[seen].tolist()), int(tokens[i + 1])] += 1
    return found


def tree_mask(segments, branch):
    """bool[L, L]: what each token attends to."""
    causal = np.tril(np.ones((len(segments), len(segments)), bool))
    same = (segments[:, None] == segments) & (segments >= 0)
    return causal & same & (True if branch is None else (branch == 0) | (branch[:, None] == branch))


def expected(batch, components, mixture, tokenized, split="train"):
    """The same from the token caches: what `pairs` says, cut as the mixture says."""
    found = Counter()
    for m, pairs in enumerate(batch.pairs):
        for p, (component, number) in enumerate(pairs.tolist()):
            if component < 0:
                continue
            rows = read_pairs(mixture, components[component], split)
            cache = TokenCache.open(f"{tokenized[components[component]]}/{rows.source}")
            for side, document in enumerate(cache.read([2 * rows.pairs[number], 2 * rows.pairs[number] + 1])):
                start, length = rows.starts[number, side], rows.lengths[number, side]
                ids, mask = (some[start : start + length] for some in (document.input_ids, document.mask))
                for i in range(1, length):
                    if mask[i]:
                        found[m, 2 * p + side, tuple(ids[:i].tolist()), int(ids[i])] += 1
    return found


@pytest.mark.parametrize("share_prefix", [False, True])
@pytest.mark.parametrize("batch_size, micro_batches", [(1, 1), (6, 1), (6, 2), (8, 4)])
def test_batches_hold_the_tokens_of_their_pairs(made, batch_size, micro_batches, share_prefix):
    batches = PairBatches(PackedMixture.open(*made), batch_size, micro_batches=micro_batches, share_prefix=share_prefix)
    for step in range(0, 40 // batch_size, 2):
        batch = batches.batch(step)
        found = targets(batch)
        assert found == expected(batch, batches.components, *made)
        assert set(found.values()) == {1}
        lengths = Counter()
        for (m, completion, *_), count in found.items():
            lengths[m, completion] += count
        assert batch.lengths.shape == (micro_batches, 2 * batch_size // micro_batches)
        assert {at: n for at, n in np.ndenumerate(batch.lengths) if n} == lengths
        assert batch.trained_tokens == batches.trained_tokens(step) == found.total()
        assert batch.pairs.shape == (micro_batches, batch_size // micro_batches, 2)


@pytest.mark.parametrize("share_prefix", [False, True])
def test_shapes_and_padding(made, share_prefix):
    batches = PairBatches(PackedMixture.open(*made), 8, micro_batches=2, rows_multiple=2, share_prefix=share_prefix)
    assert batches.row_length == (64 if share_prefix else SEQ_LEN)  # seq_len is less than 64
    assert 1 <= len(batches.row_sizes) <= 4
    for step in range(12):
        batch = batches.batch(step)
        assert batch.tokens.shape == (2, batch.tokens.shape[1], batches.row_length)
        assert batch.tokens.shape[1] in batches.row_sizes and batch.tokens.shape[1] % 2 == 0
        assert (batch.branch is not None) == share_prefix
        for name in (*ARRAYS, "lengths"):
            assert getattr(batch, name).dtype == np.int32
        padding = batch.segment_ids == -1
        assert (batch.completion[padding] == -1).all() and not batch.tokens[padding].any()
        for segments, some in zip(
            batch.segment_ids.reshape(-1, batches.row_length), padding.reshape(-1, batches.row_length), strict=True
        ):
            assert (np.diff(some.astype(int)) >= 0).all()  # padding is at the end
            assert set(np.diff(segments[~some])) <= {0, 1} and (some.all() or segments[0] == 0)


def test_shared_prefixes_stand_once(made):
    whole = PairBatches(PackedMixture.open(*made), 8)
    shared = PairBatches(PackedMixture.open(*made), 8, share_prefix=True)
    some = [(whole.batch(step), shared.batch(step)) for step in range(8)]
    tokens = [sum(int((batch.segment_ids >= 0).sum()) for batch in batches) for batches in zip(*some, strict=True)]
    assert tokens[1] < tokens[0]
    for one, other in some:
        np.testing.assert_array_equal(one.pairs, other.pairs)
        np.testing.assert_array_equal(one.lengths, other.lengths)
        segments = {(r, int(s)) for r, row in enumerate(other.segment_ids[0]) for s in row[row >= 0]}
        for row, segment in segments:
            branch = other.branch[0, row][other.segment_ids[0, row] == segment]
            assert set(branch.tolist()) in ({0}, {0, 1, 2}) and (np.diff(branch) >= 0).all()


def numbers(batch):
    return Counter(tuple(pair) for pair in batch.pairs.reshape(-1, 2).tolist())


def test_an_epoch_has_every_pair_once(made, tmp_path):
    tokenized = {"a": made[1]["a"]}
    write_mixture(tmp_path, tokenized, SEQ_LEN)
    batches = PairBatches(PackedMixture.open(str(tmp_path), tokenized), 1, seed=3)
    assert batches.rows_per_epoch == 43 and batches.num_steps is None
    for epoch in range(2):
        seen = sum((numbers(batches.batch(43 * epoch + i)) for i in range(43)), Counter())
        assert seen == Counter((0, i) for i in range(43))
    # The last batch of an epoch is full: the order goes on.
    seen = sum(
        (numbers(PairBatches(PackedMixture.open(str(tmp_path), tokenized), 8).batch(step)) for step in range(6)),
        Counter(),
    )
    assert seen.total() == 48 and len(seen) == 43


@pytest.mark.parametrize("share_prefix", [False, True])
@pytest.mark.parametrize("micro_batches", [1, 4])
def test_a_cut_epoch_has_every_pair_once(made, tmp_path, share_prefix, micro_batches):
    tokenized = {"a": made[1]["a"]}
    about = write_mixture(tmp_path, tokenized, SEQ_LEN)["components"]["a"]["train"]
    options = {"micro_batches": micro_batches, "share_prefix": share_prefix}
    batches = PairBatches(PackedMixture.open(str(tmp_path), tokenized), 8, cut_epochs=True, **options)
    for epoch in range(2):
        steps = range(6 * epoch, 6 * epoch + 6)
        some = [batches.batch(step) for step in steps]
        assert sum(map(numbers, some), Counter()) == Counter({**{(0, i): 1 for i in range(43)}, (-1, -1): 5})
        assert [batch.trained_tokens for batch in some] == [batches.trained_tokens(step) for step in steps]
        assert sum(map(batches.tokens, steps)) == about["tokens"]  # however much of it is shared
        assert sum(batch.trained_tokens for batch in some) == about["trained_tokens"]
        last = some[-1]
        assert targets(last) == expected(last, batches.components, str(tmp_path), tokenized)
        assert all(batch.tokens.shape[1] in batches.row_sizes for batch in some)
    alone = PairBatches(PackedMixture.open(str(tmp_path), tokenized), 48, cut_epochs=True, micro_batches=micro_batches)
    assert numbers(alone.batch(0)).total() == 48 and len(numbers(alone.batch(1))) == 44


def test_epochs_that_end(made, tmp_path):
    tokenized = {name: made[1][name] for name in ("a", "b")}
    write_mixture(tmp_path, tokenized, SEQ_LEN, stop_strategy="first_exhausted")
    batches = PairBatches(PackedMixture.open(str(tmp_path), tokenized), 4)
    seen = sum((numbers(batches.batch(step)) for step in range(batches.num_steps)), Counter())
    assert seen.total() == batches.rows_per_epoch == 4 * batches.num_steps and set(seen.values()) == {1}
    with pytest.raises(ConfigError, match=f"ends the data after {batches.num_steps} "):
        batches.require_steps(batches.num_steps + 1)


@pytest.mark.parametrize("share_prefix", [False, True])
def test_micro_batches_hold_the_same_pairs(made, share_prefix):
    for step in range(4):
        found = [
            numbers(PairBatches(PackedMixture.open(*made), 8, micro_batches=m, share_prefix=share_prefix).batch(step))
            for m in (1, 2, 4)
        ]
        assert found[0] == found[1] == found[2] and found[0].total() == 8


@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("share_prefix", [False, True])
def test_processes_make_exact_slices_of_the_batch(made, parts, share_prefix):
    options = {"micro_batches": 2, "rows_multiple": 4, "share_prefix": share_prefix}
    batches = PairBatches(PackedMixture.open(*made), 8, **options)
    whole = batches.batch(3)
    slices = [PairBatches(PackedMixture.open(*made), 8, **options).batch(3, part, parts) for part in range(parts)]
    for name in (*ARRAYS, *(["branch"] if share_prefix else [])):
        np.testing.assert_array_equal(
            np.concatenate([getattr(some, name) for some in slices], axis=1), getattr(whole, name), err_msg=name
        )
    for some in slices:
        np.testing.assert_array_equal(some.lengths, whole.lengths)
        np.testing.assert_array_equal(some.pairs, whole.pairs)
    with pytest.raises(ConfigError, match="rows_multiple=4; expected a multiple of the 3 parts"):
        batches.batch(3, 0, 3)


DIGEST = """
import hashlib
from marin_sft.data.batches.pair_batches import PairBatches
from marin_sft.data.packing.packed_mixture import PackedMixture

def digest_of(mixture, tokenized):
    batches = PairBatches(PackedMixture.open(mixture, tokenized), 6, 5, micro_batches=2, share_prefix=True)
    digest = hashlib.sha256(repr(batches.row_sizes).encode())
    for step in (7, 0, 3):
        for array in vars(batches.batch(step)).values():
            digest.update(array.tobytes())
    return digest.hexdigest()
"""


def test_the_same_in_every_process(made):
    program = f"{DIGEST}\nprint(digest_of(*{made!r}))"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    here: dict = {}
    exec(DIGEST, here)
    assert done.stdout.strip() == here["digest_of"](*made), done.stderr
    assert (
        PairBatches(PackedMixture.open(*made), 6, 6).batch(0).pairs
        != PairBatches(PackedMixture.open(*made), 6, 5).batch(0).pairs
    ).any()


def test_any_batch_by_its_step(made):
    first, again = PairBatches(PackedMixture.open(*made), 4), PairBatches(PackedMixture.open(*made), 4)
    run = [first.batch(step) for step in range(9)]
    for step in (8, 2, 5):
        np.testing.assert_array_equal(run[step].tokens, again.batch(step).tokens)


@pytest.mark.parametrize("split, component, size", [("validation", "a", 5), ("train", "b", 10), ("train", "a", 38)])
@pytest.mark.parametrize("share_prefix", [False, True])
def test_every_pair_of_a_component_once_in_order(made, split, component, size, share_prefix):
    options = {"micro_batches": 2, "share_prefix": share_prefix}
    batches = PairValidation(PackedMixture.open(*made), component, 4, split=split, **options)
    number = batches.components.index(component)
    assert len(batches) == -(-size // 4)
    seen = []
    for batch in batches:
        pairs = batch.pairs.reshape(-1, 2)
        absent = pairs[:, 1] == -1
        assert (pairs[absent] == -1).all() and (pairs[~absent, 0] == number).all()
        assert not batch.lengths.reshape(-1, 2)[absent].any() and batch.lengths.reshape(-1, 2)[~absent].all()
        assert targets(batch) == expected(batch, batches.components, *made, split)
        seen.append(sorted(pairs[~absent, 1].tolist()))
    assert list(itertools.chain(*seen)) == list(range(size))


def test_micro_batches_of_absent_pairs_only(made):
    (batch,) = PairValidation(PackedMixture.open(*made), "a", 8, micro_batches=8)
    assert (batch.pairs[:, 0, 0] >= 0).sum() == 5
    assert (batch.segment_ids[batch.pairs[:, 0, 0] < 0] == -1).all()


def test_few_sizes_with_little_padding(tmp_path):
    """Lengths as of answers: many short ones, few long."""
    rng = np.random.default_rng(0)
    sizes = np.clip(rng.lognormal([3, 4.5, 4.5], [1, 0.8, 0.8], (400, 3)), 1, 600).astype(int)
    tokenized = {"a": write_tokenized(tmp_path / "a", made_up(sizes.tolist()))}
    write_mixture(tmp_path / "out", tokenized, 512)
    for micro_batches, most in ((1, 0.05), (4, 0.2)):
        batches = PairBatches(PackedMixture.open(f"{tmp_path}/out", tokenized), 64, micro_batches=micro_batches)
        made = [batches.batch(step) for step in range(7)]
        cells, used = sum(b.tokens.size for b in made), sum(int((b.segment_ids >= 0).sum()) for b in made)
        assert 1 - used / cells < most and len({b.tokens.shape for b in made}) <= 4


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(1, 9)] * 3), min_size=1, max_size=12),
    st.sampled_from([(1, 1), (2, 1), (4, 2), (6, 3)]),
    st.integers(6, 20),
    st.booleans(),
)
def test_any_pairs(tmp_path_factory, sizes, batch, seq_len, share_prefix):
    root = tmp_path_factory.mktemp("any")
    sizes = [(min(prompt, seq_len - 1), *sides) for prompt, *sides in sizes]
    tokenized = {"a": write_tokenized(root / "a", made_up(sizes))}
    write_mixture(root / "out", tokenized, seq_len)
    batch_size, micro_batches = batch
    batches = PairBatches(
        PackedMixture.open(f"{root}/out", tokenized), batch_size, micro_batches=micro_batches, share_prefix=share_prefix
    )
    for step in range(3):
        made = batches.batch(step)
        assert targets(made) == expected(made, batches.components, f"{root}/out", tokenized)


def test_errors(made, tmp_path):
    mixture, tokenized = made
    with pytest.raises(ConfigError, match="tokenized has no 'b'"):
        PairBatches(PackedMixture.open(mixture, {"a": tokenized["a"]}), 4)
    with pytest.raises(ConfigError, match="batch_size=0"):
        PairBatches(PackedMixture.open(mixture, tokenized), 0)
    with pytest.raises(ConfigError, match="micro_batches=3; expected a divisor of batch_size=8"):
        PairBatches(PackedMixture.open(mixture, tokenized), 8, micro_batches=3)
    with pytest.raises(ConfigError, match="rows_multiple=0"):
        PairBatches(PackedMixture.open(mixture, tokenized), 8, rows_multiple=0)
    with pytest.raises(ConfigError, match="'b' has no validation pairs in the mixture"):
        PairValidation(PackedMixture.open(mixture, tokenized), "b", 4)
    with pytest.raises(ConfigError, match="'c' has no train pairs in the mixture"):
        PairValidation(PackedMixture.open(mixture, tokenized), "c", 4, split="train")


@pytest.mark.skipif(not REAL.exists(), reason="no real data here")
def test_real_preferences(tmp_path):
    train_tokenizer(
        TrainTokenizerConfig((f"{REAL}/alpaca_en_demo.json",), vocab_size=2000, output_path=f"{tmp_path}/tokenizer")
    )
    tokenized = {"dpo": f"{tmp_path}/dpo"}
    tokenize(TokenizeConfig((f"{REAL}/dpo_en_demo.json",), f"{tmp_path}/tokenizer", output_path=tokenized["dpo"]))
    about = write_mixture(tmp_path / "out", tokenized, 4096, limits={"max_prompt_length": 1024})["components"]["dpo"]
    assert about["train"]["pairs"] == 300 and not any(about["train"]["dropped"].values())
    for batch_size, most in ((8, 0.25), (64, 0.1)):
        batches = PairBatches(PackedMixture.open(f"{tmp_path}/out", tokenized), batch_size)
        made = [batches.batch(step) for step in range(300 // batch_size)]
        assert sum((numbers(batch) for batch in made), Counter()).total() == len(made) * batch_size
        used = sum(int((batch.segment_ids >= 0).sum()) for batch in made)
        assert 1 - used / sum(batch.tokens.size for batch in made) < most
        assert targets(made[0]) == expected(made[0], batches.components, f"{tmp_path}/out", tokenized)
