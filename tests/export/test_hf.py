import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from marin_sft.errors import ConfigError, ExportError, TrainingError
from marin_sft.export.hf import ExportConfig, export_hf
from marin_sft.training.fakes import CHAT_TEMPLATE, word_tokenizer
from marin_sft.training.models import levanter_model
from marin_sft.training.models.model_directory import INDEX, ModelDirectory, write_json, write_tensors

IDS = np.random.default_rng(1).integers(0, 47, (2, 24)).astype(np.int32)


def export(checkpoint: str, base_model: str, output: Path, **changes) -> Path:
    export_hf(ExportConfig(checkpoint=checkpoint, base_model=base_model, output_path=str(output), **changes))
    return output


def bytes_of(directory: Path) -> dict[str, bytes]:
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def exported(checkpoint, base_model, tmp_path_factory):
    return export(checkpoint, base_model, tmp_path_factory.mktemp("export"))


def test_transformers_computes_the_trained_logits(exported, checkpoint, base_model):
    served = transformers.AutoModelForCausalLM.from_pretrained(exported)
    got = served(torch.tensor(IDS).long()).logits.detach().numpy()
    trained = levanter_model.logits(levanter_model.load_model(f"{checkpoint}/model"), IDS)
    base = levanter_model.logits(levanter_model.load_model(base_model), IDS)
    np.testing.assert_allclose(got, trained, atol=1e-3)
    assert np.abs(got - np.asarray(base)).max() > 1e-2


def test_the_tokenizer_and_config_are_those_of_training(exported):
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert (exported / "chat_template.jinja").read_text() == CHAT_TEMPLATE
    assert json.loads((exported / "tokenizer_config.json").read_text())["chat_template"] == CHAT_TEMPLATE
    config = json.loads((exported / "config.json").read_text())
    assert (config["torch_dtype"], config["eos_token_id"]) == ("float32", [1, 3])
    assert (config["vocab_size"], config["tie_word_embeddings"]) == (47, False)
    assert config["architectures"] == ["LlamaForCausalLM"]


def test_rope_reads_the_same_in_old_and_new_fields(exported, checkpoint, base_model, tmp_path):
    config = json.loads((exported / "config.json").read_text())
    assert (config["rope_theta"], config["rope_scaling"]) == (5000.0, None)
    assert config["rope_parameters"] == {"rope_type": "default", "rope_theta": 5000.0}

    trained = Path(shutil.copytree(checkpoint, tmp_path / "trained"))
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling["original_max_position_embeddings"] = 16
    model = json.loads((trained / "model" / "config.json").read_text())
    write_json(str(trained / "model"), "config.json", {**model, "rope_scaling": scaling})
    config = json.loads((export(str(trained), base_model, tmp_path / "out") / "config.json").read_text())
    assert config["rope_scaling"] == scaling
    assert config["rope_parameters"] == {**scaling, "rope_theta": 5000.0}


def test_generation_stops_at_the_end_of_a_turn(exported):
    generation = transformers.GenerationConfig.from_pretrained(exported)
    assert generation.eos_token_id == [1, 3]  # <|eos|>, <|end|>
    assert generation.pad_token_id == 0


def test_sources_generation_config_is_kept(base_model, checkpoint, tmp_path):
    base = Path(shutil.copytree(base_model, tmp_path / "base"))
    sampling = {"temperature": 0.6, "top_p": 0.9, "do_sample": True}
    stored = {"eos_token_id": 2, "_from_model_config": True, **sampling}
    (base / "generation_config.json").write_text(json.dumps(stored))
    output = export(checkpoint, str(base), tmp_path / "out", dtype="bfloat16")
    generation = json.loads((output / "generation_config.json").read_text())
    assert generation == {"eos_token_id": [2, 1, 3], **sampling, "pad_token_id": 0}
    assert json.loads((output / "config.json").read_text())["torch_dtype"] == "bfloat16"
    served = transformers.AutoModelForCausalLM.from_pretrained(output, dtype="auto")
    assert served.dtype == torch.bfloat16


def test_generation_fields_of_config_json_move(base_model, checkpoint, tmp_path):
    trained = Path(shutil.copytree(checkpoint, tmp_path / "trained"))
    model = json.loads((trained / "model" / "config.json").read_text())
    stray = {"temperature": 0.7, "do_sample": True, "max_length": 20, "suppress_tokens": None}
    write_json(str(trained / "model"), "config.json", {**model, **stray})
    output = export(str(trained), base_model, tmp_path / "out")
    assert not stray.keys() & json.loads((output / "config.json").read_text()).keys()
    generation = json.loads((output / "generation_config.json").read_text())
    assert generation == {"eos_token_id": [1, 3], "pad_token_id": 0, "temperature": 0.7, "do_sample": True}


def test_eos_ids_can_be_given(base_model, checkpoint, tmp_path):
    output = export(checkpoint, base_model, tmp_path / "out", generation_eos_token_ids=(3, 7))
    assert json.loads((output / "generation_config.json").read_text())["eos_token_id"] == [3, 7]
    with pytest.raises(ExportError, match="eos_token_id 47: expected ids from 0 to 46"):
        export(checkpoint, base_model, tmp_path / "wrong", generation_eos_token_ids=(47,))


def test_a_model_that_nothing_would_stop_is_refused(base_model, checkpoint, tmp_path):
    tokenizer = word_tokenizer([f"w{i}" for i in range(40)])
    tokenizer.eos_token = None
    tokenizer.chat_template = CHAT_TEMPLATE.replace("<|end|>", " w1 ")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    trained = Path(shutil.copytree(checkpoint, tmp_path / "trained"))
    base = Path(shutil.copytree(base_model, tmp_path / "base"))
    for directory in (trained / "model", base):
        config = json.loads((directory / "config.json").read_text())
        write_json(str(directory), "config.json", {**config, "eos_token_id": None})
    (base / "generation_config.json").unlink()
    with pytest.raises(ExportError, match="no token would end an answer.*hf_generation_eos_token_ids"):
        export(str(trained), str(base), tmp_path / "out", tokenizer=str(tmp_path / "tokenizer"))


def test_shards_with_an_index(exported, base_model, checkpoint, tmp_path):
    output = export(checkpoint, base_model, tmp_path / "out", max_shard_bytes=10_000)
    index = json.loads((output / INDEX).read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 2 and files == sorted(file.name for file in output.glob("*.safetensors"))
    whole = dict(ModelDirectory(exported).tensors())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in whole.values())
    parts = transformers.AutoModelForCausalLM.from_pretrained(output).state_dict()
    assert all(np.array_equal(parts[name].numpy(), tensor) for name, tensor in whole.items())


def test_a_template_given_as_text_wins(base_model, checkpoint, tmp_path):
    template = CHAT_TEMPLATE.replace("<|start|>", "<|start|> <|start|>")
    export(checkpoint, base_model, tmp_path, chat_template=template)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path).chat_template == template


def test_arguments_that_the_template_was_trained_with_become_its_defaults(base_model, checkpoint, tmp_path):
    template = "\n  {% if think %}w1 {{ style.name }} {% endif %}" + CHAT_TEMPLATE
    kwargs = {"think": True, "style": {"name": 'it\'s "w2"\né', "deep": [1, None]}}
    export(checkpoint, base_model, tmp_path, chat_template=template, chat_template_kwargs=kwargs)
    dialogue = [{"role": "user", "content": "w3"}]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    trained = tokenizer.apply_chat_template(dialogue, chat_template=template, tokenize=False, **kwargs)
    assert "it's" in trained
    assert tokenizer.apply_chat_template(dialogue, tokenize=False) == trained
    plain = tokenizer.apply_chat_template(dialogue, chat_template=template, tokenize=False)
    assert tokenizer.apply_chat_template(dialogue, tokenize=False, think=False) == plain != trained


def test_the_same_inputs_give_the_same_bytes(exported, base_model, checkpoint, tmp_path):
    assert bytes_of(export(checkpoint, base_model, tmp_path)) == bytes_of(exported)


def test_a_tokenizer_larger_than_the_model_is_refused(base_model, checkpoint, tmp_path):
    word_tokenizer([f"w{i}" for i in range(90)]).save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(ExportError, match="97 tokens, expected at most vocab_size = 47"):
        export(checkpoint, base_model, tmp_path / "out", tokenizer=str(tmp_path / "tokenizer"))


def test_weights_of_another_vocabulary_are_refused(base_model, checkpoint, tmp_path):
    trained = Path(shutil.copytree(checkpoint, tmp_path / "trained"))
    config = json.loads((trained / "model" / "config.json").read_text())
    write_json(str(trained / "model"), "config.json", {**config, "vocab_size": 64})
    with pytest.raises(ExportError, match="embed_tokens.weight has 47 rows, expected vocab_size = 64"):
        export(str(trained), base_model, tmp_path / "out")


def test_values_that_the_dtype_cannot_hold_are_refused(base_model, checkpoint, tmp_path):
    trained = Path(shutil.copytree(checkpoint, tmp_path / "trained"))
    tensors = dict(ModelDirectory(str(trained / "model")).tensors())
    tensors["model.norm.weight"][3] = 1e6
    write_tensors(str(trained / "model"), tensors)
    export(str(trained), base_model, tmp_path / "wide", dtype="bfloat16")
    with pytest.raises(ExportError, match="model.norm.weight has values that are not finite as float16"):
        export(str(trained), base_model, tmp_path / "narrow", dtype="float16")


def test_what_is_no_checkpoint(base_model, tmp_path):
    with pytest.raises(TrainingError, match="no model directory"):
        export(str(tmp_path), base_model, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"ExportConfig.dtype = 'int8'"):
        ExportConfig(checkpoint="a", base_model="b", dtype="int8")
