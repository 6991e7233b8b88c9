"""The Slurm script by itself. tests/hosts runs it under a real Slurm."""

import os
import re
import subprocess

import pytest

from marin_sft.run import draining
from tests.infra.launcher_files import INFRA, lint, unknown_to_ray_start

PATH = INFRA / "slurm" / "job.sh"
SCRIPT = PATH.read_text()


def test_it_is_sound_shell():
    done = lint("shellcheck", text=SCRIPT)
    assert done.returncode == 0, done.stdout
    assert lint("shellcheck", text=SCRIPT.replace("exit 143", "exit $status 143 $nothing")).returncode == 1


@pytest.mark.parametrize(
    ("words", "environment", "told"),
    [
        ([], {}, "no command: sbatch [options]"),
        (["true"], {}, "this is a batch script: sbatch [options]"),
        (["true"], {"SLURM_JOB_ID": "7"}, "MARIN_SFT_PREFIX: set it to a path that all nodes see"),
    ],
)
def test_what_is_missing_is_named_before_anything_starts(words, environment, told):
    done = subprocess.run(
        ["bash", str(PATH), *words], env={"PATH": "/usr/bin:/bin", **environment}, capture_output=True, text=True
    )
    assert done.returncode in (1, 2) and told in done.stderr


def test_it_ends_only_what_it_started():
    code = "\n".join(line for line in SCRIPT.splitlines() if not line.startswith("#"))
    assert not re.search(r"ray stop|symmetric-run|pkill|killall|scancel", code)
    assert "--dashboard-host=127.0.0.1" in code and "umask 077" in code and "export RAY_AUTH_MODE=token" in code


@pytest.mark.parametrize(("network", "address"), [("lo", r"127\.0\.0\.1"), ("", r"\d+\.\d+\.\d+\.\d+")])
def test_the_address_of_the_head_is_that_of_the_network_card(network, address):
    (part,) = re.findall(r"^if \[ -n .*?^fi$", SCRIPT, re.DOTALL | re.MULTILINE)
    command = ["bash", "-euc", f'{part}; echo "$address"']
    done = subprocess.run(command, env={**os.environ, "MARIN_SFT_NETWORK": network}, capture_output=True, text=True)
    assert re.fullmatch(address, done.stdout.strip()), done.stderr


def test_its_ports_are_its_own():
    (base,) = re.findall(r"^port=(.*)$", SCRIPT, re.MULTILINE)
    asked = {int(n) for n in re.findall(r"\(\(port \+ (\d+)\)\)", SCRIPT)}
    assert asked == set(range(1, 9)), "none twice; the head has the first"

    def port(job):
        return int(
            subprocess.run(["bash", "-c", f"SLURM_JOB_ID={job}; echo {base}"], capture_output=True, text=True).stdout
        )

    assert port(1) == 20010 and port(2) == 20020 and port(999_999) == 29990


def test_ray_start_has_its_options():
    text = SCRIPT.replace("\\\n", "")
    parts = re.findall(r"^ports=\((.*?)^\)", text, re.DOTALL | re.MULTILINE)
    parts += re.findall(r"ray start (.*) &$", text, re.MULTILINE)
    parts += re.findall(r"^ *start \"--\w+=\$first\" (.*)$", text, re.MULTILINE)
    assert len(parts) == 4 and not unknown_to_ray_start(" ".join(parts))
    assert unknown_to_ray_start(" ".join(parts).replace("--head", "--heads")) == {"--heads"}


def test_the_flags_of_the_warning_are_known():
    (command,) = re.findall(r"python -m marin_sft\.run\.draining (.*?) \|\|", SCRIPT.replace("\\\n", ""))
    with pytest.raises(SystemExit) as ended:
        draining.main([word.strip('"') for word in command.split() if "message" not in word][:4] + ["--help"])
    assert ended.value.code == 0
