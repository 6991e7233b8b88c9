"""Tokenization in Ray tasks, whose parent is killed in the middle."""

import subprocess
import sys
import textwrap

import pytest

from marin_sft.data.tokenize import TokenizeConfig, tokenize

SCRIPT = """
    import os, signal
    from marin_sft import ExecutorStep, earlier_attempts, executor_main, progress, step_fn, this_output_path
    from marin_sft.data import tokenize as module
    from marin_sft.data.step_configs import TokenizeConfig

    @step_fn(kind="killed_once")
    def killed_once(config):
        module.ROWS_PER_SHARD = 32
        heard = []

        def hear(news):
            heard.append(news)
            print(f"{news.done:g} of {news.total} {news.unit}", flush=True)
            if news.unit == "train rows" and news.done and not config["earlier"]:
                os.kill(os.getpid(), signal.SIGKILL)

        with progress.listening(hear):
            earlier, out = config["earlier"], config["out"]
            module.tokenize(TokenizeConfig((ROWS,), TOKENIZER, earlier_attempts=earlier, output_path=out))

    config = {"earlier": earlier_attempts(), "out": this_output_path()}
    executor_main(steps=[ExecutorStep("tokens", killed_once, config)])
"""


@pytest.mark.slow
def test_killed_in_the_middle(tmp_path, tokenizer_path, helpers, monkeypatch):
    """kill -9 of the step's process when the first shards are done: the next attempt makes only the others."""
    rows = helpers.write_jsonl(tmp_path / "rows.jsonl.gz", helpers.chat_rows(150))
    script = textwrap.dedent(SCRIPT).replace("ROWS,", f"{rows!r},").replace("TOKENIZER", repr(tokenizer_path))
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, "script.py", "--prefix", "store"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    (directory,) = tmp_path.glob("store/tokens-*")
    assert sorted(file.name for file in directory.glob("claims/*.json")) == ["000001.json", "000002.json"]
    log = (directory / "2/.log").read_text()
    (line,) = [line for line in log.splitlines() if line.endswith("of 5 shards are from an earlier attempt")]
    assert 1 <= int(line.split()[1]) < 5
    assert "150 of 150 train rows" in log
    monkeypatch.setattr("marin_sft.data.tokenize.ROWS_PER_SHARD", 32)
    tokenize(TokenizeConfig((rows,), tokenizer_path, output_path=f"{tmp_path}/undisturbed"))
    for name in ("train", "stats.json", "metrics.json"):
        ours, expected = directory / "2" / name, tmp_path / "undisturbed" / name
        if expected.is_dir():
            assert helpers.tree_hash(ours) == helpers.tree_hash(expected)
        else:
            assert ours.read_bytes() == expected.read_bytes()
