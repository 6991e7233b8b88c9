"""Parts of a step as Ray tasks."""

import os
import subprocess
import sys
import textwrap

SCRIPT = """
    import os, threading
    from marin_sft import CpuConfig, ExecutorStep, executor_main, progress, this_output_path
    from marin_sft.execution.shards import map_shards

    def part(number):
        if number == 0:
            open(FIFO).close()  # until the other part runs
            raise ValueError("no part 0")
        open(FIFO, "w").close()
        threading.Event().wait()

    def fails(config):
        map_shards(part, [0, 1])

    def square(number):
        return number * number

    def moves(config):
        heard = []
        with progress.listening(lambda news: heard.append((news.done, news.total, news.unit))):
            assert map_shards(square, [1, 2, 3], "rows", [10, 20, 30]) == [1, 4, 9]
        assert [done for done, _, _ in heard] == sorted({done for done, _, _ in heard})
        assert heard[-1] == (60, 60, "rows") and heard[0][0] in (10, 20, 30, 40, 50, 60)
        print("moved")

    both = CpuConfig(cpus=os.cpu_count())
    steps = [ExecutorStep("fails", fails, this_output_path()), ExecutorStep("moves", moves, this_output_path())]
    executor_main(steps=[*steps, ExecutorStep("all_cpus", print, this_output_path(), resources=both)])
"""


def test_progress_moves_and_no_task_outlives_a_failure(tmp_path):
    """A task that did would hold a CPU for ever, and the last step needs all."""
    os.mkfifo(tmp_path / "fifo")
    script = textwrap.dedent(SCRIPT).replace("FIFO", repr(str(tmp_path / "fifo")))
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, "script.py", "--prefix", "store", "--max_concurrent", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "ValueError: no part 0" in done.stdout, done.stdout + done.stderr
    assert "moves | moved" in done.stdout and list(tmp_path.glob("store/all_cpus-*/commits/*.json"))
