"""A disk whose power goes: a file system in a file, mounted by loop, and a copy of the file as it is at some moment.

What the copy holds when it is mounted is what a machine would find after the cut: what had reached the disk.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

MEGABYTES = 320  # the least that xfs takes

SCRIPT = """
import hashlib, os, time
from pathlib import Path
from marin_sft import ExecutorStep, executor_main, step_fn, this_output_path

@step_fn(kind="many_files")
def many_files(config):
    inputs = "".join(p.read_text() for i in config["inputs"] for p in sorted(Path(i).rglob("*.txt")))
    for k in range(config["files"]):
        part = Path(config["out"], f"part{k % 3}")
        part.mkdir(exist_ok=True)
        (part / f"{k}.txt").write_text(hashlib.sha256(f"{inputs}{config['name']}{k}".encode()).hexdigest() * 20)
        time.sleep(0.01)

def step(name, files, *inputs):
    return ExecutorStep(name, many_files, {"name": name, "inputs": inputs, "files": files, "out": this_output_path()})

a = step("a", 3)
b, c = step("sub/b", 3, a), step("c", 40, a)
d = step("d", 1, b, c)
executor_main(steps=[step("e", 4, d, a), step("f", 2, d)])
"""


def impossible(kind: str) -> str | None:
    """Why such a disk cannot be made here; None when it can."""
    if os.geteuid() != 0:
        return "mounting needs root"
    if not shutil.which(f"mkfs.{kind}"):
        return f"there is no mkfs.{kind}"
    if not os.path.exists("/dev/loop-control"):
        return "there are no loop devices"
    return None


def make_disk(image: Path, kind: str) -> None:
    with image.open("wb") as file:
        file.truncate(MEGABYTES * 2**20)
    force = {"ext4": ["-F"], "xfs": []}[kind]
    subprocess.run([f"mkfs.{kind}", "-q", *force, str(image)], check=True)


@contextlib.contextmanager
def mounted(image: Path, at: Path) -> Iterator[Path]:
    at.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(at)], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)
