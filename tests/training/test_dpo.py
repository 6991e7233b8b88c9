"""DPO: figures against logits of single dialogues, however pairs are packed, cut, resumed, or compared."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import haliax as hax
import jax
import numpy as np
import pytest

from marin_sft.data.batches.pair_batches import PairBatches
from marin_sft.data.data_configs import lm_mixture_data_config
from marin_sft.data.mixture import MixtureConfig, mixture
from marin_sft.data.packing.packed_mixture import PackedMixture
from marin_sft.data.token_cache import TokenCache
from marin_sft.data.tokenize import TRAIN, VALIDATION, TokenizeConfig, tokenize
from marin_sft.errors import ConfigError, TrainingError
from marin_sft.training import checkpoints
from marin_sft.training.completions import completions
from marin_sft.training.dpo import DPOObjective, dpo
from marin_sft.training.dpo_config import DPOConfig, ReferenceConfig
from marin_sft.training.dpo_loss_types import LOSS_TYPES
from marin_sft.training.fakes import word_tokenizer
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.models import MistralConfig, levanter_model
from marin_sft.training.models.model_directory import ModelDirectory
from marin_sft.training.models.random_model import random_model
from marin_sft.training.models.random_model_config import RandomModelConfig
from marin_sft.training.objective import Layout
from marin_sft.training.pair_loss import PairLoss, pair_arrays
from marin_sft.training.reference import reference_logprobs
from marin_sft.training.references import logps_path
from tests.data.on_disk import read_mixture
from tests.training.conftest import SHAPE, WORDS
from tests.training.small_runs import logged

PAIRS = 40
FIGURES = ("loss", "grad_norm", "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins",
           "logps/chosen", "logps/rejected", "entropy", "kl")  # fmt: skip


def rows() -> list[dict]:
    """Pairs of very unequal lengths."""
    rng = np.random.default_rng(0)

    def words(most: int) -> str:
        return " ".join(rng.choice(WORDS, rng.integers(1, most)))

    def says(role: str, most: int) -> list[dict]:
        return [{"role": role, "content": words(most)}]

    return [
        {"prompt": says("user", 8), "chosen": says("assistant", 14), "rejected": says("assistant", 14)}
        for _ in range(PAIRS)
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory, tokenizer_path):
    """(mixture, tokenized)"""
    root = tmp_path_factory.mktemp("pairs")
    (root / "rows.jsonl").write_text("\n".join(map(json.dumps, rows())))
    tokenize(TokenizeConfig((f"{root}/rows.jsonl",), tokenizer_path, output_path=f"{root}/tokens"))
    tokenized = {"pairs": f"{root}/tokens"}
    config = lm_mixture_data_config(tokenized, {"pairs": 1.0}, num_validation_sequences={"pairs": 6})
    mixture(MixtureConfig(config, seq_len=32, output_path=f"{root}/mixture"))
    return f"{root}/mixture", tokenized


@pytest.fixture(scope="module")
def reference(data, base_model, tmp_path_factory):
    output = str(tmp_path_factory.mktemp("reference"))
    reference_logprobs(reference_config(data, base_model, output))
    return output


def reference_config(data, model: str, output: str, **changes) -> ReferenceConfig:
    fields = {"precision": "fp32", "batch_size": 6, **changes}
    return ReferenceConfig(mixture=data[0], tokenized=data[1], model=model, output_path=output, **fields)


def config_for(data, base_model: str, output: Path, **changes) -> DPOConfig:
    fields = {
        "train_batch_size": 8,
        "num_train_steps": 5,
        "learning_rate": 3e-3,
        "lr_schedule": "constant",
        "warmup": 0.0,
        "precision": "fp32",
        "gradient_checkpointing": False,
        "steps_per_log": 1,
        **changes,
    }
    return DPOConfig(
        mixture=data[0],
        tokenized=data[1],
        base_model=base_model,
        output_path=str(output),
        earlier_attempts=(),
        **fields,
    )


def assert_close(one: Path, other: Path, tolerance: float = 1e-5) -> None:
    for expected, got in zip(logged(one), logged(other), strict=True):
        for name in FIGURES:
            assert got[name] == pytest.approx(expected[name], abs=tolerance, rel=tolerance), (expected["step"], name)


@pytest.fixture(scope="module")
def cached(data, base_model, reference, tmp_path_factory):
    output = tmp_path_factory.mktemp("cached")
    dpo(config_for(data, base_model, output, reference_logprobs=reference, starts_at_reference=True, steps_per_eval=5))
    return output


def single_logps(model, document) -> float:
    """Of the completion's tokens, from the logits of this dialogue alone."""
    ids, mask = np.asarray(document.input_ids), np.asarray(document.mask)
    logits = np.asarray(levanter_model.logits(model, ids[None]), np.float64)[0]
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return sum(log_probs[i - 1, ids[i]] for i in range(1, len(ids)) if mask[i])


def test_the_first_step_is_at_the_reference(cached):
    first = logged(cached)[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["rewards/chosen"] == pytest.approx(0, abs=1e-6)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-6)


def test_speed_is_told_in_pairs_too(cached):
    for before, line in zip(logged(cached), logged(cached)[1:], strict=False):
        pairs = line["pairs_per_second"] * (line["tokens"] - before["tokens"]) / line["tokens_per_second"]
        assert pairs == pytest.approx(8 * (line["step"] - before["step"]))
    whole = json.loads((cached / "metrics.json").read_text())
    assert whole["pairs_per_second"] == pytest.approx(5 * 8 / whole["training_seconds"])


def test_tokens_are_those_of_both_dialogues_of_a_pair(data, cached):
    """Though here a prompt is computed once for both."""
    apart, shared = (PairBatches(PackedMixture.open(*data), 8, 0, share_prefix=shares) for shares in (False, True))
    computed = [[int((some.batch(step).segment_ids >= 0).sum()) for step in range(5)] for some in (apart, shared)]
    assert [line["tokens"] for line in logged(cached)] == np.cumsum(computed[0]).tolist()
    assert sum(computed[1]) < sum(computed[0])


def test_an_epoch_shorter_than_a_batch_is_that_many_pairs(data, base_model, reference, tmp_path, capsys):
    fields = {"reference_logprobs": reference, "starts_at_reference": True, "train_batch_size": 64}
    fields |= {"num_train_steps": None, "num_train_epochs": 2}
    pairs = PairBatches(PackedMixture.open(*data), 1).rows_per_epoch
    assert 16 < pairs < 48  # so that some of four micro-batches has absent pairs
    for name, per_device_parallelism in (("whole", -1), ("parts", 16)):
        dpo(config_for(data, base_model, tmp_path / name, **fields, per_device_parallelism=per_device_parallelism))
    told = capsys.readouterr().out
    assert f"warning: training for 2 epochs of {pairs} pairs: 2 steps; train_batch_size = 64 is more than" in told
    first, second = logged(tmp_path / "whole")
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert (first["epoch"], second["epoch"]) == (1, 2)
    about = read_mixture(data[0])["components"]["pairs"]["train"]
    for figure in ("tokens", "trained_tokens"):
        assert (first[figure], second[figure]) == (about[figure], 2 * about[figure])
    assert_close(tmp_path / "whole", tmp_path / "parts")


def test_log_probabilities_are_those_of_each_dialogue_alone(data, base_model, cached):
    model = levanter_model.load_model(base_model)
    batch = PairBatches(PackedMixture.open(*data), 8, 0).batch(0)
    cache = TokenCache.open(f"{data[1]['pairs']}/train")
    numbers = np.load(f"{data[0]}/packs/pairs/train/pairs.npy")[batch.pairs[0, :, 1]]
    chosen = [single_logps(model, document) for document in cache.read(2 * numbers)]
    rejected = [single_logps(model, document) for document in cache.read(2 * numbers + 1)]
    first = logged(cached)[0]
    assert first["logps/chosen"] == pytest.approx(np.mean(chosen), rel=1e-5)
    assert first["logps/rejected"] == pytest.approx(np.mean(rejected), rel=1e-5)


def test_a_cached_reference_is_one_held_beside(data, base_model, cached, tmp_path):
    dpo(config_for(data, base_model, tmp_path, reference_model=base_model, starts_at_reference=True))
    assert_close(cached, tmp_path)
    assert logged(tmp_path)[0]["rewards/chosen"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("rows_at_once", [4, 1])
def test_micro_batches_make_no_difference(data, base_model, reference, cached, tmp_path, rows_at_once):
    dpo(config_for(data, base_model, tmp_path, reference_logprobs=reference, per_device_parallelism=rows_at_once))
    assert_close(cached, tmp_path)


def test_a_prompt_for_each_branch_makes_no_difference(data, base_model, reference, cached, tmp_path):
    """On a CPU the branches share it, unless told otherwise."""
    config = config_for(data, base_model, tmp_path, reference_logprobs=reference)
    each = dataclasses.replace(config, share_prefix=False)
    assert "branch" in DPOObjective(config, Layout(1, 1)).arrays(0, 0, 1)
    assert "branch" not in DPOObjective(each, Layout(1, 1)).arrays(0, 0, 1)
    dpo(each)
    assert_close(cached, tmp_path)


def test_it_learns_the_preference(cached):
    first, last = logged(cached)[0], logged(cached)[-1]
    assert last["loss"] < first["loss"]
    assert last["rewards/margins"] > 0 and last["kl"] != 0


def test_held_out_pairs_are_measured(cached):
    evaluated = logged(cached)[-1]
    assert 0 < evaluated["eval/loss"] < 2 and 0 <= evaluated["eval/rewards/accuracies"] <= 1
    assert evaluated["eval/logps/chosen"] < 0


def test_as_many_batches_of_them_as_asked_for_are_measured(data, base_model, reference, tmp_path):
    """Of 6 pairs, those of one batch of 4, after a step that changes next to nothing."""
    few = {"train_batch_size": 4, "num_train_steps": 1, "steps_per_eval": 1, "max_evaluation_steps": 1}
    dpo(config_for(data, base_model, tmp_path, reference_logprobs=reference, learning_rate=1e-12, **few))
    chosen, rejected, *_ = np.load(logps_path(reference, "pairs", VALIDATION)).T
    (evaluated,) = logged(tmp_path)
    assert len(chosen) == 6 and abs(chosen.mean() - chosen[:4].mean()) > 1e-2
    assert evaluated["eval/logps/chosen"] == pytest.approx(chosen[:4].mean(), rel=1e-5)
    assert evaluated["eval/logps/rejected"] == pytest.approx(rejected[:4].mean(), rel=1e-5)


def test_without_held_out_pairs_those_of_the_first_batches_are_measured(data, base_model, tmp_path, capsys):
    kept = lm_mixture_data_config(data[1], {"pairs": 1.0})
    mixture(MixtureConfig(kept, seq_len=32, output_path=f"{tmp_path}/mixture"))
    all_trained = (f"{tmp_path}/mixture", data[1])
    few = {"num_train_steps": 2, "learning_rate": 1e-12, "do_eval": True, "per_device_parallelism": 4}
    dpo(config_for(all_trained, base_model, tmp_path / "out", reference_model=base_model, **few))
    assert "warning: do_eval = True" in capsys.readouterr().err
    lines = logged(tmp_path / "out")
    for name in ("logps/chosen", "entropy"):
        assert lines[-1][f"train/{name}"] == pytest.approx(np.mean([line[name] for line in lines]), rel=1e-2)
    exact = np.mean([line["logps/chosen"] for line in lines])
    assert lines[-1]["train/logps/chosen"] == pytest.approx(exact, rel=1e-5)


def test_a_reference_of_another_model_is_noticed(data, base_model, tokenizer_path, tmp_path):
    other = str(tmp_path / "other")
    random_model(RandomModelConfig(model=SHAPE, tokenizer=tokenizer_path, seed=4, output_path=other))
    reference_logprobs(reference_config(data, other, str(tmp_path / "reference")))
    config = config_for(
        data, base_model, tmp_path / "out", reference_logprobs=str(tmp_path / "reference"), starts_at_reference=True
    )
    with pytest.raises(TrainingError, match="step 1: .*expected 0"):
        dpo(config)
    dpo(dataclasses.replace(config, starts_at_reference=False, output_path=str(tmp_path / "meant")))


def test_each_loss_is_another(data, base_model, tmp_path):
    """Away from the reference, of which the first step knows nothing but zeros."""
    model = levanter_model.load_model(base_model)
    arrays = pair_arrays(PairBatches(PackedMixture.open(*data), 8, 0).batch(0), None)
    arrays["reference"] = np.random.default_rng(0).uniform(-60, -20, (1, 8 * 4)).astype(np.float32)
    axes = {name: ("batch", "position") if array.ndim == 3 else name for name, array in arrays.items()}
    batch = {name: hax.named(array[0], axes[name]) for name, array in arrays.items()}
    losses = {}
    for name in LOSS_TYPES:
        smoothing = {"exo_pair": 1e-3, "robust": 0.1}.get(name, 0.0)
        known = {} if name in ("sft", "simpo") else {"reference_logprobs": "unused"}
        config = config_for(data, base_model, tmp_path, loss_type=name, label_smoothing=smoothing, **known)
        losses[name] = PairLoss(config)
    found = jax.jit(lambda model: {name: loss(model, batch, None, None)[0] for name, loss in losses.items()})(model)
    assert len({float(value) for value in found.values()}) == len(LOSS_TYPES)
    assert all(np.isfinite(list(found.values())))


def test_a_weighted_sum_is_one_of_its_parts_however_it_is_cut(data, base_model, reference, tmp_path):
    """Of the 6 held-out pairs, too, in batches of 8, or of 4 and 2."""
    mpo = {"sigmoid": 0.8, "bco_pair": 0.2, "sft": 1.0}
    options = {"reference_logprobs": reference, "loss_type": mpo, "num_train_steps": 2, "steps_per_eval": 1}
    dpo(config_for(data, base_model, tmp_path / "whole", **options))
    dpo(config_for(data, base_model, tmp_path / "cut", per_device_parallelism=4, **options))
    for line, cut in zip(logged(tmp_path / "whole"), logged(tmp_path / "cut"), strict=True):
        for at in ("", "eval/"):
            parts = {name: line[f"{at}loss/{name}"] for name in mpo}
            assert line[f"{at}loss"] == pytest.approx(sum(mpo[name] * part for name, part in parts.items()), rel=1e-5)
            for name in ("loss", "loss/sft", "loss/bco_pair", "entropy"):
                assert cut[at + name] == pytest.approx(line[at + name], rel=1e-5), at + name


def test_weights_of_pairs_are_of_whole_completions(data, base_model, reference, tmp_path):
    """At the reference, a pair's loss is its weight times ln 2, whatever part of the completions counts."""
    options = {"reference_logprobs": reference, "use_weighting": True, "num_train_steps": 1}
    dpo(config_for(data, base_model, tmp_path / "all", **options))
    dpo(config_for(data, base_model, tmp_path / "shared", ld_alpha=0.0, **options))
    (whole,), (part,) = (logged(tmp_path / name) for name in ("all", "shared"))
    assert part["logps/chosen"] != pytest.approx(whole["logps/chosen"], rel=1e-2)
    assert part["loss"] == pytest.approx(whole["loss"], rel=1e-5)


def test_branches_do_not_share_a_prompt_where_windows_slide(data, tokenizer_path, tmp_path):
    """A window is measured along the row, where the other branch lies between."""
    fields = {name: value for name, value in vars(SHAPE).items() if name in MistralConfig.__dataclass_fields__}
    windowed, reference = str(tmp_path / "model"), str(tmp_path / "reference")
    shape = MistralConfig(**{**fields, "sliding_window": 6})
    random_model(RandomModelConfig(model=shape, tokenizer=tokenizer_path, seed=3, output_path=windowed))
    reference_logprobs(reference_config(data, windowed, reference))
    model, cache = levanter_model.load_model(windowed), TokenCache.open(f"{data[1]['pairs']}/train")
    numbers = np.load(f"{data[0]}/packs/pairs/train/pairs.npy")
    alone = [[single_logps(model, document) for document in cache.read(2 * numbers + i)] for i in (0, 1)]
    np.testing.assert_allclose(np.load(logps_path(reference, "pairs", TRAIN))[:, :2].T, alone, rtol=1e-5)
    with pytest.raises(TrainingError, match="share_prefix = True: got a model with sliding windows"):
        dpo(config_for(data, windowed, tmp_path / "out", reference_logprobs=reference, share_prefix=True))


def test_a_reference_that_is_wrong_only_from_pair_to_pair_is_noticed(data, base_model, reference, tmp_path):
    """And right in the mean over them."""
    shutil.copytree(reference, tmp_path / "reference")
    path = logps_path(str(tmp_path / "reference"), "pairs", TRAIN)
    known = np.load(path)
    batch = PairBatches(PackedMixture.open(*data), 8, 0).batch(0).pairs[0, :, 1]
    known[batch, :2] += np.tile([[0.1], [-0.1]], (4, 1))
    np.save(path, known)
    options = {"reference_logprobs": str(tmp_path / "reference"), "starts_at_reference": True}
    with pytest.raises(TrainingError, match="step 1: .'rewards/magnitude': 0.0"):
        dpo(config_for(data, base_model, tmp_path / "out", loss_type="ipo", **options))


def test_an_online_reference_that_does_not_fit_is_refused(data, base_model, tokenizer_path, tmp_path):
    deeper, few = str(tmp_path / "deeper"), str(tmp_path / "few")
    shape = dataclasses.replace(SHAPE, num_layers=3)
    random_model(RandomModelConfig(model=shape, tokenizer=tokenizer_path, seed=3, output_path=deeper))
    word_tokenizer(WORDS[:9]).save_pretrained(tmp_path / "words")
    random_model(RandomModelConfig(model=SHAPE, tokenizer=str(tmp_path / "words"), seed=3, output_path=few))
    for model, options, message in [
        (deeper, {"ref_model_sync_steps": 2}, "ref_model_sync_steps: the reference model .* has another shape"),
        (few, {}, "got token id .*, expected ids below"),
    ]:
        with pytest.raises(TrainingError, match=message):
            dpo(config_for(data, base_model, tmp_path / "out", reference_model=model, **options))


def test_without_a_reference_there_is_no_distance_to_it(data, base_model, tmp_path):
    """And SimPO's rewards are per token."""
    few = {"num_train_steps": 1, "learning_rate": 1e-12}
    dpo(config_for(data, base_model, tmp_path / "simpo", loss_type="simpo", **few))
    dpo(config_for(data, base_model, tmp_path / "free", reference_free=True, **few))
    (simpo,), (free,) = (logged(tmp_path / name) for name in ("simpo", "free"))
    assert "kl" not in simpo and "kl" not in free
    first = PairBatches(PackedMixture.open(*data), 8, 0).batch(0)
    lengths = first.lengths.reshape(-1, 2)
    batch = {name: hax.named(array[0], ("batch", "position") if array.ndim == 3 else name)
             for name, array in pair_arrays(first, None).items()}  # fmt: skip
    logps = np.asarray(completions(levanter_model.load_model(base_model), batch).logps)
    assert simpo["rewards/chosen"] == pytest.approx(0.1 * (logps / lengths)[:, 0].mean(), rel=1e-5)
    assert free["rewards/chosen"] == pytest.approx(0.1 * logps[:, 0].mean(), rel=1e-5)


@pytest.mark.parametrize("options", [{"ld_alpha": 0.3}, {"use_weighting": True}])
def test_each_option_counts(data, base_model, reference, cached, tmp_path, options):
    """And passes the check of the first step."""
    options = {**options, "num_train_steps": 2, "starts_at_reference": True}
    dpo(config_for(data, base_model, tmp_path, reference_logprobs=reference, **options))
    one, other = logged(cached)[1], logged(tmp_path)[1]
    assert any(one[name] != pytest.approx(other[name], rel=1e-4) for name in ("loss", "grad_norm", "logps/chosen"))


def test_a_reference_in_memory_has_the_positions_of_the_base_model(data, base_model, cached, tmp_path):
    options = {"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "num_train_steps": 1}
    dpo(config_for(data, base_model, tmp_path, reference_model=base_model, starts_at_reference=True, **options))
    (scaled,) = logged(tmp_path)
    assert scaled["rewards/chosen"] == pytest.approx(0, abs=1e-6)
    assert scaled["logps/chosen"] != pytest.approx(logged(cached)[0]["logps/chosen"], rel=1e-3)


def test_a_reference_in_memory_that_is_another_model_has_its_own(data, base_model, tmp_path):
    """As a directory that is named by another path."""
    scaling = {"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "num_train_steps": 1}
    dpo(config_for(data, base_model, tmp_path, reference_model=f"{base_model}/../{Path(base_model).name}", **scaling))
    assert abs(logged(tmp_path)[0]["rewards/chosen"]) > 1e-5


def test_a_reference_that_follows(data, base_model, tmp_path):
    """With a = 1, each sync makes the policy the reference."""
    dpo(
        config_for(
            data, base_model, tmp_path, reference_model=base_model, ref_model_sync_steps=2, ref_model_mixup_alpha=1.0
        )
    )
    rewards = [line["rewards/margins"] for line in logged(tmp_path)]
    assert [rewards[i] for i in (0, 2, 4)] == pytest.approx([0, 0, 0], abs=1e-6)
    assert abs(rewards[1]) > 1e-4 and abs(rewards[3]) > 1e-4


def test_it_goes_on_in_the_same_bits(data, base_model, tmp_path, monkeypatch):
    options = {
        "reference_model": base_model,
        "ref_model_sync_steps": 2,
        "num_train_steps": 6,
        "steps_per_checkpoint": 3,
    }
    dpo(config_for(data, base_model, tmp_path / "whole", **options))

    class Killed(Exception):
        pass

    def kill(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "remove", kill)  # after the first checkpoint is finished
        with pytest.raises(Killed):
            dpo(config_for(data, base_model, tmp_path / "first", **options))
    config = config_for(data, base_model, tmp_path / "second", **options)
    dpo(dataclasses.replace(config, earlier_attempts=(str(tmp_path / "first"),)))
    whole, resumed = (dict(ModelDirectory(str(tmp_path / name / "model")).tensors()) for name in ("whole", "second"))
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)
    without_speed = [
        [{k: v for k, v in line.items() if "per_second" not in k} for line in logged(tmp_path / name)]
        for name in ("whole", "second")
    ]
    assert without_speed[0] == without_speed[1]


def test_what_cannot_be_is_refused():
    paths = {"mixture": "m", "tokenized": {}, "base_model": "b", "train_batch_size": 1, "learning_rate": 1e-6}
    for fields, message in [
        ({}, "exactly one of reference_logprobs and reference_model"),
        ({"reference_logprobs": "r", "reference_model": "m"}, "exactly one of"),
        ({"reference_logprobs": "r", "reference_free": True}, "reference_free"),
        ({"reference_logprobs": "r", "ref_model_sync_steps": 2}, "cached figures cannot move"),
        ({"reference_model": "m", "ref_model_sync_steps": 2, "lora": LoraConfig(r=4, alpha=8)}, "None with lora"),
        ({"reference_logprobs": "r", "loss_type": "sigmod"}, "did you mean|nearest|sigmoid"),
        ({"reference_logprobs": "r", "beta": 0.0}, "beta"),
        ({"reference_logprobs": "r", "ld_alpha": 2.0}, "ld_alpha"),
        ({"reference_logprobs": "r", "loss_type": "aot", "use_weighting": True}, "weighted one by one"),
        ({"reference_logprobs": "r", "loss_type": "bco_pair", "bco_delta": math.nan}, "bco_delta"),
    ]:
        with pytest.raises(ConfigError, match=message):
            DPOConfig(**paths, num_train_steps=1, **fields)
