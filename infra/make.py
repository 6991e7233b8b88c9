"""Write the file that starts a cluster, for your project. Nothing is started.

    python infra/make.py gcp --project P --zone us-central2-b --bucket B --image I --tpu v4-128 -o my-cluster.yaml
    python infra/make.py kuberay --image I --prefix gs://B/marin_sft --tpu v4-128 -o my-job.yaml -- python script.py
    python infra/make.py skypilot --image I --prefix s3://B/marin_sft --gpus H100:8 --hosts 4 -o my.yaml -- python s.py

`python infra/make.py examples` writes the files of this folder; `make infra` runs it. docs/guides/clusters.md says how
to use them.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]  # the package may not be installed where clusters are started

from launchers import gcp, grafana, slurm  # noqa: E402
from launchers.gcp import GcpCluster  # noqa: E402
from launchers.kuberay import RayJob  # noqa: E402
from launchers.skypilot import SkyTask  # noqa: E402

from marin_sft.machines import CHIPS_PER_HOST, OTHER_NAMES, TPUS, named, nearest_types, slice_of  # noqa: E402

KINDS = [kind for kind, generation in TPUS.items() if generation.runtime]
_LARGEST = 64 * CHIPS_PER_HOST  # chips; of a generation that is named without a size

EXAMPLE = "python experiments/quickstart.py"
_HEADERS = {
    "gcp": "Made by infra/make.py. Use: ray up FILE; ray dashboard FILE; ray down FILE. See docs/guides/clusters.md.",
    "kuberay": "Made by infra/make.py. Use: kubectl create -f FILE. See docs/guides/clusters.md.",
    "skypilot": "Made by infra/make.py. Use: sky launch FILE --secret RAY_AUTH_TOKEN. See docs/guides/clusters.md.",
}


def sizes_of(name: str) -> tuple[str, ...]:
    """The TPU types that "v4-128" or "v4" names: itself, or the usual sizes of the generation.

    Raises:
    ValueError: there is no such type.
    """
    kind, dash, size = name.partition("-")
    kind = OTHER_NAMES.get(kind, kind)
    if kind not in KINDS:
        raise ValueError(f"got {name!r}, expected a type such as v4-128, or a generation: {named(KINDS)}")
    if dash:
        if slice_of(f"{kind}-{size}") is None:
            near = " or ".join(nearest_types(name) or [name.partition("-")[0]])
            raise ValueError(f"got {name!r}, but there is no such slice; expected {near}")
        return (f"{kind}-{size}",)
    chips = [n for n in TPUS[kind].topologies if n & (n - 1) == 0 and n <= _LARGEST]
    return tuple(f"{kind}-{n * TPUS[kind].cores}" for n in sorted(chips))


def to_yaml(content: dict[str, Any], kind: str) -> str:
    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    return f"# {_HEADERS[kind]}\n" + yaml.dump(content, Dumper=Dumper, sort_keys=False, width=200)


def examples() -> dict[str, str]:
    """The files of this folder by path. What a user must set is in <...>, which no cloud accepts."""
    image = "<REGION>-docker.pkg.dev/<PROJECT>/marin-sft/marin-sft:tpu"
    place: dict[str, Any] = {"region": "<REGION>", "zone": "<ZONE>", "project": "<PROJECT>", "bucket": "<BUCKET>"}
    made = {"slurm/job.sh": slurm.script(), "grafana/marin_sft.json": grafana.dashboard()}
    for kind in KINDS:
        short = named([kind])
        for capacity in ("spot", "reserved"):
            name, types = f"marin-sft-{short}-{capacity}", sizes_of(kind)
            cluster = GcpCluster(name, image=image, tpu_types=types, capacity=capacity, **place)
            made[f"gcp/{short}-{capacity}.yaml"] = to_yaml(cluster.file(), "gcp")
    job: dict[str, Any] = {"image": "<IMAGE>", "prefix": "gs://<BUCKET>/marin_sft", "command": EXAMPLE}
    made["kuberay/tpu.yaml"] = to_yaml(RayJob(**job, tpu_types=("v4-128",), spot=True).file(), "kuberay")
    made["kuberay/gpu.yaml"] = to_yaml(RayJob(**job, gpus=8).file(), "kuberay")
    made["skypilot/gpu.yaml"] = to_yaml(SkyTask(**job).file(), "skypilot")
    return made


def _checked(pattern: str, expected: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise argparse.ArgumentTypeError(f"got {value!r}, expected {expected}")
        return value

    return check


def _count(value: str) -> int:
    return int(_checked(r"[1-9]\d*", "a whole number >= 1")(value))


def _tpu(value: str) -> tuple[str, ...]:
    try:
        return sizes_of(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


_image = _checked(r"[\w.\-/:@]+", "an image, such as REGION-docker.pkg.dev/PROJECT/REPOSITORY/marin-sft:tpu")
_prefix = _checked(r"(gs|s3)://[\w.\-/]+|/[\w.\-/]+", "a path that all nodes see, such as gs://BUCKET/marin_sft")
_name = _checked(r"[a-z]([a-z0-9\-]{0,30}[a-z0-9])?", "lower-case letters, digits and dashes, at most 32")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python infra/make.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = top.add_subparsers(dest="kind", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        found = kinds.add_parser(name, help=text, description=text)
        found.add_argument("-o", "--output", type=Path, help="the file to write (default: standard output)")
        return found

    gcp_flags = command("gcp", "Ray's cluster launcher on Google Cloud: TPU slices and CPU hosts")
    flag = gcp_flags.add_argument
    flag("--project", required=True, type=_checked(r"[a-z][a-z0-9\-:.]{4,60}[a-z0-9]", "the id of a project"))
    flag("--zone", required=True, type=_checked(r"[a-z]+-[a-z]+\d+-[a-z]", "a zone, such as us-central2-b"))
    flag("--bucket", required=True, type=_checked(r"[a-z0-9][a-z0-9_.\-]{1,61}[a-z0-9]", "a bucket, without gs://"))
    flag("--tpu", required=True, nargs="+", type=_tpu, help="types, such as v4-128, or generations, such as v4")
    flag("--capacity", choices=gcp.CAPACITIES, default="spot", help="how TPUs are paid for (default: %(default)s)")
    flag("--max-slices", type=_count, default=1, help="of each type (default: %(default)s)")
    flag("--max-hosts", type=_count, default=64, help="CPU hosts and slices together (default: %(default)s)")
    flag("--service-account", help="of the hosts (default: marin-sft@PROJECT.iam.gserviceaccount.com)")
    flag("--secrets", help="a file here with lines NAME=VALUE, for the environment of Ray on all hosts")

    kuberay_flags = command("kuberay", "a RayJob for KubeRay")
    flag = kuberay_flags.add_argument
    flag("--tpu", nargs="+", type=_tpu, default=[], help="types, such as v4-128")
    flag("--max-slices", type=_count, default=1, help="of each type (default: %(default)s)")
    flag("--gpus", type=_count, default=0, help="of a host")
    flag("--max-hosts", type=_count, default=4, help="with GPUs (default: %(default)s)")
    flag("--spot", action="store_true", help="GKE's Spot nodes")

    sky_flags = command("skypilot", "a SkyPilot task with GPU hosts")
    flag = sky_flags.add_argument
    flag("--gpus", required=True, type=_checked(r"[\w\-]+:\d+", "SkyPilot's name and number, such as H100:8"))
    flag("--hosts", type=_count, required=True)
    flag("--spot", action="store_true")

    for flags in (gcp_flags, kuberay_flags, sky_flags):
        flags.add_argument("--name", type=_name, default="marin-sft", help="(default: %(default)s)")
        flags.add_argument("--image", required=True, type=_image, help="built from infra/docker/Dockerfile")
    for flags in (kuberay_flags, sky_flags):
        flags.add_argument("--prefix", required=True, type=_prefix, help="where the outputs of steps go")
        flags.add_argument("command", nargs="+", help="after --: what to run")
    kinds.add_parser("examples", help="write the files of this folder")
    return top


def _content(asked: argparse.Namespace) -> str:
    tpu_types = tuple(dict.fromkeys(tpu_type for named in getattr(asked, "tpu", []) for tpu_type in named))
    common: dict[str, Any] = {"name": asked.name, "image": asked.image}
    if asked.kind == "gcp":
        cluster = GcpCluster(
            **common,
            project=asked.project,
            zone=asked.zone,
            bucket=asked.bucket,
            tpu_types=tpu_types,
            capacity=asked.capacity,
            max_slices=asked.max_slices,
            max_hosts=asked.max_hosts,
            service_account=asked.service_account,
            secrets=asked.secrets,
        )
        return to_yaml(cluster.file(), "gcp")
    common |= {"prefix": asked.prefix, "command": shlex.join(asked.command), "spot": asked.spot}
    if asked.kind == "skypilot":
        return to_yaml(SkyTask(**common, gpus=asked.gpus, hosts=asked.hosts).file(), "skypilot")
    sizes: dict[str, Any] = {
        "max_slices": asked.max_slices,
        "gpus": asked.gpus,
        "max_hosts": asked.max_hosts,
    }
    return to_yaml(RayJob(**common, tpu_types=tpu_types, **sizes).file(), "kuberay")


def main(arguments: Sequence[str] | None = None) -> None:
    asked = parser().parse_args(arguments)
    if asked.kind == "examples":
        for name, content in examples().items():
            (HERE / name).parent.mkdir(exist_ok=True)
            (HERE / name).write_text(content)
            print(HERE / name)
    elif asked.output is None:
        sys.stdout.write(_content(asked))
    else:
        asked.output.write_text(_content(asked))
        print(asked.output)


if __name__ == "__main__":
    main()
