from pathlib import Path

import pytest

from marin_sft.errors import UserError
from marin_sft.execution.flags import ExecutorFlags, parse_flags


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--force_run", '["tokenized/a", "b*"]'], {"force_run": ("tokenized/a", "b*")}),
        (["--force_run", "a", "b", "--force_run", "c"], {"force_run": ("a", "b", "c")}),
        (["--force_run=a"], {"force_run": ("a",)}),
        (["--force_run", "['a', 'b*']"], {"force_run": ("a", "b*")}),
        (["--force_run", "[a, b]", "c"], {"force_run": ("a", "b", "c")}),
        (["--run_only", "['^a$']", "[a, b]"], {"run_only": ("^a$", "[a, b]")}),
        (["--debug", "--cascade"], {"cascade": True}),
        (["--run_only", "[ab]$"], {"run_only": ("[ab]$",)}),
        (["--run_only", '["^a$"]'], {"run_only": ("^a$",)}),
        (["--dry_run"], {"dry_run": True}),
        (
            ["--dry_run", "true", "--cascade", "--fail_fast", "no"],
            {"dry_run": True, "cascade": True, "fail_fast": False},
        ),
        (["--force_run_failed=false"], {"force_run_failed": False}),
        (["--max_concurrent", "3", "--backend", "inline"], {"max_concurrent": 3, "backend": "inline"}),
        (["--prefix", "gs://bucket/x"], {"prefix": "gs://bucket/x"}),
        ([], {"force_run_failed": True, "backend": "ray", "max_concurrent": None}),
    ],
)
def test_accepted(argv, expected):
    flags = parse_flags(argv)
    assert {name: getattr(flags, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--force-run", "a"], r"unknown argument '--force-run'; did you mean '--force_run'\?"),
        (["stray"], "unknown argument 'stray'"),
        (["--dry_run", "maybe"], "expected true or false, got 'maybe'"),
        (["--max_concurrent", "0"], "expected a whole number >= 1, got '0'"),
        (["--backend", "slurm"], "invalid choice: 'slurm'"),
        (["--force_run", "[a"], "expected a list of strings"),
        (["--force_run", "[1]"], r"'\[1\]': expected a list of strings, like \['a', 'b'\]"),
        (["--run_only", "['a'"], "expected a list of strings"),
        (["--debgu"], r"did you mean '--debug'\?"),
        (["--force_run"], "expected at least one argument"),
        (["--prefix", ""], "--prefix: expected a path, got an empty one; is a variable of the command not set"),
        (["--prefix", " "], "--prefix: expected a path, got an empty one"),
        (["--run_only", ""], "--run_only: expected the name of a step, got ''"),
        (["--force_run", "a", ""], "--force_run: expected the name of a step, got ''"),
    ],
)
def test_refused(argv, message):
    with pytest.raises(UserError, match=message):
        parse_flags(argv)


def test_flags_of_a_script_are_refused_in_the_same_way():
    with pytest.raises(UserError, match=r"ExecutorFlags has no field 'prefx': did you mean 'prefix'\?"):
        ExecutorFlags(prefx="x")


def test_prefix_from_the_environment(monkeypatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MARIN_SFT_PREFIX", raising=False)
    monkeypatch.delenv("MARIN_PREFIX", raising=False)
    assert parse_flags([]).prefix == str(tmp_path / "store")
    monkeypatch.setenv("MARIN_PREFIX", "marin")
    assert parse_flags([]).prefix == str(tmp_path / "marin")
    monkeypatch.setenv("MARIN_SFT_PREFIX", "gs://b")
    assert parse_flags([]).prefix == "gs://b"
    assert parse_flags(["--prefix", "x"]).prefix == str(tmp_path / "x")


def test_a_relative_prefix_in_a_job(monkeypatch, tmp_path):
    """A job runs in a copy of the working directory that goes away with the cluster."""
    monkeypatch.delenv("MARIN_SFT_PREFIX", raising=False)
    monkeypatch.delenv("MARIN_PREFIX", raising=False)
    monkeypatch.setenv("MARIN_SFT_LAUNCH_DIR", str(tmp_path))
    assert parse_flags([]).prefix == str(tmp_path / "store")
    assert parse_flags(["--prefix", "../x"]).prefix == str(tmp_path.parent / "x")
    for elsewhere in ("", str(tmp_path / "on_the_laptop")):
        monkeypatch.setenv("MARIN_SFT_LAUNCH_DIR", elsewhere)
        assert parse_flags(["--prefix", "/shared/x"]).prefix == "/shared/x"
        for argv in ([], ["--prefix", "x"]):
            with pytest.raises(UserError, match="a relative path cannot be used in a job on another machine"):
                parse_flags(argv)
