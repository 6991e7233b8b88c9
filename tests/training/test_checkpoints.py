"""Checkpoints on every kind of store: which one is whole, and what is wrong with the others."""

import fsspec
import pytest

from marin_sft.errors import TrainingError
from marin_sft.training import checkpoints

FILES = {"metadata.json": b"{}", "d/0": bytes(range(256)) * 40, "d/1": b""}


@pytest.fixture
def attempt(prefix):
    """An output path with the checkpoints of steps 1 and 2."""
    output_path = f"{prefix}/checkpoints/some-0123456789/1"
    for step in (1, 2):
        for name, data in FILES.items():
            write(f"{checkpoints.checkpoint_path(output_path, step)}/{name}", data)
        checkpoints.finish(output_path, step, {"step": step})
    return output_path


def write(path: str, data: bytes) -> None:
    filesystem, plain = fsspec.core.url_to_fs(path)
    filesystem.makedirs(plain.rpartition("/")[0], exist_ok=True)
    filesystem.pipe_file(plain, data)


def test_the_newest_whole_one_is_found(attempt, capsys):
    newest = checkpoints.newest([attempt])
    assert (newest.step, newest.about, newest) == (2, {"step": 2}, checkpoints.read(attempt, 2))
    other = FILES["d/0"][:5000] + b"x" + FILES["d/0"][5001:]
    write(f"{newest.path}/d/0", other)
    assert checkpoints.newest([attempt]).step == 1
    assert "step-2: d/0 has changed since it was written (1 of 3 files)" in capsys.readouterr().err
    write(f"{newest.path}/d/0", FILES["d/0"])
    assert checkpoints.newest([attempt]).step == 2

    lost = {newest.path: "cannot be read"}
    assert checkpoints.newest([attempt], lost).step == 1 and len(lost) == 1
    write(f"{attempt}/checkpoints/step-1/metadata.json", b"{}}")
    with pytest.raises(TrainingError, match=r"step-2: cannot be read; .*step-1: metadata.json has 3 bytes, expected 2"):
        checkpoints.newest([attempt], lost)


def test_a_checkpoint_may_be_copied_to_another_store(attempt, tmp_path):
    filesystem, plain = fsspec.core.url_to_fs(f"{attempt}/checkpoints/step-2")
    copy = tmp_path / "copy/checkpoints/step-2"
    for name in (*FILES, checkpoints.MARK):
        write(f"{copy}/{name}", filesystem.cat_file(f"{plain}/{name}"))
    assert checkpoints.newest([str(tmp_path / "copy")]).step == 2
