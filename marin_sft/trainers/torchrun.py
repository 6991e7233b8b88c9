"""Scripts under `torchrun`: one process trains on all devices of the machine, and the others wait for it."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from marin_sft.errors import UserError
from marin_sft.execution.process import ProcessIdentity
from marin_sft.execution.resources import Resources
from marin_sft.trainers.hardware import default_resources, devices_seen

_RANK, _PROCESSES, _ALL = "LOCAL_RANK", "LOCAL_WORLD_SIZE", "WORLD_SIZE"
_SECONDS_BETWEEN_LOOKS = 0.2


def waits() -> bool:
    """Whether this process is one that waits for the first.

    Raises:
        UserError: processes on several machines.
    """
    if not _under_torchrun():
        return False
    if os.environ.get(_ALL, os.environ[_PROCESSES]) != os.environ[_PROCESSES]:
        raise UserError(
            "torchrun over several machines (--nnodes above 1) is not supported; several machines are a Ray cluster: "
            "run the script there with ray_run, and say --tpu_type or --gpu_count"
        )
    return os.environ[_RANK] != "0"


def check_devices(resources: Resources | None) -> None:
    """Say that one process trains on all devices.

    Raises:
        UserError: another number of devices than of processes.
    """
    if not _under_torchrun():
        return
    processes, devices = int(os.environ[_PROCESSES]), devices_seen(resources or default_resources())
    if processes != devices:
        raise UserError(
            f"torchrun --nproc_per_node={processes}: expected {processes} devices, found {devices}; one process trains "
            "on all devices of a machine, so plain `python` does the same"
        )
    print(f"torchrun: one process trains on all {devices} devices; the other {processes - 1} wait for it")


@dataclass
class _Told:
    code: int = 1


@contextlib.contextmanager
def telling_the_others() -> Iterator[_Told]:
    """Leave the exit code where the others look for it."""
    told = _Told()
    try:
        yield told
    except UserError:
        told.code = 2
        raise
    finally:
        if _under_torchrun():
            draft = _place().with_suffix(".draft")
            draft.write_text(str(told.code))
            draft.replace(_place())


def exit_code_of_first() -> int:
    """Wait until the first process has ended, and give its exit code. torchrun ends those that wait if it is killed."""
    launcher = os.getppid()
    while not _place().exists():
        if os.getppid() != launcher:
            return 1
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    return int(_place().read_text())


def _under_torchrun() -> bool:
    return {_RANK, _PROCESSES} <= os.environ.keys()


def _place() -> Path:
    """Known to all processes of one launch, and of no other: process numbers come again, with another start."""
    launcher = ProcessIdentity.of(os.getppid())
    return Path(tempfile.gettempdir(), f"marin_sft-torchrun-{launcher.boot_id}-{launcher.pid}-{launcher.start_time}")
