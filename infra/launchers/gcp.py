"""Ray's cluster launcher on Google Cloud: a head, CPU hosts and TPU slices that Ray's autoscaler starts and stops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from launchers.settings import (
    CPU_HOST_MACHINE,
    GCS_PORT,
    HOST_CPUS,
    HOST_MEMORY,
    IDLE_MINUTES,
    METRICS_PORT,
    RAY_NODE,
)
from marin_sft.machines import TPUS, slice_of

HEAD_MACHINE = "n2-standard-8"
HOST_IMAGE = "projects/ubuntu-os-cloud/global/images/family/ubuntu-2204-lts"
SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]
CAPACITIES = ("spot", "reserved", "on-demand")

_OFFERED = {"CPU": HOST_CPUS, "memory": HOST_MEMORY}
_SECRETS = "~/.marin_sft/secrets.env"
_FILES = "ulimit -n 1048576"
_APT = "sudo apt-get -o DPkg::Lock::Timeout=300 -qq"


@dataclass(frozen=True)
class GcpCluster:
    """tpu_types: of one zone. capacity: how TPUs are paid for; CPU hosts are Spot VMs unless it is on-demand.

    secrets: a file here with lines NAME=VALUE, which becomes part of the environment of Ray on every node.
    region: default: the zone's.
    """

    name: str
    project: str
    zone: str
    bucket: str
    image: str
    tpu_types: tuple[str, ...]
    capacity: str = "spot"
    max_slices: int = 1
    max_hosts: int = 64
    service_account: str | None = None
    secrets: str | None = None
    region: str | None = None

    def file(self) -> dict[str, Any]:
        """The content for `ray up`."""
        types = {"head": self._head(), "cpu": self._cpu(), **{f"tpu-{t}": self._tpu(t) for t in self.tpu_types}}
        return {
            "cluster_name": self.name,
            "max_workers": self.max_hosts,
            "idle_timeout_minutes": IDLE_MINUTES,
            "provider": {
                "type": "gcp",
                "region": self.region or self.zone.rpartition("-")[0],
                "availability_zone": self.zone,
                "project_id": self.project,
            },
            "auth": {"ssh_user": "ubuntu"},
            "docker": {
                "image": self.image,
                "container_name": "marin_sft",
                "pull_before_run": True,
                "run_options": ["--privileged", "--ulimit nofile=1048576:1048576", "--ulimit memlock=-1:-1"]
                + [f"--env {name}={value}" for name, value in self._environment().items()],
            },
            # Copied over ssh to each node.
            "file_mounts": {
                "~/.ray/auth_token": "~/.ray/auth_token",
                **({_SECRETS: self.secrets} if self.secrets else {}),
            },
            "initialization_commands": self._initialization(),
            "head_node_type": "head",
            "available_node_types": types,
            "head_start_ray_commands": ["ray stop", "; ".join([*self._before(), self._start_head()])],
            "worker_start_ray_commands": [
                "ray stop",
                "; ".join([*self._before(), self._watch(), self._start_worker()]),
            ],
        }

    def _environment(self) -> dict[str, str]:
        return {**RAY_NODE, "MARIN_SFT_PREFIX": f"gs://{self.bucket}/marin_sft"}

    def _initialization(self) -> list[str]:
        """On the host itself, before its container."""
        docker = f"command -v docker > /dev/null || ({_APT} update && {_APT} install -y docker.io)"
        registry = self.image.partition("/")[0]
        is_googles = registry.endswith(("-docker.pkg.dev", "gcr.io"))
        login = [f"gcloud auth configure-docker {registry} --quiet"] if is_googles else []
        return [docker, 'sudo usermod -aG docker "$USER"', *login]

    def _before(self) -> list[str]:
        return [_FILES, f"set -a; . {_SECRETS}; set +a"] if self.secrets else [_FILES]

    def _start_head(self) -> str:
        # Not version 2 of the autoscaler, the default of `ray up`: it would end slices in use. See tests/infra.
        return (
            f"RAY_enable_autoscaler_v2=0 ray start --head --port={GCS_PORT} --dashboard-host=127.0.0.1"
            f" --metrics-export-port={METRICS_PORT} --autoscaling-config=~/ray_bootstrap_config.yaml"
        )

    def _watch(self) -> str:
        poller = f"python -m marin_sft.run.preemption_poller --address=$RAY_HEAD_IP:{GCS_PORT}"
        return f"setsid -f {poller} > /tmp/preemption_poller.log 2>&1 < /dev/null"

    def _start_worker(self) -> str:
        return f"ray start --address=$RAY_HEAD_IP:{GCS_PORT} --metrics-export-port={METRICS_PORT}"

    def _head(self) -> dict[str, Any]:
        return {
            "min_workers": 0,
            "max_workers": 0,
            "resources": {"CPU": 0, "head": 1},  # steps run on the other nodes
            "node_config": {"machineType": HEAD_MACHINE, "disks": _disks(200)},
        }

    def _cpu(self) -> dict[str, Any]:
        spot = {"provisioningModel": "SPOT", "instanceTerminationAction": "DELETE"}
        return {
            "min_workers": 0,
            "max_workers": self.max_hosts,  # not less: else, when all are in use, the autoscaler would start slices
            "resources": _OFFERED,
            "node_config": {
                "machineType": CPU_HOST_MACHINE,
                "disks": _disks(100),
                "serviceAccounts": [{"email": self._account(), "scopes": SCOPES}],
                **({"scheduling": spot} if self.capacity != "on-demand" else {}),
            },
        }

    def _tpu(self, tpu_type: str) -> dict[str, Any]:
        machines = slice_of(tpu_type)
        assert machines is not None, tpu_type
        generation = TPUS[tpu_type.partition("-")[0]]
        scheduling = {"spot": {"spot": True}, "reserved": {"reserved": True}}.get(self.capacity)
        return {
            "min_workers": 0,
            "max_workers": self.max_slices,
            # Of each host. Ray adds the head's resource to the first, and finds the chips by itself. Those of slices
            # with several hosts are left out here, so that a request for one host, as after a loss, starts no slice.
            "resources": {**_OFFERED, **({"TPU": machines.chips} if machines.hosts == 1 else {})},
            "node_config": {
                "acceleratorType": tpu_type,
                "runtimeVersion": generation.runtime,
                # The API's own form: Ray's form, a list, would let it start only one slice at a time.
                "serviceAccount": {"email": self._account(), "scope": SCOPES},
                **({"schedulingConfig": scheduling} if scheduling else {}),
            },
        }

    def _account(self) -> str:
        return self.service_account or f"marin-sft@{self.project}.iam.gserviceaccount.com"


def _disks(gigabytes: int) -> list[dict[str, Any]]:
    boot = {"diskSizeGb": gigabytes, "sourceImage": HOST_IMAGE}
    return [{"boot": True, "autoDelete": True, "type": "PERSISTENT", "initializeParams": boot}]
