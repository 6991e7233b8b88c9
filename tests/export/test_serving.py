"""The rope fields of config.json, which transformers 4 and 5 look for under different names."""

import numpy as np
import pytest
import transformers

from marin_sft.export import serving
from marin_sft.training.models.architectures import levanter_config
from marin_sft.training.models.model_directory import ModelDirectory, write_json

SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 16}
LINEAR = {"rope_type": "linear", "factor": 4.0}
LAYERS = ["sliding_attention", "full_attention"]
TENSORS = {serving.EMBEDDING: np.zeros((50, 32), np.float32)}  # no head: embeddings are tied


def exported(config) -> dict:
    return serving.model_config(config.to_dict(), TENSORS, "float32", [2])


def test_gemma_3_has_both_forms():
    config = exported(
        transformers.Gemma3TextConfig(**SIZES, rope_theta=3e5, rope_local_base_freq=7e3, rope_scaling=LINEAR)
    )
    assert (config["rope_theta"], config["rope_local_base_freq"], config["rope_scaling"]) == (3e5, 7e3, LINEAR)
    assert config["rope_parameters"] == {
        "full_attention": {**LINEAR, "rope_theta": 3e5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 7e3},
    }


def test_olmo_3_has_one_theta_for_both_kinds_of_layers():
    """With the older fields alone, transformers 5 takes 500000 for sliding layers whatever they say."""
    config = exported(transformers.Olmo3Config(**SIZES, rope_theta=3e3, layer_types=LAYERS))
    layer = {"rope_type": "default", "rope_theta": 3e3}
    assert (config["rope_theta"], config["rope_scaling"]) == (3e3, None)
    assert config["rope_parameters"] == {"full_attention": layer, "sliding_attention": layer}


@pytest.mark.parametrize(
    "shape",
    [
        transformers.LlamaConfig(**SIZES, rope_theta=3e3, rope_scaling=LINEAR),
        transformers.Gemma3TextConfig(**SIZES, rope_theta=3e5, rope_local_base_freq=7e3, rope_scaling=LINEAR),
        transformers.Olmo3Config(**SIZES, rope_theta=3e3, layer_types=LAYERS),
    ],
    ids=lambda shape: shape.model_type,
)
def test_each_form_alone_says_all(shape, tmp_path):
    config = exported(shape)
    old = {key: value for key, value in config.items() if key != "rope_parameters"}
    new = {key: value for key, value in config.items() if not key.startswith("rope_") or key == "rope_parameters"}
    assert "rope_theta" not in new
    read = []
    for form in (old, new, config):
        write_json(str(tmp_path), "config.json", form)
        read.append(levanter_config(ModelDirectory(tmp_path).config))
    assert read[0] == read[1] == read[2] == levanter_config({**shape.to_dict(), "tie_word_embeddings": True})
    # A model that transformers 5 wrote and we trained is exported as one that transformers 4 wrote.
    write_json(str(tmp_path), "config.json", new)
    again = serving.model_config(ModelDirectory(tmp_path).config, TENSORS, "float32", [2])
    assert again["rope_parameters"] == config["rope_parameters"]
