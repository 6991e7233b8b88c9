"""What cannot be trained or exported, said while planning, or before the first step."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import transformers

from marin_sft.data.tokenizer import load_tokenizer
from marin_sft.errors import ConfigError, ExportError, TrainingError
from marin_sft.export.periodic import PeriodicExports
from marin_sft.steps import dpo, mixture, sft, tokenize
from marin_sft.training.fakes import CountingBatches
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.models.model_check import check_new_tokens
from marin_sft.training.models.model_directory import ModelDirectory
from marin_sft.training.sft import train
from tests.published.releases import RELEASES, write
from tests.training.small_runs import sft_config


@pytest.fixture
def base(tmp_path):
    return write(tmp_path / "base", RELEASES["llama 3.1 instruct"])


def edit(file: Path, **changes) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def planned(base: Path, kind=sft, seq_len: int = 128, **settings) -> None:
    tokens = tokenize("chat", "gs://bucket/rows.jsonl", tokenizer="gs://bucket/tokenizer")
    blend = mixture("chat", {"chat": tokens}, weights={"chat": 1}, seq_len=seq_len)
    settings |= {"learning_rate": 1e-3, "train_batch_size": 2, "num_train_steps": 2}
    kind("chat", mixture=blend, base_model=base, **settings)


AWQ = {"bits": 4, "group_size": 128, "quant_method": "awq", "version": "gemm", "zero_point": True}
LONG_ROPE = {"rope_type": "longrope", "factor": 8.0, "short_factor": [1.0] * 4, "long_factor": [8.0] * 4}
REFUSED = {
    "quantized": ({"quantization_config": AWQ}, "quantization_config = .*awq.*use another base model"),
    "positions scaled by the text": ({"rope_scaling": LONG_ROPE}, "rope_scaling of type 'longrope': expected one"),
    "of another family": ({"model_type": "gpt2"}, "model_type 'gpt2': expected one of llama, mistral, qwen2"),
    "gemma 3 with images": ({"model_type": "gemma3"}, "model_type 'gemma3': expected one of"),
    "biases": ({"attention_bias": True}, "attention_bias = True: expected False"),
}


@pytest.mark.parametrize("kind", [sft, dpo])
@pytest.mark.parametrize(("fields", "message"), REFUSED.values(), ids=REFUSED)
def test_a_model_that_cannot_be_trained_is_refused_when_planned(base, kind, fields, message):
    edit(base / "config.json", **fields)
    with pytest.raises(ConfigError, match=f"model {base}: config.json: {message}"):
        planned(base, kind)


def test_a_directory_that_is_no_model_is_refused_when_planned(base):
    for file in base.glob("model*"):
        file.unlink()
    (base / "pytorch_model.bin").touch()
    with pytest.raises(ConfigError, match=r"no model.safetensors in .*pytorch_model.bin.*save_pretrained writes"):
        planned(base)
    (base / "config.json").unlink()
    with pytest.raises(ConfigError, match="no config.json in .*: expected a Hugging Face model directory"):
        planned(base)


def test_rows_longer_than_the_model_takes_are_refused_when_planned(base):
    planned(base, seq_len=256)
    with pytest.raises(
        ConfigError, match=r"max_position_embeddings = 256 .*rows of 257 tokens; expected at most 256 \(seq_len"
    ):
        planned(base, seq_len=257)
    planned(base, dpo, seq_len=257)  # for pairs it is a limit, which none may reach


LLAMA_3_ROPE = {"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def test_the_setting_for_longer_rows_is_checked_when_planned(base):
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    planned(base, seq_len=512, rope_scaling=yarn)
    with pytest.raises(ConfigError, match="max_position_embeddings = 512 .*rows of 513 tokens; .* rope_scaling in the"):
        planned(base, seq_len=513, rope_scaling=yarn)
    with pytest.raises(ConfigError, match=r"rope_scaling of type 'llama3'; give original_max_position_embeddings, the"):
        planned(base, rope_scaling={"rope_type": "yarn", "factor": 4.0})
    edit(base / "config.json", rope_scaling=None)
    planned(base, seq_len=1024, rope_scaling={"type": "yarn", "factor": 4})
    planned(base, seq_len=512, rope_scaling={"rope_type": "linear", "factor": 2.0})
    planned(base, seq_len=512, rope_scaling={**LLAMA_3_ROPE, "original_max_position_embeddings": 256})


def test_a_yarn_of_a_model_card_allows_longer_rows(base):
    """Cards leave max_position_embeddings as it was."""
    rope = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}
    edit(base / "config.json", rope_scaling=rope)
    planned(base, seq_len=1024)
    with pytest.raises(ConfigError, match="rows of 1025 tokens; expected at most 1024"):
        planned(base, seq_len=1025)


@pytest.mark.parametrize("kind", [sft, dpo])
@pytest.mark.parametrize(
    ("rope_scaling", "message"),
    [
        ("yarn", "expected a mapping"),
        ({}, "expected rope_type yarn, linear, llama3, as in "),
        ({"factor": 4.0}, "expected rope_type yarn"),
        ({"rope_type": "dynamic", "factor": 4.0}, "expected rope_type yarn"),
        ({"rope_type": "yarn"}, "expected factor, too"),
        ({"rope_type": "yarn", "factor": "4"}, "expected a number for factor"),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": -1}, "expected a number for orig"),
        ({"rope_type": "yarn", "factor": 0.25}, "expected a factor of at least 1"),
        ({"rope_type": "yarn", "factor": 4.0, "beta_fst": 32}, "expected only .*did you mean 'beta_fast'"),
        ({"rope_type": "yarn", "factor": 4.0, "truncate": 1}, "expected True or False for truncate"),
        (LLAMA_3_ROPE, "expected original_max_position_embeddings, too"),
    ],
)
def test_a_setting_for_longer_rows_that_cannot_be_used_is_refused(base, kind, rope_scaling, message):
    with pytest.raises(ConfigError, match=rf"Config.rope_scaling = .*: {message}"):
        planned(base, kind, rope_scaling=rope_scaling)


def train_with(base: Path, output: Path, tokenizer: Path, **changes) -> None:
    """A run on batches of its own, which says that it is on tokens of `tokenizer`."""
    from marin_sft.data.tokenizer import vocabulary_hash, vocabulary_sample, vocabulary_size

    loaded = load_tokenizer(str(tokenizer))
    output.mkdir()
    stats: dict = {"vocabulary": vocabulary_hash(loaded), "vocabulary_size": vocabulary_size(loaded)}
    stats["vocabulary_sample"] = vocabulary_sample(loaded)
    (output / "stats.json").write_text(json.dumps(stats))
    exports = PeriodicExports(base_model=str(base), tokenizer=str(tokenizer), steps=2)
    fields = {"tokenized": {"chat": str(output)}, "hf_exports": exports, **changes}
    config = sft_config(str(base), output, **fields)
    train(config, CountingBatches(vocab_size=40, batch_size=4, length=16))


def test_a_tokenizer_larger_than_the_model_is_refused_before_the_first_step(base, tmp_path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    tokenizer.add_tokens([f"<extra_{i}>" for i in range(20)])
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    message = rf"the tokenizer has {len(tokenizer)} tokens, expected at most vocab_size = 320 .*resize the model's"
    for changes in ({}, {"hf_exports": None}):
        with pytest.raises(TrainingError, match=message):
            train_with(base, tmp_path / f"out{len(changes)}", tmp_path / "tokenizer", **changes)
    assert not list(tmp_path.glob("out*/metrics.jsonl"))


def test_new_tokens_that_an_adapter_would_not_train_are_refused(base, tmp_path):
    """The embeddings have rows for them that nobody trained."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    first = len(tokenizer)
    tokenizer.add_tokens(["<tool>", "</tool>"])
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    message = rf"2 tokens that the tokenizer of .* does not have, ids {first} to {first + 1}: an adapter .*add_tokens"
    with pytest.raises(TrainingError, match=message):
        train_with(base, tmp_path / "out", tmp_path / "tokenizer", lora=LoraConfig(r=1, alpha=1))
    assert not (tmp_path / "out/metrics.jsonl").exists()
    check_new_tokens({"chat": str(tmp_path / "out")}, ModelDirectory(base), [first, first + 1])


def test_a_tokenizer_with_other_ids_than_the_models_own_is_refused(base, tmp_path):
    """Reserved tokens may have other names, and tokens may be added: that is still the model's own."""
    shutil.copytree(base, tmp_path / "tokenizer")
    path = tmp_path / "tokenizer/tokenizer.json"
    tokenizer = json.loads(path.read_text())
    added = {token["content"] for token in tokenizer["added_tokens"]}
    vocabulary = tokenizer["model"]["vocab"]
    names = [name for name in vocabulary if name not in added]
    ids = [vocabulary[name] for name in names]
    vocabulary.update(zip(names, ids[1:] + ids[:1], strict=True))
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(TrainingError, match="another tokenizer than the base model's .*have other ids there"):
        train_with(base, tmp_path / "out", tmp_path / "tokenizer")
    assert not list(tmp_path.glob("out*/metrics.jsonl"))


def test_nor_is_training_begun_whose_exports_would_fail(base, tmp_path):
    edit(base / "config.json", eos_token_id=999)
    edit(base / "generation_config.json", eos_token_id=[999])
    with pytest.raises(ExportError, match="eos_token_id 999: expected ids from 0 to 319"):
        train_with(base, tmp_path / "out", base)
    edit(base / "generation_config.json", eos_token_id=[4])
    edit(base / "config.json", eos_token_id=4, torch_dtype="float8_e4m3fn")
    with pytest.raises(ExportError, match="float8_e4m3fn"):
        train_with(base, tmp_path / "again", base)
    assert not list(tmp_path.glob("*/metrics.jsonl"))


OWN_CODE = "import pathlib; pathlib.Path('ran').touch()\nfrom transformers import *\n"


def test_code_in_a_directory_is_never_run_nor_asked_about(base, tmp_path):
    """Even where somebody would say yes."""
    (base / "own.py").write_text(
        OWN_CODE + "class Own(PreTrainedTokenizerFast): pass\nclass OwnConfig(LlamaConfig): pass\n"
    )
    edit(base / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "own.Own"]}, tokenizer_class="Own")
    edit(base / "config.json", auto_map={"AutoConfig": "own.OwnConfig"})
    program = (
        "import sys; from marin_sft.data.tokenizer import load_tokenizer, load_tokenizer_by_name\n"
        "from marin_sft.training.models.model_check import limits_of\n"
        "from marin_sft.training.models.reinit import token_ids\n"
        "print(limits_of(sys.argv[1]).vocab_size)\n"
        "for load in (load_tokenizer, load_tokenizer_by_name, lambda path: token_ids(path, ['a'])):\n"
        "    try: load(sys.argv[1])\n"
        "    except ValueError as error: print(error)\n"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hub")}
    command = [sys.executable, "-c", program, str(base)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, input="y\n" * 9, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    vocab_size, *refusals = done.stdout.splitlines()
    assert vocab_size == "320" and len(refusals) == 3
    assert all("its own code (auto_map in its tokenizer_config.json), which is never run" in line for line in refusals)
    assert not (tmp_path / "ran").exists() and "Do you wish" not in done.stdout + done.stderr


def test_code_of_a_known_model_is_left_aside(base, tmp_path):
    edit(base / "config.json", auto_map={"AutoConfig": "own.OwnConfig"})
    (base / "own.py").write_text(OWN_CODE)
    exports = PeriodicExports(base_model=str(base), steps=1)
    exports.check(ModelDirectory(base))
