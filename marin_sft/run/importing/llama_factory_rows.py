"""LLaMA-Factory's datasets: names in dataset_info.json, which says where their rows lie and under which keys."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from marin_sft.data.messages.turns import ROLES
from marin_sft.errors import UserError
from marin_sft.nearest import nearest_text
from marin_sft.run.importing.draft import Draft, Settings
from marin_sft.run.importing.rows import OWN_TEMPLATE, Rows, chat_format, messages_field, row_function, text_format
from marin_sft.run.importing.texts import NAMED_TEMPLATES, question_and_answer
from marin_sft.run.python_source import Call, Name

INFO = "dataset_info.json"
Entry = dict[str, Any]
# Of an entry without `columns`; one that has them has no others.
ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}
MESSAGES = "conversations"
TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
_ROLE_OF_TAG = {
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "tool",
    "function_tag": "tool_call",
    "system_tag": "system",
}


def read_datasets(draft: Draft, key: str) -> list[Rows]:
    config = draft.config
    names = config.texts(key)
    directory = config.text("dataset_dir", "data")
    shares = [float(share) for share in config.texts("interleave_probs")] if key == "dataset" else []
    config.read.add("interleave_probs")
    if not names:
        return []
    if shares and len(shares) != len(names):
        config.refuse("interleave_probs", f"{len(names)} numbers, one for each of dataset")
    entries, folder = _entries(draft, key, directory, names)
    most = config.count("max_samples")
    found = []
    for i, name in enumerate(names):
        entry = entries[name]
        taken = min(filter(None, (most, entry.get("num_samples"))), default=None) if key == "dataset" else most
        found.append(_rows(draft, key, name, entry, folder, taken, shares[i] if shares else None))
    return found


def _entries(draft: Draft, key: str, directory: str, names: list[str]) -> tuple[dict[str, Entry], str]:
    """What dataset_info.json says of each name, and the folder of the files."""
    config = draft.config
    if directory == "ONLINE":
        return {name: {"hf_hub_url": name} for name in names}, ""
    looked_in = list(_folders(directory, config.file))
    folder = next((place for place in looked_in if os.path.isfile(os.path.join(place, INFO))), None)
    if folder is None:
        raise UserError(
            f"{config.where(key)}: expected {INFO}, which says where {', '.join(names)} are, in "
            f"{' or '.join(looked_in)}; run this where LLaMA-Factory runs, or write dataset_dir: DIRECTORY"
        )
    try:
        with open(os.path.join(folder, INFO), encoding="utf-8") as file:
            entries = json.load(file)
    except ValueError as error:
        raise UserError(f"{os.path.join(folder, INFO)}: not JSON: {error}") from None
    for name in names:
        if not isinstance(entries.get(name), dict):
            where = os.path.join(folder, INFO)
            raise UserError(f"{config.where(key)}: {name}: not in {where}{nearest_text(name, entries)}")
    return entries, folder


def _folders(directory: str, config: str) -> Iterator[str]:
    """`dataset_dir` counts from where the tool runs, mostly a folder above the YAML's."""
    yield directory
    above = os.path.dirname(config) or "."
    while not os.path.isabs(directory) and os.path.basename(os.path.abspath(above)):
        yield os.path.normpath(os.path.join(above, directory))
        above = os.path.join(above, "..")
        if len(above) > len(config) + 12:
            return


def _rows(draft: Draft, key: str, name: str, entry: Entry, folder: str, most: int | None, share: float | None) -> Rows:
    where = f"{draft.config.where(key)}: {name}"
    if entry.get("kto_tag") or (entry.get("columns") or {}).get("kto_tag"):
        raise UserError(f"{where}: rated rows; KTO is not supported; expected answers or pairs")
    if any((entry.get("columns") or {}).get(kind) for kind in ("images", "videos", "audios")):
        raise UserError(f"{where}: models with images are not supported; expected rows of text")
    if bool(entry.get("ranking")) != (draft.kind == "dpo"):
        wanted = "pairs, with ranking: true" if draft.kind == "dpo" else "answers, without ranking: true"
        raise UserError(f"{where}: stage: {draft.kind} expects {wanted}, in {INFO}")
    format = _format(draft, key, name, entry)
    if "hf_hub_url" in entry:
        files = (f"{entry['folder']}/*",) if entry.get("folder") else ()
        split, subset = entry.get("split") or "train", entry.get("subset")
        return Rows(entry["hf_hub_url"], True, split, subset, entry.get("revision"), files, most, format, share)
    if "file_name" not in entry:
        raise UserError(f"{where}: expected hf_hub_url or file_name in {INFO}, got {', '.join(entry) or 'nothing'}")
    place = os.path.normpath(os.path.join(folder, entry["file_name"]))
    return Rows(place, False, most=most, format=format, share=share)


def _format(draft: Draft, key: str, name: str, entry: Entry) -> Call:
    columns: dict[str, str | None] = entry.get("columns") or {}
    options = {**_trained(draft), **_template(draft, key)}
    if entry.get("formatting", "alpaca") == "sharegpt":
        return _of_messages(columns, entry.get("tags") or {}, bool(entry.get("ranking")), options)
    columns = columns if "columns" in entry else dict(ALPACA)
    if entry.get("ranking"):
        ours = {"instruction": columns.get("prompt") or "instruction", "input": columns.get("query")}
        ours |= {side: columns.get(side) or side for side in ("chosen", "rejected")} | {"system": columns.get("system")}
        return _with_columns(ours, options)
    asked, answered = columns.get("prompt"), columns.get("response")
    if asked is None or answered is None:
        return text_format(asked or "text")
    if columns.get("query") is None and not columns.get("history"):
        function = draft.define("chat", lambda name: question_and_answer(name, asked, answered, columns.get("system")))
        return chat_format(**row_function(function), **options)
    ours = {"instruction": asked, "input": columns.get("query"), "output": answered}
    return _with_columns({**ours, "system": columns.get("system"), "history": columns.get("history")}, options)


def _of_messages(columns: dict[str, Any], tags: dict[str, str], pairs: bool, options: Settings) -> Call:
    field = columns.get("messages") or MESSAGES
    named = {name: columns.get(name) for name in ("system", "tools", *(("chosen", "rejected") if pairs else ()))}
    said = {**TAGS, **tags}
    usual = {name: role for role, names in ROLES.items() for name in names}
    roles = {said[tag]: role for tag, role in _ROLE_OF_TAG.items() if usual.get(said[tag]) != role}
    keys = {"role": said["role_tag"], "content": said["content_tag"]}
    if keys not in ({"role": "role", "content": "content"}, {"role": "from", "content": "value"}):
        named |= keys
    where = messages_field(field)
    if pairs:
        named["messages"] = where.get("messages_field")
    else:
        options = {**where, **options}
    return _with_columns(named, {**({"role_map": roles} if roles else {}), **options})


def _with_columns(columns: dict[str, Any], options: Settings) -> Call:
    """Only those that have another name in the rows."""
    named = {ours: theirs for ours, theirs in columns.items() if theirs not in (None, ours)}
    return chat_format(**({"columns": named} if named else {}), **options)


def _trained(draft: Draft) -> Settings:
    config = draft.config
    if draft.kind == "dpo":
        return {}
    if config.flag("train_on_prompt"):
        return {"train_on": "all"}
    return {"train_on": "last"} if config.flag("mask_history") else {}


def _template(draft: Draft, key: str) -> Settings:
    config = draft.config
    name = config.text("template")
    if name in NAMED_TEMPLATES:
        return {"chat_template": Name(NAMED_TEMPLATES[name])}
    if name is not None:
        draft.note(config, "template", OWN_TEMPLATE)
    if config.has("enable_thinking"):
        return {"chat_template_kwargs": {"enable_thinking": config.flag("enable_thinking")}}
    return {}
