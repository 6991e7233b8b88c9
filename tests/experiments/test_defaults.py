import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.defaults import TOKENIZER_FILES, default_download, default_tokenize
from experiments.instruction_datasets import get_instruction_dataset
from experiments.llama import llama3_tokenizer
from experiments.marin_models import marin_tokenizer
from marin_sft.data import ChatLmDatasetFormat
from marin_sft.data.adapters import UnchangedAdapter
from marin_sft.data.chat.renderer import encode_chat
from marin_sft.data.sources import HfDataset
from marin_sft.data.token_cache import TokenCache
from marin_sft.data.tokenizer import load_tokenizer
from marin_sft.data.train_tokenizer import TrainTokenizerConfig, train_tokenizer
from marin_sft.errors import ConfigError
from marin_sft.execution.identity import fingerprint_of_payload, payload_of
from marin_sft.execution.step import InputName
from marin_sft.recipes.hub_revisions import id_and_revision
from tests.experiments.schemas import INSTRUCTIONS
from tests.hub_server import HubServer

ROOT = Path(__file__).parents[2]
TULU = "allenai/tulu-3-sft-mixture"


def train_step(**options):
    return default_tokenize("x", get_instruction_dataset(TULU) / "**/*.jsonl.gz", marin_tokenizer, **options)


def test_download():
    step = default_download("raw/x", "org/x", "1a2b3c4", "raw/mine", allow_patterns=["data/*"])
    assert (step.name, step.override_output_path, step.description) == ("raw/x", "raw/mine", "org/x at 1a2b3c4")
    assert (step.config.id, step.config.kind, step.config.allow_patterns) == ("org/x", "dataset", ("data/*",))


def test_tokenizer_from_the_hub():
    step = train_step()
    assert step.name == "tokenized/x"
    tokenizer = step.config.tokenizer
    assert tokenizer.name == "tokenizers/marin-community--marin-tokenizer"
    assert tokenizer.config.revision == "a5ca45f2feb6c959bd87b81689aa7279b5bdcaa2"
    assert tokenizer.config.kind == "model" and tokenizer.config.allow_patterns == TOKENIZER_FILES


def test_revisions():
    assert id_and_revision(llama3_tokenizer) == ("meta-llama/Llama-3.1-8B", "d04e592bb4f6aa9cfee91e2e20afa771667e1d4b")
    assert id_and_revision("meta-llama/Meta-Llama-3.1-8B@v1") == ("meta-llama/Llama-3.1-8B", "v1")
    assert id_and_revision("org/unpinned") == ("org/unpinned", "main")


def test_tokenizer_from_elsewhere(tmp_path):
    step = get_instruction_dataset(TULU)
    assert default_tokenize("x", "x.jsonl", step).config.tokenizer is step
    assert default_tokenize("x", "x.jsonl", "gs://bucket/tokenizer").config.tokenizer == "gs://bucket/tokenizer"
    (tmp_path / "tokenizer.json").touch()
    assert default_tokenize("x", "x.jsonl", str(tmp_path)).config.tokenizer == tmp_path
    with pytest.raises(ConfigError, match="tokenizer='no/such/directory'; expected a step"):
        default_tokenize("x", "x.jsonl", "no/such/directory")


def test_rows_from_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    step = default_tokenize("x", "yahma/alpaca-cleaned@1a2b3c4", marin_tokenizer)
    (rows,) = step.config.train_paths
    assert rows.name == "**/*.jsonl.gz" and rows.step.name == "documents/yahma--alpaca-cleaned"
    assert (rows.step.config.splits, rows.step.config.adapter) == (("train",), UnchangedAdapter())
    assert rows.step.config.input_path.config.revision == "1a2b3c4"
    validation = default_tokenize("x", "org/chats", marin_tokenizer, is_validation=True).config
    assert validation.train_paths == () and validation.validation_paths[0].step.config.splits == ("validation",)
    subset = HfDataset("org/chats", "v1", subset="en", split="train[:10%]")
    transform = default_tokenize("x", subset, marin_tokenizer).config.train_paths[0].step.config
    assert (transform.subsets, transform.splits) == (("en",), ("train[:10%]",))
    assert default_tokenize("x", "data/x.jsonl.gz", marin_tokenizer).config.train_paths != (Path("data/x.jsonl.gz"),)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/x.jsonl.gz").touch()
    assert default_tokenize("x", "data/x.jsonl.gz", marin_tokenizer).config.train_paths == (Path("data/x.jsonl.gz"),)


HELD_OUT = {
    "a glob": "data/test/*.jsonl",
    "a file": "my_validation_set.jsonl",
    "a place in a step": get_instruction_dataset(TULU) / "test/*.jsonl.gz",
    "a split of a step that is taken whole": get_instruction_dataset(TULU, splits=["train", "test"]) / "**/*.jsonl.gz",
    "a step that is taken whole": get_instruction_dataset(TULU, splits=["validation[:5%]"]),
    "a split on the hub": HfDataset("org/x", split="test"),
    "a hardcoded path": InputName.hardcoded("raw/test.jsonl"),
}


@pytest.mark.parametrize("dataset", HELD_OUT.values(), ids=HELD_OUT)
def test_training_on_held_out_data_is_refused(dataset):
    with pytest.raises(ConfigError, match="default_tokenize.'x'.: would train on .*allow_test_in_train"):
        default_tokenize("x", dataset, marin_tokenizer)
    assert default_tokenize("x", dataset, marin_tokenizer, allow_test_in_train=True).config.train_paths
    assert default_tokenize("x", dataset, marin_tokenizer, is_validation=True).config.validation_paths


@pytest.mark.parametrize("dataset", ["data/latest/*.jsonl", "contest.jsonl", "testing.jsonl"])
def test_other_words_are_not_held_out_data(dataset):
    assert default_tokenize("x", dataset, marin_tokenizer).config.train_paths == (Path(dataset),)


def test_one_split_of_a_step_with_several():
    both = get_instruction_dataset(TULU, splits=["train", "test"])
    assert default_tokenize("x", both / "train/*.jsonl.gz", marin_tokenizer).config.validation_paths == ()


def test_a_directory_counts_by_content(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.jsonl").touch()
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved/tokenizer.json").write_text("{}")
    before = fingerprint_of(default_tokenize("x", "x.jsonl", str(tmp_path / "moved")))
    (tmp_path / "moved").rename(tmp_path / "again")
    assert fingerprint_of(default_tokenize("x", "x.jsonl", str(tmp_path / "again"))) == before
    (tmp_path / "again/tokenizer.json").write_text("[]")
    edited = fingerprint_of(default_tokenize("x", "x.jsonl", str(tmp_path / "again")))
    assert edited != before
    (tmp_path / "x.jsonl").write_text("{}")
    assert fingerprint_of(default_tokenize("x", "x.jsonl", str(tmp_path / "again"))) != edited


def fingerprint_of(step):
    return fingerprint_of_payload(payload_of(step, fingerprint_of))


def test_levanters_format():
    levanter = pytest.importorskip("levanter.data.text")
    ours = train_step(format=levanter.ChatLmDatasetFormat(chat_template="x", mask_user_turns=False)).config.format
    assert ours == ChatLmDatasetFormat(chat_template="x", mask_user_turns=False)


EXPERIMENT = """
from experiments.defaults import default_tokenize
from experiments.instruction_datasets import get_instruction_dataset
from marin_sft import executor_main
from marin_sft.data import ChatLmDatasetFormat

# The seed's spelling.
instruction_dataset = get_instruction_dataset("allenai/tulu-3-sft-mixture", splits=["train"])
tulu = default_tokenize(
    name="tulu",
    dataset=instruction_dataset / "**/*.jsonl.gz",
    tokenizer="org/tiny",
    format=ChatLmDatasetFormat(input_field="user", output_field="assistant"),
)
alpaca = default_tokenize("alpaca", "yahma/alpaca-cleaned@12567cabf869d7c92e573c7c783905fc160e9639", "org/tiny@v1")
local = default_tokenize("local", instruction_dataset / "train/*.jsonl.gz", "tokenizer")
if __name__ == "__main__":
    run = executor_main(steps=[tulu, alpaca, local])
    for step in (tulu, alpaca, local):
        print("PATH", run.output_path(step))
    import sys
    print("HEAVY", sorted({"numpy", "pyarrow", "datasets", "transformers", "jax", "ray"} & set(sys.modules)))
"""


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """Runs the experiment with flags, with a hub or none: stdout. Its tokenizer lies in `experiment.tokenizer`."""
    root = tmp_path_factory.mktemp("defaults")
    rows = [{"messages": row["messages"]} for row in INSTRUCTIONS[TULU].rows["train"]]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train_tokenizer(TrainTokenizerConfig((str(root / "rows.jsonl"),), 300, output_path=str(root / "tokenizer")))
    (root / "experiment.py").write_text(EXPERIMENT)

    def run(environment, *flags):
        done = subprocess.run(
            [sys.executable, root / "experiment.py", "--prefix", root / "store", *flags],
            env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
            cwd=root,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run.tokenizer = root / "tokenizer"
    return run


def test_planning_needs_no_network(experiment):
    stdout = experiment({"HF_ENDPOINT": "http://127.0.0.1:9"}, "--dry_run")
    assert "tokenizers/org--tiny" in stdout and "HEAVY []" in stdout


def test_from_the_hub_to_tokens(experiment, tmp_path):
    files = {path.name: path.read_bytes() for path in experiment.tokenizer.iterdir()}
    tulu, alpaca = INSTRUCTIONS[TULU], INSTRUCTIONS["yahma/alpaca-cleaned"]
    with HubServer() as hub:
        hub.add_model("org/tiny", {**files, "model.safetensors": b"weights"}, tag="v1")
        hub.add_dataset(TULU, tulu.files, tag="55e9fd6")
        hub.add_dataset("yahma/alpaca-cleaned", alpaca.files, tag="12567cabf869d7c92e573c7c783905fc160e9639")
        stdout = experiment(hub.environment(home=tmp_path / "home"), "--backend", "inline")
        assert not any("safetensors" in path for _, path in hub.requests if "resolve" in path)
    paths = [line.removeprefix("PATH ") for line in stdout.splitlines() if line.startswith("PATH")]
    tokenizer = load_tokenizer(str(experiment.tokenizer))
    for path, published in zip(paths, (tulu, alpaca, tulu), strict=True):
        rows = published.rows["train"]
        documents = TokenCache.open(f"{path}/train").read(range(len(rows)))
        wanted = [encode_chat(tokenizer, row["messages"], ChatLmDatasetFormat()) for row in rows]
        assert [d.input_ids.tolist() for d in documents] == [w.input_ids.tolist() for w in wanted]
        assert [d.mask.tolist() for d in documents] == [w.mask.tolist() for w in wanted]
