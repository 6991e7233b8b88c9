import pytest

from marin_sft.errors import ExportError
from marin_sft.export.gguf.architectures import ARCHITECTURES, check_config
from marin_sft.training.models.families import FAMILIES
from tests.published.releases import RELEASES, SIZES


def config(name: str, **changes):
    return {**SIZES, "num_hidden_layers": 2, **RELEASES[name].config, **changes}


def test_every_family_that_is_trained_has_one():
    assert ARCHITECTURES.keys() == FAMILIES.keys()


@pytest.mark.parametrize(
    ("name", "changes", "why"),
    [
        ("qwen 3", {"model_type": "qwen3_moe"}, "no GGUF file for model_type 'qwen3_moe'.*leave out 'gguf'"),
        ("gemma 2 it", {}, "query_pre_attn_scalar = 16, config.json has 24"),
        ("gemma 2 it", {"query_pre_attn_scalar": 16, "final_logit_softcapping": None}, "always caps its logits"),
        ("gemma 3 it", {"attn_logit_softcapping": 50.0}, "does not cap its logits of attention"),
        ("gemma 1", {"hidden_act": "relu"}, "hidden_act 'gelu_pytorch_tanh', config.json has 'relu'"),
        ("gemma 1", {"hidden_act": "gelu_new", "tie_word_embeddings": False}, "takes its embedding for its output"),
        ("olmo 2", {"head_dim": 16}, "heads of hidden_size / num_attention_heads = 8 numbers, got 16"),
        ("qwen 3", {"rope_scaling": {"rope_type": "llama3"}}, "linear, yarn, dynamic for it, not 'llama3'"),
        ("gemma 3 it", {"rope_scaling": {"rope_type": "yarn"}}, "linear, dynamic for it, not 'yarn'"),
        ("qwen 3", {"rope_scaling": {"rope_type": "yarn", "beta_fast": 16}}, "beta_fast = 32, config.json has 16"),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(name, changes, why):
    with pytest.raises(ExportError, match=why):
        check_config(config(name, **changes))


def test_the_largest_gemmas_are_scaled_by_their_share():
    large = {"num_hidden_layers": 46, "hidden_size": 4608, "num_attention_heads": 32, "head_dim": 128}
    check_config(config("gemma 2 it", **large, query_pre_attn_scalar=144))
