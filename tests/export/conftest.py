import pytest

from marin_sft.training.fakes import CountingBatches, word_tokenizer
from marin_sft.training.models import LlamaConfig
from marin_sft.training.models.random_model import random_model
from marin_sft.training.models.random_model_config import RandomModelConfig
from marin_sft.training.sft import train
from marin_sft.training.sft_config import SFTConfig

SHAPE = LlamaConfig(
    max_seq_len=32,
    hidden_dim=32,
    intermediate_dim=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    rope_theta=5000.0,
)


@pytest.fixture(scope="session")
def base_model(tmp_path_factory):
    tokenizer, base = (str(tmp_path_factory.mktemp(name)) for name in ("tokenizer", "base"))
    word_tokenizer([f"w{i}" for i in range(40)]).save_pretrained(tokenizer)
    random_model(RandomModelConfig(model=SHAPE, tokenizer=tokenizer, output_path=base))
    return base


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, base_model):
    output = str(tmp_path_factory.mktemp("trained"))
    config = SFTConfig(
        mixture="unused",
        tokenized={},
        base_model=base_model,
        output_path=output,
        earlier_attempts=(),
        train_batch_size=4,
        num_train_steps=3,
        learning_rate=1e-2,
        precision="fp32",
    )
    train(config, CountingBatches(vocab_size=40, batch_size=4, length=16))
    return output
