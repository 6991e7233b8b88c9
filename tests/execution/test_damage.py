"""Files of the engine's own that are empty, cut short or otherwise not what was written. Random ones: test_torture."""

import json
import random
import re
import shutil
from pathlib import Path

import pytest

from marin_sft.errors import DamagedFile, StoreError
from marin_sft.execution.claims import read_beat, read_claim
from marin_sft.execution.commits import Commit
from marin_sft.execution.documents import as_document
from marin_sft.execution.executor import Executor, ExecutorFlags
from marin_sft.execution.local_store import LocalStore
from marin_sft.execution.step_state import read_state
from tests.execution.damage import COMMANDS, DAMAGES, damage, launch, our_files, pipeline, run_command, whole_store


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return whole_store(tmp_path_factory.mktemp("whole") / "store")


@pytest.fixture
def store(whole, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(whole, tmp_path / "store", symlinks=True))


def file_of(store: Path, pattern: str) -> Path:
    (file,) = store.glob(pattern)
    return file


def plan(store: Path):
    found = Executor(ExecutorFlags(prefix=str(store), backend="inline")).plan(pipeline()).plan
    return {item.node.name: item for item in found}


@pytest.mark.parametrize("kind", [*DAMAGES, "directory"])
def test_a_beat_that_cannot_be_read_is_no_beat(store, kind):
    beat = file_of(store, "interrupted-*/claims/000001.beat")
    damage(beat, kind, random.Random(1))
    directory = beat.parents[1].name
    known = kind in ("newer", "flipped", "changed")  # these may leave a beat that can be read
    assert known or read_beat(LocalStore(str(store)), directory, 1) == {}
    assert plan(store)["interrupted"].reason == "RESUME"
    assert "interrupted" in launch(store) and (beat.parents[1] / "commits" / "000001.json").exists()


@pytest.mark.parametrize("kind", [*DAMAGES, "directory"])
def test_a_failure_that_cannot_be_read_is_still_a_failure(store, kind):
    failure = file_of(store, "failed-*/1/.failure.json")
    damage(failure, kind, random.Random(1))
    item = plan(store)["failed"]
    assert item.reason == "RETRY"
    if kind not in ("newer", "flipped", "changed", "missing"):
        assert str(failure) in item.detail and "see the attempt's log for how it failed" in item.detail
    assert "failed" in launch(store) and (failure.parents[1] / "commits" / "000001.json").exists()


NAMED = {
    "c-*/commits/000001.json": "restore it from a copy, or remove it and rerun the step with --force_run",
    "interrupted-*/claims/000001.json": "if no launch is running the step, remove it, and",
    "half_removed-*/claims/tombstone.json": "if you remove it, the rest of that part is kept",
}


@pytest.mark.parametrize("kind", ["empty", "cut", "zeros", "list", "text", "object", "no_utf8", "deep", "directory"])
@pytest.mark.parametrize("pattern", NAMED)
def test_anything_else_is_an_error_that_names_the_file_and_the_way_out(store, pattern, kind):
    file = file_of(store, pattern)
    damage(file, kind, random.Random(1))
    name = file.parents[1].name.rpartition("-")[0]
    with pytest.raises(DamagedFile, match=f"{re.escape(str(file))}: expected .* got .*{re.escape(NAMED[pattern])}"):
        plan(store)
    code, errors = run_command(store, ["why", name])
    assert code == 2 and errors.count("\n") == 1 and str(file) in errors
    assert run_command(store, ["status"])[0] == 0, "the others are shown"
    # What the message advises.
    shutil.rmtree(file) if file.is_dir() else file.unlink()
    if "claims/0" in pattern:
        shutil.rmtree(file.parents[1] / "1")
    assert "not finished" in launch(store) and plan(store)[name].commit is not None


def test_status_tells_of_a_damaged_step_among_the_others(store, capsys):
    file = file_of(store, "b-*/commits/000001.json")
    file.write_bytes(b"")
    from marin_sft.execution.stores import open_store
    from marin_sft.run.status import read_statuses

    found = {item.name: item for item in read_statuses(open_store(str(store)), None)}
    assert found["b"].state == "DAMAGED" and f"{file}: expected" in found["b"].news and "empty file" in found["b"].news
    assert found["c"].state == "COMMITTED"


@pytest.mark.parametrize("part", ["begin", "end"])
def test_a_damaged_record_of_a_launch(store, part):
    newest = max(store.glob(f"_runs/*.{part}.json"))
    newest.write_bytes(b'{"steps": [')
    stem = newest.name.partition(".begin")[0].partition(".end")[0]
    code, errors = run_command(store, ["runs", stem])
    assert code == 2 and str(newest) in errors and f"remove its files _runs/{stem}.*" in errors
    assert run_command(store, ["runs"])[0] == 0
    assert run_command(store, ["gc"])[0] == 2, "gc does not guess what that launch used"
    for file in store.glob(f"_runs/{stem}.*"):
        file.unlink()
    assert run_command(store, ["gc"])[0] == 0


def test_a_damaged_pin_stops_gc_until_it_is_gone(store):
    pin = file_of(store, "_pins/*.json")
    pin.write_bytes(b"")
    code, errors = run_command(store, ["gc"])
    assert code == 2 and f"{pin}: expected" in errors and "pin the step again" in errors
    assert run_command(store, ["unpin", "c"])[0] == 0 and run_command(store, ["gc"])[0] == 0


def test_a_damaged_sibling_explains_nothing_and_stops_nothing(store):
    """The other step of the same name is looked at only to say in what they differ."""
    (store / "b-0123456789" / "commits").mkdir(parents=True)
    (store / "b-0123456789" / "commits" / "000001.json").write_bytes(b"")
    own = plan(store)["b"].node.directory
    shutil.rmtree(store / own)
    shutil.rmtree(next(store.glob("c-*")))
    assert plan(store)["b"].reason == "NEW"
    assert "5 steps run" in launch(store) and run_command(store, ["why", own]) == (0, "")


def test_a_fingerprint_that_cannot_lie_in_this_directory(store):
    """A flipped byte in it must not make a finished output count as absent."""
    file = file_of(store, "b-*/commits/000001.json")
    commit = json.loads(file.read_text())
    file.write_text(json.dumps({**commit, "fingerprint": "0" + commit["fingerprint"][1:] + "0"}))
    with pytest.raises(StoreError, match=re.escape(str(file.parents[1].name))):
        plan(store)


def test_files_of_others_among_ours(store):
    (store / "_runs" / "zzz.begin.json").write_text("{}")
    (store / "_runs" / "2026-99-99T000000.000Z-x-012345.begin.json").write_text("{}")
    (store / "_pins" / ".x.json.0123").write_text("")
    for words in (["runs"], ["gc"], ["status"]):
        assert run_command(store, words)[0] == 0


def test_an_attempt_whose_claim_is_gone_lends_its_directory_to_nobody(store):
    """A claim removed by hand: its number is free again, its files must not get into another attempt's output."""
    directory = file_of(store, "interrupted-*")
    (directory / "claims" / "000001.json").unlink()
    assert f"{directory}/1 already contains files, of an attempt whose claim is gone; move them away" in launch(store)
    assert not (directory / "commits").exists()


def test_latest_that_cannot_be_set_harms_no_commit(store, capfd):
    directory = file_of(store, "interrupted-*")
    (directory / "latest").unlink()
    (directory / "latest" / "x").mkdir(parents=True)
    launch(store)
    assert (
        directory / "commits" / "000001.json"
    ).exists() and "latest does not lead to attempt 2" in capfd.readouterr().err
    assert [p.name for p in directory.iterdir() if p.name.startswith(".")] == []


def test_metrics_that_are_no_json_leave_the_closing_table_whole(store):
    (metrics,) = store.glob("b-*/1/metrics.json")
    for text in (b"", b"[1]", b'{"x": ' + b"9" * 400 + b"}", b"\xff"):
        metrics.write_bytes(text)
        assert "steps run" in launch(store) or "step run" in launch(store)


def test_the_same_dice_damage_every_file(whole, tmp_path):
    """Each file of the engine, two ways each, in turn; all commands and a launch."""
    dice = random.Random(0)
    for number, file in enumerate(our_files(whole)):
        copy = Path(shutil.copytree(whole, tmp_path / str(number), symlinks=True))
        damage(copy / file.relative_to(whole), dice.choice([*DAMAGES, "directory"]), dice)
        for words in dice.sample(COMMANDS[:-1], 4):
            assert run_command(copy, words)[0] in (0, 1, 2)
        launch(copy)


def test_documents_know_their_types():
    commit = {
        "number": 1, "attempt": 1, "fingerprint": "f", "payload": {}, "digest": None, "source": None, "time": "t",
        "inputs": [{"directory": "d", "commit": 1, "digest": None}], "of_a_newer_version": 1,
    }  # fmt: skip
    assert as_document(Commit, commit).inputs[0].commit == 1
    for field, value in (("number", "1"), ("number", True), ("digest", 1), ("inputs", {}), ("payload", [])):
        with pytest.raises(ValueError, match=field):
            as_document(Commit, {**commit, field: value})
    with pytest.raises(ValueError, match=r"inputs\[0\].commit"):
        as_document(Commit, {**commit, "inputs": [{"directory": "d", "commit": None, "digest": None}]})
    with pytest.raises(ValueError, match="no time"):
        as_document(Commit, {key: value for key, value in commit.items() if key != "time"})


def test_the_whole_store_is_whole(store):
    local = LocalStore(str(store))
    (directory,) = store.glob("interrupted-*")
    state = read_state(local, directory.name)
    assert state.claim is not None and state.failure is None and state.owner_gone
    assert read_claim(local, directory.name, 1) is not None
    for words in COMMANDS:
        code, errors = run_command(store, words)
        assert code == 0 and (not errors or "; this is " in errors), words
