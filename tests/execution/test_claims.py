"""Two launches and one step: who runs it, who waits, who takes over, and whose commit stands."""

import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from marin_sft.execution.claims import Claim, take_claim, write_beat
from marin_sft.execution.clock import now
from marin_sft.execution.commits import Commit, publish
from marin_sft.execution.executor import ExecutorStep, step_fn, this_output_path
from marin_sft.execution.graph import build_graph
from marin_sft.execution.process import ProcessIdentity
from marin_sft.execution.step_state import read_state
from marin_sft.execution.stores import open_store

OUT_OF_SIGHT = ProcessIdentity("elsewhere", 1, "another-boot", "another-namespace", "1")


def node_of(step):
    return build_graph([step]).roots[0]


def claim_from_elsewhere(store, node, number=1):
    """A claim whose owner this machine cannot see."""
    claim = Claim(number, 1, node.fingerprint, OUT_OF_SIGHT, now())
    data = json.dumps(dataclasses.asdict(claim)).encode()
    assert store.create_exclusive(f"{store.path(node.directory)}/claims/{number:06}.json", data)
    return claim


def commit_from_elsewhere(store, node, claim):
    output = Path(store.path(node.directory), str(claim.number))
    output.mkdir(parents=True)
    (output / "text.txt").write_text("from elsewhere")
    publish(store, node.directory, Commit(1, claim.number, node.fingerprint, node.payload, "d", (), None, now()))


def test_a_silent_owner_is_taken_over_after_the_timeout(pipeline):
    a = pipeline.step("a")
    store = open_store(str(pipeline.prefix))
    claim = claim_from_elsewhere(store, node_of(a))
    write_beat(store, node_of(a).directory, claim, 1, None)
    plan = pipeline.plan(a)["a"]
    assert (plan.action, plan.reason) == ("WAIT", "RUNNING")
    assert plan.detail.startswith("attempt 1 by process 1 on elsewhere, beat ")
    run = pipeline.run(a, beat_timeout=0.2)
    assert [result.status for result in run.results] == ["ran"] and pipeline.bodies() == ["a"]
    assert Path(run.output_path(a)).name == "2"


def test_a_released_claim_is_taken_over_at_once(pipeline):
    a = pipeline.step("a")
    store = open_store(str(pipeline.prefix))
    claim = claim_from_elsewhere(store, node_of(a))
    write_beat(store, node_of(a).directory, claim, 1, None, released=True)
    assert pipeline.plan(a)["a"].reason == "RESUME"


def test_waiting_for_one_step_holds_up_no_other(pipeline):
    """The step that runs elsewhere is committed there only once the other one has run here."""
    elsewhere, here = pipeline.step("elsewhere"), pipeline.step("here")
    user = pipeline.step("user", elsewhere)
    store = open_store(str(pipeline.prefix))
    claim = claim_from_elsewhere(store, node_of(elsewhere))

    @step_fn(kind="finisher")
    def finish_the_other(config):
        commit_from_elsewhere(store, node_of(elsewhere), claim)

    run = pipeline.run(user, here, ExecutorStep("finisher", finish_the_other, this_output_path()))
    status = {result.item.node.name: result.status for result in run.results}
    assert status == {"elsewhere": "adopted", "here": "ran", "finisher": "ran", "user": "ran"}
    assert Path(run.output_path(user, "text.txt")).read_text() == "userfrom elsewhere"


def test_an_inline_body_that_lost_its_claim_commits_nothing(pipeline):
    """It cannot be stopped; the launch that took the step over has the word."""

    @step_fn(kind="overtaken")
    def overtaken(config):
        node = node_of(step)
        commit_from_elsewhere(store, node, claim_from_elsewhere(store, node, number=2))
        Path(config, "text.txt").write_text("too late")

    step = ExecutorStep("s", overtaken, this_output_path())
    store = open_store(str(pipeline.prefix))
    run = pipeline.run(step)
    assert [result.status for result in run.results] == ["adopted"]
    assert Path(run.output_path(step, "text.txt")).read_text() == "from elsewhere"


def test_a_commit_published_first_is_adopted(pipeline):
    """Two owners past all checks: the second finds the number taken and adopts what is there."""
    node = node_of(pipeline.step("a"))
    store = open_store(str(pipeline.prefix))
    first = Commit(1, 1, node.fingerprint, node.payload, "one", (), None, now())
    assert publish(store, node.directory, first) == first
    assert publish(store, node.directory, dataclasses.replace(first, attempt=2, digest="two")) == first
    assert read_state(store, node.directory).commit == first


def test_the_commit_of_another_step_is_not_adopted(pipeline):
    """Two steps share a directory. The owner of one was frozen between its last look at the claims and its commit, and
    commits while the other, which took over, is in its body."""
    store = open_store(str(pipeline.prefix))
    node = node_of(pipeline.step("s", text="theirs", override_output_path="shared"))

    @step_fn(kind="overtaken")
    def body(config):
        Path(config["out"], "text.txt").write_text(config["text"])
        if not list(pipeline.prefix.glob("shared/commits/*")):
            commit_from_elsewhere(store, node, Claim(7, 1, node.fingerprint, OUT_OF_SIGHT, now()))

    step = ExecutorStep("s", body, {"out": this_output_path(), "text": "mine"}, override_output_path="shared")
    user = pipeline.step("user", step)
    run = pipeline.run(user)
    assert Path(run.output_path(user, "text.txt")).read_text() == "usermine"
    commits = {path.stem: json.loads(path.read_text()) for path in pipeline.prefix.glob("shared/commits/*")}
    assert commits["000001"]["fingerprint"] == node.fingerprint != commits["000002"]["fingerprint"]


def test_the_owner_beats_while_its_output_is_digested_and_looks_at_the_claims_after(pipeline, monkeypatch):
    step = pipeline.step("s")
    store, node = open_store(str(pipeline.prefix)), node_of(step)
    real = type(store).files
    beats = pipeline.prefix / node.directory / "claims" / "000001.beat"
    seen = []

    def slow(self, path):
        """Digests until the owner has beaten twice; another launch takes the step over meanwhile."""
        deadline = time.monotonic() + 20
        while len(seen) < 2 and time.monotonic() < deadline:
            count = json.loads(beats.read_text())["count"] if beats.exists() else 0
            seen.extend([count] if count and count not in seen else [])
        if not list(pipeline.prefix.glob("s-*/claims/000002.json")):
            commit_from_elsewhere(store, node, claim_from_elsewhere(store, node, number=2))
        return real(self, path)

    monkeypatch.setattr(type(store), "beat_seconds", 0.01)
    monkeypatch.setattr(type(store), "files", slow)
    run = pipeline.run(step)
    assert len(seen) == 2 and [result.status for result in run.results] == ["adopted"]
    assert Path(run.output_path(step, "text.txt")).read_text() == "from elsewhere"


def test_only_one_of_many_threads_gets_a_claim(tmp_path):
    store = open_store(str(tmp_path))
    barrier, won = threading.Barrier(8), []

    def race() -> None:
        barrier.wait()
        won.append(take_claim(store, "s", 1, 1, "f"))

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(claim is not None for claim in won) == 1


SCRIPT = """
    import os, sys, threading
    from pathlib import Path
    from marin_sft import ExecutorStep, executor_main, step_fn, this_output_path

    @step_fn(kind="hang")
    def hang(config):
        with open("bodies.txt", "a") as log:
            log.write("hang ")
        if Path("started").is_fifo():
            open("started", "w").close()
            threading.Event().wait()

    executor_main(steps=[ExecutorStep("s", hang, this_output_path())])
"""


@pytest.fixture
def hanging(tmp_path):
    """Starts launches of a step that hangs while there is a named pipe `started`, which it opens when it runs."""
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    os.mkfifo(tmp_path / "started")
    launches = []

    def start(*flags: str) -> subprocess.Popen:
        command = [sys.executable, "script.py", "--prefix", "store", *flags]
        launches.append(
            subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        return launches[-1]

    yield tmp_path, start
    for launch in launches:
        launch.kill()
        launch.communicate()


@pytest.mark.parametrize("backend", ["inline", "ray"])
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_launch_and_gives_up_its_claims(hanging, backend, signal_number):
    path, start = hanging
    launch = start("--backend", backend)
    open(path / "started").close()
    launch.send_signal(signal_number)
    _, errors = launch.communicate(timeout=60)
    assert launch.returncode == 130
    assert "Finished steps are kept. To continue: python script.py --prefix store" in errors
    assert "Traceback" not in errors
    (beat,) = path.glob("store/s-*/claims/000001.beat")
    assert json.loads(beat.read_text())["released"] is True
    (path / "started").unlink()
    again = start("--backend", "inline")
    output, _ = again.communicate(timeout=60)
    assert again.returncode == 0 and "RESUME continues attempt 1" in output


def test_a_worker_that_lost_its_claim_stops_its_body(hanging):
    """On Ray the body runs in a process of its own: it is ended when another launch has taken the step over."""
    path, start = hanging
    launch = start()
    open(path / "started").close()
    (directory,) = path.glob("store/s-*")
    store = open_store(str(path / "store"))
    state = read_state(store, directory.name)
    assert state.claim is not None and not state.claim.owner.is_gone()
    worker = os.pidfd_open(state.claim.owner.pid)
    taken = dataclasses.replace(state.claim, number=2, owner=OUT_OF_SIGHT)
    data = json.dumps(dataclasses.asdict(taken)).encode()
    assert store.create_exclusive(f"{directory}/claims/000002.json", data)
    for line in launch.stdout:
        if "wait   s: another launch is running it" in line:
            break
    else:
        pytest.fail("the launch did not notice that its step was taken over")
    # Ray tells of a process that ends as soon as its connections are closed.
    assert select.select([worker], [], [], 60)[0] and state.claim.owner.is_gone()
    os.close(worker)
    (path / "started").unlink()
    (directory / "2").mkdir()
    commit = Commit(1, 2, state.claim.fingerprint, {}, None, (), None, now())
    publish(store, directory.name, commit)
    output, _ = launch.communicate(timeout=60)
    assert launch.returncode == 0 and "adopted" in output
    assert (path / "bodies.txt").read_text().split() == ["hang"]
