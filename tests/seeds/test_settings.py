"""What EasyDeL's members and the tutorials' settings become in the steps."""

import fsspec
import pytest
from jax import numpy as jnp

import marin_sft as ed
from marin_sft import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from marin_sft.errors import ConfigError
from marin_sft.trainers.publishing import publish
from marin_sft.training.metrics.trackers import TensorboardConfig
from tests.seeds.planned import directories, planned, planned_by

MODEL = "Qwen/Qwen3-14B"
TEXTS = [{"text": "one"}, {"text": "two"}]
PAIRS = [{"prompt": "hi", "chosen": "ho", "rejected": "no"}]


def training(model=MODEL, **settings):
    return planned(SFTTrainer(arguments=SFTConfig(**settings), model=model, train_dataset=TEXTS)).training


def of_pairs(reference_model=None, **settings):
    trainer = DPOTrainer(
        arguments=DPOConfig(**settings), model=MODEL, train_dataset=PAIRS, reference_model=reference_model
    )
    return planned(trainer).training


def of_handle(**settings):
    return training(ed.AutoEasyDeLModelForCausalLM.from_pretrained(MODEL, **settings))


def of_option(**options):
    return of_handle(config_kwargs=ed.EasyDeLBaseConfigDict(**options))


@pytest.mark.parametrize("member", ["ADAMW", "ADAFACTOR", "LION", "RMSPROP", "MUON", "MARS"])
def test_optimizers(member):
    name = member.lower()
    as_member, as_text = (training(optimizer=given) for given in (ed.EasyDeLOptimizers[member], name))
    assert as_member.optimizer == as_text.optimizer == name
    assert as_member.beta2 == (0.999 if name in ("adamw", "mars") else training(optimizer=name).beta2)


@pytest.mark.parametrize("member, schedule", [("COSINE", "cosine"), ("LINEAR", "linear"), ("NONE", "constant")])
def test_schedulers(member, schedule):
    scheduler = ed.EasyDeLSchedulers[member]
    assert training(scheduler=scheduler).lr_schedule == training(scheduler=str(scheduler)).lr_schedule == schedule


def test_a_rate_at_the_end_needs_a_rate_that_falls():
    assert training(learning_rate_end=1e-6).lr_schedule == "linear"
    with pytest.raises(ConfigError, match="learning_rate_end"):
        training(learning_rate_end=1e-6, scheduler=ed.EasyDeLSchedulers.NONE)


@pytest.mark.parametrize(
    "member, backend",
    [
        ("AUTO", None),
        ("VANILLA", "vanilla"),
        ("FLASH_ATTN2", "jax_flash"),
        ("SPLASH", "splash"),
        ("BLOCKSPARSE", "splash"),
        ("CUDNN", "nvte"),
        ("CUDA_FLASH_ATTN2", "nvte"),
        ("SDPA", "default"),
    ],
)
def test_attention(member, backend):
    assert of_option(attn_mechanism=ed.AttentionMechanisms[member]).attention_backend == backend


@pytest.mark.parametrize(
    "member, recomputed",
    [
        ("NONE", False),
        ("NOTHING_SAVEABLE", True),
        ("EVERYTHING_SAVEABLE", "save_all"),
        ("DOTS_SAVEABLE", "save_products"),
        ("CHECKPOINT_DOTS", "save_products"),
    ],
)
def test_checkpointers(member, recomputed):
    given = ed.EasyDeLGradientCheckPointers[member]
    assert of_option(gradient_checkpointing=given).gradient_checkpointing == recomputed
    assert training(gradient_checkpointing=str(given)).gradient_checkpointing == recomputed


def test_no_checkpointer():
    assert training().gradient_checkpointing is of_option().gradient_checkpointing is None, "what memory allows"
    assert of_option(gradient_checkpointing=False).gradient_checkpointing is False


@pytest.mark.parametrize(
    "types, precision",
    [
        ({"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16}, "bf16_full"),
        ({"dtype": jnp.bfloat16}, "bf16"),
        ({"dtype": "bfloat16", "param_dtype": "float32"}, "bf16"),
        ({}, "fp32"),
        ({"param_dtype": jnp.bfloat16}, "p=bf16,c=f32"),
    ],
)
def test_numbers(types, precision):
    assert of_handle(**types).precision == precision


@pytest.mark.parametrize("sizes", [(1, -1, 1, 1, 1), (1, 1, 1, 1, -1), (1, -1, 1, 1)])
def test_meshes(sizes):
    five = sizes if len(sizes) == 5 else (1, -1, 1, 1, 1)
    assert of_handle(sharding_axis_dims=sizes).mesh == training(sharding_axis_dims=sizes).mesh == five
    assert training(sharding_axis=str(sizes)).mesh == five


def test_an_update_takes_the_product():
    plan = planned(
        SFTTrainer(
            arguments=SFTConfig(total_batch_size=8, gradient_accumulation_steps=4), model=MODEL, train_dataset=TEXTS
        )
    )
    assert (plan.training.train_batch_size, plan.training.gradient_accumulation_steps) == (32, 4)
    assert "an update takes 32 examples: 8 x 4 accumulated" in plan.notes


@pytest.mark.parametrize("limit, kept", [(0, None), (2, 2), (None, None)])
def test_models_kept(limit, kept):
    found = training(save_steps=1000, save_total_limit=limit, save_optimizer_state=True)
    assert (found.hf_exports.steps, found.hf_exports_kept, found.save_optimizer_state) == (1000, kept, True)


def test_settings_of_the_pairs_tutorial():
    found = of_pairs(
        max_training_steps=7,
        max_evaluation_steps=3,
        per_epoch_training_steps=5,
        track_memory=True,
        weight_distribution_log_steps=2,
        beta=0.5,
        loss_config=ed.LossConfig(label_smoothing=0.1),
    )
    expected = {
        "num_train_steps": 7,
        "num_train_epochs": 10,
        "max_evaluation_steps": 3,
        "per_epoch_training_steps": 5,
        "track_memory": True,
        "weight_distribution_log_steps": 2,
        "beta": 0.5,
        "label_smoothing": 0.1,
    }
    assert {name: getattr(found, name) for name in expected} == expected
    assert training(loss_config=ed.LossConfig(z_loss=0.1)).z_loss_weight == 0.1
    assert training(track_memory=30).track_memory == 30
    assert training(per_epoch_evaluation_steps=4).max_evaluation_steps == 4
    for bar in ("json", "tqdm", "rich"):
        assert training(progress_bar_type=bar).progress_bar == bar


def test_distributions_have_a_tracker_that_takes_them():
    trainer = DPOTrainer(MODEL, args=DPOConfig(weight_distribution_log_steps=5), train_dataset=PAIRS)
    assert TensorboardConfig in map(type, planned(trainer).training.trackers)


def test_pairs_are_compared_with_the_model_that_training_begins_with():
    alone = of_pairs().reference_logprobs
    assert alone.config.model.name == of_pairs().base_model.name == "models/Qwen--Qwen3-14B"
    other = of_pairs(reference_model=ed.AutoEasyDeLModelForCausalLM.from_pretrained("Qwen/Qwen2.5-1.5B"))
    assert "Qwen2.5-1.5B" in other.reference_logprobs.name
    named = of_pairs(reference_model_repo_id="Qwen/Qwen2.5-1.5B")
    assert named.reference_logprobs.name == other.reference_logprobs.name


def test_ranks_share_everything_but_the_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = [
        set(directories(planned_by(f"--data_path yahma/alpaca-cleaned --use_lora --lora_r {rank}").trainer.steps))
        for rank in (8, 16, 32)
    ]
    shared = set.intersection(*found)
    assert {name.partition("/")[0] for name in shared} == {"raw", "documents", "tokenized", "mixtures", "models"}
    assert all(len(names - shared) == 2 for names in found)  # training and export


def test_models_are_copied_to_a_url(tmp_path):
    """As to a bucket: what was copied is known, is not copied again, and goes when another takes its place."""
    for version, files in (("1", ("a.safetensors", "old.json")), ("2", ("a.safetensors", "adapter/new.json"))):
        for name in files:
            path = tmp_path / version / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{version} {name}")
    bucket, target = fsspec.filesystem("memory"), "memory://bucket/models/mine"
    bucket.pipe_file("/bucket/models/mine/users.txt", b"mine")
    publish(str(tmp_path / "1"), target)
    before = bucket.modified("/bucket/models/mine/a.safetensors")
    publish(str(tmp_path / "1"), target)
    assert bucket.modified("/bucket/models/mine/a.safetensors") == before
    publish(str(tmp_path / "2"), target)
    names = {path.removeprefix("/bucket/models/mine/") for path in bucket.find("/bucket/models/mine")}
    assert names == {"a.safetensors", "adapter/new.json", "users.txt", "marin_sft_source.json"}
    assert bucket.cat_file("/bucket/models/mine/a.safetensors") == b"2 a.safetensors"
