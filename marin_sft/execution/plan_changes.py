"""What has changed since a plan was written to a file, so that it cannot be carried out as it was reviewed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from marin_sft.errors import UserError
from marin_sft.execution.differences import difference_text, leaf_differences
from marin_sft.execution.plan_file import CarriedOut, PlanFile, PlannedStep, launch_of
from marin_sft.execution.store import Store

_SHOWN = 20  # changes that an error names
_ALLOWED = {"RUN": {"RUN"}, "IF_CHANGED": {"IF_CHANGED", "RUN", "SKIP"}, "WAIT": {"WAIT", "SKIP"}, "SKIP": {"SKIP"}}
"""What a step may come to, by its planned action. IF_CHANGED is decided when the inputs are there."""


def check_unchanged(path: str, planned: PlanFile, now: PlanFile, before: CarriedOut, store: Store) -> None:
    """path: the file of the plan. before: what launches of the plan have done, after which it goes on.

    Raises:
        UserError: something has changed; names it.
    """
    found = list(_changes(planned, now, before, store))
    if found:
        shown = [*found[:_SHOWN], *([f"and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else [])]
        lines = "\n  ".join(shown)
        raise UserError(
            f"{path}: this plan cannot be carried out, since something has changed:\n  {lines}\n"
            f"Write a new one with --plan_out {path}, and review it"
        )


def check_place(path: str, planned: PlanFile, prefix: str, flags: Mapping[str, object]) -> None:
    """Before anything is read under the prefix.

    Raises:
        UserError: the plan was made for another prefix, or with other flags.
    """
    found = [f"prefix {planned.prefix} -> {prefix}"] if planned.prefix != prefix else []
    changed = [(f"--{name}", planned.flags.get(name), value) for name, value in flags.items()]
    found += [difference_text(flag) for flag in changed if flag[1] != flag[2]]
    if found:
        raise UserError(
            f"{path}: this plan was made with other flags: {'; '.join(found)}. Give the same ones, or write a new plan "
            f"with --plan_out {path}"
        )


def _changes(planned: PlanFile, now: PlanFile, done: CarriedOut, store: Store) -> Iterator[str]:
    for name in dict.fromkeys([*planned.code, *now.code]):
        old, new = planned.code.get(name), now.code.get(name)
        if old != new:
            yield f"code: {name} {'is new' if old is None else 'is gone' if new is None else 'was edited'}"
    before, after = ({(step.name, step.fingerprint): step for step in of.steps} for of in (planned, now))
    lost = {step.name: step for key, step in before.items() if key not in after}
    for key, step in after.items():
        if key in before:
            yield from (f"{step.name}: {change}" for change in _of_step(before[key], step, done, store))
        elif step.name in lost:
            yield f"{step.name}: {_other_identity(lost.pop(step.name), step)}"
        else:
            yield f"{step.name}: is not in the plan"
    yield from (f"{name}: is in the plan, but no longer in the experiment" for name in lost)


def _other_identity(old: PlannedStep, new: PlannedStep) -> str:
    differences = leaf_differences(old.config, new.config)
    own = [difference_text(found) for found in differences if not found[0].endswith(".$input")]
    if (old.kind, old.version) != (new.kind, new.version):
        own.insert(0, f"{old.kind} version {old.version} -> {new.kind} version {new.version}")
    inputs = sorted({name.removesuffix(".$input") for name, *_ in differences if name.endswith(".$input")})
    return "; ".join([*own, *(f"{name} is another output" for name in inputs)]) or "a value that is not shown"


def _of_step(old: PlannedStep, new: PlannedStep, done: CarriedOut, store: Store) -> Iterator[str]:
    if None not in (old.source, new.source) and old.source != new.source:
        yield "the source of its function has changed"
    yield from map(difference_text, leaf_differences(old.settings, new.settings))
    for name, before, after in leaf_differences(old.resources, new.resources):
        yield f"resources {difference_text((name, before, after))}"
    if new.path in done.made:
        return
    if (old.commit, old.digest) != (new.commit, new.digest):
        yield _other_commit(old, new, store)
    elif new.action not in _ALLOWED.get(old.action, ()) and not (new.action == "WAIT" and new.path in done.begun):
        yield f"{old.action} was planned, and now it is {new.action}: {new.reason} {new.detail}".rstrip()


def _other_commit(old: PlannedStep, new: PlannedStep, store: Store) -> str:
    if new.commit is None:
        return f"commit {old.commit} is gone"
    before = "there was no output" if old.commit is None else f"commit {old.commit} was the newest"
    launch = launch_of(store, new.path, new.attempt) if new.attempt else {}
    by = f", by {launch['user']} in launch {launch.get('run')}" if launch.get("user") else ""
    return f"{before}, now there is commit {new.commit}{by}"
