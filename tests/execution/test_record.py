"""What a launch and its attempts keep of themselves: no secrets, and no more than is useful."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from marin_sft.execution.stores import open_store
from marin_sft.redaction import REDACTED

ROOT = Path(__file__).parents[2]
TOKEN, KEY, URL = "hf_SECRETSECRETSECRETSECRET123456", "0a1b" * 10, "https://h/a?X-Amz-Signature=zqSIGNED"
SCRIPT = f"""
import os
import settings
from marin_sft import ExecutorStep, executor_main, step_fn, this_output_path, unversioned

@step_fn(kind="body")
def body(config):
    if config["fails"]:
        raise ValueError("no entry with {TOKEN}")

def step(name, **more):
    config = {{"out": this_output_path(), "api_key": unversioned("{KEY}"), "url": unversioned("{URL}"), **more}}
    return ExecutorStep(name, body, config)

executor_main(steps=[step("a", fails=False), step("b", fails=True)])
"""


@pytest.fixture
def project(tmp_path):
    """A repository with a script; `launch` runs it, and returns the store's files."""
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "settings.py").write_text("HF = None\n")
    (tmp_path / "data.txt").write_text("")
    (tmp_path / ".gitignore").write_text("store\n__pycache__\n")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(tmp_path)]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *arguments], check=True)
    return tmp_path


def launch(project):
    variables = {"HF_SOMETHING": f"x {TOKEN}", "WANDB_API_KEY": KEY, "RAY_JOB_CONFIG_JSON_ENV_VAR": f'{{"X": "{KEY}"}}'}
    command = [sys.executable, "script.py", "--backend", "inline", "--prefix", "store"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    return [path for path in (project / "store").rglob("*") if path.is_file()]


def test_no_secret_is_kept(project):
    """Not of the changes, the environment, the configs, nor of an error; but for the step's own log."""
    (project / "settings.py").write_text(f'HF = "{TOKEN}"  # to try quickly\nPASSWORD = "hunter2"\nLAYERS = 3\n')
    files = [path for path in launch(project) if path.name != ".log"]
    for word in (TOKEN, KEY, "zqSIGNED", "hunter2"):
        assert [path for path in files if word in path.read_text()] == [], word
    (diff,) = (project / "store/_runs").glob("*.diff")
    assert f'+HF = "{REDACTED}"  # to try quickly' in diff.read_text() and "+LAYERS = 3" in diff.read_text()
    assert diff.stat().st_mode & 0o777 == 0o600
    (begin,) = (project / "store/_runs").glob("*.begin.json")
    recorded = [json.loads(begin.read_text())["launch"]]
    recorded += [json.loads(path.read_text())["launch"] for path in files if path.name == ".record.json"]
    assert len(recorded) == 3
    for said in recorded:
        assert said["git_diff"] == f"_runs/{diff.name}" and said["run"] == diff.stem and said["git_dirty"]
    (commit,) = (json.loads(path.read_text()) for path in files if path.parent.name == "commits")
    assert commit["settings"] == {"api_key": REDACTED, "url": f"https://h/a?X-Amz-Signature={REDACTED}"}


def test_of_large_changes_the_beginning_is_kept_once(project):
    (project / "data.txt").write_text("a line of a file that is under version control\n" * 400_000)  # 19 MB
    files = launch(project)
    (diff,) = (path for path in files if path.suffix == ".diff")
    assert 250_000 < diff.stat().st_size < 270_000
    assert diff.read_text().startswith("# the first 262,") and diff.read_text().endswith("control\n")
    assert max(path.stat().st_size for path in files if path != diff) < 100_000


def test_without_changes_nothing_is_kept(project):
    files = launch(project)
    (begin,) = (json.loads(path.read_text()) for path in files if path.name.endswith(".begin.json"))
    assert not [path for path in files if path.suffix == ".diff"]
    assert begin["launch"]["git_diff"] is None and begin["launch"]["git_dirty"] is False


def test_private_objects(prefix):
    store = open_store(prefix)
    store.create_private(store.path("_runs/x.diff"), b"x")
    assert store.read(store.path("_runs/x.diff")) == b"x"
    store.remove(store.path("_runs"))
