"""Exported models: files, sizes, parameters, whether the files are still as committed, and how to load them."""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter

from marin_sft.execution.commits import damaged_files
from marin_sft.execution.documents import JsonObject
from marin_sft.execution.store import Store
from marin_sft.paths import local_path
from marin_sft.run.report.documents import read_json
from marin_sft.run.report.steps import Step

WEIGHTS = ".safetensors"
ADAPTER = "adapter_config.json"
_LARGEST_HEADER = 32 << 20  # bytes
_SHOWN_OF_CONFIG = (
    "architectures",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "max_position_embeddings",
)


def is_export(step: Step) -> bool:
    return step.kind == "export_hf" and step.output is not None


def export_json(store: Store, step: Step) -> JsonObject:
    assert step.output is not None
    adapter = ADAPTER in step.files
    config = read_json(store, f"{step.output}/{ADAPTER if adapter else 'config.json'}") or {}
    parameters, types = _parameters(store, step)
    damaged = damaged_files(store, step.output) if step.state.commit else []
    return {
        "step": step.directory,
        "name": step.name,
        "path": step.output,
        "files": list(step.files.items()),
        "size": sum(step.files.values()),
        "model": {key: config[key] for key in _SHOWN_OF_CONFIG if key in config},
        "parameters": parameters,
        "types": types,
        "checks": _checks(step, damaged),
        "load": _load(step.output, adapter, config),
    }


def _parameters(store: Store, step: Step) -> tuple[int, list[str]]:
    """The number of parameters, and the types of the weights, from the heads of their files."""
    counts: Counter[str] = Counter()
    for name in step.files:
        if name.endswith(WEIGHTS):
            path = f"{step.output}/{name}"
            length = int.from_bytes(store.read_from(path, 0, 8), "little")
            head = json.loads(store.read_from(path, 8, min(length, _LARGEST_HEADER)))
            for tensor, about in head.items():
                if tensor != "__metadata__":
                    counts[about["dtype"]] += math.prod(about["shape"])
    return counts.total(), [name for name, _ in counts.most_common()]


def _checks(step: Step, damaged: list[str]) -> list[JsonObject]:
    """What was checked when it was made, and what is checked now."""
    if step.state.commit is None:
        return [{"good": False, "text": "not committed: the export has not ended well"}]
    count = len(step.files)
    now = f"all {count} files have the sizes that were committed"
    return [
        {
            "good": True,
            "text": "read back when it was written: config, generation config, tokenizer, template, weights",
        },
        {"good": not damaged, "text": f"missing or of another size: {', '.join(damaged)}" if damaged else now},
    ]


def _load(path: str, adapter: bool, config: JsonObject) -> list[JsonObject]:
    """Commands and code to copy, each with what it is for."""
    found, place = [], local_path(path)
    if place is None:
        tool = "gcloud storage cp -r" if path.startswith("gs://") else "aws s3 cp --recursive"
        name = path.rstrip("/").split("/")[-2]
        found.append({"for": "fetch it", "code": f"{tool} {shlex.quote(path)} {shlex.quote(name)}"})
        place = name
    quoted = shlex.quote(place)
    if adapter:
        base = config.get("base_model_name_or_path") or "BASE"
        code = (
            "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
            f"base = AutoModelForCausalLM.from_pretrained({base!r})\nmodel = PeftModel.from_pretrained(base, {place!r})"
        )
        found.append({"for": "peft", "code": code})
        serve = f"vllm serve {shlex.quote(str(base))} --enable-lora --lora-modules adapter={quoted}"
    else:
        code = (
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f"tokenizer = AutoTokenizer.from_pretrained({place!r})\n"
            f"model = AutoModelForCausalLM.from_pretrained({place!r})"
        )
        found.append({"for": "transformers", "code": code})
        found.append({"for": "a chat in the terminal", "code": f"marin-sft chat {quoted}"})
        serve = f"vllm serve {quoted}"
    return [*found, {"for": "vLLM", "code": serve}]
