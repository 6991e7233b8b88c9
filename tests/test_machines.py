"""The table of machines, against Ray's own tables, which decide what a slice's hosts offer."""

import pytest
from ray._private.accelerators import tpu as ray_tpu
from ray.autoscaler._private.kuberay.utils import tpu_node_selectors_to_type

from marin_sft.machines import TPUS, Slice, device_of, devices, slice_of, topology_of, types_of

TYPES = [tpu_type for kind in TPUS for tpu_type in types_of(kind)]


def test_the_generations_are_rays():
    assert set(TPUS) == set(ray_tpu.VALID_TPU_TYPES)


@pytest.mark.parametrize("kind", TPUS)
def test_every_slice_that_ray_knows_has_the_hosts_and_chips_that_ray_counts(kind):
    for topology in ray_tpu.VALID_TPU_TOPOLOGY[kind]:
        chips, per_host = ray_tpu.get_num_chips_from_topology(topology), ray_tpu.get_chips_per_host(topology, kind)
        assert slice_of(ray_tpu.infer_tpu_pod_type_from_topology(topology, kind)) == Slice(chips // per_host, per_host)


@pytest.mark.parametrize("tpu_type", TYPES)
def test_ray_takes_the_type_and_its_topology(tpu_type):
    kind, topology, machines = tpu_type.partition("-")[0], topology_of(tpu_type), slice_of(tpu_type)
    manager = ray_tpu.TPUAcceleratorManager
    assert manager.is_valid_tpu_accelerator_type(tpu_type)
    assert machines.hosts * machines.chips == ray_tpu.get_total_chips_from_accelerator_type(tpu_type)
    assert machines.chips == ray_tpu.get_num_tpu_visible_chips_per_host(tpu_type)
    assert ray_tpu.infer_tpu_pod_type_from_topology(topology, kind) == tpu_type
    # Ray's topologies of the first two generations begin at 4x4.
    assert manager.is_valid_tpu_accelerator_topology(kind, topology) or topology == "2x2"


@pytest.mark.parametrize("kind", [kind for kind, generation in TPUS.items() if generation.gke])
def test_rays_autoscaler_for_kubernetes_reads_the_same_type_from_gkes_names(kind):
    for tpu_type in types_of(kind):
        assert tpu_node_selectors_to_type(topology_of(tpu_type), TPUS[kind].gke) == tpu_type
        assert slice_of(tpu_type).chips in TPUS[kind].hosts


@pytest.mark.parametrize(
    "tpu_type", ["v4", "v4-", "v4-7", "v4-2", "v4-08", "v4-24", "v5litepod-2", "v5litepod-512", "v9-8", "v4-١٦"]
)
def test_there_is_no_such_slice(tpu_type):
    assert slice_of(tpu_type) is None
    assert topology_of(tpu_type) is None


def test_of_several_topologies_the_most_compact():
    assert topology_of("v4-512") == "4x8x8"  # not 4x4x16
    assert topology_of("v5p-12288") == "16x16x24"


def test_devices_are_found_by_any_spelling_of_their_names():
    assert device_of("h100") == device_of("H100") == devices()["H100"]
    assert device_of("A100-80GB") == devices()["A100-80G"]
    assert device_of("v5e").name == "v5litepod" and device_of("a100").name == "A100-40G"
    assert device_of("H10") is None
    assert {device.name for device in devices().values() if device.platform == "tpu"} == set(TPUS)
