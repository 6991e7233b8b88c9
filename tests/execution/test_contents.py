import dataclasses
import os
import time
from pathlib import Path

import pytest

from marin_sft.errors import ConfigError
from marin_sft.execution.contents import LocalContent, kind_in_name, look_at, read_content
from marin_sft.execution.executor import ExecutorStep, step_fn, this_output_path


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def aged(path: Path) -> Path:
    """A path whose files nobody has touched lately, as far as their times of writing go."""
    long_ago = time.time() - 3600
    for file in [path, *path.rglob("*")]:
        os.utime(file, (long_ago, long_ago))
    return path


def settled(path: Path) -> LocalContent:
    """As of a plan made long after the last write. (Nothing sets the time of a change but a change.)"""
    return read_content(str(path), "config.data")._replace(settled=True)


def digest(path: Path) -> str:
    return read_content(str(path), "config.data").digest


def test_a_single_file_counts_by_its_bytes(tmp_path):
    file = written(tmp_path / "a.txt", "x")
    assert digest(file) == "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881", "as sha256sum says"
    assert digest(file.rename(tmp_path / "b.csv")) == digest(written(tmp_path / "c.txt", "x"))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.tsv", ".tsv"), ("a.jsonl.gz", ".jsonl.gz"), ("v1.2.json", ".json"), ("a.b.csv.zst", ".csv.zst"), ("a", "")],
)
def test_the_end_of_a_name_says_how_the_file_is_read(tmp_path, name, kind):
    assert kind_in_name(str(written(tmp_path / name, ""))) == kind
    assert kind_in_name(str(tmp_path)) is None and kind_in_name(f"{tmp_path}/*") is None


def test_what_systems_leave_behind_does_not_count(tmp_path):
    written(tmp_path / "data" / "a.jsonl", "x")
    before = digest(tmp_path / "data"), digest(tmp_path / "*" / "**" / "*")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", ".git/config", "sub/.a.jsonl.swp"):
        written(tmp_path / "data" / name, "litter")
    assert (digest(tmp_path / "data"), digest(tmp_path / "*" / "**" / "*")) == before
    written(tmp_path / "data" / "sub" / "b.jsonl", "y")
    assert digest(tmp_path / "data") != before[0] and digest(tmp_path / "*" / "**" / "*") != before[1]


def test_a_place_that_lies_in_a_hidden_one_counts(tmp_path):
    one = written(tmp_path / ".cache" / "data" / "a.txt", "x").parent
    before = digest(one)
    written(one / "a.txt", "y")
    assert digest(one) != before


def test_links_to_directories_are_followed_and_not_in_circles(tmp_path):
    written(tmp_path / "data" / "a.txt", "x")
    linked = written(tmp_path / "elsewhere" / "b.txt", "y")
    before = digest(tmp_path / "data")
    (tmp_path / "data" / "more").symlink_to(linked.parent)
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "data")
    with_link = digest(tmp_path / "data")
    written(linked, "z")
    assert len({before, with_link, digest(tmp_path / "data")}) == 3


def test_nothing_there_is_an_error_that_names_the_field(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.data: expected an existing file or directory, or a glob"):
        read_content(f"{tmp_path}/*.txt", "config.data")


def test_untouched_files_are_not_read_again(tmp_path):
    written(tmp_path / "a.txt", "x")
    content = settled(tmp_path)
    assert look_at(content._replace(digest="of other bytes")).change is None, "the stamp alone was looked at"
    assert look_at(content._replace(digest="of other bytes", settled=False)).change is not None


def test_files_written_just_before_the_plan_are_read_again(tmp_path):
    written(tmp_path / "a.txt", "x")
    assert not read_content(str(tmp_path), "config.data").settled
    assert not read_content(str(aged(tmp_path)), "config.data").settled, "it can be set back, the time of a change not"


@pytest.mark.parametrize("make", [settled, lambda path: read_content(str(path), "config.data")])
def test_every_change_is_seen_and_nothing_else(tmp_path, make):
    file = written(tmp_path / "data" / "a.txt", "one")
    times = file.stat()
    content = make(tmp_path / "data")
    os.utime(file)
    assert look_at(content).change is None, "touched, with the same bytes"
    written(file, "two")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert "has changed since the plan was made: its digest was" in look_at(content).change
    written(file, "one")
    assert look_at(content).change is None
    os.replace(written(tmp_path / "new", "six"), file)
    assert look_at(content).change is not None
    written(file, "one")
    added = written(tmp_path / "data" / "b.txt", "")
    assert look_at(content).change is not None
    added.unlink()
    file.unlink()
    assert look_at(content).change is not None
    file.parent.rmdir()
    assert f"config.data: {tmp_path / 'data'} does not exist on " in look_at(content).change


@dataclasses.dataclass(frozen=True)
class LookConfig:
    data: Path
    output_path: str = this_output_path()


@step_fn(kind="look")
def look(config: LookConfig) -> None: ...


def test_a_changed_directory_says_which_file_changed(pipeline, tmp_path):
    data = tmp_path / "data"
    for name in "abcdef":
        written(data / f"{name}.txt", name)
    pipeline.run(ExecutorStep("looks", look, LookConfig(data)))
    written(data / "b.txt", "other")
    (data / "c.txt").unlink()
    written(data / "sub" / "g.txt", "g")
    (item,) = pipeline.plan(ExecutorStep("looks", look, LookConfig(data))).values()
    ((field, old, new),) = item.diff
    assert field == f"data ({data}: b.txt changed, c.txt is gone, sub/g.txt is new) content" and old != new
    content = settled(data)
    for name in "abdef":
        written(data / f"{name}.txt", "y")
    said = look_at(content).change
    assert said is not None and said.endswith("; a.txt changed, b.txt changed, d.txt changed and 2 more")
    for record in pipeline.prefix.rglob(".record.json"):
        record.write_text("{}")  # as an older version left it
    (item,) = pipeline.plan(ExecutorStep("looks", look, LookConfig(data))).values()
    assert item.diff[0][0] == f"data ({data}) content"
