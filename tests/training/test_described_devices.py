"""What compilers are told of devices, against the tables of NVIDIA and libtpu's names."""

import pytest

from marin_sft.machines import devices
from marin_sft.training import described_devices
from marin_sft.training.described_devices import CHIPS, gpu_description, has_compiler, shared_memory, tpu_topology


def test_gpus_are_known_by_the_names_of_machines():
    assert CHIPS.keys() <= devices().keys()
    for name in CHIPS:
        assert f"device_memory_size: {devices()[name].memory}\n" in gpu_description(name).replace(" pcie", "\npcie")


@pytest.mark.parametrize(
    ("device", "count", "expected"),
    [("v5litepod", 8, "v5e:2x4"), ("v5p", 4, "v5p:2x2x1"), ("v7x", 8, "tpu7x:2x2x1"), ("v5litepod", 3, None),
     ("v7x", 3, None), ("v4", 4, None), ("H100", 8, None)],
)  # fmt: skip
def test_slices_have_the_names_of_libtpu(device, count, expected):
    assert tpu_topology(device, count) == expected


def test_shared_memory_of_a_block():
    assert (shared_memory("9.0"), shared_memory("8.9"), shared_memory("8.0")) == (232_448, 101_376, 166_912)
    assert shared_memory("12.0") == 101_376


def test_a_compiler_is_used_where_it_is_installed(monkeypatch):
    monkeypatch.setattr(described_devices, "_is_installed", lambda package: package == "libtpu")
    assert has_compiler("v6e", 8) and not has_compiler("v6e", 3) and not has_compiler("H100", 1)
    assert not has_compiler("T4", 1) and not has_compiler("CPU", 1)
