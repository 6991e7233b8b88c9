import json
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest
import transformers

from marin_sft.data.tokenizer import load_tokenizer
from marin_sft.errors import ExportError
from marin_sft.export.hf import ExportConfig, export_hf
from marin_sft.export.verify import verify_files, verify_upload, verify_weights
from marin_sft.training.fakes import CHAT_TEMPLATE
from marin_sft.training.models.model_directory import ModelDirectory, write_tensors


@pytest.fixture(scope="module")
def exported(checkpoint, base_model, tmp_path_factory):
    output = tmp_path_factory.mktemp("export")
    export_hf(ExportConfig(checkpoint=checkpoint, base_model=base_model, output_path=str(output)))
    return output


@pytest.fixture
def copy(exported, tmp_path):
    return Path(shutil.copytree(exported, tmp_path / "copy"))


def verify_against(meant: Path, written: Path) -> None:
    config, generation = (json.loads((meant / f"{name}.json").read_text()) for name in ("config", "generation_config"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(meant)
    verify_files(str(written), config, generation, tokenizer, {})
    verify_weights(str(written), ModelDirectory(written).tensors(), ModelDirectory(meant).tensors())


def edit(file: Path, **changes) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_an_untouched_copy_passes(exported, copy):
    verify_against(exported, copy)


def test_one_changed_number_among_the_weights(exported, copy):
    tensors = dict(ModelDirectory(copy).tensors())
    tensors["model.norm.weight"][3] += 1e-6
    write_tensors(str(copy), tensors)
    with pytest.raises(ExportError, match="model.norm.weight read back is not the trained one"):
        verify_against(exported, copy)


def test_weights_of_another_type_or_missing(exported, copy):
    tensors = dict(ModelDirectory(copy).tensors())
    norm = tensors.pop("model.norm.weight")
    write_tensors(str(copy), tensors)
    with pytest.raises(ExportError, match="model.norm.weight.*missing, or should not"):
        verify_against(exported, copy)
    write_tensors(str(copy), {**tensors, "model.norm.weight": norm.astype(np.float16)})
    with pytest.raises(ExportError, match="model.norm.weight read back is not the trained one"):
        verify_against(exported, copy)


@pytest.mark.parametrize("field, value", [("rope_theta", 10000.0), ("torch_dtype", "bfloat16"), ("eos_token_id", 1)])
def test_fields_that_transformers_reads_otherwise(exported, copy, field, value):
    edit(copy / "config.json", **{field: value})
    with pytest.raises(ExportError, match=f"config.json: transformers reads {field} = .*{value}.*, expected"):
        verify_against(exported, copy)


REWRITTEN = [
    ("llama", {"transformers_version": "4.42.3"}),
    ("llama", {"transformers_version": "5.23.0", "_name_or_path": "somebody/llama"}),
    ("llama", {"_attn_implementation_autoset": True, "pretraining_tp": 1, "rope_scaling": None}),
    ("llama", {"head_dim": None}),
    ("qwen2", {"use_sliding_window": False, "sliding_window": 32768, "max_window_layers": 28}),
]


@pytest.mark.parametrize(("model_type", "fields"), REWRITTEN)
def test_what_a_reader_rewrites_is_no_difference(exported, copy, tmp_path, model_type, fields):
    meant = Path(shutil.copytree(exported, tmp_path / "meant"))
    for directory in (meant, copy):
        edit(directory / "config.json", model_type=model_type, **fields)
    verify_against(meant, copy)
    edit(copy / "config.json", rope_theta=7.0)
    with pytest.raises(ExportError, match="reads rope_theta = 7.0, expected 5000.0"):
        verify_against(meant, copy)


LOST = ["rope_theta", "rms_norm_eps", "num_key_value_heads", "vocab_size", "max_position_embeddings", "torch_dtype"]


@pytest.mark.parametrize("field", LOST)
def test_a_field_that_is_lost_on_the_way(exported, copy, field):
    config = json.loads((copy / "config.json").read_text())
    value = config.pop(field)
    del config["rope_parameters"]
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ExportError, match=f"reads {field} = .+, expected {value!r}: the model would not be served"):
        verify_against(exported, copy)


def test_fields_that_readers_would_take_differently(exported, copy):
    edit(copy / "config.json", rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    with pytest.raises(ExportError, match=r"rope_theta = 5000.0, but 10000.0 in rope_parameters"):
        verify_against(exported, copy)


def test_files_that_transformers_cannot_read(exported, copy):
    edit(copy / "generation_config.json", max_new_tokens=-1)
    with pytest.raises(ExportError, match="generation_config.json: transformers cannot read it: .*max_new_tokens"):
        verify_against(exported, copy)


def test_an_eos_list_that_was_lost(exported, copy):
    edit(copy / "generation_config.json", eos_token_id=1)
    with pytest.raises(ExportError, match=r"reads eos_token_id = 1, expected \[1, 3\]"):
        verify_against(exported, copy)


def test_a_template_that_renders_otherwise(exported, copy):
    (copy / "chat_template.jinja").write_text(CHAT_TEMPLATE.replace("assistant ", "assistant"))
    with pytest.raises(ExportError, match="the chat template read back renders"):
        verify_against(exported, copy)
    edit(copy / "tokenizer_config.json", chat_template=None)
    (copy / "chat_template.jinja").unlink()
    with pytest.raises(ExportError, match="the chat template was lost"):
        verify_against(exported, copy)


def test_a_tokenizer_with_other_ids(exported, copy):
    text = (copy / "tokenizer.json").read_text()
    (copy / "tokenizer.json").write_text(
        text.replace('"user": 5', '"user": 6').replace('"assistant": 6', '"assistant": 5')
    )
    with pytest.raises(ExportError, match="the tokenizer read back gives ids"):
        verify_against(exported, copy)


def test_an_upload_that_is_incomplete():
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe("/upload/config.json", b"{}")
    verify_upload("memory://upload", {"config.json": 2})
    with pytest.raises(ExportError, match="config.json has 2 bytes, expected 3"):
        verify_upload("memory://upload", {"config.json": 3})


def test_a_remote_export_is_complete(checkpoint, base_model, exported):
    config = ExportConfig(checkpoint=checkpoint, base_model=base_model, output_path="memory://remote/export")
    export_hf(config)
    filesystem = fsspec.filesystem("memory")
    for file in exported.iterdir():
        assert filesystem.cat(f"/remote/export/{file.name}") == file.read_bytes()


def test_several_templates_go_with_a_remote_export(checkpoint, base_model, tmp_path):
    """Each in a file of a folder, and all in one list, which is what other readers take."""
    tokenizer = load_tokenizer(base_model)
    templates = {"default": CHAT_TEMPLATE, "tool_use": "w1 " + CHAT_TEMPLATE}
    tokenizer.chat_template = templates
    tokenizer.save_pretrained(tmp_path)
    fields = {"checkpoint": checkpoint, "base_model": base_model, "tokenizer": str(tmp_path)}
    export_hf(ExportConfig(output_path="memory://templates/export", **fields))
    assert load_tokenizer("memory://templates/export").chat_template == templates
    stored = json.loads(fsspec.filesystem("memory").cat("/templates/export/tokenizer_config.json"))["chat_template"]
    assert stored == [{"name": name, "template": text} for name, text in templates.items()]
