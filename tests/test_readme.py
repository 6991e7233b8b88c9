"""What the README and the pages of docs/ state is true: the example runs, the tree is there, the flags exist."""

import json
import re
import subprocess
import sys
from pathlib import Path

from marin_sft.execution.flags import parse_flags

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DOCS = ROOT / "docs"


def test_the_example_experiment_runs(tmp_path):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(example.splitlines()) < 40
    (tmp_path / "example.py").write_text(example)
    command = [sys.executable, "example.py", "--backend", "inline"]
    first, second = (subprocess.run(command, cwd=tmp_path, capture_output=True, text=True) for _ in range(2))
    assert first.returncode == 0 and "rows 168" in first.stdout, first.stderr
    assert "0 steps run, 2 cached" in second.stdout


def test_the_plan_is_that_of_the_quickstart():
    """Which `test_identity.py` compares with the experiment itself."""
    identities = json.loads((ROOT / "tests/identities.json").read_text())["quickstart.py"]
    assert dict(re.findall(r"^(\S+) +RUN +NEW +(\S+)$", README, re.MULTILINE)) == identities
    assert f"Plan: {len(identities)} steps, {len(identities)} to run." in README


def test_the_tree_is_there():
    tree = README.split("## The tree")[1]
    folder = ROOT
    for indent, name in re.findall(r"^( *)([\w./]+) +\S", tree.split("```")[1], re.MULTILINE):
        folder = folder if indent else ROOT
        path = (ROOT / "marin_sft" if indent else ROOT) / name
        assert path.exists(), name


def test_the_flags_exist():
    page = (DOCS / "guides/reruns.md").read_text()
    table = page.split("## Flags of every experiment")[1].split("\n\n")[1]
    flags = re.findall(r"`(--\w+)", table)
    assert len(flags) > 8
    values = {
        "--max_concurrent": ["2"],
        "--beat_timeout": ["5"],
        "--backend": ["inline"],
        "--prefix": ["x"],
        "--force_run": ["a"],
        "--budget": ["200"],
        "--prices": ["prices.toml"],
        "--plan_out": ["plan.json"],
        "--plan": ["plan.json"],
    }
    for flag in flags:
        parse_flags([flag, *values.get(flag, ["x"] if flag == "--run_only" else [])])


def test_each_claim_about_safety_names_a_test_that_exists():
    table = (DOCS / "guarantees.md").read_text().split("## What is safe")[1].split("\n## ")[0]
    named = re.findall(r"`(?:([\w/]+\.py))?::(\w+)`", table)
    assert len(named) > 10
    file = ""
    for path, test in named:
        file = path or file
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(), (file, test)


def test_the_experiments_it_lists_are_there():
    table = (DOCS / "guides/sft.md").read_text().split("## Published runs")[1].split("## ")[0]
    named = re.findall(r"^\| `(\w+\.py)` \|", table, re.MULTILINE)
    assert sorted(named) == sorted(path.name for path in (ROOT / "experiments").glob("exp*_*.py"))
    (count,) = re.findall(r"--dry_run +# (\d+) steps", table)
    command = [sys.executable, "experiments/exp808_sft_mixture.py", "--dry_run"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith(f"Plan: {count} steps, {count} to run."), done.stderr
