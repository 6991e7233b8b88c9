"""The wheel, installed without the checkout: an experiment in somebody's own repository plans and runs."""

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# The repository has a package `experiments` of its own, as Marin's has.
ROWS = """
import json
from pathlib import Path

DATA = Path(__file__).with_name("rows.jsonl")
ROWS = [{"instruction": f"What is {n} + {n}?", "response": str(2 * n)} for n in range(40)]
DATA.write_text("".join(json.dumps(row) + "\\n" for row in ROWS))
"""
EXPERIMENT = """
import marin_sft
from experiments.rows import DATA
from marin_sft import executor_main
from marin_sft.data import ChatLmDatasetFormat
from marin_sft.recipes.defaults import default_sft, default_tokenize
from marin_sft.recipes.instruction_datasets import get_instruction_dataset
from marin_sft.recipes.llama import llama_8b, llama_nano
from marin_sft.recipes.simple_configs import SimpleSFTConfig
from marin_sft.steps import mixture, random_model, sft, tokenize, train_tokenizer

tokenizer = train_tokenizer("mine", [DATA], vocab_size=320)
tokenized = {"mine": tokenize("mine", DATA, tokenizer=tokenizer, format=ChatLmDatasetFormat())}
blend = mixture("mine", tokenized, weights={"mine": 1}, seq_len=64)
base = random_model("mine", llama_nano, tokenizer=tokenizer)
trained = sft("mine", mixture=blend, base_model=base, learning_rate=1e-3, train_batch_size=4, num_train_steps=2)

TOKENIZER, MODEL = "meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B"
tulu = get_instruction_dataset("allenai/tulu-v2-sft-mixture", splits=["train"])
tokens = default_tokenize("tulu", tulu / "**/*.jsonl.gz", TOKENIZER, ChatLmDatasetFormat())
tuned = default_sft("tulu", tokens, llama_8b, SimpleSFTConfig(tpu_type="v4-128", model_name_or_path=MODEL))

if __name__ == "__main__":
    print("FROM", marin_sft.__file__)
    executor_main(steps=[trained, tuned])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> Path:
    """Of a fresh environment with the wheel, and what our own has from the lock files, but for the checkout."""
    environment = tmp_path_factory.mktemp("environment")
    run([sys.executable, "-m", "venv", "--without-pip", environment], ROOT)
    interpreter = environment / "bin/python"
    run([sys.executable, "-m", "pip", "--python", interpreter, "install", "-q", "--no-deps", "--no-index", wheel], ROOT)
    (site_packages,) = environment.glob("lib/python*/site-packages")
    # A path in a .pth file is searched for modules, but its own .pth files, such as the checkout's, are not read.
    (site_packages / "locked.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return interpreter


def run(command: list[object], directory: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=directory, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_holds_our_package_alone(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    folders = {name.partition("/")[0] for name in names}
    assert folders == {"marin_sft", f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"}
    assert "marin_sft/py.typed" in names
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assets = {str(path.relative_to(ROOT)) for path in (ROOT / "marin_sft/run/report/assets").iterdir()}
    assert len(assets) > 10 and assets <= set(names)
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "marin_sft").rglob("*.py")}
    assert sources == {name for name in names if name.endswith(".py")}


def test_an_experiment_in_a_repository_of_its_own(python, tmp_path):
    package = tmp_path / "experiments"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "rows.py").write_text(ROWS)
    (package / "mine.py").write_text(EXPERIMENT)
    script = [python, "-m", "experiments.mine", "--prefix", "store"]

    plan = run([*script, "--dry_run", "--json"], tmp_path)
    where, _, steps = plan.partition("\n")
    assert where.startswith(f"FROM {python.parents[1]}/")
    assert {"checkpoints/mine_seed0", "checkpoints/tulu_seed0"} <= {step["name"] for step in json.loads(steps)}

    assert "3 steps run, 0 cached" in run([*script, "--backend", "inline", "--run_only", "mixtures/mine"], tmp_path)
    path = run([python.parent / "marin-sft", "path", "mixtures/mine", "--prefix", "store"], tmp_path)
    assert (Path(path.strip()) / "mixture.json").exists()
