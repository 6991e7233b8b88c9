"""Carries out a Plan: starts steps that are ready, continues after failures, retries lost workers.

It is event-driven: it only sleeps while it waits for the next attempt to end. While another launch runs one of the
steps, or a step may begin early, it wakes up every tick to check that. Other steps continue meanwhile.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from concurrent.futures import Future
from pathlib import PurePath

from marin_sft import preemption
from marin_sft.errors import InfrastructureLoss, OutOfMemory, Preempted, StoreError, StoreUnavailable
from marin_sft.execution.backends import Backend
from marin_sft.execution.claims import Watch, attempt_path, write_beat
from marin_sft.execution.commits import Consumed, check_part, check_whole
from marin_sft.execution.configs import resolve, settings_of
from marin_sft.execution.consumption import Consumption, changed_inputs
from marin_sft.execution.early import EarlyUsers
from marin_sft.execution.graph import Graph, Node
from marin_sft.execution.patience import no_patience, seconds_of_patience
from marin_sft.execution.plan import Action, Plan, PlanItem, Reason
from marin_sft.execution.resources import hosts_of
from marin_sft.execution.results import Listener, Policy, Status, StepResult
from marin_sft.execution.signals import Terminated
from marin_sft.execution.source import source_digest
from marin_sft.execution.step import ExecutorStep, InputName
from marin_sft.execution.step_state import Failure, StepState, read_state, write_failure
from marin_sft.execution.store import Store
from marin_sft.execution.worker import Outcome, Task
from marin_sft.paths import local_path

_TICK = 1.0  # seconds between two checks of a step that another launch runs


class Scheduler:
    """One launch of a plan."""

    def __init__(
        self,
        plan: Plan,
        graph: Graph,
        backend: Backend,
        policy: Policy,
        listener: Listener,
        provenance: dict[str, object],
    ) -> None:
        self._plan = plan
        self._store: Store = plan.store
        self._graph = graph
        self._backend = backend
        self._policy = policy
        self._listener = listener
        self._provenance = provenance
        self._watch = Watch(plan.store, policy.beat_timeout)
        self._results: dict[Node, StepResult] = {}
        self._ready: deque[PlanItem] = deque()
        self._running: dict[Future[Outcome], PlanItem] = {}
        self._waiting: dict[Node, PlanItem] = {}
        self._last_look = time.monotonic()  # when the store last answered for a waiting step
        self._retries: dict[Node, int] = {}  # since the step last kept something
        self._kept: dict[Node, float] = {}
        self._open_inputs: dict[Node, set[Node]] = {}
        self._users: dict[Node, list[PlanItem]] = {}
        self._consumption = Consumption(plan.store)
        self._early = EarlyUsers(plan.store, self._consumption)
        self._held: dict[Node, StepResult] = {}  # of steps that used parts of steps which have not ended
        self._whole: set[str] = set()  # outputs found complete when a step of this launch first used them

    @property
    def results(self) -> list[StepResult]:
        """The results so far, in the order of the plan."""
        ended = {**self._held, **self._results}
        return [ended[item.node] for item in self._plan if item.node in ended]

    def run(self) -> list[StepResult]:
        """Run the plan; returns the results in its order. If interrupted, stops the steps and releases their claims."""
        try:
            return self._run()
        except StoreUnavailable as error:
            self._backend.close()
            text = f"{error}. Finished steps are kept; run the same command to continue"
            raise StoreUnavailable(text, error.said, error.silent) from error
        except Terminated:
            try:
                self._backend.let_keep()
            finally:
                self._backend.close()
                self._release_claims()
            raise
        except (KeyboardInterrupt, StoreError):
            self._backend.close()
            self._release_claims()
            raise

    def _run(self) -> list[StepResult]:
        self._queue()
        while True:
            while self._ready and self._has_room():
                self._begin(self._ready.popleft())
            if not self._running and not self._waiting:
                break
            self._harvest()
            self._look_at_waiting()
            self._ready.extend(self._early.ready(self._open_inputs))
        return self.results

    def _queue(self) -> None:
        to_do = {item.node for item in self._plan.to_do}
        for item in self._plan:
            if item.action is Action.SKIP:
                self._results[item.node] = StepResult(item, "cached" if item.commit else "unneeded", item.commit)
                continue
            self._open_inputs[item.node] = {node for node in item.node.inputs if node in to_do}
            for node in self._open_inputs[item.node]:
                self._users.setdefault(node, []).append(item)
            if not self._open_inputs[item.node]:
                self._ready.append(item)
            else:
                self._early.add(item)

    def _has_room(self) -> bool:
        limits = [limit for limit in (self._policy.max_concurrent, self._backend.capacity) if limit is not None]
        return not limits or len(self._running) < min(limits)

    def _begin(self, item: PlanItem) -> None:
        if item.action is Action.WAIT:
            self._wait_for(item)
        elif item.action is Action.IF_CHANGED and item.commit and not changed_inputs(item.commit, self._current(item)):
            self._finish(StepResult(item, "cached", item.commit))
        else:
            self._start(item)

    def _start(self, item: PlanItem) -> None:
        try:
            task = self._task(item)
            self._listener.started(item, task.claim)
            self._early.running[item.node] = task.claim
            self._running[self._backend.submit(task)] = item
        except StoreUnavailable:
            raise
        except Exception as error:  # e.g. a config that rejects its resolved values or cannot be pickled
            failure = Failure(f"cannot be started: {type(error).__name__}: {error}", None, "")
            self._finish(StepResult(item, "failed", failure=failure))

    def _task(self, item: PlanItem) -> Task:
        node, step, state = item.node, item.node.step, item.state
        return Task(
            name=step.name,
            fn=step.fn,
            config=resolve(step.config, lambda leaf: self._path_of_input(node, leaf)),
            prefix=self._store.prefix,
            directory=node.directory,
            claim=state.last_claim + 1,
            aim=state.next_aim,
            fingerprint=node.fingerprint,
            payload=node.payload,
            source=source_digest(step.fn),
            inputs=tuple(self._current(item).values()),
            resources=step.resources,
            retries=self._retries.get(node, 0),
            beat_timeout=self._policy.beat_timeout,
            settings=settings_of(step.config),
            contents=node.contents,
            sources=self._sources(node),
            provenance=self._provenance,
            hosts=hosts_of(step.resources),
        )

    def _current(self, item: PlanItem) -> dict[str, Consumed]:
        """The newest outputs of the item's inputs, by directory."""
        commits = {node: self._results[node].commit for node in item.node.inputs if node in self._results}
        of = self._consumption.of
        committed = {n.directory: of(item.node, n, c) for n, c in commits.items() if c is not None}
        return {**committed, **self._early.consumed(item.node)}

    def _sources(self, node: Node) -> dict[str, str]:
        """The outputs that the step uses, by the fingerprints of their steps."""
        commits = {n: self._results[n].commit for n in node.inputs if n in self._results}
        paths = {n: attempt_path(self._store, n.directory, c.attempt) for n, c in commits.items() if c}
        found = {n: self._early.path(node, n) or paths.get(n) for n in node.inputs}
        return {n.fingerprint: path for n, path in found.items() if path}

    def _path_of_input(self, user: Node, leaf: object) -> object:
        if isinstance(leaf, ExecutorStep):
            leaf = InputName(leaf, None)
        if isinstance(leaf, PurePath):
            return local_path(str(leaf))  # bodies get plain strings, and may run in another directory
        if not isinstance(leaf, InputName):
            return leaf
        if leaf.step is None:
            return self._store.path(leaf.name or "")
        node = self._graph.node(leaf.step)
        if leaf.is_optional and self._results[node].commit is None:
            return None
        if leaf.block_on_step:
            root = self._early.path(user, node) or self._pinned_path(node)
        else:
            root = self._nonblocking_path(node)
        if leaf.is_early and leaf.name:
            check_part(self._store, node.name, root, leaf.name)
        return f"{root}/{leaf.name}" if leaf.name else root

    def _pinned_path(self, node: Node) -> str:
        commit = self._results[node].commit
        assert commit is not None, f"{node} is used before it is committed"
        path = attempt_path(self._store, node.directory, commit.attempt)
        if path not in self._whole:
            check_whole(self._store, node.name, path)
        self._whole.add(path)
        return path

    def _nonblocking_path(self, node: Node) -> str:
        """The newest committed attempt, else the newest attempt, else the step's directory."""
        state = read_state(self._store, node.directory)
        attempt = state.commit.attempt if state.commit else state.last_claim
        return attempt_path(self._store, node.directory, attempt) if attempt else self._store.path(node.directory)

    def _harvest(self) -> None:
        if not self._running:
            time.sleep(_TICK)  # all remaining steps run in other launches
            return
        ticks = self._waiting or self._early
        for future in self._backend.wait(self._running, timeout=_TICK if ticks else None):
            item = self._running.pop(future)
            try:
                self._take(item, future.result())
            except InfrastructureLoss as loss:
                self._retry(item, loss)
            except OutOfMemory as error:
                self._fail_for(item, read_state(self._store, item.node.directory), str(error))
            except Exception as error:  # the store failed during the attempt: a full disk, a lost connection
                failure = Failure(f"cannot be carried out: {type(error).__name__}: {error}", None, "")
                self._finish(StepResult(item, "failed", failure=failure))

    def _take(self, item: PlanItem, outcome: Outcome) -> None:
        if outcome.status == "elsewhere":
            self._wait_for(item)
            return
        status: Status = "failed" if outcome.status == "failed" else "ran"
        self._end(StepResult(item, status, outcome.commit, outcome.attempt, outcome.seconds, outcome.failure))

    def _end(self, result: StepResult) -> None:
        """Finish a step, unless it must wait for the commits of inputs whose parts it used."""
        node = result.item.node
        if result.commit is None or not self._early.have_begun(node):
            self._finish(result)
        elif any(used not in self._results for used in self._open_inputs[node]):
            self._held[node] = result
            self._listener.early(result)
        elif self._open_inputs[node]:
            self._finish(*self._unconfirmed(result))
        else:
            self._confirm(result)

    def _confirm(self, result: StepResult) -> None:
        """Finish a step that used parts of its inputs if they have committed the same parts, else run it again."""
        item = result.item
        self._held.pop(item.node, None)
        self._early.leave(item.node)
        assert result.commit is not None
        changed = changed_inputs(result.commit, self._current(item))
        if not changed:
            self._finish(result)
            return
        self._listener.outdated(item, changed[0])
        state = read_state(self._store, item.node.directory)
        self._ready.append(dataclasses.replace(item, action=Action.RUN, reason=Reason.UPSTREAM, state=state))

    def _retry(self, item: PlanItem, loss: InfrastructureLoss) -> None:
        if preemption.expected():  # this process itself has been told to end
            raise Terminated
        retries = self._retries.get(item.node, 0)
        state = read_state(self._store, item.node.directory)
        if state.last_claim > item.state.last_claim + 1:
            self._wait_for(item)  # it was not lost: another launch took the step over
            return
        if state.failure and state.last_claim == item.state.last_claim + 1:
            self._finish(StepResult(item, "failed", attempt=state.last_claim, failure=state.failure))
            return
        if isinstance(loss, Preempted) or state.kept > self._kept.get(item.node, 0):
            retries = 0  # the loss cost only what was done since
        self._kept[item.node] = state.kept
        if retries >= self._policy.infrastructure_retries:
            self._fail_for(item, state, f"the worker was lost {retries + 1} times: {loss}")
            return
        self._retries[item.node] = 0 if isinstance(loss, Preempted) else retries + 1
        self._listener.lost(item, loss)
        self._start(dataclasses.replace(item, state=state))

    def _fail_for(self, item: PlanItem, state: StepState, error: str) -> None:
        """Record the failure on behalf of the attempt's process, which is gone."""
        failure = Failure(error, None, "")
        if state.last_claim > item.state.last_claim:
            write_failure(self._store, item.node.directory, state.last_claim, failure)
        self._finish(StepResult(item, "failed", attempt=state.last_claim, failure=failure))

    def _release_claims(self) -> None:
        """Release the claims of stopped workers, so that nobody has to wait for the timeout."""
        for item in self._running.values():
            state = read_state(self._store, item.node.directory)
            if state.claim and state.claim.number == item.state.last_claim + 1:
                write_beat(self._store, item.node.directory, state.claim, -1, None, released=True)

    def _wait_for(self, item: PlanItem) -> None:
        if not self._waiting:
            self._last_look = time.monotonic()
        self._waiting[item.node] = item
        self._look_at(item)
        if item.node in self._waiting:
            self._listener.waiting(item)

    def _look_at_waiting(self) -> None:
        for item in list(self._waiting.values()):
            self._look_at(item)

    def _look_at(self, item: PlanItem) -> None:
        """Adopt the output of a step that another launch ran, or run the step here if its owner gave up."""
        node = item.node
        try:
            with no_patience():  # the next check comes soon, and other steps must not wait
                state = read_state(self._store, node.directory)
                claim = state.claim if state.running else None
                stands_still = claim is not None and self._watch.stands_still(node.directory, claim)
        except OSError as error:
            if time.monotonic() - self._last_look > seconds_of_patience():
                raise StoreUnavailable(f"while waiting for {node.name}: {error}", silent=True) from error
            return
        self._last_look = time.monotonic()
        before = item.state.commit.number if item.state.commit else 0  # even if its output is gone
        if state.commit and state.commit.fingerprint == node.fingerprint and state.commit.number > before:
            del self._waiting[node]
            self._end(StepResult(item, "adopted", state.commit, state.commit.attempt))
        elif claim is not None and not stands_still:
            self._early.running[node] = claim.number
        else:
            del self._waiting[node]
            self._ready.append(dataclasses.replace(item, action=Action.RUN, reason=Reason.RESUME, state=state))

    def _finish(self, *results: StepResult) -> None:
        """Record results, then start the steps that use them or mark them as blocked."""
        unfinished = deque(results)
        while unfinished:
            result = unfinished.popleft()
            node = result.item.node
            if node in self._results:
                continue
            self._results[node] = result
            self._listener.finished(result)
            self._early.running.pop(node, None)
            self._early.leave(node)
            for user in self._users.get(node, ()):
                if result.status in ("failed", "blocked", "cancelled") and node not in user.node.optional:
                    unfinished.extend(self._without_input(user))
                else:
                    self._open_inputs[user.node].discard(node)
                    self._go_on(user)
            if result.status == "failed" and self._policy.fail_fast:
                unfinished.extend(self._cancel())

    def _go_on(self, item: PlanItem) -> None:
        """An input of the step has ended well, or the step does without it."""
        node = item.node
        if self._open_inputs[node] or node in self._results:
            return
        if held := self._held.get(node):
            self._confirm(held)
        elif not self._early.have_begun(node):
            self._early.leave(node)
            self._ready.append(item)

    def _without_input(self, item: PlanItem) -> list[StepResult]:
        """An input of the step has failed."""
        if held := self._held.pop(item.node, None):
            return self._unconfirmed(held)
        return [] if self._early.have_begun(item.node) else [StepResult(item, "blocked")]

    def _unconfirmed(self, result: StepResult) -> list[StepResult]:
        """The step used parts of one that failed. It stands until they are known to be others; nothing is made of it.

        Its users come first, since they begin when it finishes.
        """
        return [*(StepResult(user, "blocked") for user in self._users.get(result.item.node, ())), result]

    def _cancel(self) -> list[StepResult]:
        """Drop all unfinished steps. Closing the backend stops those that run."""
        for future in self._running:
            future.cancel()
        self._running.clear()
        self._waiting.clear()
        self._ready.clear()
        open_items = [item for item in self._plan.to_do if item.node not in self._results]
        return [self._held.pop(item.node, StepResult(item, "cancelled")) for item in open_items]
