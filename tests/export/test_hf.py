import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from marin_sft.errors import ConfigError, ExportError, TrainingError
from marin_sft.export.hf import ExportConfig, export_hf
from marin_sft.training import hf_directory, levanter_model
from marin_sft.training.fakes import CHAT_TEMPLATE, word_tokenizer

IDS = np.random.default_rng(1).integers(0, 47, (2, 24)).astype(np.int32)


@pytest.fixture(scope="module")
def exported(checkpoint, base_model, tmp_path_factory):
    output = str(tmp_path_factory.mktemp("export"))
    export_hf(ExportConfig(checkpoint=checkpoint, base_model=base_model, output_path=output))
    return output


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
    assert json.loads((Path(exported) / "tokenizer_config.json").read_text())["chat_template"] == CHAT_TEMPLATE
    config = json.loads((Path(exported) / "config.json").read_text())
    assert (config["rope_theta"], config["torch_dtype"], config["eos_token_id"]) == (5000.0, "float32", 1)
    assert "decoder_start_token_id" not in config


def test_generation_stops_at_the_end_of_a_turn(exported):
    generation = transformers.GenerationConfig.from_pretrained(exported)
    assert generation.eos_token_id == [1, 3]  # <|eos|>, <|end|>
    assert generation.pad_token_id == 0


def test_sources_generation_config_is_kept(base_model, checkpoint, tmp_path):
    base = shutil.copytree(base_model, tmp_path / "base")
    (base / "generation_config.json").write_text('{"eos_token_id": 2, "temperature": 0.6, "top_p": 0.9}')
    output = tmp_path / "out"
    export_hf(ExportConfig(checkpoint=checkpoint, base_model=str(base), dtype="bfloat16", output_path=str(output)))
    generation = json.loads((output / "generation_config.json").read_text())
    assert generation == {"eos_token_id": [2, 1, 3], "temperature": 0.6, "top_p": 0.9, "pad_token_id": 0}
    assert json.loads((output / "config.json").read_text())["torch_dtype"] == "bfloat16"
    served = transformers.AutoModelForCausalLM.from_pretrained(output, dtype="auto")
    assert served.dtype == torch.bfloat16


def test_a_template_given_by_name_of_text_wins(base_model, checkpoint, tmp_path):
    template = CHAT_TEMPLATE.replace("<|start|>", "<|start|> <|start|>")
    export_hf(
        ExportConfig(checkpoint=checkpoint, base_model=base_model, chat_template=template, output_path=str(tmp_path))
    )
    assert transformers.AutoTokenizer.from_pretrained(tmp_path).chat_template == template


def test_a_tokenizer_larger_than_the_model_is_refused(base_model, checkpoint, tmp_path):
    word_tokenizer([f"w{i}" for i in range(90)]).save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(ExportError, match="97 tokens, expected at most vocab_size = 47"):
        export_hf(
            ExportConfig(
                checkpoint=checkpoint,
                base_model=base_model,
                tokenizer=str(tmp_path / "tokenizer"),
                output_path=str(tmp_path / "out"),
            )
        )


def test_a_config_of_another_architecture_is_refused(base_model, checkpoint, tmp_path):
    base = shutil.copytree(base_model, tmp_path / "base")
    config = hf_directory.read_config(str(base))
    hf_directory.write_json(str(base), "config.json", {**config, "rope_theta": 77.0})
    with pytest.raises(ExportError, match="logits differ"):
        export_hf(ExportConfig(checkpoint=checkpoint, base_model=str(base), output_path=str(tmp_path / "out")))


def test_what_is_no_checkpoint(base_model, tmp_path):
    with pytest.raises(TrainingError, match="no model directory"):
        export_hf(ExportConfig(checkpoint=str(tmp_path), base_model=base_model, output_path=str(tmp_path / "out")))
    with pytest.raises(ConfigError, match=r"ExportConfig.dtype = 'int8'"):
        ExportConfig(checkpoint="a", base_model="b", dtype="int8")
