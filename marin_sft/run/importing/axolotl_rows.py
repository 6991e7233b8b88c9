"""axolotl's datasets: where their rows lie, and what their `type` makes of a row."""

from __future__ import annotations

import os

from marin_sft.data.messages.turns import ROLES
from marin_sft.errors import UserError
from marin_sft.nearest import did_you_mean, one_of
from marin_sft.run.importing.config_file import Section, read_text
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
from marin_sft.run.importing.texts import NAMED_TEMPLATES, constant, prompted
from marin_sft.run.python_source import Call, Name

SFT_TYPES = ("alpaca", "chat_template", "completion", "input_output", "a mapping with field_instruction and format")
# Of pairs in a chat's words: our name of the column with what the user says, so that it is no plain text.
PAIR_COLUMNS: dict[str, dict[str, str]] = {
    "intel": {"instruction": "question"},
    "icr": {"instruction": "input"},
    "prompt_pairs": {"instruction": "prompt"},
    "argilla": {"instruction": "prompt"},
    "argilla_chat": {},
    "ultra": {},
}
LEFT_OUT = {
    "shards": "use a split like train[:1000]",
    "shards_idx": "use a split like train[:1000]",
    "input_transform": "use formatting_func of ChatLmDatasetFormat",
    "train_on_eos": "the token that ends a trained turn is trained",
    "message_field_training_detail": "a turn is trained or not, as a whole",
    "split_thinking": "reasoning is read from reasoning_content",
    "field_thinking": "reasoning is read from reasoning_content, reasoning or thinking",
    "template_thinking_key": "the template is given reasoning_content",
}
WITHOUT_EFFECT = "ds_type trust_remote_code preprocess_shards input_format conversation temperature".split()
_TRAIN_KEYS = ("train", "loss_weight", "weight", "trainable")


def read_rows(draft: Draft, dataset: Section, split: str = "train") -> Rows:
    path = dataset.text("path")
    if not path:
        raise UserError(f"{dataset.file}: {dataset.name}path: expected a hub id, a file or a directory")
    format = _pair_format(draft, dataset) if draft.kind == "dpo" else _format(draft, dataset)
    rows = _place(draft, dataset, path, split, format)
    leave_out(draft, dataset, LEFT_OUT)
    ignore(draft, dataset, WITHOUT_EFFECT)
    note_unknown(draft, dataset)
    return rows


def _place(draft: Draft, dataset: Section, path: str, split: str, format: Call) -> Rows:
    files = tuple(dataset.texts("data_files"))
    wanted = dataset.text("split")
    subset, revision = dataset.text("name"), dataset.text("revision")
    if is_on_hub(path) and path not in ("json", "csv", "parquet", "arrow", "text"):
        return Rows(path, True, wanted or split, subset, revision, files, format=format)
    for key in ("name", "revision"):
        if dataset.has(key):
            draft.note(dataset, key, "files have none; left out")
    if wanted not in (None, split, "train"):
        draft.note(dataset, "split", "all rows of the files are taken")
    place = files[0] if files else path
    for other in files[1:]:
        draft.note(
            dataset, "data_files", f"only the first is taken; add {other} as a dataset of its own, or use a glob"
        )
    return Rows(place, False, format=format)


def _format(draft: Draft, dataset: Section) -> Call:
    kind = dataset.value("type")
    on_inputs = {"train_on": "all"} if draft.config.flag("train_on_inputs") else {}
    if kind is None:
        return chat_format(shape="tokens")
    if isinstance(kind, Section):
        name = draft.define("prompted", lambda name: _prompted(name, kind))
        note_unknown(draft, kind)
        return chat_format(**row_function(name), chat_template=Name("PLAIN"), **on_inputs)
    match str(kind):
        case "alpaca":
            return chat_format(**row_function("instruction"), chat_template=Name("ALPACA"), **on_inputs)
        case "completion":
            return text_format(dataset.text("field", "text"))
        case "input_output":
            return chat_format(shape="segments")
        case "chat_template" | "sharegpt":
            return chat_format(**_messages(draft, dataset), **_trained(draft, dataset), **_template(draft, dataset))
    raise UserError(
        f"{dataset.where('type')}: {kind}: not known here; expected one of {', '.join(SFT_TYPES)}; for another, import "
        "the file with one of these, and give the experiment's format a formatting_func that makes messages of a row"
        f"{did_you_mean(str(kind), SFT_TYPES)}"
    )


def _messages(draft: Draft, dataset: Section) -> Settings:
    """Where the messages of a row are, under which keys and roles."""
    found: Settings = {}
    field = dataset.text("field_messages", "conversations" if dataset.value("type") == "sharegpt" else "messages")
    found |= messages_field(field)
    mapping = dataset.section("message_property_mappings") or Section(dataset.file)
    role = mapping.text("role") or dataset.text("message_field_role")
    content = mapping.text("content") or dataset.text("message_field_content")
    columns = {"role": role, "content": content, "tools": dataset.text("field_tools"), "system": None}
    columns = {ours: theirs for ours, theirs in columns.items() if theirs not in (None, ours)}
    if columns not in ({}, {"role": "from", "content": "value"}):
        found["columns"] = columns
    note_unknown(draft, mapping)
    roles = dataset.section("roles") or Section(dataset.file)
    usual = {name: ours for ours, names in ROLES.items() for name in names}
    names = {their: ours for ours in roles for their in roles.texts(ours)}
    role_map = {their: ours for their, ours in names.items() if usual.get(their) != ours}
    if role_map:
        found["role_map"] = role_map
    if dataset.flag("drop_system_message"):
        found["drop_system"] = True
    key = dataset.text("message_field_training")
    if key not in (None, *_TRAIN_KEYS):
        draft.note(dataset, "message_field_training", f"a message says so itself under {' or '.join(_TRAIN_KEYS)}")
    return found


def _trained(draft: Draft, dataset: Section) -> Settings:
    roles = dataset.texts("roles_to_train") if dataset.has("roles_to_train") else ["assistant"]
    if draft.config.flag("train_on_inputs"):
        return {"train_on": "all"}
    if {"gpt": "assistant"}.get(roles[0], roles[0]) == "assistant" and len(roles) == 1:
        return {}
    if not roles or set(roles) >= {"user", "assistant"}:
        draft.note(dataset, "roles_to_train", "all tokens are trained, those between the turns, too")
        return {"train_on": "all"}
    raise UserError(
        f"{dataset.where('roles_to_train')}: {', '.join(roles)}: expected assistant, or all roles; other turns can be "
        "chosen by a `train` flag in each message"
    )


def _template(draft: Draft, dataset: Section) -> Settings:
    """The chat template: the dataset's, else the file's, else the tokenizer's."""
    here = dataset if dataset.has("chat_template") or dataset.has("chat_template_jinja") else draft.config
    dataset.read |= {"chat_template", "chat_template_jinja"}
    draft.config.read |= {"chat_template", "chat_template_jinja"}
    written, name = here.text("chat_template_jinja"), here.text("chat_template", "tokenizer_default")
    if written:
        text = written if "{" in written or not os.path.exists(written) else read_text(written)
        return {"chat_template": Name(draft.define("TEMPLATE", lambda name: constant(name, text)))}
    if name in NAMED_TEMPLATES:
        return {"chat_template": Name(NAMED_TEMPLATES[name])}
    if name != "tokenizer_default":
        draft.note(here, "chat_template", OWN_TEMPLATE)
    return {}


def _prompted(name: str, kind: Section) -> str:
    """The function for a `type` that says its own prompts."""
    for key in ("field_instruction", "field_output", "format"):
        if not kind.has(key):
            raise UserError(f"{kind.file}: no {kind.name}{key}; expected one, as axolotl does")
    system = kind.text("system_format") or ""
    plain = kind.text("format", "")
    return prompted(
        name,
        columns={"instruction": kind.text("field_instruction"), "input": kind.text("field_input")},
        answer=kind.text("field_output", ""),
        with_input=plain,
        without_input=kind.text("no_input_format") or plain,
        system=(system, kind.text("field_system"), kind.text("system_prompt") or ""),
    )


def _pair_format(draft: Draft, dataset: Section) -> Call:
    kind = dataset.text("type", "chat_template.default")
    family, _, way = kind.partition(".")
    if family == "chat_template" and way in ("", "default", "argilla_chat"):
        messages = _messages(draft, dataset)
        columns = dict(messages.pop("columns", {}))
        field = messages.pop("messages_field", "messages")
        del messages["shape"]
        sides = {
            "chosen": dataset.text("field_chosen", "chosen"),
            "rejected": dataset.text("field_rejected", "rejected"),
        }
        columns |= {ours: theirs for ours, theirs in sides.items() if ours != theirs}
        if way != "argilla_chat" and field != "messages":
            columns["messages"] = field
        named = {"columns": columns} if columns else {}
        return chat_format(**messages, **named, **_template(draft, dataset))
    if family in NAMED_TEMPLATES and way in PAIR_COLUMNS:
        columns = PAIR_COLUMNS[way]
        named = {"columns": dict(columns)} if columns else {}
        return chat_format(**named, chat_template=Name(NAMED_TEMPLATES[family]))
    known = ["chat_template.default", "chat_template.argilla_chat"]
    known += [f"{one}.{other}" for one in NAMED_TEMPLATES for other in PAIR_COLUMNS]
    raise UserError(f"{dataset.where('type')}: {kind}: not known here; expected {one_of(known, kind)}")
