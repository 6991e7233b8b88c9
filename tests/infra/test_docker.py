"""The image, judged by hadolint and against the project's own files."""

import re
import subprocess
import tomllib

import pytest

from tests.infra.launcher_files import INFRA, ROOT, lint

DOCKERFILE = (INFRA / "docker" / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_hadolint_finds_nothing():
    done = lint("hadolint", "--failure-threshold", "style", text=DOCKERFILE)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("wrong", ["RUNN true", "RUN apt-get install git", "USER root"])
def test_hadolint_refuses_a_wrong_line(wrong):
    assert lint("hadolint", "--failure-threshold", "style", text=f"{DOCKERFILE}{wrong}\n").returncode == 1


def test_what_it_builds_from_is_there():
    accelerators = re.search(r"^ *(cpu \| .*)\) ;;", DOCKERFILE, re.MULTILINE).group(1).split(" | ")
    assert accelerators == ["cpu", "gpu", "tpu"]
    assert {"gcp", "gpu", "tpu"} <= PROJECT["optional-dependencies"].keys()
    assert re.search(r"^FROM python:3\.11-", DOCKERFILE, re.MULTILINE), "requirements.lock is for 3.11"
    allowed = (INFRA / "docker" / "Dockerfile.dockerignore").read_text().split()
    assert allowed[0] == "*", "only what is named is sent to the builder: no secrets, no outputs"
    for name in (line[1:] for line in allowed if line.startswith("!")):
        assert (ROOT / name).exists(), name


def test_the_versions_that_it_installs_are_in_a_lock_file():
    """The third of its installations is constrained by a lock file, which must have what the extra `gcp` brings."""
    locked = (ROOT / "requirements-dev.lock").read_text()
    for requirement in PROJECT["optional-dependencies"]["gcp"]:
        assert re.search(rf"^{requirement}==", locked, re.MULTILINE)


@pytest.mark.parametrize("accelerator", ["cpu", "npu"])
def test_another_accelerator_is_refused(accelerator):
    """The check of the build's argument, as the image's shell runs it."""
    check = re.search(r"RUN (case .*?esac) ", DOCKERFILE, re.DOTALL).group(1)
    command = ["bash", "-euo", "pipefail", "-c", check.replace("\\\n", "\n")]
    done = subprocess.run(command, env={"ACCELERATOR": accelerator}, capture_output=True, text=True)
    assert (done.returncode == 0) == (accelerator == "cpu")
    assert accelerator == "cpu" or "expected cpu, gpu or tpu" in done.stderr
