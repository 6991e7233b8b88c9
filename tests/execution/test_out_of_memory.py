from pathlib import Path

import pytest

from marin_sft.execution import out_of_memory


@pytest.mark.parametrize(
    ("text", "kills"),
    [("nr_free_pages 99\noom_kill 12\nnuma_hit 7\n", 12), ("nr_free_pages 99\n", 0), (None, 0)],
)
def test_kills_are_read_from_the_kernel_s_counter(monkeypatch, tmp_path: Path, text: str | None, kills: int):
    counters = tmp_path / "vmstat"
    if text is not None:
        counters.write_text(text)
    monkeypatch.setattr(out_of_memory, "_COUNTERS", counters)
    assert out_of_memory.kernel_kills() == kills


def test_ray_s_message_is_cut_to_what_matters():
    message = (
        "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 10.0.0.2) was 2.92GB "
        "used / 23.54GB limit (0.12)\nSelected to kill: (Task: name=f, pid=9537, actual memory used=1.83GB, worker)"
    )
    text = out_of_memory.killed_by_ray_text(message)
    assert "(the step used 1.83GB, its node 2.92GB used / 23.54GB limit)" in text
    assert "(something else)" in out_of_memory.killed_by_ray_text("something else\nand more")
