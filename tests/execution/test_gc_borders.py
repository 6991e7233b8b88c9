"""What a collection must not touch: stores below its own, folders of others, steps that it cannot read."""

import dataclasses
from pathlib import Path

import pytest

from marin_sft.errors import UserError
from marin_sft.execution.catalog import find_step, read_catalog, step_directories
from marin_sft.execution.clock import now
from marin_sft.execution.gc import collect_garbage
from marin_sft.execution.local_store import LocalStore
from marin_sft.execution.pins import pin_step
from marin_sft.execution.process import ProcessIdentity
from marin_sft.execution.reachability import GcPolicy, find_garbage
from marin_sft.execution.step_state import Tombstone, read_state, write_tombstone
from marin_sft.execution.stores import open_store
from tests.execution.test_gc import directory_of, run, step

ALL = GcPolicy(keep_runs=0, keep_days=0, grace_hours=0)


def everything(store):
    """Every path below the prefix."""
    root = Path(store.prefix)
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def local(tmp_path):
    return LocalStore(str(tmp_path / "store"))


def test_a_store_below_is_not_looked_into(prefix):
    outer, inner = open_store(prefix), open_store(f"{prefix}/teams/one")
    a, b = step("a"), step("raw/b")
    directory = directory_of(run(inner.prefix, b), b)
    pin_step(inner, directory)
    assert collect_garbage(outer, ALL) == [], "a prefix that is not yet a store itself"
    run(outer.prefix, a)
    assert read_catalog(outer).stores == ("teams/one",) == find_garbage(outer, ALL).stores
    assert [item.directory for item in collect_garbage(outer, ALL)] == [
        directory_of(run(outer.prefix, a, dry_run=True), a)
    ]
    assert read_state(inner, directory).commit and step_directories(inner) == [directory]
    with pytest.raises(UserError, match="teams/one is a store of its own; use --prefix .*teams/one$"):
        find_step(outer, f"teams/one/{directory}")
    outer.remove(outer.prefix)


def test_folders_of_others_stay(local):
    """Whatever they are called, and also inside the directory of a step."""
    theirs = {
        "github/commits/a.parquet",
        "github/2023/b.parquet",
        "github/claims/notes.txt",
        "data/2024/a",
        "x-0123456789/a",
        "x-0123456789/.hidden",
        "y-0123456789/commits/a",
        "y-0123456789/1/a",
        "fixed/2023/a",
        "fixed/.hidden",
        "fixed/claims/.notes",
    }
    for path in theirs:
        Path(local.path(path)).parent.mkdir(parents=True, exist_ok=True)
        Path(local.path(path)).write_text("precious")
    run(local.prefix, step("github/real"), dataclasses.replace(step("a"), override_output_path="fixed"))
    assert [item.result for item in collect_garbage(local, ALL)] == ["removed"] * 2
    assert {path for path in everything(local) if not path.startswith(("_runs/", "_gc/"))} == theirs
    assert step_directories(local) == ["y-0123456789"], "by its name"
    with pytest.raises(UserError, match="no step 'y'"):
        find_step(local, "y")


@pytest.mark.parametrize("damage", ["claims/000001.json", "commits/000001.json", "claims/tombstone.json"])
@pytest.mark.parametrize("content", [b"", b'{"number": 1, "att', b'{"x": 1}', b"[]"])
def test_a_step_that_cannot_be_read_is_left_and_named(local, damage, content):
    a = step("a")
    directory = directory_of(run(local.prefix, a), a)
    if "tombstone" in damage:
        write_tombstone(local, directory, Tombstone((1,), (1,), 1, ProcessIdentity.current(), now()))
    damaged = Path(local.path(f"{directory}/{damage}"))
    damaged.write_bytes(content)
    before = everything(local)
    (left,) = collect_garbage(local, ALL)
    assert (left.directory, left.result, left.detail) == (directory, "left", f"{damaged} cannot be read")
    assert before <= everything(local)
    assert find_garbage(local, ALL).kept == {directory: (f"{damaged} cannot be read",)}


def test_of_a_step_that_cannot_be_read_no_part_goes(local):
    """Nor what is superseded, as far as the rest tells."""
    a = step("a")
    directory = directory_of(run(local.prefix, a), a)
    run(local.prefix, a, force_run=("a",))
    superseded = GcPolicy(keep_runs=1, keep_days=0, grace_hours=0)
    assert [item.attempts for item in find_garbage(local, superseded).garbage] == [(1,)]
    Path(local.path(f"{directory}/claims/000002.json")).write_text("")
    assert [item.result for item in collect_garbage(local, superseded)] == ["left"]
    assert Path(local.path(f"{directory}/1/text.txt")).exists()


def test_a_commit_cannot_point_out_of_its_step(local, tmp_path):
    """Numbers in our files become paths that are removed."""
    a = step("a")
    directory = directory_of(run(local.prefix, a), a)
    (tmp_path / "precious").write_text("x")
    commit = Path(local.path(f"{directory}/commits/000001.json"))
    commit.write_text(commit.read_text().replace('"attempt":1,', '"attempt":"../../../precious",'))
    assert [item.result for item in collect_garbage(local, ALL)] == ["left"]
    assert (tmp_path / "precious").exists()


def test_empty_folders_of_a_killed_collection_go(local):
    run(local.prefix, step("a"))
    Path(local.path("raw/b-0123456789/claims")).mkdir(parents=True)
    collect_garbage(local, ALL)
    assert not Path(local.path("raw")).exists()
