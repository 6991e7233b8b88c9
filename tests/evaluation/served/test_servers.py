"""Exports of every family in vLLM, and in llama.cpp where its environment has been built: `make served`.

FAMILY=olmo chooses those with that in their names: a server takes a minute or more to start.
"""

import json
import os
from pathlib import Path

import pytest

from marin_sft.errors import ConfigError, ExportError
from marin_sft.evaluation.served.engines import ENGINES
from marin_sft.evaluation.served.ours import Ours
from marin_sft.evaluation.served.questions import questions
from marin_sft.evaluation.served.served import served
from marin_sft.evaluation.step_configs import ServedConfig
from marin_sft.training.models.model_directory import ModelDirectory
from tests.evaluation.served.families import FAMILIES, adapter_of, exported

pytestmark = pytest.mark.torture
NEW_TOKENS = 24
CHOSEN = [name for name in FAMILIES if os.environ.get("FAMILY", "") in name]

# llama.cpp has no sliding window for this architecture, so it serves no more than a window. vLLM takes
# `max_position_embeddings` for the context, which the card leaves as it was before YaRN.
REFUSED = {
    ("llama.cpp", "mistral 0.1"): "the model takes 256 tokens, in llama.cpp 8, too few for prompt 1",
    (
        "vllm",
        "qwen 3, with the yarn of its card",
    ): "context length: the model takes 832 tokens, the server 256; it takes "
    "max_position_embeddings of config.json: set that to 832 there",
}
TRANSFORMERS_5 = Path(__file__).parents[3] / ".peers-vllm/bin/python"  # vLLM's environment has it


def is_there(engine: str) -> bool:
    try:
        return bool(ENGINES[engine].python(None))
    except ConfigError:
        return False


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """The export of a family, made once; None without a file that the engine reads."""
    made: dict[str, Path] = {}

    def export(name: str) -> Path:
        if name not in made:
            made[name] = exported(tmp_path_factory.mktemp("family"), name)
        return made[name]

    return export


@pytest.mark.parametrize("name", CHOSEN)
@pytest.mark.parametrize("engine", ["vllm", "llama.cpp"])
def test_a_family_is_served_as_we_compute_it(engine, name, export, tmp_path):
    if not is_there(engine):
        pytest.skip(f"{engine} is not there; make peers-{engine.replace('.', '')}")
    path = export(name)
    if engine == "llama.cpp" and not list(path.glob("*.gguf")):
        pytest.skip("llama.cpp has no such architecture")
    options = {"engine": engine, "tokenizer": str(path.with_name("base")), "max_new_tokens": NEW_TOKENS}
    config = ServedConfig(model=str(path), output_path=str(tmp_path), **options)
    if (engine, name) in REFUSED:
        with pytest.raises(ExportError, match=REFUSED[engine, name]):
            served(config)
        return
    served(config)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["prompts"] == 20 == metrics["answers_equal"] + metrics["near_ties"]
    assert metrics["stopped"] == metrics["stopped_ours"] > 0 and metrics["prompt_ids_equal"] == 20


@pytest.mark.parametrize("name", [name for name in ("qwen 3", "gemma 3 it") if name in CHOSEN])
def test_transformers_5_serves_a_family_as_we_compute_it(name, export, tmp_path):
    if not TRANSFORMERS_5.exists():
        pytest.skip("transformers 5 is not there; make peers-vllm")
    path = export(name)
    options = {"engine": "transformers", "python": str(TRANSFORMERS_5), "max_new_tokens": NEW_TOKENS}
    served(ServedConfig(model=str(path), tokenizer=str(path.with_name("base")), output_path=str(tmp_path), **options))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["prompts"] == 20 == metrics["answers_equal"] + metrics["near_ties"]
    assert metrics["stopped"] == metrics["stopped_ours"] > 0 and metrics["prompt_ids_equal"] == 20
    assert json.loads((tmp_path / "checks.json").read_text())["engine"].startswith("transformers 5.")


def test_an_adapter_is_served_on_its_base(export, tmp_path):
    if not is_there("vllm"):
        pytest.skip("vllm is not there; make peers-vllm")
    path = export("qwen 3")
    options = {"tokenizer": str(path.with_name("base")), "max_new_tokens": NEW_TOKENS}
    config = ServedConfig(model=adapter_of(path, tmp_path / "adapter"), output_path=str(tmp_path / "out"), **options)
    served(config)
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["prompts"] == 20 == metrics["answers_equal"] + metrics["near_ties"]
    alone = Ours(ServedConfig(model=str(path), **options), ModelDirectory(str(path)))
    asked = questions(config, alone.renderer, alone.max_length)
    answered = [json.loads(line)["ids"]["server"] for line in (tmp_path / "out/answers.jsonl").open()]
    assert answered != alone.answers(asked, NEW_TOKENS)  # it has an effect
