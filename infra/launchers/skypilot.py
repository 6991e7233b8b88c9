"""A SkyPilot task: GPU hosts of any cloud, with a Ray of our own next to SkyPilot's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from launchers.settings import RAY_NODE

# SkyPilot's own Ray has 6380 and 8266, and its agents the port that they take by default.
_PORT, _DASHBOARD = 26379, 28265

_RUN = """\
set -euo pipefail
head=$(head -n 1 <<< "$SKYPILOT_NODE_IPS")
is_up() { (exec 3<> "/dev/tcp/$head/@PORT@") 2> /dev/null; }
if [ "$SKYPILOT_NODE_RANK" = 0 ]; then
  ray start --head --block --node-ip-address="$head" --port=@PORT@ --dashboard-host=127.0.0.1 \\
    --dashboard-port=@DASHBOARD@ --dashboard-agent-listen-port=0 --temp-dir=/tmp/marin_sft_ray &
  ray=$!
  until is_up; do kill -0 "$ray"; sleep 1; done
  status=0
  RAY_ADDRESS="$head:@PORT@" @COMMAND@ || status=$?
else
  until is_up; do sleep 1; done
  ray start --block --address="$head:@PORT@" --dashboard-agent-listen-port=0 --temp-dir=/tmp/marin_sft_ray &
  ray=$!
  while is_up; do sleep 5; done
  status=0
fi
# Only the Ray that was started here: `ray stop` would end SkyPilot's, too.
kill -TERM "$ray" 2> /dev/null || true
wait "$ray" || true
exit "$status"
"""


@dataclass(frozen=True)
class SkyTask:
    """gpus: SkyPilot's name and number per host, such as "H100:8"."""

    image: str
    prefix: str
    command: str
    gpus: str = "H100:8"
    hosts: int = 2
    spot: bool = False
    name: str = "marin-sft"

    def file(self) -> dict[str, Any]:
        """The content for `sky launch`. It refuses to start without the secrets that have no value here."""
        # A host that has lost its head cannot drain: it is not to wait for that.
        environment = {**RAY_NODE, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "30", "MARIN_SFT_PREFIX": self.prefix}
        run = _RUN.replace("@PORT@", str(_PORT)).replace("@DASHBOARD@", str(_DASHBOARD))
        return {
            "name": self.name,
            "num_nodes": self.hosts,
            "workdir": ".",
            "resources": {"accelerators": self.gpus, "use_spot": self.spot, "image_id": f"docker:{self.image}"},
            "envs": environment,
            "secrets": {"RAY_AUTH_TOKEN": None},
            "run": run.replace("@COMMAND@", self.command),
        }
