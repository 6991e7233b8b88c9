"""default_sft and default_train: which steps they make of what they are given, and what they refuse."""

import dataclasses

import pytest

from experiments.defaults import MODEL_FILES, default_sft, default_tokenize, default_train
from experiments.llama import llama_8b, llama_nano
from experiments.marin_models import marin_tokenizer
from experiments.simple_sft_config import SimpleSFTConfig
from experiments.simple_train_config import SimpleTrainConfig
from marin_sft.data import ChatLmDatasetFormat, TextLmDatasetFormat
from marin_sft.data.data_configs import lm_data_config, lm_mixture_data_config
from marin_sft.errors import ConfigError
from marin_sft.execution.identity import fingerprint_of_payload, payload_of
from marin_sft.execution.resources import CpuConfig
from marin_sft.execution.step import InputName
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.metrics.trackers import TensorboardConfig, WandbConfig
from marin_sft.training.stops import EarlyStopping

SETTINGS = SimpleSFTConfig(tpu_type="v4-8", model_name_or_path="meta-llama/Llama-3.1-8B", num_train_steps=10)
TRAINING = SimpleTrainConfig(resources=CpuConfig(), train_batch_size=8, learning_rate=1e-3, num_train_steps=10)


def tokenized(name, format=None, **options):
    return default_tokenize(name, f"gs://bucket/{name}/*.jsonl", marin_tokenizer, format, **options)


CHAT, CODE = tokenized("chat"), tokenized("code")
WEIGHTS = {"chat": 2, "code": 1}


def fingerprint_of(step):
    return fingerprint_of_payload(payload_of(step, fingerprint_of))


def sft(data, config=SETTINGS, **options):
    return default_sft("x", data, llama_8b, config, **options)


def data_of(trained):
    return trained.config.mixture.config.data


def test_one_dataset():
    trained = sft(CHAT, dataclasses.replace(SETTINGS, seed=3), tags=["mine"])
    assert trained.name == "checkpoints/x_seed3" and trained.config.mixture.name == "mixtures/x"
    assert trained.description == "Training of x; tags: sft, mine"
    assert data_of(trained) == lm_data_config(CHAT) and trained.config.mixture.config.seq_len == 4096


def test_the_base_model_is_downloaded_without_what_is_not_read():
    download = sft(CHAT).config.base_model
    assert download.name == "models/meta-llama--Llama-3.1-8B"
    assert download.config.revision == "d04e592bb4f6aa9cfee91e2e20afa771667e1d4b"
    assert download.config.allow_patterns == MODEL_FILES and "*.bin" not in MODEL_FILES


def test_a_model_that_is_there_already(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    directory = dataclasses.replace(SETTINGS, model_name_or_path=str(tmp_path))
    assert sft(CHAT, directory).config.base_model == tmp_path
    remote = dataclasses.replace(SETTINGS, model_name_or_path="gs://bucket/model")
    assert sft(CHAT, remote).config.base_model == "gs://bucket/model"


def test_training_goes_on_from_a_training_step():
    first = sft(CHAT)
    config = dataclasses.replace(SETTINGS, model_name_or_path=None, initialize_from_checkpoint_path=first)
    base = default_sft("y", CODE, llama_8b, config).config.base_model
    assert (base.step, base.name) == (first, "model")


def test_three_ways_to_a_mixture():
    mixture = lm_mixture_data_config({"chat": CHAT, "code": CODE}, WEIGHTS)
    made = [
        sft(mixture),
        sft(mixture, mixture_weights=WEIGHTS),
        sft({"chat": CHAT, "code": CODE}, mixture_weights=WEIGHTS),
    ]
    assert len({fingerprint_of(step) for step in made}) == 1
    assert data_of(made[0]).weights_are == "documents"


def test_the_settings_of_a_mixture_and_of_the_config_meet():
    mixture = lm_mixture_data_config({"chat": CHAT, "code": CODE}, WEIGHTS, mixture_block_size=64)
    assert data_of(sft(mixture)).mixture_block_size == 64
    exits = dataclasses.replace(SETTINGS, stop_strategy="exit")
    assert data_of(sft(mixture, exits)).stop_strategy == "first_exhausted"
    assert data_of(sft(CHAT, exits)).stop_strategy == "first_exhausted"
    with pytest.raises(ConfigError, match=r"stop_strategy='restrat'; expected one of .*'exit'.*mean 'restart'\?"):
        sft(mixture, dataclasses.replace(SETTINGS, stop_strategy="restrat"))
    with pytest.raises(ConfigError, match="mixture_block_size=2048, but the mixture has 64"):
        sft(mixture, dataclasses.replace(SETTINGS, mixture_block_size=2048))


def test_one_dataset_has_no_blocks():
    blocks = dataclasses.replace(SETTINGS, mixture_block_size=2048)
    assert fingerprint_of(sft(CHAT, blocks)) == fingerprint_of(sft(CHAT))


def test_a_token_cache_from_elsewhere():
    cache = InputName.hardcoded("tokenized/old-1a2b3c/1")
    never = dataclasses.replace(SETTINGS, steps_per_hf_export=-1)
    assert data_of(sft(cache, never)).tokenized == {"data": cache}
    assert data_of(sft(CHAT.as_input_name())) == data_of(sft(CHAT))
    with pytest.raises(ConfigError, match="cannot tell how 'data' was tokenized .* leave out input_role"):
        sft(cache, dataclasses.replace(never, input_role="user"))


REFUSED = {
    "weights for one dataset": (CHAT, {"mixture_weights": {"chat": 1}}, "for one dataset"),
    "no weights for two": ({"chat": CHAT, "code": CODE}, {}, "without mixture_weights; expected one for each"),
    "other weights than the mixture's": (
        lm_mixture_data_config({"chat": CHAT, "code": CODE}, WEIGHTS),
        {"mixture_weights": {"chat": 1, "code": 1}},
        "mixture_weights=.*, but the mixture has",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_data_that_do_not_fit_together(name):
    data, options, reason = REFUSED[name]
    with pytest.raises(ConfigError, match=f"default_sft.'x'.: .*{reason}"):
        sft(data, **options)


def test_roles_are_those_of_the_format():
    roles = dataclasses.replace(SETTINGS, input_role="human", output_role="gpt")
    sharegpt = tokenized("sharegpt", ChatLmDatasetFormat(input_field="human", output_field="gpt"))
    assert sft(sharegpt, roles).name == "checkpoints/x_seed0"
    with pytest.raises(ConfigError, match="input_role='human', but 'chat' was tokenized with 'user'"):
        sft(CHAT, roles)


def test_validation_data_may_have_other_roles():
    held_out = tokenized("held_out", TextLmDatasetFormat(), is_validation=True)
    roles = dataclasses.replace(SETTINGS, input_role="user", output_role="assistant")
    assert data_of(sft(lm_data_config(CHAT, {"held_out": held_out}), roles)).training == ["chat"]


def test_any_download_of_the_same_tokenizer_will_do():
    whole = dataclasses.replace(SETTINGS, tokenizer=f"{marin_tokenizer}@a5ca45f2feb6c959bd87b81689aa7279b5bdcaa2")
    assert fingerprint_of(sft(CHAT, whole)) == fingerprint_of(sft(CHAT))
    with pytest.raises(ConfigError, match="tokenizer='marin-community/marin-tokenizer@other'"):
        sft(CHAT, dataclasses.replace(SETTINGS, tokenizer=f"{marin_tokenizer}@other"))


def test_training_from_random_weights():
    trained = default_train("x", CHAT, llama_nano, TRAINING)
    base = trained.config.base_model
    assert (base.name, base.config.model, base.config.tokenizer) == ("models/x", llama_nano, CHAT.config.tokenizer)
    assert trained.config.mixture.config.seq_len == llama_nano.max_seq_len
    with pytest.raises(ConfigError, match="no base_model; expected one, or a model_config"):
        default_train("x", CHAT, None, dataclasses.replace(TRAINING, train_seq_len=128))
    with pytest.raises(ConfigError, match="neither model_config nor train_seq_len"):
        default_train("x", CHAT, None, TRAINING, base_model="org/base")


TRAIN_FIELDS = {
    "train_batch_size": 16, "learning_rate": 2e-3, "num_train_steps": 20, "train_seq_len": 256, "weight_decay": 0.0,
    "beta1": 0.8, "beta2": 0.99, "warmup": 0.1, "decay": 0.5, "lr_schedule": "linear", "min_lr_ratio": 0.0,
    "max_grad_norm": None, "z_loss_weight": 1e-4, "seed": 1, "steps_per_hf_export": -1,
    "hf_generation_eos_token_ids": (1,), "learning_rate_end": 1e-5, "optimizer": "lion", "epsilon": 1e-6,
    "optimizer_options": {"nesterov": True}, "weight_decay_parameters": "mlp", "skip_bad_steps": 9, "precision": "fp32",
    "frozen_parameters": "embed", "unfreeze": {"embed": 9}, "reinit_tokens": ("x",), "label_smoothing": 0.1,
    "neftune_noise_alpha": 5.0, "lora": LoraConfig(r=4, alpha=8), "max_evaluation_steps": 3, "hf_exports_kept": 2,
    "early_stopping": EarlyStopping(steps=1000, patience=2), "save_optimizer_state": True,
    "rope_scaling": {"rope_type": "linear", "factor": 2.0}, "stop_after": 0.5,
}  # fmt: skip
EXECUTION_FIELDS = {
    "per_device_parallelism": 4, "steps_per_eval": 5, "resources": CpuConfig(cpus=4), "mesh": {"tensor": 2},
    "gradient_checkpointing": False, "attention_backend": "vanilla", "do_eval": True, "training_time_limit": "2h",
    "save_total_limit": 3, "trackers": (TensorboardConfig(),), "progress_bar": "json", "track_memory": True,
    "weight_distribution_pattern": "mlp", "minutes_per_checkpoint": 5.0, "steps_per_log": 1,
    "gradient_accumulation_steps": 2, "eval_on_start": True, "resume_from": "elsewhere", "steps_per_report": 3,
}  # fmt: skip


def test_every_setting_of_training_counts():
    tested = {*TRAIN_FIELDS, *EXECUTION_FIELDS, "num_train_epochs", "steps_per_checkpoint", "per_epoch_training_steps"}
    tested.add("weight_distribution_log_steps")
    assert tested == {field.name for field in dataclasses.fields(SimpleTrainConfig)}
    changed = [dataclasses.replace(TRAINING, **{name: value}) for name, value in TRAIN_FIELDS.items()]
    changed.append(dataclasses.replace(TRAINING, num_train_steps=None, num_train_epochs=2))
    by_epochs = dataclasses.replace(TRAINING, num_train_steps=None, num_train_epochs=2, per_epoch_training_steps=7)
    changed.append(by_epochs)
    # Where exports keep its pace, their cadence counts; otherwise not.
    changed.append(dataclasses.replace(TRAINING, steps_per_checkpoint=5))
    steps = [default_train("x", CHAT, llama_nano, config) for config in (TRAINING, *changed)]
    assert len({fingerprint_of(step) for step in steps}) == len(steps)
    for name, value in EXECUTION_FIELDS.items():
        step = default_train("x", CHAT, llama_nano, dataclasses.replace(TRAINING, **{name: value}))
        assert fingerprint_of(step) == fingerprint_of(steps[0])
        assert value in (step.resources, getattr(step.config, name, None))
    watched = dataclasses.replace(TRAINING, trackers=(TensorboardConfig(),), weight_distribution_log_steps=5)
    step = default_train("x", CHAT, llama_nano, watched)
    assert fingerprint_of(step) == fingerprint_of(steps[0]) and step.config.weight_distribution_log_steps == 5


def test_tags_are_given_to_trackers():
    settings = dataclasses.replace(SETTINGS, trackers=(WandbConfig(project="x", tags=("a",)), TensorboardConfig()))
    trackers = default_sft("x", CHAT, llama_8b, settings, tags=["b"]).config.trackers
    assert trackers == (WandbConfig(project="x", tags=("a", "sft", "b")), TensorboardConfig())


def test_ids_that_end_an_answer_need_an_export():
    with pytest.raises(ConfigError, match="but training exports nothing; set steps_per_hf_export, or give the ids to"):
        dataclasses.replace(TRAINING, hf_generation_eos_token_ids=(1,), steps_per_hf_export=-1)
