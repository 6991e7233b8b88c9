"""What is read of a directory that others wrote, and what of a damaged one."""

import json

import fsspec
import numpy as np
import pytest

from marin_sft.errors import TrainingError
from marin_sft.training.models import peft_directory
from marin_sft.training.models.model_directory import INDEX, WEIGHTS, ModelDirectory, write_tensors
from marin_sft.training.models.peft_directory import CONFIG, read_adapter

OLD, NEW = {"w": np.zeros(4, np.float32)}, {"w": np.ones(4, np.float32)}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}


def config_of(directory, **fields) -> dict:
    (directory / "config.json").write_text(json.dumps(fields))
    return ModelDirectory(directory).config


def test_one_file_goes_before_the_index_of_older_shards(tmp_path):
    """As in transformers: a model was saved again, smaller or merged, into the place of a larger one."""
    write_tensors(str(tmp_path), {**OLD, "x": OLD["w"]}, max_shard_bytes=16)
    assert (tmp_path / INDEX).exists()
    np.testing.assert_array_equal(ModelDirectory(tmp_path).tensors()["w"], OLD["w"])
    write_tensors(str(tmp_path), NEW)
    stored = dict(ModelDirectory(tmp_path).tensors())
    assert stored.keys() == {"w"}
    np.testing.assert_array_equal(stored["w"], NEW["w"])


def test_a_shard_that_is_missing(tmp_path):
    write_tensors(str(tmp_path), {**OLD, "x": OLD["w"]}, max_shard_bytes=16)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(TrainingError, match="no model-00002-of-00002.safetensors in .*model-00001-of-00002"):
        ModelDirectory(tmp_path).tensors()


@pytest.mark.parametrize("kept", [0, 3, 60, -1])
def test_a_damaged_file_of_weights_is_named(kept, tmp_path):
    write_tensors(str(tmp_path), NEW)
    file = tmp_path / WEIGHTS
    file.write_bytes(file.read_bytes()[:kept])
    size = file.stat().st_size
    with pytest.raises(TrainingError, match=rf"model.safetensors \({size} bytes\): expected safetensors.*download it"):
        ModelDirectory(tmp_path).tensors()


def test_a_pointer_of_git_lfs_is_no_file_of_weights(tmp_path):
    (tmp_path / WEIGHTS).write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\n")
    with pytest.raises(TrainingError, match="model.safetensors .*expected safetensors.*download it again"):
        ModelDirectory(tmp_path).tensors()


def test_a_damaged_adapter_is_named(tmp_path):
    (tmp_path / CONFIG).write_text(json.dumps({"r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}))
    (tmp_path / peft_directory.WEIGHTS).write_bytes(b"\x10")
    with pytest.raises(TrainingError, match=r"adapter_model.safetensors \(1 bytes\): expected safetensors"):
        read_adapter(str(tmp_path))


@pytest.mark.parametrize(("text", "found"), [('{"a": ', "Expecting value"), ("[]", "got list"), ("\xff", "utf-8")])
def test_a_config_that_is_no_json_object_is_named(text, found, tmp_path):
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(TrainingError, match=f"config.json: expected .*JSON.*{found}.*download it again"):
        _ = ModelDirectory(tmp_path).config


def test_rope_fields_of_transformers_5_become_the_older_ones(tmp_path):
    config = config_of(tmp_path, rope_parameters={**LLAMA3, "rope_theta": 5e5})
    assert (config["rope_theta"], config["rope_scaling"]) == (5e5, LLAMA3)
    kinds = {"full_attention": {"rope_type": "default", "rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}
    config = config_of(tmp_path, rope_parameters=kinds)
    assert (config["rope_theta"], config["rope_local_base_freq"]) == (1e6, 1e4)
    assert "rope_scaling" not in config


def test_rope_parameters_without_bases_leave_them_to_the_older_fields(tmp_path):
    kinds = {"full_attention": {"rope_type": "linear", "factor": 8.0}, "sliding_attention": {"rope_type": "default"}}
    config = config_of(tmp_path, rope_parameters=kinds, rope_theta=1e6, rope_local_base_freq=1e4)
    assert (config["rope_theta"], config["rope_local_base_freq"]) == (1e6, 1e4)
    assert config["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}


def test_rope_fields_that_contradict_each_other_are_refused(tmp_path):
    with pytest.raises(TrainingError, match="rope_theta = 10000.0, but 500000.0 in rope_parameters: transformers 4"):
        config_of(tmp_path, rope_theta=1e4, rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    with pytest.raises(TrainingError, match="rope_scaling = .*4.0.*, but .*8.0.* in rope_parameters"):
        scaling = {"type": "linear", "factor": 4.0}
        config_of(tmp_path, rope_scaling=scaling, rope_parameters={"rope_type": "linear", "factor": 8.0})


def test_a_part_of_the_head_that_rotates_is_not_lost(tmp_path):
    parameters = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    assert config_of(tmp_path, rope_parameters=parameters)["partial_rotary_factor"] == 0.5


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        (None, None),
        ({}, None),
        ({"type": "default"}, None),
        ({"type": "linear", "factor": 2.0}, {"rope_type": "linear", "factor": 2.0}),
        ({"type": "llama3", **LLAMA3}, LLAMA3),
        ({"factor": 2.0}, {"rope_type": None, "factor": 2.0}),  # no reader knows what that means
    ],
)
def test_a_scaling_has_its_kind_by_one_name(stored, read, tmp_path):
    assert config_of(tmp_path, rope_scaling=stored)["rope_scaling"] == read


def test_a_local_copy_of_a_remote_directory(tmp_path):
    filesystem = fsspec.filesystem("memory")
    for name in ("config.json", "model.safetensors", "additional_chat_templates/tool_use.jinja"):
        filesystem.pipe(f"/hub/{name}", b"{}")
    with ModelDirectory("memory://hub").whole() as local:
        found = {path.relative_to(local).as_posix() for path in type(tmp_path)(local).rglob("*") if path.is_file()}
    assert found == {"config.json", "model.safetensors", "additional_chat_templates/tool_use.jinja"}
