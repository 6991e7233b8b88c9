"""Garbage collection: what it keeps and removes on every store, and that no moment of it harms a launch."""

import contextlib
import dataclasses
import json
import shutil
import signal
import threading
import time
from pathlib import Path

import fsspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marin_sft.errors import RunFailed, StoreError, UserError
from marin_sft.execution.catalog import step_directories
from marin_sft.execution.claims import Claim, take_claim, write_beat
from marin_sft.execution.clock import now
from marin_sft.execution.executor import Executor, ExecutorFlags, ExecutorStep, InputName, step_fn, this_output_path
from marin_sft.execution.gc import collect_garbage
from marin_sft.execution.local_store import LocalStore
from marin_sft.execution.pins import pin_step, unpin_step
from marin_sft.execution.process import ProcessIdentity
from marin_sft.execution.reachability import GcPolicy, find_garbage
from marin_sft.execution.record import read_begin, read_end, read_launches
from marin_sft.execution.step_state import read_tombstone
from marin_sft.execution.stores import open_store

NEWEST = GcPolicy(keep_runs=1, keep_days=0, grace_hours=0)
OUT_OF_SIGHT = ProcessIdentity("elsewhere", 1, "another-boot", "another-namespace", "1")


@step_fn(kind="gc_write")
def write(config):
    texts = [fsspec.open(f"{path}/text.txt", "r").open().read() for path in config["inputs"]]
    with fsspec.open(f"{config['out']}/text.txt", "w") as file:
        file.write(config["text"] + "".join(texts))


def step(name, *inputs, text=None):
    return ExecutorStep(name, write, {"text": text or name, "inputs": list(inputs), "out": this_output_path()})


def run(prefix, *steps, **flags):
    return Executor(ExecutorFlags(prefix=str(prefix), backend="inline", **flags)).run(list(steps))


def statuses(run):
    return [result.status for result in run.results]


def collected(store, policy=NEWEST):
    return {(item.directory, item.result) for item in collect_garbage(store, policy)}


def directory_of(run, step):
    return run.graph.node(step).directory


def check_whole(store):
    """Every commit has its bytes, and nobody is in the middle of removing anything."""
    for directory in step_directories(store):
        assert read_tombstone(store, directory) is None
        for name in store.names(f"{store.path(directory)}/commits"):
            commit = json.loads(store.read(f"{store.path(directory)}/commits/{name}"))
            assert store.read(f"{store.path(directory)}/{commit['attempt']}/text.txt"), directory


@pytest.fixture
def store(prefix):
    store = open_store(prefix)
    yield store
    store.remove(store.path(""))


@pytest.fixture
def local(tmp_path):
    return LocalStore(str(tmp_path / "store"))


def test_what_no_launch_keeps_goes(store):
    old, shared = step("raw/a", text="old"), step("raw/shared")
    run(store.prefix, step("b", old, shared))
    second = run(store.prefix, step("b", step("raw/a", text="new"), shared))
    before = step_directories(store)
    found = find_garbage(store, NEWEST)
    assert len(before) == 5 and len(found.garbage) == 2 and all(item.whole for item in found.garbage)
    assert sum(item.bytes for item in found.garbage) > 0
    assert step_directories(store) == before, "looking removes nothing"
    assert {result for _, result in collected(store)} == {"removed"}
    assert step_directories(store) == sorted(node.directory for node in second.graph)
    check_whole(store)
    again = step("b", step("raw/a", text="new"), shared)
    assert statuses(run(store.prefix, again)) == ["cached"] * 3
    first = run(store.prefix, step("b", old, shared))
    assert sorted(statuses(first)) == ["cached", "ran", "ran"]
    assert collected(store, GcPolicy()) == set(), "all is younger than a day"


def test_superseded_attempts_go(store):
    a = step("a")
    run(store.prefix, a)
    run(store.prefix, a, force_run=("a",))
    third = run(store.prefix, a, force_run=("a",))
    directory = directory_of(third, a)
    assert collected(store, GcPolicy(keep_runs=2, keep_days=0, grace_hours=0)) == {(directory, "removed")}
    assert store.names(f"{store.path(directory)}/commits") == ["000002.json", "000003.json"], "a kept launch made 2"
    assert [name for name in store.names(store.path(directory)) if name.isdigit()] == ["2", "3"]
    check_whole(store)
    assert statuses(run(store.prefix, a)) == ["cached"]
    assert third.output_path(a) == run(store.prefix, a, force_run=("a",)).output_path(a).replace("/4", "/3")


def test_pins(store):
    a, b = step("a"), step("b")
    directory = directory_of(run(store.prefix, a), a)
    run(store.prefix, b)
    pin_step(store, directory, "the paper's")
    pin_step(store, directory, "the paper's figure 2")
    pin_step(store, directory)  # keeps the note
    assert collected(store) == set()
    (reason,) = find_garbage(store, NEWEST).kept[directory]
    assert reason.startswith("pinned 20") and reason.endswith(": the paper's figure 2")
    assert unpin_step(store, directory) and not unpin_step(store, directory)
    assert collected(store) == {(directory, "removed")}


def test_a_live_owner_keeps_what_it_claimed(store):
    a = step("a")
    directory = directory_of(run(store.prefix, a), a)
    run(store.prefix, step("b"))
    claim = take_claim(store, directory, 2, 2, "f")
    assert collected(store) == set()
    assert "claimed by process" in find_garbage(store, NEWEST).kept[directory][0]
    write_beat(store, directory, claim, -1, None, released=True)
    assert collected(store) == {(directory, "removed")}


@pytest.mark.parametrize("hours, kept", [(1, True), (30, False)])
def test_an_owner_out_of_sight_lives_while_it_beats(local, hours, kept):
    a = step("a")
    directory = directory_of(run(local.prefix, a), a)
    run(local.prefix, step("b"))
    claim = dataclasses.asdict(Claim(2, 2, "f", OUT_OF_SIGHT, "2026-01-01T00:00:00.000Z"))
    local.create_exclusive(local.path(f"{directory}/claims/000002.json"), json.dumps(claim).encode())
    beat = {"count": 1, "time": time.time() - hours * 3600, "progress": None, "released": False}
    local.replace(local.path(f"{directory}/claims/000002.beat"), json.dumps(beat).encode())
    assert (collected(local) == set()) == kept


def begin_launch(store, *steps, owner, age_days=0.0, paths=()):
    """The record of a launch that has not ended."""
    stem = f"_runs/{'2020-01-01T000000.000Z' if age_days else now().replace(':', '')}-x-{len(store.names('_runs'))}"
    begin = {
        "description": None, "time": now(), "owner": dataclasses.asdict(owner), "launch": {}, "paths": list(paths),
        "steps": [{"name": "?", "directory": directory} for directory in steps],
    }  # fmt: skip
    store.create_exclusive(store.path(f"{stem}.begin.json"), json.dumps(begin).encode())


def test_launches_that_have_not_ended(local):
    a, b = step("a"), step("b")
    gone = dataclasses.replace(ProcessIdentity.current(), start_time="1")
    directory, other = directory_of(run(local.prefix, a), a), directory_of(run(local.prefix, b), b)
    old = GcPolicy(keep_runs=0, keep_days=0, grace_hours=0)
    begin_launch(local, directory, owner=ProcessIdentity.current(), age_days=1)
    begin_launch(local, other, owner=gone, age_days=1)
    begin_launch(local, other, owner=OUT_OF_SIGHT, age_days=1)
    found = find_garbage(local, old)
    assert list(found.kept) == [directory] and "which has not ended" in found.kept[directory][0]
    begin_launch(local, other, owner=OUT_OF_SIGHT)
    assert set(find_garbage(local, old).kept) == {directory, other}, "out of sight, and begun just now"


def test_a_worker_that_outlives_its_launch_keeps_its_inputs(local):
    a, b = step("a"), step("b")
    directory, other = directory_of(run(local.prefix, a), a), directory_of(run(local.prefix, b), b)
    gone = dataclasses.replace(ProcessIdentity.current(), start_time="1")
    begin_launch(local, directory, other, owner=gone, age_days=1)
    take_claim(local, other, 2, 2, "f")
    assert set(find_garbage(local, GcPolicy(0, 0, 0)).kept) == {directory, other}


def test_a_path_in_a_config_keeps_all_of_a_step(local):
    a = step("a")
    output = run(local.prefix, a).output_path(a)
    directory = Path(output).parent.name
    run(local.prefix, a, force_run=("a",))
    run(local.prefix, step("b", InputName.hardcoded(f"{directory}/1")))
    assert collected(local) == set()
    assert "used by launch" in find_garbage(local, NEWEST).kept[directory][0]


def test_what_a_retry_resumes_from_stays(pipeline, tmp_path):
    """Failed attempts that aim at the next commit stay; those that aimed at one there is are superseded."""
    stop, store = tmp_path / "stop", LocalStore(str(pipeline.prefix))
    a = pipeline.step("a", fail_while=str(stop))
    stop.touch()
    with pytest.raises(RunFailed):
        pipeline.run(a)
    assert collected(store) == set(), "a retry resumes from attempt 1"
    stop.unlink()
    pipeline.run(a)
    stop.touch()
    with pytest.raises(RunFailed):
        pipeline.run(a, force_run=("a",))
    directory = directory_of(Executor(ExecutorFlags(prefix=store.prefix)).plan([a]), a)
    assert collected(store) == {(directory, "removed")}
    assert [name for name in store.names(store.path(directory)) if name.isdigit()] == ["2", "3"]
    stop.unlink()
    pipeline.bodies()
    pipeline.run(a, force_run=("a",))
    assert (pipeline.prefix / directory / "4" / ".record.json").exists()
    record = json.loads((pipeline.prefix / directory / "4" / ".record.json").read_text())
    assert record["config"]["earlier"] == [str(pipeline.prefix / directory / "3")]


def test_grace(local):
    a = step("a")
    run(local.prefix, a)
    run(local.prefix, a, force_run=("a",))
    run(local.prefix, step("b"))
    found = find_garbage(local, GcPolicy(keep_runs=1, keep_days=0, grace_hours=1))
    assert not found.garbage and found.kept[next(iter(found.kept))] == ("younger than 1 hours",)


def test_refusals(local):
    run(local.prefix, step("a"))
    shutil.rmtree(local.path("_runs"))
    with pytest.raises(UserError, match="no launch is recorded under .*so all 1 steps would be garbage"):
        collect_garbage(local, NEWEST)
    take_claim(local, "_gc", 7, 0, "gc")
    with pytest.raises(StoreError, match="gc of .* has been running since .*: process"):
        collect_garbage(local, GcPolicy(0, 0, 0))
    shutil.rmtree(local.path("_gc"))
    assert len(collected(local, GcPolicy(0, 0, 0))) == 1


def test_an_absolute_override_is_the_place_it_names(local, tmp_path):
    a = dataclasses.replace(step("a"), override_output_path=local.path("fixed/a"))
    local.make_directory(local.prefix)
    (tmp_path / "link").symlink_to(local.prefix)
    run(tmp_path / "link", a)
    assert collected(local) == set() and step_directories(local) == ["fixed/a"]
    run(local.prefix, step("b"))
    assert collected(local) == {("fixed/a", "removed")}
    assert not Path(local.path("fixed")).exists()


NAMES = "abcd"


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sets(st.sampled_from(NAMES), min_size=1), min_size=1, max_size=5), st.integers(0, 4))
def test_exactly_what_kept_launches_name_is_kept(tmp_path_factory, launches, keep):
    store = LocalStore(str(tmp_path_factory.mktemp("store")))
    for names in launches:
        run(store.prefix, *(step(name) for name in names))
    collect_garbage(store, GcPolicy(keep_runs=keep, keep_days=0, grace_hours=0))
    wanted = set().union(*launches[-keep:]) if keep else set()
    assert {directory[0] for directory in step_directories(store)} == wanted
    check_whole(store)
    if keep:
        assert set(statuses(run(store.prefix, *(step(name) for name in launches[-1])))) == {"cached"}


OPERATIONS = (
    "read", "names", "folders", "create_exclusive", "replace", "remove", "prune", "make_directory", "point_latest"
)  # fmt: skip


class Killed(BaseException):
    pass


@contextlib.contextmanager
def before_each_operation(call):
    """`call()` before every operation on a store, in the thread that is about to carry it out."""
    with pytest.MonkeyPatch.context() as patch:
        for name in OPERATIONS:
            patch.setattr(LocalStore, name, _with(call, getattr(LocalStore, name)))
        yield


def _with(call, operation):
    def wrapped(*arguments, **options):
        call()
        return operation(*arguments, **options)

    return wrapped


def garbage_and_a_kept_launch(prefix):
    """Two steps that only an older launch names, one of them with a superseded attempt; returns them."""
    a = step("raw/a")
    b = step("b", a)
    run(prefix, b)
    run(prefix, b, force_run=("b",))
    run(prefix, step("kept"))
    return b


def launch_and_check(prefix, b, **flags):
    done = run(prefix, b, **flags)
    assert set(statuses(done)) <= {"ran", "cached", "unneeded"}, statuses(done)
    assert Path(done.output_path(b), "text.txt").read_text() == "braw/a"
    return done


def operations_of(action):
    count = 0

    def counting():
        nonlocal count
        count += 1

    with before_each_operation(counting):
        action()
    return count


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A store to copy, its step, and how many operations a collection and a launch of the step take in it."""
    folder = tmp_path_factory.mktemp("template")
    b = garbage_and_a_kept_launch(folder / "store")
    for name in ("gc", "launch"):
        shutil.copytree(folder / "store", folder / name, symlinks=True)
    gc = operations_of(lambda: collect_garbage(LocalStore(str(folder / "gc")), NEWEST))
    launch = operations_of(lambda: run(folder / "launch", b, force_run=("raw/a",)))
    return folder / "store", b, gc, launch


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.floats(0, 1), st.floats(0, 1), st.sampled_from([{}, {"force_run": ("raw/a",)}, {"force_run": ("b",)}]))
def test_a_launch_at_any_moment_of_a_collection(template, tmp_path_factory, gc_at, launch_at, flags):
    """gc goes to an operation; a launch starts, and stops at one of its own; gc ends; the launch goes on and ends."""
    original, b, gc_operations, launch_operations = template
    prefix = tmp_path_factory.mktemp("race") / "store"
    shutil.copytree(original, prefix, symlinks=True)
    store, main = LocalStore(str(prefix)), threading.current_thread()
    counts = {"gc": int(gc_at * gc_operations), "launch": int(launch_at * launch_operations)}
    paused, resumed, results = threading.Event(), threading.Event(), []

    def launch():
        try:
            results.append(launch_and_check(prefix, b, **flags))
        except BaseException as error:
            results.append(error)
        finally:
            paused.set()

    thread = threading.Thread(target=launch)

    def go():
        if threading.current_thread() is main and not results and not thread.is_alive() and not paused.is_set():
            counts["gc"] -= 1
            if counts["gc"] < 0:
                thread.start()
                paused.wait()
        elif threading.current_thread() is thread:
            counts["launch"] -= 1
            if counts["launch"] == -1:
                paused.set()
                resumed.wait()

    with before_each_operation(go):
        collect_garbage(store, NEWEST)
        resumed.set()
        if not thread.ident:
            thread.start()
        thread.join()
    if isinstance(results[0], BaseException):
        raise results[0]
    check_whole(store)
    assert Path(results[0].output_path(b), "text.txt").read_text() == "braw/a"
    assert set(statuses(run(prefix, b))) <= {"cached", "unneeded"}
    collect_garbage(store, NEWEST)
    assert Path(run(prefix, b).output_path(b), "text.txt").read_text() == "braw/a"
    check_whole(store)


def test_a_collection_at_every_moment_of_a_launch(template, tmp_path):
    original, b, _, launch_operations = template
    for at in range(launch_operations):
        prefix = tmp_path / str(at)
        shutil.copytree(original, prefix, symlinks=True)
        left = [at]

        def go(prefix=prefix, left=left):
            left[0] -= 1
            if left[0] == -1:
                collect_garbage(LocalStore(str(prefix)), NEWEST)

        with before_each_operation(go):
            launch_and_check(prefix, b)
        check_whole(LocalStore(str(prefix)))
        assert set(statuses(run(prefix, b))) <= {"cached", "unneeded"}
        shutil.rmtree(prefix)


@pytest.mark.parametrize("launch_between", [False, True])
def test_a_collection_that_is_killed_harms_nothing_and_is_finished(template, tmp_path, launch_between):
    original, b, gc_operations, _ = template
    for at in range(gc_operations):
        prefix = tmp_path / str(at)
        shutil.copytree(original, prefix, symlinks=True)
        store, left = LocalStore(str(prefix)), [at]

        def go(left=left):
            left[0] -= 1
            if left[0] < 0:
                raise Killed  # from now on nothing works, as after kill -9

        with before_each_operation(go), pytest.raises(Killed):
            collect_garbage(store, NEWEST)
        (prefix / "_gc").exists() and shutil.rmtree(prefix / "_gc")  # its owner is this process, which is not gone
        if launch_between:
            launch_and_check(prefix, b)
            assert set(statuses(run(prefix, b))) <= {"cached", "unneeded"}
        collect_garbage(store, NEWEST)
        check_whole(store)
        assert {name[0] for name in step_directories(store)} == ({"b", "r"} if launch_between else {"k"})
        if launch_between:
            assert set(statuses(run(prefix, b))) <= {"cached", "unneeded"}
        shutil.rmtree(prefix)


def test_a_pin_at_every_moment_of_a_collection(template, tmp_path):
    """Either the step is there and pinned, or the pin was refused and it is gone, or was gone before."""
    original, b, gc_operations, _ = template
    for at in range(gc_operations):
        prefix = tmp_path / str(at)
        shutil.copytree(original, prefix, symlinks=True)
        store, left, pinned = LocalStore(str(prefix)), [at], []
        directory = next(name for name in step_directories(store) if name.startswith("b-"))

        def go(store=store, left=left, pinned=pinned, directory=directory):
            left[0] -= 1
            if left[0] == -1 and store.names(store.path(f"{directory}/commits")):
                with contextlib.suppress(UserError):
                    pinned.append(pin_step(store, directory))

        with before_each_operation(go):
            collect_garbage(store, NEWEST)
        if pinned:
            assert store.names(store.path(f"{directory}/commits"))[-1] == "000002.json"
        check_whole(store)
        shutil.rmtree(prefix)


def test_the_record_of_a_launch(local):
    def interrupt(config):
        signal.raise_signal(signal.SIGINT)

    a = step("a")
    run(local.prefix, a, dry_run=True)
    assert read_launches(local) == []
    run(local.prefix, a)
    (first,) = read_launches(local)
    begin, end = read_begin(local, first), read_end(local, first)
    assert [item["name"] for item in begin["steps"]] == ["a"] and begin["launch"]["packages"]["rich"]
    assert end["status"] == "done" and end["results"][0]["result"] == "ran" and end["plan"][0]["reason"] == "NEW"
    assert abs(first.time - time.time()) < 60 and first.ended
    with pytest.raises(KeyboardInterrupt):
        run(local.prefix, step("z"), ExecutorStep("i", interrupt, this_output_path()), a)
    end = read_end(local, read_launches(local)[0])
    assert end["status"] == "interrupted"
    assert {result["name"]: result["result"] for result in end["results"]} == {"a": "cached", "z": "ran"}
