import pytest

from marin_sft.errors import ConfigError, TrainingError
from marin_sft.training.mesh import MeshConfig, check_model, levanter_mesh, mesh_config
from marin_sft.training.sft_config import SFTConfig

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}


def test_ways_to_say_the_same():
    expected = MeshConfig(data=2, fsdp=-1, tensor=2)
    assert mesh_config(expected) is expected
    assert mesh_config({"replica": 2, "fsdp": -1, "model": 2}) == expected
    assert mesh_config({"dp": 2, "tp": 2}) == expected
    assert mesh_config((2, -1, 1, 2, 1)) == expected
    assert mesh_config({"data": -1}) == MeshConfig(data=-1, fsdp=1)
    assert mesh_config({"context": 4, "fsdp": 1}) == MeshConfig(sequence=4, fsdp=1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((1, -1, 2, 1, 1), "2 devices for experts"),
        ((1, -1, 1, 1), "five sizes"),
        ({"rows": 2}, "sizes by name"),
        ({"dp": 2, "data": 2}, "sizes by name"),
        ({"data": -1, "fsdp": -1}, "at most one size of -1"),
        ({"data": 0}, "MeshConfig.data = 0"),
        ("data", "expected a MeshConfig"),
    ],
)
def test_what_is_no_mesh(given, message):
    with pytest.raises(ConfigError, match=message):
        mesh_config(given)


def test_a_mesh_that_does_not_fit():
    with pytest.raises(TrainingError, match="expected sizes whose product is 1, the devices"):
        levanter_mesh({"data": 3, "fsdp": 1})
    with pytest.raises(TrainingError, match="tensor = 4 does not divide the base model's num_key_value_heads = 2"):
        check_model(SHAPE, {"model": 4, "data": 1})
    with pytest.raises(TrainingError, match="fsdp = 3 does not divide the base model's hidden_size = 32"):
        check_model(SHAPE, {"model": 2, "data": 3})


def test_it_is_checked_when_planned_and_is_no_part_of_identity():
    def config(**fields):
        return SFTConfig(
            mixture="m", tokenized={}, base_model="b", train_batch_size=1, num_train_steps=1, learning_rate=1, **fields
        )

    with pytest.raises(ConfigError, match="not 'nvte' where mesh has sequence = 2"):
        config(mesh={"sequence": 2}, attention_backend="nvte")
    with pytest.raises(ConfigError, match="sizes by name"):
        config(mesh={"rows": 2})
