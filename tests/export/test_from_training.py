import dataclasses

import pytest

from marin_sft.data.formats import ChatLmDatasetFormat, TextLmDatasetFormat
from marin_sft.errors import ConfigError
from marin_sft.execution.graph import build_graph
from marin_sft.steps import download, export, mixture, sft, tokenize
from tests.published import releases

TOKENIZER = download("tok", hf_tokenizer_id="org/tok", revision="abcdef1")
BASE = download("base", hf_model_id="org/base", revision="abcdef1")


def tokens(name: str, format=None):
    rows = download(name, hf_dataset_id=f"org/{name}", revision="abcdef1") / "train.jsonl"
    return tokenize(name, rows, tokenizer=TOKENIZER, format=format)


def trained(components: dict, weights: dict, **options):
    blend = mixture("blend", components, weights=weights, seq_len=64)
    return sft(
        "mine", mixture=blend, base_model=BASE, train_batch_size=4, num_train_steps=5, learning_rate=1e-5, **options
    )


def test_the_card_names_what_was_trained_on():
    step = trained({"chat": tokens("chat"), "held_out": tokens("held_out")}, {"chat": 1})
    card = export("mine", step).config.card
    assert card.title == "mine"
    assert card.datasets == ("org/chat",)  # the other is for validation
    assert card.mixture is step.config.mixture
    assert card.hyperparameters["learning_rate"] == 1e-5
    assert not {"base_model", "output_path", "steps_per_log", "num_train_epochs"} & card.hyperparameters.keys()


def test_plain_text_beside_chats_uses_no_template():
    chat = ChatLmDatasetFormat(chat_template="{{ messages }}", chat_template_kwargs={"think": False})
    components = {"a_text": tokens("a", TextLmDatasetFormat()), "chat": tokens("chat", chat)}
    config = export("mine", trained(components, {"a_text": 1, "chat": 1})).config
    assert (config.chat_template, config.chat_template_kwargs) == ("{{ messages }}", {"think": False})
    assert config.tokenizer is TOKENIZER


def test_two_ways_to_render_are_refused():
    formats = [ChatLmDatasetFormat(chat_template_kwargs={"think": think}) for think in (True, False)]
    components = {f"c{i}": tokens(f"c{i}", format) for i, format in enumerate(formats)}
    with pytest.raises(ConfigError, match="2 components were tokenized with 2 different chat templates"):
        export("mine", trained(components, {"c0": 1, "c1": 1}))


def fingerprint(step) -> str:
    return build_graph([step]).roots[0].fingerprint


def test_exports_on_the_way_are_part_of_identity():
    components = {"chat": tokens("chat")}
    plain, never = trained(components, {"chat": 1}), trained(components, {"chat": 1}, steps_per_hf_export=-1)
    assert fingerprint(plain) == fingerprint(never)
    every = trained(
        components, {"chat": 1}, steps_per_hf_export=2, hf_save_dtype="bfloat16", hf_generation_eos_token_ids=[7]
    )
    assert fingerprint(every) != fingerprint(plain)
    exports = every.config.hf_exports
    assert (exports.steps, exports.dtype, exports.generation_eos_token_ids) == (2, "bfloat16", (7,))
    same = export("mine", every, dtype="bfloat16", generation_eos_token_ids=[7]).config
    shared = {field.name for field in dataclasses.fields(exports)} - {"steps"}
    assert {name: getattr(exports, name) for name in shared} == {name: getattr(same, name) for name in shared}


def test_formats_are_part_of_identity():
    step = trained({"chat": tokens("chat")}, {"chat": 1})
    plain, same = export("mine", step), export("mine", step, formats=("hf",))
    assert fingerprint(plain) == fingerprint(same)
    both, as_list = (export("mine", step, formats=formats) for formats in (("hf", "gguf"), ["hf", "gguf"]))
    assert fingerprint(both) == fingerprint(as_list) != fingerprint(plain)
    assert fingerprint(export("mine", step, formats=("hf", "gguf"), gguf_type="q8_0")) != fingerprint(both)
    on_the_way = {"steps_per_hf_export": 2, "hf_formats": ("hf", "gguf"), "hf_gguf_type": "f16"}
    exports = trained({"chat": tokens("chat")}, {"chat": 1}, **on_the_way).config.hf_exports
    assert (exports.formats, exports.gguf_type) == (("hf", "gguf"), "f16")


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"formats": ("gguf",)}, r"formats.*'gguf'.*expected \('hf',\) or \('hf', 'gguf'\)"),
        ({"formats": "gguf"}, "formats"),
        ({"formats": ("hf", "onnx")}, "formats.*onnx"),
        ({"gguf_type": "f16"}, "gguf_type.*None without 'gguf' in formats"),
        ({"formats": ("hf", "gguf"), "gguf_type": "q4_0"}, "gguf_type.*one of f32, f16, bf16, q8_0"),
    ],
)
def test_unknown_formats_are_refused(settings, why):
    step = trained({"chat": tokens("chat")}, {"chat": 1})
    with pytest.raises(ConfigError, match=why):
        export("mine", step, **settings)


def test_formats_without_exports_are_refused():
    with pytest.raises(ConfigError, match="training exports nothing; set steps_per_hf_export"):
        trained({"chat": tokens("chat")}, {"chat": 1}, hf_formats=("hf", "gguf"))


def test_a_model_that_llama_cpp_does_not_know_is_refused_while_planning(tmp_path):
    base = releases.write(tmp_path / "base", releases.RELEASES["gemma 2 it"])
    documents = tmp_path / "rows.jsonl"
    documents.write_text("{}\n")
    blend = mixture("blend", {"chat": tokenize("chat", documents, tokenizer=base)}, weights={"chat": 1}, seq_len=64)
    settings = {"base_model": base, "train_batch_size": 4, "num_train_steps": 5, "learning_rate": 1e-5}
    step = sft("mine", mixture=blend, **settings)
    with pytest.raises(ConfigError, match="query_pre_attn_scalar = 16, config.json has 24; leave out 'gguf'"):
        export("mine", step, formats=("hf", "gguf"))
    with pytest.raises(ConfigError, match="query_pre_attn_scalar"):
        sft("mine", mixture=blend, **settings, steps_per_hf_export=1, hf_formats=("hf", "gguf"))
