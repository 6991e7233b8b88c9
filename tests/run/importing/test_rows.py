"""Where the rows of a config lie and what they hold, in the experiment that is written from it."""

import json
import runpy
from pathlib import Path

import pytest

from marin_sft.data import ChatLmDatasetFormat, TextLmDatasetFormat
from marin_sft.data.messages.reading import dialogue_of, example_of
from marin_sft.data.step_configs import DownloadConfig
from marin_sft.execution.step import InputName
from marin_sft.run.importing.tools import import_config

AXOLOTL = """base_model: org/model@v2
learning_rate: 2e-5
micro_batch_size: 1
datasets:
"""
LLAMA_FACTORY = """model_name_or_path: org/model
stage: sft
finetuning_type: full
template: chatml
"""
TORCHTUNE = """model: {_component_: torchtune.models.qwen2_5.qwen2_5_0_5b}
checkpointer: {checkpoint_dir: model}
optimizer: {_component_: torch.optim.AdamW}
tokenizer: {_component_: torchtune.models.qwen2_5.qwen2_5_tokenizer, max_seq_len: 128}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def experiment(text):
    """What the file defines that is written from a config."""
    Path("config.yaml").write_text(text)
    Path("mine.py").write_text(import_config("config.yaml", "mine.py").source)
    return runpy.run_path("mine.py")


def axolotl(datasets, **config):
    lines = [f"{key}: {json.dumps(value)}\n" for key, value in config.items()]
    return experiment(AXOLOTL + f"  - {json.dumps(datasets)}\n" + "".join(lines))


def only(found):
    (tokens,) = found["tokenized"].values()
    return tokens.config


def format_of(found):
    return only(found).format


def test_the_model_s_revision():
    found = axolotl({"path": "org/data", "type": "completion"})
    assert found["model"].config == DownloadConfig(
        id="org/model", kind="model", revision="v2", allow_patterns=found["model"].config.allow_patterns
    )
    assert found["NAME"] == "model_data"
    assert only(found).tokenizer is found["model"]


def test_a_hub_id_a_subset_a_revision_and_files_of_a_repository():
    data = {"path": "org/data", "type": "completion", "name": "en", "revision": "abc", "split": "train[:5%]"}
    (path,) = only(axolotl(data)).train_paths
    rows = path.step.config
    assert (rows.source, rows.subsets, rows.splits) == ("org/data", ("en",), ("train[:5%]",))
    assert rows.input_path.config.revision == "abc"
    (path,) = only(axolotl({"path": "org/data", "type": "completion", "data_files": ["a.jsonl"]})).train_paths
    assert (path.config.id, path.config.allow_patterns) == ("org/data", ("a.jsonl",))


def test_a_file_goes_before_a_hub_id_of_that_name():
    Path("org").mkdir()
    Path("org/data").write_text("")
    assert [str(path) for path in only(axolotl({"path": "org/data", "type": "completion"})).train_paths] == ["org/data"]
    data = {"path": "json", "data_files": "rows.jsonl", "type": "completion", "ds_type": "json"}
    assert [str(path) for path in only(axolotl(data)).train_paths] == ["rows.jsonl"]


def test_texts_of_axolotl_are_cut_in_pieces():
    found = axolotl({"path": "org/data", "type": "completion", "field": "body"}, sequence_len=64)
    assert format_of(found) == TextLmDatasetFormat(text_key="body")
    assert found["data"].config.data.over_length == "split"


def test_messages_of_axolotl():
    data = {
        "path": "org/data",
        "type": "chat_template",
        "field_messages": "dialog",
        "message_property_mappings": {"role": "who", "content": "says"},
        "roles": {"user": ["human"], "assistant": ["helper"], "system": ["system"]},
        "drop_system_message": True,
        "chat_template": "jinja",
        "chat_template_jinja": "{% for m in messages %}{{ m.content }}\n{% endfor %}",
    }
    format = format_of(axolotl(data))
    assert format.chat_template == data["chat_template_jinja"]
    row = {"dialog": [{"who": "system", "says": "s"}, {"who": "human", "says": "q"}, {"who": "helper", "says": "a"}]}
    assert [(m["role"], m["content"]) for m in dialogue_of(row, format).messages] == [("user", "q"), ("assistant", "a")]


def test_roles_to_train():
    data = {"path": "org/data", "type": "chat_template"}
    assert format_of(axolotl(data)) == ChatLmDatasetFormat(shape="messages")
    assert format_of(axolotl({**data, "roles_to_train": ["assistant"]})).train_on == "assistant"
    assert format_of(axolotl({**data, "roles_to_train": ["user", "assistant"]})).train_on == "all"
    assert format_of(axolotl(data, train_on_inputs=True)).train_on == "all"


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("chatml.intel", {"system": "s", "question": "q", "chosen": "a", "rejected": "b"}),
        ("chatml.icr", {"system": "s", "input": "q", "chosen": "a", "rejected": "b"}),
        ("llama3.prompt_pairs", {"system": "s", "prompt": "q", "chosen": "a", "rejected": "b"}),
        ("chatml.argilla", {"system": "s", "prompt": "q", "chosen": "a", "rejected": "b"}),
    ],
)
def test_pairs_of_axolotl_are_turns_of_a_chat(kind, row):
    found = axolotl({"path": "org/data", "type": kind}, rl="dpo")
    pair = example_of(row, format_of(found))
    assert [(m["role"], m["content"]) for m in pair.prompt] == [("system", "s"), ("user", "q")]
    assert (pair.chosen[0]["content"], pair.rejected[0]["content"]) == ("a", "b")
    assert found["trained"].config.reference_logprobs is not None


def test_pairs_of_axolotl_in_messages():
    data = {"path": "org/data", "type": "chat_template.default", "field_messages": "talk", "field_chosen": "good"}
    row = {
        "talk": [{"role": "user", "content": "q"}],
        "good": {"role": "assistant", "content": "a"},
        "rejected": {"role": "assistant", "content": "b"},
    }
    pair = example_of(row, format_of(axolotl(data, rl="dpo")))
    assert [m["content"] for m in (*pair.prompt, *pair.chosen, *pair.rejected)] == ["q", "a", "b"]


def test_held_out_data():
    found = axolotl(
        {"path": "org/data", "type": "completion"},
        test_datasets=[{"path": "org/data", "split": "test", "type": "completion"}],
    )
    held_out = found["tokenized"]["held_out"].config
    (path,) = held_out.validation_paths
    assert held_out.train_paths == () and path.step.config.splits == ("test",)
    assert found["data"].config.data.training == ["data"] and found["trained"].config.do_eval


def llama_factory(entry, **config):
    Path("data").mkdir(exist_ok=True)
    Path("data/dataset_info.json").write_text(json.dumps({"mine": entry, "other": {"file_name": "other.json"}}))
    lines = [f"{key}: {json.dumps(value)}\n" for key, value in {"dataset": "mine", **config}.items()]
    return experiment(
        LLAMA_FACTORY.replace("stage: sft\n", "" if "stage" in config else "stage: sft\n") + "".join(lines)
    )


def said(row, format):
    return [(message["role"], message["content"]) for message in dialogue_of(row, format).messages]


def test_instructions_of_llama_factory():
    """Without `columns`, the usual ones; with them, those alone."""
    row = {"instruction": "q", "input": "more", "output": "a", "system": "s", "history": [["q0", "a0"]]}
    assert said(row, format_of(llama_factory({"file_name": "a.json"})))[-2:] == [
        ("user", "q\nmore"),
        ("assistant", "a"),
    ]
    columns = {"prompt": "instruction", "response": "output"}
    format = format_of(llama_factory({"file_name": "a.json", "columns": columns}))
    assert said(row, format) == [("user", "q"), ("assistant", "a")]
    format = format_of(llama_factory({"file_name": "a.json", "columns": {**columns, "system": "system"}}))
    assert said(row, format)[0] == ("system", "s")
    columns = {"prompt": "q", "query": "more", "response": "a", "history": "before"}
    format = format_of(llama_factory({"file_name": "a.json", "columns": columns}))
    row = {"q": "q", "more": "", "a": "a", "before": [["q0", "a0"]]}
    assert said(row, format) == [("user", "q0"), ("assistant", "a0"), ("user", "q"), ("assistant", "a")]


def test_messages_of_llama_factory():
    tags = {"role_tag": "role", "content_tag": "text", "user_tag": "u", "assistant_tag": "bot9", "system_tag": "sys"}
    entry = {"file_name": "a.json", "formatting": "sharegpt", "columns": {"messages": "talk"}, "tags": tags}
    row = {"talk": [{"role": "sys", "text": "s"}, {"role": "u", "text": "q"}, {"role": "bot9", "text": "a"}]}
    found = llama_factory(entry, mask_history=True)
    assert said(row, format_of(found)) == [("system", "s"), ("user", "q"), ("assistant", "a")]
    assert format_of(found).train_on == "last"
    row = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
    found = llama_factory({"file_name": "a.json", "formatting": "sharegpt"}, train_on_prompt=True)
    assert said(row, format_of(found)) == [("user", "q"), ("assistant", "a")]
    assert format_of(found).train_on == "all"


def test_pairs_of_llama_factory():
    columns = {"prompt": "instruction", "query": "input", "chosen": "good", "rejected": "bad"}
    found = llama_factory({"file_name": "a.json", "ranking": True, "columns": columns}, stage="dpo")
    pair = example_of({"instruction": "q", "input": "x", "good": "a", "bad": "b"}, format_of(found))
    assert [m["content"] for m in (*pair.prompt, *pair.chosen, *pair.rejected)] == ["q\nx", "a", "b"]


def test_datasets_that_are_interleaved():
    Path("data").mkdir()
    mixing = {"dataset": "mine,other", "mix_strategy": "interleave_over", "interleave_probs": "0.7,0.3"}
    data = llama_factory({"file_name": "a.json"}, **mixing, num_train_epochs=1)["data"].config.data
    assert data.train_weights == ((0, {"a": 0.7, "other": 0.3}),) and data.stop_strategy == "all_exhausted"
    assert llama_factory({"file_name": "a.json"}, **mixing)["data"].config.data.stop_strategy == "restart"


def test_all_rows_of_files_that_are_read_differently_are_trained_on():
    Path("data").mkdir()
    Path("data/a.jsonl").write_text('{"q": "1", "a": "2"}\n' * 3)
    Path("data/other.json").write_text(json.dumps([{"instruction": "q", "output": "a"}] * 5))
    entry = {"file_name": "a.jsonl", "columns": {"prompt": "q", "response": "a"}}
    data = llama_factory(entry, dataset="mine,other")["data"].config.data
    assert data.train_weights == ((0, {"a": 3.0, "other": 5.0}),) and data.weights_are == "documents"


def torchtune(dataset):
    lines = "".join(f"  {key}: {json.dumps(value)}\n" for key, value in dataset.items())
    Path("model").mkdir(exist_ok=True)
    Path("config.yaml").write_text(f"{TORCHTUNE}dataset:\n{lines}")
    source = import_config("config.yaml", "mine.py").source
    # What is planned of a model that is there needs its weights; here it is only what is read of rows.
    Path("mine.py").write_text(source.replace('MODEL = "model"', 'MODEL = "org/model"'))
    return runpy.run_path("mine.py")


def test_builders_of_torchtune():
    chat = {
        "_component_": "torchtune.datasets.chat_dataset", "source": "json", "data_files": "a.json",
        "conversation_column": "talk", "conversation_style": "sharegpt", "new_system_prompt": "S",
    }  # fmt: skip
    row = {"talk": [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
    Path("config.yaml").write_text("")
    format = format_of(torchtune(chat))
    assert said(row, format) == [("system", "S"), ("user", "q"), ("assistant", "a")]
    instruct = {
        "_component_": "torchtune.datasets.instruct_dataset", "source": "org/data",
        "column_map": {"input": "q", "output": "a"}, "train_on_input": True,
    }  # fmt: skip
    format = format_of(torchtune(instruct))
    assert said({"q": "1", "a": "2"}, format) == [("user", "1"), ("assistant", "2")] and format.train_on == "all"
    text = {"_component_": "torchtune.datasets.text_completion_dataset", "source": "org/data", "column": "body"}
    assert format_of(torchtune(text)) == TextLmDatasetFormat(text_key="body")
    (path,) = only(torchtune(text)).train_paths
    assert isinstance(path, InputName) and path.step.config.source == "org/data"
