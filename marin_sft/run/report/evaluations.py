"""Evaluations of the same prompts, side by side: their figures, and sample answers that differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest

from marin_sft.evaluation.samples import FILE, is_exact
from marin_sft.execution.documents import JsonObject, canonical_json
from marin_sft.execution.store import Store
from marin_sft.run.report.curves import curves
from marin_sft.run.report.documents import read_json, read_rows
from marin_sft.run.report.steps import Step

KINDS = ("generate", "perplexity", "lm_eval")
SAMPLES = (FILE, "generations.jsonl")  # the second of an older version
TABLE = "table.jsonl"
_BYTES = 8 << 20  # of a file of samples
_SHOWN = 12  # samples of a group
_TEXT = 4000  # characters of a prompt or an answer


def is_evaluation(step: Step) -> bool:
    return step.kind in KINDS or any(name in step.files for name in SAMPLES)


def groups(steps: Iterable[Step]) -> list[list[Step]]:
    """Evaluations that differ in nothing but the model, in the order of the steps."""
    found: dict[str, list[Step]] = {}
    for step in steps:
        found.setdefault(_what_is_asked(step), []).append(step)
    return list(found.values())


def _what_is_asked(step: Step) -> str:
    config = step.payload.get("config") if step.payload else None
    if not isinstance(config, dict):
        return step.directory  # not known before an attempt has ended
    return canonical_json([step.kind, {key: value for key, value in config.items() if key != "model"}])


def group_json(store: Store, steps: Sequence[Step]) -> JsonObject:
    """The figures of each evaluation, and samples of what they answered to the same prompts."""
    answers = [_answers(store, step) for step in steps]
    joined = _joined([rows for rows, _ in answers])
    shown = _telling(joined)
    return {
        "kind": steps[0].kind,
        "steps": [{"step": step.directory, "name": step.name, "model": step.config.get("model")} for step in steps],
        "metrics": _table([_metrics(store, step) for step in steps]),
        "samples": shown,
        "sample_count": len(joined),
        "unreadable": sum(bad for _, bad in answers),
    }


def _metrics(store: Store, step: Step) -> dict[str, float]:
    found = read_json(store, f"{step.output}/metrics.json") if step.output and "metrics.json" in step.files else None
    return {k: v for k, v in (found or {}).items() if isinstance(v, int | float) and not isinstance(v, bool)}


def _table(metrics: Sequence[Mapping[str, float]]) -> list[JsonObject]:
    names = dict.fromkeys(name for of_step in metrics for name in of_step)
    return [{"name": name, "values": [of_step.get(name) for of_step in metrics]} for name in names]


def _answers(store: Store, step: Step) -> tuple[dict[str, JsonObject], int]:
    """The step's answers by set, prompt and occurrence, and how many lines cannot be read."""
    name = next((name for name in SAMPLES if name in step.files), None)
    if name is None or step.output is None:
        return {}, 0
    rows, bad = read_rows(store, f"{step.output}/{name}", _BYTES)
    found: dict[str, JsonObject] = {}
    for row in rows:
        prompt = row.get("prompt", row.get("messages"))
        base = canonical_json([row.get("set"), prompt])
        key = next(key for n in range(len(rows) + 1) if (key := f"{base} {n}") not in found)
        found[key] = {
            "set": row.get("set"),
            "prompt": _cut(prompt),
            "reference": _cut(row.get("reference")),
            "answer": {
                "text": _cut(row.get("answer", row.get("generation"))),
                "right": is_right(row),
                "finish": row.get("finish"),
            },
        }
    return found, bad


def table_json(store: Store, step: Step, points: int) -> JsonObject | None:
    """The figures of a training's exports, by training step."""
    found = curves(store, f"{step.output}/{TABLE}", points)
    return found and {"step": step.directory, "name": step.name, "metrics": found["metrics"]}


def is_right(row: JsonObject) -> bool | None:
    """Whether the answer is exactly the reference but for spaces around it; None if the row does not tell."""
    if isinstance(row.get("exact_match"), bool):
        return bool(row["exact_match"])
    known = isinstance(row.get("answer"), str) and isinstance(row.get("reference"), str)
    return is_exact(row) if known else None


def _cut(value: object) -> object:
    """Texts and lists of messages, as they are but for their length."""
    if isinstance(value, str):
        return value if len(value) <= _TEXT else f"{value[:_TEXT]}..."
    if isinstance(value, list):
        return [_cut(item) for item in value[:50]]
    if isinstance(value, dict):
        return {str(key): _cut(item) for key, item in value.items()}
    return value if value is None or isinstance(value, int | float | bool) else str(value)


def _joined(answers: Sequence[Mapping[str, JsonObject]]) -> list[JsonObject]:
    """One entry per prompt: its text, its reference and the answer of each evaluation, None where there is none."""
    keys = dict.fromkeys(key for of_step in answers for key in of_step)
    found = []
    for key in keys:
        first = next(of_step[key] for of_step in answers if key in of_step)
        given = [of_step[key]["answer"] if key in of_step else None for of_step in answers]
        found.append({**{name: first[name] for name in ("set", "prompt", "reference")}, "answers": given})
    return found


def _telling(joined: Sequence[JsonObject]) -> list[JsonObject]:
    """A few of each kind: became right, became wrong, still wrong, and the others."""
    kinds: dict[str, list[JsonObject]] = {"became right": [], "became wrong": [], "still wrong": [], "other": []}
    for sample in joined:
        right = [answer and answer["right"] for answer in sample["answers"]]
        first, last = right[0], right[-1]
        changed = len(right) > 1 and None not in (first, last) and first != last
        kind = ("became right" if last else "became wrong") if changed else "still wrong" if last is False else "other"
        kinds[kind].append(sample)
    shown: list[JsonObject] = []
    each = max(2, _SHOWN // sum(bool(samples) for samples in kinds.values())) if joined else 0
    for kind, samples in kinds.items():
        shown += [{**sample, "kind": kind, "of_kind": len(samples)} for sample in _from_each_set(samples)[:each]]
    return shown[:_SHOWN]


def _from_each_set(samples: Sequence[JsonObject]) -> list[JsonObject]:
    """The samples in an order that takes one from each set in turn."""
    sets: dict[object, list[JsonObject]] = {}
    for sample in samples:
        sets.setdefault(str(sample["set"]), []).append(sample)
    return [sample for turn in zip_longest(*sets.values()) for sample in turn if sample is not None]
