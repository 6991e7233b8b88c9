import jax
import jax.numpy as jnp
import pytest

from marin_sft.errors import TrainingError
from marin_sft.training import device_memory


def test_a_device_without_room_says_what_helps():
    with pytest.raises(TrainingError, match="out of device memory; what helps: fewer examples at once") as raised:
        with device_memory.explained():
            jnp.zeros((2**50,), jnp.int8).block_until_ready()
    for measure in ("per_device_train_batch_size", "gradient_checkpointing", "use_lora", "max_length", "bf16"):
        assert measure in str(raised.value)
    assert isinstance(raised.value.__cause__, jax.errors.JaxRuntimeError)


def test_a_kernel_without_room_in_a_core_is_told_apart():
    told = "RESOURCE_EXHAUSTED: Shared memory size limit exceeded: requested 131072, available: 101376"
    expected = r"needs more shared memory than a core of this GPU has; what helps: .* requested 131072"
    with pytest.raises(TrainingError, match=expected), device_memory.explained():
        raise jax.errors.JaxRuntimeError(told)


def test_other_errors_are_left_alone():
    with pytest.raises(ZeroDivisionError), device_memory.explained():
        1 / 0  # noqa: B018
