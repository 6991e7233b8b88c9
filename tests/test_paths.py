"""Which files a path means: what exists by its very name, links followed, and patterns."""

import os
from pathlib import Path

import fsspec
import pytest

from marin_sft import paths

STRANGE = "lr=[1e-4]*::y?"


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def names(path: object) -> list[str]:
    return paths.find(str(path)).names


def test_a_name_that_exists_is_no_pattern(tmp_path):
    write(tmp_path, f"{STRANGE}/rows[1].jsonl", f"{STRANGE}/a::b.jsonl", f"{STRANGE}/x*y", f"{STRANGE}/xzy")
    write(tmp_path, "lr=1/rows1.jsonl")  # what the name means as a pattern
    strange = tmp_path / STRANGE
    for name in ("rows[1].jsonl", "a::b.jsonl", "x*y"):
        assert paths.find(str(strange / name)) == (str(strange), [name], [])
    assert names(strange) == ["a::b.jsonl", "rows[1].jsonl", "x*y", "xzy"]
    assert names(strange / "*.jsonl") == ["a::b.jsonl", "rows[1].jsonl"]
    assert names(strange / "x?y") == ["x*y", "xzy"]
    assert names(tmp_path / "**/rows*.jsonl") == ["lr=1/rows1.jsonl", f"{STRANGE}/rows[1].jsonl"]


def test_patterns(tmp_path):
    write(tmp_path, "a/1.jsonl", "a/b/2.jsonl", "a/b/c/3.txt", "a/.hidden/4.jsonl", "a/b/.5.jsonl", "6.jsonl")
    expected = {
        "*.jsonl": ["6.jsonl"],
        "*/*.jsonl": ["a/1.jsonl"],
        "**/*.jsonl": ["6.jsonl", "a/1.jsonl", "a/b/2.jsonl"],
        "a/**": ["1.jsonl", "b/2.jsonl", "b/c/3.txt"],
        "**/b/**/*.txt": ["a/b/c/3.txt"],
        "a/[b-c]/[!3].jsonl": ["b/2.jsonl"],
        "a/.h*/*": [".hidden/4.jsonl"],
        "**/.h*/*": ["a/.hidden/4.jsonl"],
        "none/*": [],
        "a/b/?.json": [],
    }
    memory = fsspec.filesystem("memory")
    memory.put(f"{tmp_path}/", "/found/", recursive=True)
    try:
        for pattern, found in expected.items():
            assert names(tmp_path / pattern) == found, pattern
            assert names(f"memory://found/{pattern}") == found, pattern
        assert "6.jsonl" in names("memory://found") and names("memory://found/6.jsonl") == ["6.jsonl"]
    finally:
        memory.rm("/found", recursive=True)


def test_links_are_followed_once(tmp_path):
    write(tmp_path, "big/tulu/b.jsonl", "data/a.jsonl")
    (tmp_path / "data/tulu").symlink_to("../big/tulu")
    (tmp_path / "big/tulu/back").symlink_to(tmp_path / "data")
    (tmp_path / "data/again").symlink_to(".")
    (tmp_path / "data/itself.jsonl").symlink_to("itself.jsonl")
    (tmp_path / "data/gone.jsonl").symlink_to("nowhere")
    assert paths.find(f"{tmp_path}/data")[1:] == (["a.jsonl", "tulu/b.jsonl"], ["gone.jsonl", "itself.jsonl"])
    for pattern, found in (
        ("data/**/*.jsonl", ["a.jsonl", "tulu/b.jsonl"]),
        ("data/*/*.jsonl", ["again/a.jsonl", "tulu/b.jsonl"]),
    ):
        assert names(tmp_path / pattern) == found
    assert names(tmp_path / "data/tulu") == ["b.jsonl", "back/a.jsonl"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_directory_that_may_not_be_read_is_no_empty_one(tmp_path):
    write(tmp_path, "data/closed/a.jsonl")
    (tmp_path / "data/closed").chmod(0)
    with pytest.raises(PermissionError):
        paths.find(f"{tmp_path}/data")


def test_the_nearest_name(tmp_path):
    write(tmp_path, "data/rows.jsonl")
    assert paths.nearest_path(f"{tmp_path}/data/row.jsonl") == f"; did you mean '{tmp_path}/data/rows.jsonl'?"
    assert paths.nearest_path(f"{tmp_path}/dat/*.jsonl") == f"; did you mean '{tmp_path}/data/*.jsonl'?"
    for path in ("data/rows.jsonl", "data/*.txt", "other"):
        assert paths.nearest_path(f"{tmp_path}/{path}") == ""


def test_addresses_with_colons(tmp_path):
    for path in (f"{tmp_path}/{STRANGE}/a::b", f"memory://{STRANGE}/a::b"):
        filesystem, plain = paths.file_system(path)
        filesystem.makedirs(plain, exist_ok=True)
        filesystem.pipe_file(f"{plain}/x", b"1")
        assert paths.names_in(path) == ["x"] and plain.endswith(f"{STRANGE}/a::b")
        paths.remove_all(path)
        assert paths.names_in(path) == [] and not filesystem.exists(f"{plain}/x")
    chained, _ = paths.file_system("simplecache::memory://a")
    assert "simplecache" in chained.protocol


def test_another_name_for_libraries(tmp_path):
    strange = f"{tmp_path}/{STRANGE}"
    Path(paths.unchained(f"{strange}/out.txt")).write_text("x")
    assert Path(strange, "out.txt").read_text() == "x" and "::" not in paths.unchained(f"{strange}/out.txt")
    for path in (f"{tmp_path}/plain", f"memory://{STRANGE}"):
        assert paths.unchained(path) == path
