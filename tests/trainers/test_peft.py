"""PEFT's description of an adapter, in our settings."""

import pytest

from marin_sft.errors import ConfigError
from marin_sft.trainers.peft import PeftLoraConfig, lora_of


@pytest.mark.parametrize(
    ("listed", "tokens"),
    [(None, None), ([], None), ([9, 3], (3, 9)), ({"embed_tokens": [3, 9], "lm_head": [9, 3]}, (3, 9))],
)
def test_trained_tokens_are_those_of_peft(listed, tokens):
    assert lora_of(PeftLoraConfig(trainable_token_indices=listed)).trainable_tokens == tokens


def test_other_tokens_in_the_head_than_in_the_embedding_are_refused():
    config = PeftLoraConfig(trainable_token_indices={"embed_tokens": [3], "lm_head": [9]})
    with pytest.raises(ConfigError, match="trainable_token_indices = .*expected the same ids for the embedding and"):
        lora_of(config)
