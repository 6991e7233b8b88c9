"""What was trained on: rows of each dataset by what became of them, their lengths, samples, and mixtures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from marin_sft.data.rows.dropped import DROPPED, ON_PURPOSE
from marin_sft.data.token_cache import TokenCache
from marin_sft.errors import MarinSftError
from marin_sft.execution.documents import JsonObject
from marin_sft.execution.store import Store
from marin_sft.run.report.documents import read_json, read_rows
from marin_sft.run.report.steps import Step, input_path
from marin_sft.run.report.token_rows import read_tokenizer, split_json

SPLITS = ("train", "validation")
_DROPPED_BYTES = 1 << 20
_DROPPED_SHOWN = 40


def dataset_json(store: Store, step: Step) -> JsonObject:
    """A tokenize step: counts of each split, lengths, samples, and rows that were dropped.

    `problem`: why there are no samples, where there are none.
    """
    assert step.output is not None
    stats = read_json(store, f"{step.output}/stats.json") or {}
    dropped, bad = read_rows(store, f"{step.output}/{DROPPED}", _DROPPED_BYTES) if DROPPED in step.files else ([], 0)
    found: JsonObject = {
        "step": step.directory,
        "name": step.name,
        "splits": {},
        "dropped": dropped[:_DROPPED_SHOWN],
        "dropped_more": max(0, len(dropped) - _DROPPED_SHOWN) + bad,
        "on_purpose": sorted(ON_PURPOSE),
        "problem": None,
    }
    tokenizer = None
    try:
        tokenizer = read_tokenizer(str(input_path(store, step, "tokenizer")))
    except (MarinSftError, OSError) as error:
        found["problem"] = str(error)
    for split in SPLITS:
        if split not in stats:
            continue
        about = {key: value for key, value in stats[split].items() if isinstance(value, int | str | dict)}
        found["splits"][split] = about
        if step.state.commit is not None:
            cache = TokenCache.open(f"{step.output}/{split}", keep_near=True)
            about |= split_json(cache, tokenizer, about.get("kind") == "pairs")
    return found


def mixture_json(store: Store, step: Step, trainings: Iterable[tuple[Step, float | None]]) -> JsonObject:
    """A mixture: what was asked for, what came of it, and how often its trainings saw each component.

    trainings: those that use it, with the epochs that they have trained.
    """
    about = read_json(store, f"{step.output}/mixture.json") or {}
    data = step.config.get("data")
    asked = data if isinstance(data, dict) else {}
    return {
        "step": step.directory,
        "name": step.name,
        "kind": about.get("kind", "documents"),
        "seq_len": about.get("seq_len"),
        "over_length": about.get("over_length"),
        "stop_strategy": about.get("order", {}).get("stop_strategy"),
        "weights_are": asked.get("weights_are"),
        "stages": _stages(about, asked),
        "components": about.get("components", {}),
        "trainings": [{"step": user.directory, "name": user.name, "epochs": epochs} for user, epochs in trainings],
    }


def _stages(about: JsonObject, asked: Mapping[str, object]) -> list[JsonObject]:
    """Each stage of the mixture: the weights asked for as shares, and the shares of rows and trained tokens."""
    weights = asked.get("train_weights")
    of_stage = {start: given for start, given in weights} if isinstance(weights, list) else {}
    trained = {name: parts["train"] for name, parts in about.get("components", {}).items() if "train" in parts}
    stages = []
    for stage in about.get("order", {}).get("stages", []):
        shares, given = stage["share_of_rows"], of_stage.get(stage["start_step"], {})
        tokens = {name: share * _per_row(trained[name]) for name, share in shares.items() if name in trained}
        stages.append(
            {
                "start_step": stage["start_step"],
                "asked": _shares({name: float(given.get(name, 0)) for name in shares}) if given else None,
                "rows": shares,
                "trained_tokens": _shares(tokens),
                "times_seen_per_epoch": stage["times_seen_per_epoch"],
            }
        )
    return stages


def _per_row(part: JsonObject) -> float:
    return float(part["trained_tokens"]) / max(1, part["rows"])


def _shares(values: Mapping[str, float]) -> dict[str, float]:
    total = sum(values.values())
    return {name: value / total if total else 0.0 for name, value in values.items()}
