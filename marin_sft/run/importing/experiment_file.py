"""The experiment file, written from what the importer of a tool found out."""

from __future__ import annotations

import dataclasses
import os
import textwrap
from collections.abc import Iterable, Mapping

from marin_sft.run.importing.draft import Draft
from marin_sft.run.importing.rows import Rows, is_on_hub, step_name
from marin_sft.run.importing.texts import DEFINITIONS, needed
from marin_sft.run.python_source import WIDTH, Call, Name, assignment, default_of, free_name, imports, names_in
from marin_sft.training.dpo_config import DPOConfig
from marin_sft.training.sft_config import SFTConfig

_STEP_CLASS: dict[str, type[SFTConfig] | type[DPOConfig]] = {"sft": SFTConfig, "dpo": DPOConfig}
_SHOWN_ALWAYS = ("num_train_epochs", "num_train_steps", "learning_rate", "lr_schedule", "warmup", "loss_type", "beta")


def training_defaults(kind: str) -> dict[str, object]:
    """What `steps.sft` or `steps.dpo` takes where nothing is said."""
    found: dict[str, object] = {}
    for field in dataclasses.fields(_STEP_CLASS[kind]):
        found[field.name] = default_of(field)
        found |= {"steps_per_hf_export": -1} if field.name == "steps_per_checkpoint" else {}
    return found


def experiment_source(draft: Draft, path: str) -> str:
    """The text of the experiment file that is going to lie at `path`."""
    steps = _steps(draft)
    used = set().union(*(names_in(value) for _, value in steps)) | {"executor_main"}
    definitions = {**DEFINITIONS, **draft.definitions}
    texts = [definitions[name] for name in needed(used, definitions)]
    constants = [text for text in texts if not text.startswith("def ")]
    functions = [text for text in texts if text.startswith("def ")]
    parts = [
        _head(draft, path),
        _comments(draft),
        imports(used),
        "\n".join(_constants(draft)),
        "\n\n".join(constants),
        *(f"\n{function}\n" for function in functions),
        "\n".join(_assigned(steps)),
        '\nif __name__ == "__main__":\n    executor_main(steps=[exported])',
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(draft: Draft, path: str) -> str:
    what = {"sft": "SFT", "dpo": "DPO"}[draft.kind] + (" with LoRA" if draft.lora is not None else "")
    data = ", ".join(dict.fromkeys(rows.source for rows in draft.training_rows))
    lines = textwrap.wrap(f"{what} of {draft.model} on {data}.", WIDTH - 3, break_long_words=False)
    lines += ["", f"Written from {os.path.basename(draft.file)} of {draft.tool} by `marin-sft import`.", ""]
    lines += [f"    python {path} --dry_run     # what would run, and why", f"    python {path}"]
    return '"""' + "\n".join(lines) + '\n"""'


def _comments(draft: Draft) -> str:
    notes = draft.sorted_notes()
    if not notes:
        return ""
    name = os.path.basename(draft.file)
    lines = [f"# Differences from {draft.tool}, by the lines of {name}:"]
    for note in notes:
        mark = f"{note.line}: " if note.line else ""
        lines += textwrap.wrap(
            f"{mark}{note}", WIDTH, initial_indent="# - ", subsequent_indent="#   ", break_long_words=False,
            break_on_hyphens=False,
        )  # fmt: skip
    return "\n".join(lines)


def _constants(draft: Draft) -> list[str]:
    lines = [assignment("NAME", _experiment_name(draft)), assignment("MODEL", draft.model)]
    if draft.tokenizer is not None:
        lines.append(assignment("TOKENIZER", draft.tokenizer))
    if draft.reference is not None:
        lines.append(assignment("REFERENCE", draft.reference))
    unsaid = "" if draft.devices else f"  # {os.path.basename(draft.file)} does not say how many"
    return [*lines, f"DEVICES = {draft.devices or 1}{unsaid}"]


def _experiment_name(draft: Draft) -> str:
    model = step_name(draft.model.partition("@")[0].rstrip("/").rpartition("/")[2])
    data = "_".join(dict.fromkeys(rows.name for rows in draft.training_rows[:2]))
    parts = [model, data, "lora" if draft.lora is not None else "", "dpo" if draft.kind == "dpo" else ""]
    return "_".join(part for part in parts if part)


def _assigned(steps: Iterable[tuple[str, object]]) -> list[str]:
    return [assignment(name, value) for name, value in steps]


def _steps(draft: Draft) -> list[tuple[str, object]]:
    """What the file assigns, in order."""
    model, before = _place(draft.model, "model", "MODEL", "model_step")
    tokenizer, more = _place(draft.tokenizer, "tokenizer", "TOKENIZER", "tokenizer_step")
    reference, others = _place(draft.reference, "reference", "REFERENCE", "model_step")
    groups = _groups(draft.training_rows)
    held_out: dict[str, list[Rows]] = {}
    for rows in draft.held_out_rows:
        held_out[free_name("held_out", {**groups, **held_out})] = [rows]
    tokens = {
        **{name: _tokenized(name, rows, tokenizer or model) for name, rows in groups.items()},
        **{name: _tokenized(name, rows, tokenizer or model, is_validation=True) for name, rows in held_out.items()},
    }
    mixed = Call("mixture", (Name("NAME"), Name("tokenized")), _mixture(draft, groups))
    arguments = {"mixture": Name("data"), "base_model": model, **({"reference": reference} if reference else {})}
    trained = Call(draft.kind, (Name("NAME"),), {**arguments, **_training(draft)})
    trained = trained.with_comment("train_batch_size", " x ".join([*draft.batch_keys, "devices"]))
    trained = trained.with_comment("weight_decay_parameters", f"what {draft.tool} decays")
    return [
        *before,
        *more,
        *others,
        ("tokenized", tokens),
        ("data", mixed),
        ("trained", trained),
        ("exported", Call("export", (Name("NAME"), Name("trained")))),
    ]


def _place(source: str | None, variable: str, constant: str, step: str) -> tuple[Name | None, list[tuple[str, object]]]:
    """A model or a tokenizer, as the steps are given it, and what has to be assigned for that."""
    if source is None:
        return None, []
    if "/" in source and is_on_hub(source.partition("@")[0]):
        return Name(variable), [(variable, Call(step, (Name(constant),)))]
    return Name(constant), []


def _groups(datasets: list[Rows]) -> dict[str, list[Rows]]:
    """The components of the mixture. Datasets that are read in the same way are one: all their rows are trained on."""
    same = all(rows.format == datasets[0].format for rows in datasets)
    apart = any(rows.share is not None or (rows.most is not None and not rows.on_hub) for rows in datasets)
    if same and not apart:
        names = list(dict.fromkeys(rows.name for rows in datasets))
        return {"_".join(names) if len(names) < 3 else f"{names[0]}_and_{len(names) - 1}_more": datasets}
    groups: dict[str, list[Rows]] = {}
    for rows in datasets:
        groups[free_name(rows.name, groups)] = [rows]
    return groups


def _tokenized(name: str, rows: list[Rows], tokenizer: object, is_validation: bool = False) -> Call:
    (first, *others), keywords = rows, {"tokenizer": tokenizer}
    if first.format.keywords or first.format.function != "ChatLmDatasetFormat":
        keywords["format"] = first.format
    if others or first.files:
        documents = [source for one in rows for source in one.documents()]
        if is_validation:
            return Call("tokenize", (name, []), {**keywords, "validation": documents})
        return Call("tokenize", (name, documents[0] if len(documents) == 1 else documents), keywords)
    if is_validation:
        keywords["is_validation"] = True
    elif first.is_held_out:
        keywords["allow_test_in_train"] = True
    return Call("default_tokenize", (name, first.dataset()), keywords)


def _mixture(draft: Draft, groups: Mapping[str, list[Rows]]) -> dict[str, object]:
    options = dict(draft.mixture)
    number = options.pop("num_validation_sequences", None)
    if number is not None:
        options["num_validation_sequences"] = {next(iter(groups)): number}
    most = {name: rows[0].most for name, rows in groups.items() if rows[0].most is not None and not rows[0].on_hub}
    if most:
        options["max_documents"] = most
    return {"weights": _weights(groups), "seq_len": draft.seq_len, **options}


def _weights(groups: Mapping[str, list[Rows]]) -> Mapping[str, object]:
    """The tool's own, or how many rows each component has: then all of them are trained on equally often."""
    shares = {name: rows[0].share for name, rows in groups.items()}
    if any(share is not None for share in shares.values()):
        return shares
    counts = {name: rows[0].count() for name, rows in groups.items()} if len(groups) > 1 else {}
    return {name: counts.get(name) or 1 for name in groups}


def _training(draft: Draft) -> dict[str, object]:
    """The arguments that differ from what the step takes by itself, and those that a reader looks for."""
    defaults, given = training_defaults(draft.kind), draft.training
    shown = [name for name in defaults if name in given and (name in _SHOWN_ALWAYS or given[name] != defaults[name])]
    batch = Name(f"{draft.micro_batch} * {draft.accumulate} * DEVICES")
    found: dict[str, object] = {"train_batch_size": batch}
    if draft.accumulate > 1:
        found["gradient_accumulation_steps"] = draft.accumulate
    found |= {name: given[name] for name in shown}
    if draft.lora is not None:
        found["lora"] = Call("LoraConfig", keywords=draft.lora)
    if draft.trackers:
        found["trackers"] = tuple(draft.trackers)
    return {**found, "resources": Call("GpuConfig", keywords={"gpu_count": Name("DEVICES")})}
