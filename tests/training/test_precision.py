import jax.numpy as jnp
import jmp
import pytest

from marin_sft.errors import ConfigError
from marin_sft.training.precision import NAMED, policy
from marin_sft.training.sft_config import SFTConfig


def config(precision: str) -> SFTConfig:
    sizes = {"train_batch_size": 1, "num_train_steps": 1, "learning_rate": 1e-3}
    return SFTConfig(mixture="m", tokenized={}, base_model="b", precision=precision, **sizes)


@pytest.mark.parametrize("name", NAMED)
def test_names(name):
    assert policy(config(name).precision) == NAMED[name]
    jmp.get_policy(NAMED[name])


@pytest.mark.parametrize("text", ["p=bf16,c=bf16", "params=bfloat16, compute=bf16", "c=bf16,p=bf16,o=full"])
def test_policies(text):
    types = jmp.get_policy(policy(config(text).precision))
    assert (types.param_dtype, types.compute_dtype, types.output_dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)


@pytest.mark.parametrize("text", ["fp16", "half", "p=f32,c=f16"])
def test_float16_is_refused_with_the_reason(text):
    with pytest.raises(ConfigError, match="float16 needs loss scaling"):
        config(text)


@pytest.mark.parametrize("text", ["int8", "p=int8", "p=f32,p=bf16", "", "weights=f32"])
def test_others_are_refused(text):
    with pytest.raises(ConfigError, match="expected one of fp32, bf16, bf16_full, or a policy"):
        config(text)
