import pytest

from marin_sft import steps
from marin_sft.errors import ConfigError
from marin_sft.execution.identity import payload_of
from marin_sft.execution.step import ExecutorStep
from marin_sft.training.mesh import MeshConfig
from marin_sft.training.sft_config import SFTConfig


def payload(**fields) -> dict:
    sizes = {"train_batch_size": 4, "num_train_steps": 10, "learning_rate": 1e-3}
    config = SFTConfig(mixture="m", tokenized={}, base_model="b", **{**sizes, **fields})
    return payload_of(ExecutorStep("checkpoints/x", config=config), lambda step: "unused")


def test_what_is_left_at_its_default_is_no_part_of_identity():
    """The steps that were made before a setting existed keep their paths."""
    added = {
        "learning_rate_end": 1e-4,
        "optimizer": "lion",
        "optimizer_options": {"nesterov": True},
        "epsilon": 1e-6,
        "weight_decay_parameters": "mlp",
        "skip_bad_steps": 100,
        "frozen_parameters": "embed",
        "unfreeze": {"embed": 5},
        "reinit_tokens": ("x",),
        "label_smoothing": 0.1,
        "neftune_noise_alpha": 5.0,
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
    }
    assert not added.keys() & payload()["config"].keys()
    for field, value in added.items():
        needs = {"weight_decay": 0.1} if field == "weight_decay_parameters" else {}
        assert payload(**{field: value}, **needs)["config"][field] is not None


def test_what_only_rounds_otherwise_is_no_part_of_identity():
    for fields in (
        {"mesh": MeshConfig(tensor=2)},
        {"mesh": (1, -1, 1, 1, 1)},
        {"gradient_checkpointing": "full"},
        {"attention_backend": "vanilla"},
        {"per_device_parallelism": 2},
        {"gradient_accumulation_steps": 2},
        {"steps_per_report": 5},
        {"resume_from": "elsewhere"},
    ):
        assert payload(**fields) == payload()
    assert payload(precision="fp32") != payload()


@pytest.mark.parametrize("make", [steps.sft, steps.dpo])
@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("num_train_step", "Config has no field 'num_train_step': did you mean 'num_train_steps' or "),
        ("per_epoch_evaluation_steps", "Config has no field 'per_epoch_evaluation_steps': max_evaluation_steps says"),
        ("wörld", "Config has no field 'wörld': see its docstring"),
    ],
)
def test_a_field_that_is_not_there(make, field, message):
    tokens = steps.tokenize("chat", "gs://b/rows.jsonl", tokenizer="gs://b/tokenizer")
    blend = steps.mixture("blend", {"chat": tokens}, weights={"chat": 1}, seq_len=32)
    with pytest.raises(ConfigError, match=message):
        make("x", mixture=blend, base_model="gs://b/base", learning_rate=1e-4, train_batch_size=4, **{field: 2})
