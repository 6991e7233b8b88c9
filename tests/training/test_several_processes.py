"""Several processes, as on several hosts, train what one process trains."""

import dataclasses
import json
from pathlib import Path

import equinox as eqx
import haliax as hax
import jax
import numpy as np
import pytest
import torch
import transformers

from marin_sft import progress
from marin_sft.data.data_configs import lm_mixture_data_config
from marin_sft.data.mixture import MixtureConfig, mixture
from marin_sft.data.tokenize import TokenizeConfig, tokenize
from marin_sft.evaluation.generate import generate
from marin_sft.evaluation.perplexity import perplexity
from marin_sft.evaluation.step_configs import GenerateConfig, PerplexityConfig
from marin_sft.export.periodic import PeriodicExports
from marin_sft.training import checkpoints
from marin_sft.training.dpo import dpo
from marin_sft.training.dpo_config import DPOConfig, ReferenceConfig
from marin_sft.training.fakes import CountingBatches
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.models import Qwen3Config
from marin_sft.training.models.architectures import levanter_config
from marin_sft.training.models.levanter_model import state_shapes
from marin_sft.training.models.model_directory import ModelDirectory, write_json, write_tensors
from marin_sft.training.models.random_model import random_model
from marin_sft.training.models.random_model_config import RandomModelConfig
from marin_sft.training.reference import reference_logprobs
from marin_sft.training.references import logps_path
from marin_sft.training.sft import sft, train
from tests.training import several_calls
from tests.training.conftest import WORDS
from tests.training.processes import results_of, together
from tests.training.small_runs import chat_mixture, logged, sft_config

BATCHES = CountingBatches(vocab_size=40, batch_size=8, length=16)
# A width that two devices divide, but not four.
ODD = Qwen3Config(
    max_seq_len=32, hidden_dim=30, intermediate_dim=62, num_layers=3, num_heads=3, num_kv_heads=1, head_dim=10
)
FIGURES = ("step", "epoch", "loss", "grad_norm", "lr", "tokens", "trained_tokens")


@pytest.fixture(scope="module")
def odd_model(tmp_path_factory, tokenizer_path):
    path = str(tmp_path_factory.mktemp("odd"))
    random_model(RandomModelConfig(model=ODD, tokenizer=tokenizer_path, seed=4, output_path=path))
    return path


@pytest.fixture(scope="module")
def chats(tmp_path_factory, tokenizer_path):
    return chat_mixture(tmp_path_factory.mktemp("chats"), tokenizer_path, {"long": 20}, {"long": 1}, held_out=6)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, tokenizer_path):
    root, rng = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)

    def says(role: str) -> list[dict]:
        return [{"role": role, "content": " ".join(rng.choice(WORDS, rng.integers(1, 10)))}]

    rows = [{"prompt": says("user"), "chosen": says("assistant"), "rejected": says("assistant")} for _ in range(20)]
    (root / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tokenize(TokenizeConfig((f"{root}/rows.jsonl",), tokenizer_path, output_path=f"{root}/tokens"))
    tokenized = {"pairs": f"{root}/tokens"}
    data = lm_mixture_data_config(tokenized, {"pairs": 1.0}, num_validation_sequences={"pairs": 6})
    mixture(MixtureConfig(data, seq_len=32, output_path=f"{root}/mixture"))
    return f"{root}/mixture", tokenized


def calls_for(root: Path, base_model, odd_model, chats, pairs) -> list[tuple]:
    """SFT with exports, LoRA, the reference, DPO with it, perplexity and answers, with outputs below `root`."""
    (root / "prompts.jsonl").write_text(
        "".join(
            json.dumps({"messages": [{"role": "user", "content": word}, {"role": "assistant", "content": "w1"}]}) + "\n"
            for word in WORDS[:7]
        )
    )
    exported = f"{root.parent}/one/sft/hf/step-4"
    meshed = {"mesh": {"data": -1, "fsdp": 2}} if root.name == "several" else {}
    reference = ReferenceConfig(
        mixture=pairs[0],
        tokenized=pairs[1],
        model=base_model,
        output_path=f"{root}/reference",
        precision="fp32",
        batch_size=8,
    )
    fields = vars(sft_config(base_model, root / "dpo", mixture=pairs[0], tokenized=pairs[1]))
    shared = {name: fields[name] for name in fields if name not in ("train_batch_size", "z_loss_weight")}
    known = {field.name for field in dataclasses.fields(DPOConfig)}
    pairwise = DPOConfig(
        **{name: value for name, value in shared.items() if name in known},
        train_batch_size=8,
        reference_logprobs=f"{root}/reference",
        starts_at_reference=True,
    )
    return [
        (
            sft,
            sft_config(
                odd_model,
                root / "sft",
                mixture=chats[0],
                tokenized=chats[1],
                steps_per_eval=2,
                hf_exports=PeriodicExports(base_model=odd_model, steps=2),
                **meshed,
            ),
        ),
        (
            train,
            sft_config(base_model, root / "lora", train_batch_size=8, lora=LoraConfig(r=2, alpha=4, use_dora=True)),
            BATCHES,
        ),
        (reference_logprobs, reference),
        (dpo, pairwise),
        (
            perplexity,
            PerplexityConfig(model=exported, mixture=chats[0], tokenized=chats[1], output_path=f"{root}/perplexity"),
        ),
        (
            generate,
            GenerateConfig(
                model=exported,
                prompts={"all": f"{root}/prompts.jsonl"},
                output_path=f"{root}/answers",
                batch_size=2,
                max_new_tokens=6,
            ),
        ),
    ]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, base_model, odd_model, chats, pairs):
    """What one process wrote, what two wrote, and what they printed."""
    root = tmp_path_factory.mktemp("outputs")
    one, several = root / "one", root / "several"
    one.mkdir(), several.mkdir()
    for function, *arguments in calls_for(one, base_model, odd_model, chats, pairs):
        function(*arguments)
    ended = together(*calls_for(several, base_model, odd_model, chats, pairs), devices=2)
    results_of(ended)
    return one, several, [process.output for process in ended]


def assert_close(one: Path, other: Path) -> None:
    for expected, got in zip(logged(one), logged(other), strict=True):
        assert expected.keys() == got.keys()
        for name, value in expected.items():
            if "per_second" not in name and not name.startswith("mfu"):
                close = 1e-6 if "loss" in name else 1e-5
                assert got[name] == pytest.approx(value, abs=close, rel=close), (other.name, expected["step"], name)


@pytest.mark.parametrize("name", ["sft", "lora", "dpo"])
def test_each_kind_of_training(outputs, name):
    one, several, _ = outputs
    assert_close(one / name, several / name)
    expected, got = (dict(ModelDirectory(f"{root}/{name}/model").tensors()) for root in (one, several))
    assert expected.keys() == got.keys()
    for tensor, value in expected.items():
        np.testing.assert_allclose(got[tensor], value, atol=1e-3, err_msg=tensor)


def test_reference_perplexity_and_answers(outputs):
    one, several, _ = outputs
    for split in ("train", "validation"):
        expected, got = (np.load(logps_path(f"{root}/reference", "pairs", split)) for root in (one, several))
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-5)
    expected, got = (json.loads((root / "perplexity/metrics.json").read_text()) for root in (one, several))
    assert got == pytest.approx(expected, rel=1e-5)
    expected, got = ((root / "answers/generations.jsonl").read_text() for root in (one, several))
    assert got == expected and got.count("\n") == 7


def test_exports_load(outputs):
    for step in (2, 4):
        models = [
            transformers.AutoModelForCausalLM.from_pretrained(root / f"sft/hf/step-{step}") for root in outputs[:2]
        ]
        ours, theirs = (model(torch.tensor([[5, 6, 7, 8]])).logits.detach().numpy() for model in models)
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_only_the_first_process_prints(outputs):
    _, _, (first, second) = outputs
    assert "training for" in first and "training for" not in second


SHAPE_OF_RUNS = {
    "train_batch_size": 8,
    "num_train_steps": 8,
    "steps_per_checkpoint": 2,
    "minutes_per_checkpoint": None,
}


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory, base_model):
    """117 MB, in tensors of 2 MB at most."""
    path = tmp_path_factory.mktemp("wide")
    shape = {"hidden_size": 256, "intermediate_size": 2048, "num_hidden_layers": 16, "head_dim": 64}
    config = {**ModelDirectory(base_model).config, **shape, "num_attention_heads": 4, "num_key_value_heads": 4}
    write_json(str(path), "config.json", config)
    levanter = levanter_config(config)
    model = eqx.filter_eval_shape(levanter.build, hax.Axis("vocab", config["vocab_size"]), key=jax.random.PRNGKey(0))
    write_tensors(str(path), {name: np.ones(shape, np.float32) for name, shape in state_shapes(model).items()})
    return str(path)


@pytest.fixture(scope="module")
def whole(base_model, tmp_path_factory):
    """What one process trains, undisturbed."""
    output = tmp_path_factory.mktemp("whole")
    train(sft_config(base_model, output, **SHAPE_OF_RUNS), BATCHES)
    return output


@pytest.fixture(scope="module")
def ended(tmp_path_factory, base_model, wide_model):
    """Two processes that meet with trouble: what each call told, by process; and the outputs."""
    root = tmp_path_factory.mktemp("ended")

    def config(name: str, *earlier: Path, **changes):
        return sft_config(base_model, root / name, *earlier, **{**SHAPE_OF_RUNS, **changes})

    with stopped_at(5), pytest.raises(Stopped):
        train(config("alone"), BATCHES)  # one process, which leaves a checkpoint of step 4
    calls = [
        (several_calls.bytes_read, base_model, 2),
        (several_calls.bytes_read, base_model, 1),
        (several_calls.memory_while_read, wide_model),
        (several_calls.resumed_from_own_memory, config("unused"), BATCHES),
        (several_calls.with_failing_disk, 1, config("full"), BATCHES),
        (several_calls.with_slow_writer, 8, config("slow", root / "alone"), BATCHES),
        (several_calls.warned_at, 3, 1, config("warned", steps_per_checkpoint=None), BATCHES),
    ]
    processes = together(*calls, shutdown_seconds=4)
    names = ("fsdp", "data", "memory", "unshared", "full", "slow", "warned")
    told = dict(zip(names, zip(*results_of(processes), strict=True), strict=True))
    return root, {**told, "printed": [process.output for process in processes]}


def test_each_process_reads_its_part_of_the_base_model(ended):
    _, told = ended
    for mesh in ("fsdp", "data"):
        (first, size), (second, _) = told[mesh]
        assert size <= first + second < 1.2 * size and max(first, second) < 0.6 * size, mesh


def test_a_prefix_that_is_not_shared_is_refused_by_name(ended):
    _, told = ended
    text = "process 0 resumes from it, but process 1 does not see it: is the prefix shared?"
    assert told["unshared"] == (f"TrainingError: memory://prefix/1/checkpoints/step-2: {text}",) * 2


def test_a_checkpoint_that_one_process_cannot_write_fails_all_and_is_not_finished(ended):
    root, told = ended
    first, second = told["full"]
    assert first == (
        "TrainingError: process 1 could not write the checkpoint of step 2: OSError: No space left on device"
    )
    assert second == "OSError: No space left on device"
    assert checkpoints.newest([str(root / "full")]) is None


def test_only_the_first_process_holds_weights_while_they_are_written_and_one_at_a_time(ended):
    _, told = ended
    for grown, size, _ in told["memory"]:
        assert size > 100e6 and grown < size / 4


def test_what_fails_in_the_first_process_while_the_others_wait_for_it_fails_in_them(ended):
    _, told = ended
    (*_, first), (*_, second) = told["memory"]
    assert first == "OSError: No space left on device"
    assert second == f"TrainingError: process 0 failed: {first}"


def test_writing_the_model_may_take_longer_than_leaving(ended):
    root, told = ended
    assert told["slow"] == (None, None) and (root / "slow/model/model.safetensors").exists()


def test_a_resume_in_more_processes_sees_the_same_data_and_says_so(ended, whole):
    root, told = ended
    said = "resumes on 2 devices in 2 processes; the checkpoint was written on 1 in 1 process\n"
    assert [output.count(said) for output in told["printed"]] == [1, 0]
    assert [line["step"] for line in logged(root / "slow")] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert_close(whole, root / "slow")


def test_a_notice_to_any_process_leads_all_to_a_checkpoint_within_three_steps(
    ended, whole, base_model, tmp_path, capsys
):
    """And one process goes on from it."""
    root, told = ended
    start = checkpoints.newest([str(root / "warned")])
    assert start is not None and 3 < start.step <= 6
    text = f"Preempted: the state after step {start.step} of 8 is kept: the machine is taken away"
    assert told["warned"] == (text, text)
    train(sft_config(base_model, tmp_path, root / "warned", **SHAPE_OF_RUNS), BATCHES)
    said = "resumes on 1 device in 1 process; the checkpoint was written on 2 in 2 processes\n"
    assert capsys.readouterr().out.count(said) == 1
    assert_close(whole, tmp_path)


class Stopped(Exception):
    pass


def stopped_at(step: int):
    def listen(update: progress.Progress) -> None:
        if update.done == step:
            raise Stopped

    return progress.listening(listen)
