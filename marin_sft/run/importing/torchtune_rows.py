"""torchtune's datasets: where their rows lie, and what a builder makes of a row."""

from __future__ import annotations

from dataclasses import dataclass

from marin_sft.errors import UserError
from marin_sft.nearest import did_you_mean
from marin_sft.run.importing.config_file import Section
from marin_sft.run.importing.draft import Draft, Settings
from marin_sft.run.importing.keys import ignore, leave_out, note_unknown
from marin_sft.run.importing.rows import (
    OWN_TEMPLATE,
    Rows,
    chat_format,
    is_on_hub,
    messages_field,
    row_function,
    text_format,
)
from marin_sft.run.importing.texts import question_and_answer
from marin_sft.run.python_source import Call, Name

_COMPONENT = "_component_"


@dataclass(frozen=True)
class Builder:
    """A builder of torchtune.datasets, and its defaults.

    holds: "alpaca", "instruct", "chat", "text" or "pairs". columns: by torchtune's names. train_on: where the file says
    nothing.
    """

    holds: str
    source: str | None = None
    columns: tuple[tuple[str, str], ...] = ()
    train_on: str = "assistant"
    style: str = "openai"


BUILDERS = {
    "alpaca_dataset": Builder("alpaca", "tatsu-lab/alpaca", train_on="all"),
    "alpaca_cleaned_dataset": Builder("alpaca", "yahma/alpaca-cleaned", train_on="all"),
    "instruct_dataset": Builder("instruct", columns=(("input", "input"), ("output", "output"))),
    "chat_dataset": Builder("chat"),
    "slimorca_dataset": Builder("chat", "Open-Orca/SlimOrca-Dedup", (("messages", "conversations"),), style="sharegpt"),
    "text_completion_dataset": Builder("text"),
    "preference_dataset": Builder("pairs"),
    "hh_rlhf_helpful_dataset": Builder("pairs", "RLHFlow/HH-RLHF-Helpful-standard"),
    "stack_exchange_paired_dataset": Builder(
        "pairs",
        "lvwerra/stack-exchange-paired",
        (("prompt", "question"), ("chosen", "response_j"), ("rejected", "response_k")),
    ),
}
MASKING = {"train_on_all": "all", "train_on_assistant": "assistant", "train_on_last": "last"}
FILE_KINDS = ("json", "csv", "parquet", "arrow", "text")
LEFT_OUT = {
    "filter_fn": "use formatting_func of ChatLmDatasetFormat, which can refuse rows",
    "image_dir": "models with images are not supported",
    "image_tag": "models with images are not supported",
}


def read_rows(draft: Draft, dataset: Section) -> Rows:
    component = dataset.text(_COMPONENT, "")
    name = component.rpartition(".")[2]
    builder = BUILDERS.get(name)
    if builder is None or (builder.holds == "pairs") != (draft.kind == "dpo"):
        known = [one for one, other in BUILDERS.items() if (other.holds == "pairs") == (draft.kind == "dpo")]
        where = dataset.where(_COMPONENT) if component else f"{dataset.file}: {dataset.name}{_COMPONENT}"
        raise UserError(
            f"{where}: {component or 'missing'}: not known here; expected one of {', '.join(known)}, of "
            f"torchtune.datasets{did_you_mean(name, known)}"
        )
    rows = _place(draft, dataset, builder, _format(draft, dataset, builder))
    dataset.read |= {"packed", "split_across_pack", "max_seq_len"}
    leave_out(draft, dataset, LEFT_OUT)
    ignore(draft, dataset, ("trust_remote_code", "add_eos", "filter_kwargs"))
    note_unknown(draft, dataset)
    return rows


def _place(draft: Draft, dataset: Section, builder: Builder, format: Call) -> Rows:
    source = dataset.text("source", builder.source)
    if source is None:
        raise UserError(f"{dataset.file}: no {dataset.name}source; expected a hub id, or json with data_files")
    files = dataset.texts("data_files")
    if source in FILE_KINDS and not files:
        raise UserError(f"{dataset.where('source')}: {source}: expected data_files with it")
    split = dataset.text("split", "train")
    folder = dataset.text("data_dir") or ("data/rl" if builder.source == "lvwerra/stack-exchange-paired" else None)
    if source in FILE_KINDS or not is_on_hub(source):
        if split != "train":
            draft.note(dataset, "split", "all rows of the files are taken")
        return Rows(files[0] if files else source, False, format=format)
    taken = tuple(files) or ((f"{folder}/*",) if folder else ())
    return Rows(source, True, split, dataset.text("name"), dataset.text("revision"), taken, format=format)


def _format(draft: Draft, dataset: Section, builder: Builder) -> Call:
    mapping = dataset.section("column_map") or Section(dataset.file)
    columns = {**dict(builder.columns), **{key: mapping.text(key) for key in mapping}}
    if builder.holds == "text":
        return text_format(dataset.text("column", "text"))
    masking = dataset.text("masking_strategy")
    if masking not in (None, *MASKING):
        dataset.refuse("masking_strategy", f"one of {', '.join(MASKING)}")
    on_input = dataset.flag("train_on_input", builder.train_on == "all")
    train_on = MASKING[masking] if masking else "all" if on_input else "assistant"
    options: Settings = {} if train_on == "assistant" or draft.kind == "dpo" else {"train_on": train_on}
    system = dataset.text("new_system_prompt")
    if system:
        options |= {"default_system": system, "drop_system": True}
    options |= _template(draft)
    match builder.holds:
        case "alpaca":
            if columns:
                draft.note(dataset, "column_map", "left out; edit the function `alpaca` of the experiment")
            return chat_format(**row_function("alpaca"), **options)
        case "instruct":
            asked, answered = str(columns["input"]), str(columns["output"])
            name = draft.define("chat", lambda name: question_and_answer(name, asked, answered, None))
            return chat_format(**row_function(name), **options)
        case "pairs":
            ours = {"prompt": "instruction"}
            named = {ours.get(key, key): value for key, value in columns.items() if ours.get(key, key) != value}
            return chat_format(**({"columns": named} if named else {}), **options)
    return chat_format(**_messages(dataset, columns), **options)


def _messages(dataset: Section, columns: Settings) -> Settings:
    style = dataset.text("conversation_style", "openai")
    if style not in ("openai", "sharegpt"):
        dataset.refuse("conversation_style", "openai or sharegpt")
    usual = "messages" if style == "openai" else "conversations"
    field = dataset.text("conversation_column") or columns.get("messages") or columns.get("conversations") or usual
    return messages_field(field)


def _template(draft: Draft) -> Settings:
    """torchtune's tokenizers have templates of their own: that of Llama 3 has no system turn that is not in the row."""
    tokenizer = draft.config.section("tokenizer")
    name = "" if tokenizer is None else tokenizer.text(_COMPONENT, "").rpartition(".")[2]
    if name == "llama3_tokenizer":
        return {"chat_template": Name("LLAMA3_ENDED")}
    if tokenizer is not None and tokenizer.has(_COMPONENT):
        draft.note(tokenizer, _COMPONENT, OWN_TEMPLATE)
    return {}
