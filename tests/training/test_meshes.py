"""Whatever devices share, the loss and its gradient are those of one device."""

import numpy as np
import pytest

from marin_sft.training.fakes import pack
from marin_sft.training.models import LlamaConfig
from tests.training.meshes import loss_and_gradient
from tests.training.models.test_architectures import MODELS
from tests.training.processes import FASTER_TO_COMPILE, results_of, together

SIZES = {
    "max_seq_len": 64,
    "hidden_dim": 32,
    "intermediate_dim": 48,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
}
VOCABULARY = 50
CONFIGS = {
    "tied": LlamaConfig(**SIZES, tie_word_embeddings=True).hf_config(VOCABULARY),
    "untied": LlamaConfig(**SIZES).hf_config(VOCABULARY),
    "capped, with windows": MODELS["gemma2"].to_dict(),
}
DEVICES = 4
MESHES = {
    "fsdp": {"fsdp": 4},
    "tensor": {"tensor": 2, "fsdp": 2},
    "sequence": {"sequence": 2, "data": 2},
    "all": {"sequence": 2, "tensor": 2},
}
# Every pair would take long to compile.
PAIRS = [("tied", "fsdp"), ("tied", "all"), ("untied", "tensor"), ("capped, with windows", "sequence"),
         ("capped, with windows", "all")]  # fmt: skip
LONGEST = 32_768
LONG_CONFIG = {
    **LlamaConfig(**{**SIZES, "max_seq_len": LONGEST, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1}).hf_config(
        VOCABULARY
    ),
    "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192},
}


def documents(*lengths: int) -> list[list[int]]:
    rng = np.random.default_rng(sum(lengths))
    return [rng.integers(0, VOCABULARY, length).tolist() for length in lengths]


ROWS = pack([documents(30, 9, 20), documents(64), documents(5), documents(17, 40)], 64)
CALLS = [(loss_and_gradient, CONFIGS[config], ROWS, MESHES[mesh], 1e-2) for config, mesh in PAIRS]


@pytest.fixture(scope="module")
def on_several():
    (results,) = results_of(together(*CALLS, processes=1, devices=DEVICES, flags=FASTER_TO_COMPILE))
    return dict(zip(PAIRS, results, strict=True))


@pytest.fixture(scope="module")
def on_one():
    calls = [(loss_and_gradient, config, ROWS, None, 1e-2) for config in CONFIGS.values()]
    (results,) = results_of(together(*calls, processes=1, flags=FASTER_TO_COMPILE))
    return dict(zip(CONFIGS, results, strict=True))


@pytest.mark.parametrize(("config", "mesh"), PAIRS)
def test_a_mesh_computes_what_one_device_does(on_several, on_one, config, mesh):
    same(on_several[config, mesh], on_one[config])


@pytest.mark.parametrize(
    ("length", "lengths"),
    [(4096, (1_100, 2_500, 400)), pytest.param(LONGEST, (9_000, 20_000, 3_000), marks=pytest.mark.slow)],
)
def test_long_rows_over_devices(length, lengths):
    rows = pack([documents(*lengths)], length)
    call = (loss_and_gradient, LONG_CONFIG, rows)
    (several,) = results_of(together((*call, {"sequence": DEVICES}), processes=1, devices=DEVICES))
    (one,) = results_of(together((*call, None), processes=1))
    same(several[0], one[0])


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys() and len(found) > 5 and expected["loss"] > 1
    for name, array in expected.items():
        error = np.linalg.norm(found[name] - array) / np.linalg.norm(array)
        assert error < 1e-5, f"{name}: {error}"
