import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from marin_sft.errors import ConfigError
from marin_sft.execution.step import unversioned
from marin_sft.training import models
from marin_sft.training.fakes import CHAT_TEMPLATE
from marin_sft.training.models import levanter_model
from marin_sft.training.models.random_model import random_model
from marin_sft.training.models.random_model_config import RandomModelConfig

SIZES = dict(max_seq_len=32, hidden_dim=32, intermediate_dim=64, num_layers=2, num_heads=4, num_kv_heads=2)
SHAPES = [
    models.LlamaConfig(**SIZES),
    models.Qwen3Config(**SIZES, head_dim=16),
    models.QwenConfig(**SIZES),
    models.MistralConfig(**SIZES, sliding_window=8),
    models.GemmaConfig(**SIZES, head_dim=16),
    models.Olmo2Config(**SIZES),
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.model_type)
def test_transformers_loads_it_and_computes_the_same(shape, tokenizer_path, tmp_path):
    random_model(RandomModelConfig(model=shape, tokenizer=tokenizer_path, output_path=str(tmp_path)))
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    assert type(model).__name__ == shape.architecture and model.dtype == torch.float32
    ids = np.arange(24, dtype=np.int32)[None]
    expected = model(torch.tensor(ids).long()).logits.detach().numpy()
    ours = levanter_model.load_model(str(tmp_path))
    np.testing.assert_allclose(levanter_model.logits(ours, ids), expected, atol=1e-4)


def test_it_brings_tokenizer_template_and_end_of_turn(base_model):
    tokenizer = transformers.AutoTokenizer.from_pretrained(base_model)
    assert tokenizer.chat_template == CHAT_TEMPLATE
    generation = json.loads((Path(base_model) / "generation_config.json").read_text())
    assert generation == {"eos_token_id": [1, 3], "pad_token_id": 0}
    assert json.loads((Path(base_model) / "config.json").read_text())["vocab_size"] == len(tokenizer) == 47


def test_shapes_that_do_not_divide():
    sizes = dict(max_seq_len=8, hidden_dim=32, intermediate_dim=64, num_layers=1, num_heads=4, num_kv_heads=2)
    for change, message in [
        ({"num_kv_heads": 3}, "LlamaConfig.num_heads = 4: expected a multiple of"),
        ({"hidden_dim": 30}, "LlamaConfig.hidden_dim = 30"),
        ({"num_layers": 0}, "LlamaConfig.num_layers = 0: expected at least 1"),
        ({"head_dim": 7}, "LlamaConfig.head_size = 7: expected an even number"),
    ]:
        with pytest.raises(ConfigError, match=message):
            models.LlamaConfig(**{**sizes, **change})
    assert models.LlamaConfig(**{**sizes, "hidden_dim": unversioned(64)}).num_layers == 1
    with pytest.raises(ConfigError, match="QwenConfig.head_dim = 16: expected None or"):
        models.QwenConfig(**sizes, head_dim=16)
