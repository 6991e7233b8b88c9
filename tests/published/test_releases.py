"""Each release: loaded, exported as it is, and served by transformers 4 as the published one is.

What transformers 5 makes of the exports is asked by `benchmarks/serve_families.py`.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from marin_sft.export.hf import ExportConfig, export_hf
from marin_sft.training.models import levanter_model
from marin_sft.training.models.model_config import with_dtype
from marin_sft.training.models.model_directory import ModelDirectory, write_json, write_tensors, writing
from tests.published.releases import RELEASES, TOOLS, write

DIALOGUE = [{"role": "user", "content": "What is 2 + 2?"}]


def untrained(base: Path, output: Path) -> Path:
    """What a training step would leave of `base` without a step."""
    config = with_dtype(ModelDirectory(base).config, "float32")
    with writing(f"{output}/model") as local:
        write_json(local, "config.json", config)
        write_tensors(local, levanter_model.model_tensors(levanter_model.load_model(str(base))))
    return output


@pytest.fixture(scope="module", params=RELEASES)
def exported(request, tmp_path_factory):
    """The release, its directory and that of its export."""
    folder = tmp_path_factory.mktemp("release")
    release = RELEASES[request.param]
    base = write(folder / "base", release)
    checkpoint = untrained(base, folder / "trained")
    export_hf(ExportConfig(checkpoint=str(checkpoint), base_model=str(base), output_path=str(folder / "export")))
    return release, base, folder / "export"


def logits(model, vocab_size: int) -> np.ndarray:
    ids = torch.randint(vocab_size, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(ids).logits.numpy()


def loaded(path: Path, **options):
    options |= {"dtype": torch.float32, "attn_implementation": "eager", "trust_remote_code": False}
    return transformers.AutoModelForCausalLM.from_pretrained(path, **options).eval()


def test_it_serves_as_the_published_model_does(exported):
    _, base, path = exported
    # The fields that transformers 4 does not know, of those that 5 writes, are not what this is about.
    config = transformers.AutoConfig.for_model(**ModelDirectory(base).config)
    theirs, ours = loaded(base, config=config), loaded(path)
    assert np.array_equal(logits(ours, config.vocab_size), logits(theirs, config.vocab_size))
    trained = levanter_model.logits(levanter_model.load_model(str(path)), [[1, 2, 3, 4]])
    with torch.no_grad():
        np.testing.assert_allclose(ours(torch.tensor([[1, 2, 3, 4]])).logits.numpy(), trained, atol=1e-4)


def test_every_tensor_is_the_published_one_bit_for_bit(exported):
    release, base, path = exported
    published, written = (dict(ModelDirectory(directory).tensors()) for directory in (base, path))
    assert written.keys() == published.keys() - release.extra.keys()
    for name, tensor in written.items():
        assert (tensor.dtype, tensor.tobytes()) == (published[name].dtype, published[name].tobytes()), name


def test_every_other_file_is_there(exported):
    _, base, path = exported
    published, written = ({file.name for file in directory.rglob("*")} for directory in (base, path))
    lost = {name for name in published - written if "safetensors" not in name}
    assert not lost
    for name in {"merges.txt", "tokenizer.model"} & published:
        assert (path / name).read_bytes() == (base / name).read_bytes(), name
    for name in {"vocab.json", "tokenizer.json"} & published:
        assert json.loads((path / name).read_text()) == json.loads((base / name).read_text()), name


def test_a_bucket_loses_nothing(tmp_path, gcs):
    """transformers alone would read some files, such as tokenizer.model, only from a local directory."""
    import fsspec

    release = next(release for release in RELEASES.values() if release.sentencepiece is not None)
    base = write(tmp_path / "base", release)
    untrained(base, tmp_path / "trained")
    bucket, there = fsspec.filesystem("gs"), "gs://bucket/round/"
    for name in ("base", "trained"):
        bucket.put(f"{tmp_path / name}/", f"bucket/round/{name}/", recursive=True)
    export_hf(ExportConfig(checkpoint=f"{there}trained", base_model=f"{there}base", output_path=f"{there}export"))
    export_hf(ExportConfig(checkpoint=str(tmp_path / "trained"), base_model=str(base), output_path=f"{tmp_path}/local"))
    written = {path.rpartition("/")[2]: bucket.cat_file(path) for path in bucket.find("bucket/round/export")}
    local = {path.name: path.read_bytes() for path in (tmp_path / "local").iterdir()}
    assert written["tokenizer.model"] == release.sentencepiece
    assert written.keys() == local.keys()
    assert {name for name in local if written[name] != local[name]} <= {"README.md"}  # which names the base


# What docs/guides/serve.md explains, under "What an export changes".
ROPE = {"rope_theta", "rope_scaling", "rope_parameters", "rope_local_base_freq"}
TYPE = {"torch_dtype", "dtype"}
WRITTEN = {"architectures", "eos_token_id", "pad_token_id", "tie_word_embeddings", *ROPE, *TYPE}
DROPPED = {"auto_map", "quantization_config"}
MOVED = {"cache_implementation"}


def test_config_json_is_the_published_one_but_for_what_is_explained(exported):
    _, base, path = exported
    published, written, generation = (
        json.loads((directory / name).read_text())
        for directory, name in ((base, "config.json"), (path, "config.json"), (path, "generation_config.json"))
    )
    changed = {*WRITTEN, *DROPPED, *MOVED, *(["hidden_act"] if published["model_type"] == "gemma" else [])}
    kept = {name: value for name, value in published.items() if name not in changed and not name.startswith("_")}
    assert {name: written.get(name) for name in kept} == kept
    assert written.keys() - published.keys() <= WRITTEN
    assert all(generation[name] == published[name] for name in MOVED & published.keys())


def test_the_tokenizers_settings_are_the_published_ones_but_for_what_is_explained(exported):
    release, base, path = exported
    published, written = (json.loads((d / "tokenizer_config.json").read_text()) for d in (base, path))
    explained = {"tokenizer_class", "padding_side", "model_input_names", "chat_template"}
    if release.tokenizer_files == "vocabulary and merges":  # ids of the added tokens are those that readers give them
        explained |= {"added_tokens_decoder", "errors", "split_special_tokens"}
    differ = {name for name in {*published, *written} if published.get(name) != written.get(name)}
    assert differ <= explained
    texts = [json.loads((d / "special_tokens_map.json").read_text()) for d in (base, path)]
    assert _contents(texts[0]).items() <= _contents(texts[1]).items()


def _contents(tokens: dict) -> dict:
    """Tokens by name, whether each is written as text or with its settings."""

    def text_of(token):
        if isinstance(token, list):
            return [text_of(each) for each in token]
        return token["content"] if isinstance(token, dict) else token

    return {name: text_of(token) for name, token in tokens.items()}


def test_the_weights_are_stored_in_the_published_type(exported):
    release, _, path = exported
    config = json.loads((path / "config.json").read_text())
    stored = dict(ModelDirectory(path).tensors())
    published = release.config.get("torch_dtype") or release.config["dtype"]
    assert {tensor.dtype.name for tensor in stored.values()} == {published} == {config["torch_dtype"]}
    assert ("lm_head.weight" in stored) == (not config["tie_word_embeddings"])


def test_the_config_names_no_place_and_no_code(exported):
    _, _, path = exported
    config = json.loads((path / "config.json").read_text())
    assert not [name for name in config if name.startswith("_") or name == "auto_map"]
    assert config["architectures"] != ["LLaMAForCausalLM"]
    assert config["pad_token_id"] is None or config["pad_token_id"] >= 0


def test_answers_end_where_the_publishers_ended_them(exported):
    release, base, path = exported
    generation = transformers.GenerationConfig.from_pretrained(path)
    published = json.loads((base / "config.json").read_text())["eos_token_id"]
    published = published if isinstance(published, list) else [published]
    if release.generation is None:
        assert set(generation.eos_token_id) >= set(published)
        return
    stored = json.loads((base / "generation_config.json").read_text())
    ends = stored.pop("eos_token_id")
    assert set(generation.eos_token_id) >= set(ends if isinstance(ends, list) else [ends])
    written = json.loads((path / "generation_config.json").read_text())
    kept = {name: value for name, value in stored.items() if name != "_from_model_config" and value != -1}
    assert kept.items() <= written.items()
    assert written.get("pad_token_id", 0) >= 0


def test_the_tokenizer_gives_the_published_ids(exported):
    release, base, path = exported
    theirs, ours = (transformers.AutoTokenizer.from_pretrained(p, trust_remote_code=False) for p in (base, path))
    text = "<s> Où est  l'été?\n<|im_end|> 12345"
    assert ours.encode(text) == theirs.encode(text)
    assert ours.apply_chat_template(DIALOGUE) == theirs.apply_chat_template(DIALOGUE)
    if not release.tokenizer_files.startswith("templates"):
        assert isinstance(json.loads((path / "tokenizer_config.json").read_text())["chat_template"], str)
        return
    options = {"chat_template": "tool_use", "tools": [{"name": "calculator"}], "tokenize": False}
    rendered = ours.apply_chat_template(DIALOGUE, **options)
    assert rendered == theirs.apply_chat_template(DIALOGUE, **options)
    stored = json.loads((path / "tokenizer_config.json").read_text())["chat_template"]
    assert [sorted(each) for each in stored] == [["name", "template"]] * 2
    assert {each["name"]: each["template"].startswith(TOOLS) for each in stored} == {"default": False, "tool_use": True}
