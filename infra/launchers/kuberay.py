"""A RayJob for KubeRay: a cluster that exists for one job, with CPU hosts and TPU slices or GPU hosts as needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from launchers.settings import (
    DRAIN_SECONDS,
    HOST_CPUS,
    HOST_MEMORY,
    IDLE_MINUTES,
    RAY_NODE,
    ray_version,
)
from marin_sft.machines import TPUS, slice_of, topology_of

# The autoscaler considers at most 1000 waiting requests, and each fits on one CPU host. So there is always a CPU host
# left to start for them, and never an accelerator. What bounds the cost is the size of the Kubernetes node pool.
_CPU_HOSTS = 1000
SECRET = "marin-sft"
SERVICE_ACCOUNT = "marin-sft"
_SPOT = "cloud.google.com/gke-spot"


@dataclass(frozen=True)
class RayJob:
    """tpu_types, and hosts with `gpus` GPUs: what the job may start. max_hosts: with GPUs. spot: nodes of GKE."""

    image: str
    prefix: str
    command: str
    name: str = "marin-sft"
    tpu_types: tuple[str, ...] = ()
    max_slices: int = 1
    gpus: int = 0
    max_hosts: int = 4
    spot: bool = False

    def file(self) -> dict[str, Any]:
        """The content for `kubectl create`."""
        groups = [self._cpu(), *map(self._tpu, self.tpu_types), *([self._gpu()] if self.gpus else [])]
        return {
            "apiVersion": "ray.io/v1",
            "kind": "RayJob",
            "metadata": {"name": self.name},
            "spec": {
                "entrypoint": self.command,
                "submissionMode": "K8sJobMode",
                "shutdownAfterJobFinishes": True,
                "ttlSecondsAfterFinished": 600,
                "rayClusterSpec": {
                    "rayVersion": ray_version(),
                    "authOptions": {"mode": "token"},  # KubeRay makes the token, as a Secret
                    "enableInTreeAutoscaling": True,
                    # Version 2 does not start a slice for a request that selects hosts by their labels.
                    "autoscalerOptions": {"version": "v1", "idleTimeoutSeconds": IDLE_MINUTES * 60},
                    "headGroupSpec": {
                        "rayStartParams": {"num-cpus": "0"},
                        "template": self._pod("ray-head", {"cpu": "4", "memory": "16Gi"}, {}),
                    },
                    "workerGroupSpecs": groups,
                },
            },
        }

    def _cpu(self) -> dict[str, Any]:
        limits = {"cpu": str(HOST_CPUS), "memory": f"{4 * HOST_CPUS}Gi"}
        return self._group("cpu", _CPU_HOSTS, self._pod("ray-worker", limits, {}))

    def _tpu(self, tpu_type: str) -> dict[str, Any]:
        machines, generation = slice_of(tpu_type), TPUS[tpu_type.partition("-")[0]]
        assert machines is not None, tpu_type
        host = generation.hosts[machines.chips]
        # Kubernetes and GKE's own pods need a part of the host.
        limits = {
            "google.com/tpu": str(machines.chips),
            "cpu": str(host.cpus * 3 // 4),
            "memory": f"{host.memory * 3 // 4}G",
        }
        selector = {
            "cloud.google.com/gke-tpu-accelerator": generation.gke,
            "cloud.google.com/gke-tpu-topology": topology_of(tpu_type),
        }
        group = self._group(f"tpu-{tpu_type}", self.max_slices, self._pod("ray-worker", limits, selector))
        return {**group, "numOfHosts": machines.hosts}

    def _gpu(self) -> dict[str, Any]:
        limits = {"nvidia.com/gpu": str(self.gpus), "cpu": str(8 * self.gpus), "memory": f"{64 * self.gpus}Gi"}
        return self._group("gpu", self.max_hosts, self._pod("ray-worker", limits, {}))

    def _group(self, name: str, most: int, pod: dict[str, Any]) -> dict[str, Any]:
        return {
            "groupName": name,
            "replicas": 0,
            "minReplicas": 0,
            "maxReplicas": most,
            "rayStartParams": {"num-cpus": str(HOST_CPUS), "memory": str(HOST_MEMORY)},
            "template": pod,
        }

    def _pod(self, container: str, limits: dict[str, str], selector: dict[str, Any]) -> dict[str, Any]:
        spot = self.spot and container != "ray-head"
        selector = {**selector, **({_SPOT: "true"} if spot else {})}
        toleration = {"key": _SPOT, "operator": "Equal", "value": "true", "effect": "NoSchedule"}
        environment = {**RAY_NODE, "MARIN_SFT_PREFIX": self.prefix}
        del environment["RAY_AUTH_MODE"]  # KubeRay sets it, with the token
        return {
            "spec": {
                "serviceAccountName": SERVICE_ACCOUNT,
                "terminationGracePeriodSeconds": DRAIN_SECONDS + 30,
                **({"nodeSelector": selector} if selector else {}),
                **({"tolerations": [toleration]} if spot else {}),
                "containers": [
                    {
                        "name": container,
                        "image": self.image,
                        "env": [{"name": name, "value": value} for name, value in environment.items()],
                        "envFrom": [{"secretRef": {"name": SECRET, "optional": True}}],
                        "resources": {"limits": limits, "requests": limits},
                    }
                ],
            }
        }
