"""Every registered dataset, downloaded from a hub on loopback in its published schema and transformed."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.instruction_datasets import (
    INSTRUCTION_DATASET_NAME_TO_CONFIG,
    get_instruction_dataset,
    multi_turn_adapter,
    reasoning_to_chat_kwargs,
)
from experiments.preference_datasets import PREFERENCE_DATASET_NAME_TO_CONFIG, get_preference_dataset
from marin_sft.data.adapters import FormatAdapter
from marin_sft.errors import ConfigError
from marin_sft.execution.configs import references
from marin_sft.execution.identity import fingerprint_of_payload, payload_of
from tests.experiments.schemas import INSTRUCTIONS, PREFERENCES
from tests.hub_server import HubServer

ROOT = Path(__file__).parents[2]
REGISTERED = {**INSTRUCTION_DATASET_NAME_TO_CONFIG, **PREFERENCE_DATASET_NAME_TO_CONFIG}
PUBLISHED = {**INSTRUCTIONS, **PREFERENCES}

EXPERIMENT = """
import json
from experiments.instruction_datasets import get_instruction_dataset
from experiments.preference_datasets import get_preference_dataset
from marin_sft import executor_main

steps = {name: get_instruction_dataset(name) for name in INSTRUCTIONS}
steps |= {name: get_preference_dataset(name) for name in PREFERENCES}
if __name__ == "__main__":
    run = executor_main(steps=list(steps.values()))
    print("PATHS", json.dumps({name: run.output_path(step) for name, step in steps.items()}))
"""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """The output directories of all registered datasets, by name."""
    root = tmp_path_factory.mktemp("registry")
    names = f"INSTRUCTIONS, PREFERENCES = {list(INSTRUCTIONS)}, {list(PREFERENCES)}\n"
    (root / "experiment.py").write_text(names + EXPERIMENT)
    with HubServer() as hub:
        for name, published in PUBLISHED.items():
            revision = REGISTERED[name].revision
            tag = None if revision == "main" else revision
            hub.add_dataset(published.repository, published.files, tag=tag)
        done = subprocess.run(
            [sys.executable, root / "experiment.py", "--backend", "inline", "--prefix", root / "store"],
            env={**os.environ, **hub.environment(home=root / "home"), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    paths = next(line for line in done.stdout.splitlines() if line.startswith("PATHS"))
    return json.loads(paths.removeprefix("PATHS"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_registered_dataset(name, outputs):
    output = Path(outputs[name])
    found: dict[str, list] = {}
    for shard in sorted(output.rglob("*.jsonl.gz")):
        rows = [json.loads(line) for line in gzip.decompress(shard.read_bytes()).splitlines()]
        found.setdefault(str(shard.parent.relative_to(output)), []).extend(rows)
    source = PUBLISHED[name].repository
    expected = {folder: [{"source": source, **row} for row in rows] for folder, rows in PUBLISHED[name].rows.items()}
    without_ids = {folder: [{k: row[k] for k in row if k != "id"} for row in rows] for folder, rows in found.items()}
    assert without_ids == expected
    assert all(len(row["id"]) == 64 for rows in found.values() for row in rows)


def test_every_repository_and_adapter_is_covered():
    """Of the datasets that are one repository split by split, one split stands for all."""
    covered = [(REGISTERED[name].hf_dataset_id, REGISTERED[name].adapter) for name in PUBLISHED]
    assert all((config.hf_dataset_id, config.adapter) in covered for config in REGISTERED.values())


def test_marins_mixture_is_registered():
    """The nine of exp808, the one of exp606, and those of the seeds."""
    names = """TIGER-Lab/AceCode-89K HuggingFaceTB/smoltalk PrimeIntellect/verifiable-math-problems
        cognitivecomputations/dolphin-r1-nonreasoning cognitivecomputations/dolphin-r1-reasoning
        bespokelabs/Bespoke-Stratos-17k open-r1/OpenThoughts-114k-math allenai/tulu-3-sft-mixture
        facebook/natural_reasoning allenai/tulu-v2-sft-mixture allenai/WildChat trl-lib/Capybara yahma/alpaca-cleaned"""
    assert set(names.split()) <= INSTRUCTION_DATASET_NAME_TO_CONFIG.keys()


def test_steps():
    step = get_instruction_dataset("cognitivecomputations/dolphin-r1-reasoning", splits=["train"])
    assert step.name == "documents/cognitivecomputations--dolphin-r1-reasoning"
    ((_, download),) = references(step.config)
    assert download.step is not None and download.name is None
    assert download.step.name == "raw/cognitivecomputations--dolphin-r1"
    assert download.step.config.revision == "f6ac651"
    assert get_instruction_dataset("HuggingFaceTB/smoltalk", ["test"]).config.splits == ("test",)
    ((_, folder),) = references(get_preference_dataset("Anthropic/hh-rlhf").config)
    assert folder.name == "helpful-base"


def fingerprint_of(step):
    return fingerprint_of_payload(payload_of(step, fingerprint_of))


def no_extra(row):
    return {}


def test_all_that_is_said_counts():
    ways = [
        {},
        {"revision": "1a2b3c4"},
        {"splits": ["train", "test"]},
        {"subsets": ["en"]},
        {"data_dir": "en"},
        {"metadata_columns": ["id"]},
        {"max_dropped": 0.1},
        {"adapter": FormatAdapter()},
        {"adapter": multi_turn_adapter(replacements={})},
        {"adapter": multi_turn_adapter(extra_metadata_fn=no_extra)},
        {"adapter": multi_turn_adapter(extra_metadata_fn=reasoning_to_chat_kwargs)},
    ]
    fingerprints = [fingerprint_of(get_instruction_dataset("allenai/tulu-3-sft-mixture", **way)) for way in ways]
    assert len(set(fingerprints)) == len(ways)
    again = get_instruction_dataset("allenai/tulu-3-sft-mixture", adapter=multi_turn_adapter())
    assert fingerprint_of(again) == fingerprints[0]


def test_a_dataset_that_is_not_registered():
    step = get_instruction_dataset("org/new.set", revision="1a2b3c4", subsets=["en"], adapter=multi_turn_adapter())
    assert step.name == "documents/org--new-set" and step.config.subsets == ("en",)
    assert step.config.adapter == multi_turn_adapter()
    assert get_preference_dataset("org/pairs", revision="1a2b3c4").config.adapter == FormatAdapter()


def test_unknown_names():
    with pytest.raises(
        ConfigError, match="unknown dataset 'allenai/tulu-3-sft-mix'; nearest: allenai/tulu-3-sft-mixture"
    ):
        get_instruction_dataset("allenai/tulu-3-sft-mix")
    with pytest.raises(ConfigError, match="pass revision="):
        get_preference_dataset("nobody/knows-this")
    with pytest.raises(ConfigError, match="unknown options .'revison'.; expected fields of InstructionDatasetConfig"):
        get_instruction_dataset("allenai/WildChat", revison="1a2b3c4")


@pytest.mark.parametrize("value", ["on", "ON", True, 1], ids=repr)
def test_reasoning_on(value):
    assert reasoning_to_chat_kwargs({"reasoning": value}) == {"chat_template_kwargs": {"enable_thinking": True}}


@pytest.mark.parametrize("value", ["off", False, 0], ids=repr)
def test_reasoning_off(value):
    assert reasoning_to_chat_kwargs({"reasoning": value}) == {"chat_template_kwargs": {"enable_thinking": False}}


@pytest.mark.parametrize("row", [{}, {"reasoning": None}, {"reasoning": "step by step"}], ids=repr)
def test_reasoning_unsaid(row):
    assert reasoning_to_chat_kwargs(row) == {}
