"""What must be on the disk before what. Whole power cuts: test_torture."""

import dataclasses
import os
from pathlib import Path

import pytest

from marin_sft import disk
from marin_sft.disk import sync_tree
from marin_sft.execution.executor import ExecutorStep, step_fn, this_output_path
from marin_sft.execution.local_store import LocalStore


@dataclasses.dataclass
class Seen:
    """Paths in the order in which they were synced, linked or renamed into place."""

    events: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def of(self, kind: str) -> list[str]:
        return [path for event, path in self.events if event == kind]


@pytest.fixture
def seen(monkeypatch) -> Seen:
    """Watches the calls that make things durable, which are still made."""
    seen = Seen()
    fsync, link = os.fsync, os.link

    def watched_fsync(descriptor):
        seen.events.append(("sync", os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def watched_link(source, target):
        seen.events.append(("link", target))
        link(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "link", watched_link)
    return seen


@step_fn(kind="two_files")
def two_files(config):
    (Path(config) / "sub").mkdir()
    (Path(config) / "one.txt").write_text("1")
    (Path(config) / "sub" / "two.txt").write_text("2")


@pytest.mark.parametrize("one_by_one", [False, True], ids=["linux", "elsewhere"])
def test_an_output_is_on_the_disk_before_its_commit_is_there(pipeline, seen, monkeypatch, one_by_one):
    sync_file_system = disk._sync_file_system

    def watched(path):
        seen.events += [("sync", str(file)) for file in [*Path(path).rglob("*"), path, *Path(path).parents]]
        return sync_file_system(path)

    monkeypatch.setattr(disk, "_sync_file_system", (lambda path: False) if one_by_one else watched)
    run = pipeline.run(ExecutorStep("s", two_files, this_output_path()))
    output = run.output_path(run.graph.roots[0].step)
    directory = os.path.dirname(output)
    (commit,) = [i for i, (kind, path) in enumerate(seen.events) if kind == "link" and "/commits/" in path]
    before = {path for kind, path in seen.events[:commit] if kind == "sync"}
    files = {f"{output}/{name}" for name in ("one.txt", "sub/two.txt", ".files.json", ".record.json")}
    assert files | {output, f"{output}/sub", directory, str(pipeline.prefix)} <= before
    assert ("sync", f"{directory}/commits") in seen.events[commit:], "the commit's own name"


def test_beats_cost_no_sync_and_all_else_that_is_replaced_does(tmp_path, seen):
    store = LocalStore(str(tmp_path))
    store.replace(store.path("claims/1.beat"), b"1", durable=False)
    assert seen.events == []
    store.replace(store.path("pins/1.json"), b"1")
    file, folder = seen.of("sync")
    assert os.path.dirname(file) == folder == f"{tmp_path}/pins"


def test_many_files_cost_one_sync(tmp_path, seen):
    for number in range(100):
        (tmp_path / str(number)).write_text("x")
    sync_tree(str(tmp_path), str(tmp_path))
    assert seen.events == []


def test_without_syncfs_every_file_is_synced(tmp_path, seen, monkeypatch):
    """As on macOS."""
    monkeypatch.setattr(disk, "_sync_file_system", lambda path: False)
    output = tmp_path / "step" / "1"
    output.mkdir(parents=True)
    for number in range(100):
        (output / str(number)).write_text("x")
    os.symlink("nowhere", output / "link")
    sync_tree(str(output), str(tmp_path))
    files = [str(output / str(number)) for number in range(100)]
    assert sorted(seen.of("sync")) == sorted([*files, str(output), str(output.parent), str(tmp_path)])


def test_what_is_not_there_needs_no_sync(tmp_path):
    sync_tree(str(tmp_path / "1"), str(tmp_path))
