"""GGUF files of models as published, read back with the package `gguf`. What llama.cpp makes of them: `make gguf`."""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from marin_sft.errors import ExportError
from marin_sft.export.gguf.file import write_gguf
from marin_sft.export.gguf.metadata import rope_factors
from marin_sft.export.hf import ExportConfig, export_hf
from marin_sft.export.periodic import PeriodicExports
from marin_sft.training.models.model_directory import ModelDirectory
from tests.published.releases import LLAMA_3_ROPE, RELEASES, TOOLS, WINDOW, write

FAMILIES = ["llama 3.1 instruct", "mistral 0.1", "qwen 2.5 instruct", "qwen 3, with the yarn of its card", "gemma 1"]
FAMILIES += ["gemma 2 it", "gemma 3 it", "olmo 2", "olmo 3 think"]
CHANGES = {"gemma 2 it": {"query_pre_attn_scalar": 16}}  # llama.cpp knows no other
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
# Where the norms of a layer stand otherwise.
AFTER = {"post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm"}
AFTER |= {"post_feedforward_layernorm": "post_ffw_norm"}


def published(folder: Path, name: str) -> Path:
    release = RELEASES[name]
    files = release.tokenizer_files
    if files == "vocabulary and merges":  # loaded from these, the special tokens of so few have other ids
        files = "template in the config"
    config = {**release.config, **CHANGES.get(name, {})}
    return write(folder, replace(release, config=config, tokenizer_files=files))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A release by name, with its GGUF file of type f32."""
    made: dict[str, Path] = {}

    def model(name: str) -> Path:
        if name not in made:
            made[name] = published(tmp_path_factory.mktemp("release"), name)
            write_gguf(str(made[name]), "f32", title=name)
        return made[name]

    return model


def read(model: Path, type: str = "f32") -> gguf.GGUFReader:
    return gguf.GGUFReader(model / f"model-{type}.gguf")


def value(reader: gguf.GGUFReader, key: str):
    architecture = reader.get_field("general.architecture").contents()
    field = reader.get_field(key.replace("ARCH", architecture))
    return None if field is None else field.contents()


def name_of(source: str, family: str) -> str:
    names = NAMES if family.startswith(("llama", "mistral", "qwen", "gemma 1")) else {**NAMES, **AFTER}
    module, _, kind = source.rpartition(".")
    layer = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", module)
    return f"{names[module]}.{kind}" if layer is None else f"blk.{layer[1]}.{names[layer[2]]}.{kind}"


def halves(rows: np.ndarray, head: int) -> np.ndarray:
    """Rows of neighbouring pairs, as transformers has them: the first of all pairs, then the second."""
    order = [h * head + 2 * i + j for h in range(len(rows) // head) for j in range(2) for i in range(head // 2)]
    return rows[order]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_is_the_exported_one(models, family):
    model = models(family)
    stored, config = dict(ModelDirectory(model).tensors()), ModelDirectory(model).config
    found = {tensor.name: tensor.data for tensor in read(model).tensors}
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    for source, expected in stored.items():
        got = found.pop(name_of(source, family))
        if family.startswith(("llama", "mistral")) and source.endswith(("q_proj.weight", "k_proj.weight")):
            got = halves(got, head)
        exact = expected.astype(np.float32) + (1 if family.startswith("gemma") and "norm" in source else 0)
        assert got.dtype == np.float32 and np.array_equal(got, exact), source
    assert set(found) <= {"rope_freqs.weight"}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_sizes_of_the_model_are_said(models, family):
    reader, config = read(models(family)), transformers.AutoConfig.from_pretrained(models(family))
    assert value(reader, "ARCH.embedding_length") == config.hidden_size
    assert value(reader, "ARCH.block_count") == config.num_hidden_layers
    assert value(reader, "ARCH.attention.head_count") == config.num_attention_heads
    assert value(reader, "ARCH.attention.head_count_kv") == config.num_key_value_heads
    assert value(reader, "ARCH.feed_forward_length") == config.intermediate_size
    assert value(reader, "ARCH.attention.layer_norm_rms_epsilon") == pytest.approx(config.rms_norm_eps)
    assert value(reader, "ARCH.vocab_size") == config.vocab_size == len(value(reader, "tokenizer.ggml.tokens"))
    assert value(reader, "general.name") == family


def test_positions_are_those_of_the_config(models):
    llama = read(models("llama 3.1 instruct"))
    assert value(llama, "ARCH.rope.freq_base") == 500000.0
    factors = next(tensor.data for tensor in llama.tensors if tensor.name == "rope_freqs.weight")
    assert LLAMA_3_ROPE["factor"] == 8.0 and factors.tolist() == [1.0, 8.0, 8.0, 8.0]

    qwen = read(models("qwen 3, with the yarn of its card"))
    assert value(qwen, "ARCH.rope.scaling.type") == "yarn"
    assert value(qwen, "ARCH.rope.scaling.factor") == 4.0
    assert value(qwen, "ARCH.rope.scaling.original_context_length") == 208
    assert value(qwen, "ARCH.context_length") == 832

    olmo = read(models("olmo 3 think"))
    told = RELEASES["olmo 3 think"].config["rope_scaling"]["attention_factor"]
    assert value(olmo, "ARCH.rope.scaling.attn_factor") == pytest.approx(told / (0.1 * math.log(8.0) + 1))
    assert value(olmo, "ARCH.attention.sliding_window") == WINDOW
    assert value(olmo, "ARCH.attention.sliding_window_pattern") == [True, False]

    gemma = read(models("gemma 3 it"))
    assert (value(gemma, "ARCH.rope.freq_base"), value(gemma, "ARCH.rope.freq_base_swa")) == (1e6, 1e4)
    assert (value(gemma, "ARCH.rope.scaling.type"), value(gemma, "ARCH.rope.scaling.factor")) == ("linear", 8.0)
    capped = read(models("gemma 2 it"))
    assert value(capped, "ARCH.attn_logit_softcapping") == 50.0
    assert value(capped, "ARCH.final_logit_softcapping") == 30.0


def test_a_head_that_is_tied_is_left_out(tmp_path):
    model = published(tmp_path / "model", "llama 3.2, its tied head stored")
    assert "lm_head.weight" in ModelDirectory(model).tensors()
    write_gguf(str(model), "f32", title="m")
    assert "output.weight" not in [tensor.name for tensor in read(model).tensors]


def test_tensors_that_every_reader_computes_are_left_out(tmp_path):
    """llama.cpp would count them, and refuse the file."""
    model = published(tmp_path / "model", "llama 1")
    assert any(name.endswith("rotary_emb.inv_freq") for name in ModelDirectory(model).tensors())
    write_gguf(str(model), "f32", title="m")
    assert not [tensor.name for tensor in read(model).tensors if "rot" in tensor.name]


def test_frequencies_of_llama_3_are_slowed_as_in_transformers():
    scaling = {**LLAMA_3_ROPE, "original_max_position_embeddings": 8192}
    fields = {"hidden_size": 64, "num_attention_heads": 1, "head_dim": 64, "rope_theta": 5e5, "rope_scaling": scaling}
    config = transformers.LlamaConfig(**fields, max_position_embeddings=131072)
    expected, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    factors = np.array(rope_factors(fields))
    np.testing.assert_allclose(5e5 ** -(np.arange(0, 64, 2) / 64) / factors, expected.numpy(), rtol=1e-5)
    assert len({round(factor, 3) for factor in factors}) > 4  # some are in between


def test_a_window_that_llama_cpp_does_not_know_limits_the_context(tmp_path, models):
    limits = write_gguf(str(published(tmp_path / "model", "mistral 0.1")), None, title="m")
    assert f"llama.cpp knows no sliding window in this model, so it takes {WINDOW} tokens, not 256" in limits
    assert value(read(models("mistral 0.1")), "ARCH.context_length") == WINDOW


@pytest.mark.parametrize(("type", "stored"), [("f16", "F16"), ("bf16", "BF16"), ("q8_0", "Q8_0"), (None, "BF16")])
def test_types(tmp_path, models, type, stored):
    model = Path(shutil.copytree(models("qwen 3, with the yarn of its card"), tmp_path / "model"))
    write_gguf(str(model), type, title="q")
    exact = {tensor.name: tensor.data for tensor in read(model).tensors}
    for tensor in read(model, type or "bf16").tensors:
        got = gguf.dequantize(tensor.data, tensor.tensor_type)
        if exact[tensor.name].ndim < 2:
            assert tensor.tensor_type.name == "F32"
            assert np.array_equal(got, exact[tensor.name])
        elif stored == "Q8_0" and exact[tensor.name].shape[-1] % 32:
            assert tensor.tensor_type.name == "F16"  # rows of 48 numbers are no whole blocks
        else:
            assert tensor.tensor_type.name == stored
            step = np.abs(exact[tensor.name]).max() / 127
            assert np.abs(got - exact[tensor.name]).max() <= {"Q8_0": step, "F16": 1e-3, "BF16": 0}[stored]


def test_values_that_f16_cannot_hold_are_refused(tmp_path):
    from marin_sft.training.models.model_directory import write_tensors

    model = published(tmp_path / "model", "olmo 2")
    tensors = dict(ModelDirectory(model).tensors())
    tensors["lm_head.weight"][3, 4] = 1e5
    write_tensors(str(model), tensors)
    with pytest.raises(ExportError, match=r"lm_head.weight has values that are not finite as f16.*bf16"):
        write_gguf(str(model), "f16", title="m")
    write_gguf(str(model), "bf16", title="m")


def test_an_export_has_both_files_and_the_same_bytes_each_time(tmp_path, capfd):
    base = published(tmp_path / "base", "llama 3.1 instruct")
    (base / "README.md").write_text("---\nlicense: llama3.1\n---\n# Llama\n")
    provenance = {"id": "meta-llama/Llama-3.1-8B-Instruct", "commit": "0e9e39f"}
    (base / ".provenance.json").write_text(json.dumps(provenance))
    shutil.copytree(base, tmp_path / "trained" / "model")
    outputs = []
    for name in ("one", "two"):
        settings = {"formats": ("hf", "gguf"), "gguf_type": "q8_0", "output_path": str(tmp_path / name)}
        export_hf(ExportConfig(checkpoint=str(tmp_path / "trained"), base_model=str(base), **settings))
        outputs.append({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()})
    assert outputs[0] == outputs[1]
    assert {"model.safetensors", "model-q8_0.gguf", "Modelfile"} <= outputs[0].keys()
    assert "Ollama leaves them out" in capfd.readouterr().err
    reader = read(tmp_path / "one", "q8_0")
    assert value(reader, "general.license") == "llama3.1"
    assert value(reader, "general.base_model.0.name") == "Llama-3.1-8B-Instruct"
    assert value(reader, "general.base_model.0.repo_url") == "https://huggingface.co/meta-llama/Llama-3.1-8B-Instruct"
    assert value(reader, "general.sampling.temp") == pytest.approx(0.6)
    assert value(reader, "general.sampling.top_p") == pytest.approx(0.9)


def test_exports_on_the_way_have_it_too_and_are_checked_before_training(tmp_path):
    base = ModelDirectory(published(tmp_path / "base", "gemma 3 it"))
    exports = PeriodicExports(steps=1, base_model=base.path, formats=("hf", "gguf"))
    exports.check(base)
    exports.write(str(tmp_path / "step-1"), base.tensors(), base, {})
    assert value(read(tmp_path / "step-1", "bf16"), "general.architecture") == "gemma3"
    unknown = ModelDirectory(write(tmp_path / "unknown", RELEASES["gemma 2 it"]))
    exports = PeriodicExports(steps=1, base_model=unknown.path, formats=("hf", "gguf"))
    with pytest.raises(ExportError, match="query_pre_attn_scalar"):
        exports.check(unknown)


def test_all_chat_templates_are_kept(models):
    reader = read(models("hermes on qwen 2.5"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(models("hermes on qwen 2.5"))
    assert value(reader, "tokenizer.chat_template") == tokenizer.chat_template["default"]
    assert value(reader, "tokenizer.chat_template.tool_use") == TOOLS + tokenizer.chat_template["default"]
    assert value(read(models("olmo 2")), "tokenizer.chat_template") == (
        transformers.AutoTokenizer.from_pretrained(models("olmo 2")).chat_template
    )


def test_a_damaged_file_is_not_published(tmp_path, monkeypatch):
    model = published(tmp_path / "model", "olmo 2")
    close = gguf.GGUFWriter.close

    def damaged(writer):
        close(writer)
        with open(model / "model-f32.gguf", "r+b") as file:
            file.seek(-100, 2)
            file.write(b"\xff" * 50)

    monkeypatch.setattr(gguf.GGUFWriter, "close", damaged)
    with pytest.raises(ExportError, match="read back is not the exported one"):
        write_gguf(str(model), "f32", title="m")
