import pytest
from transformers import AutoTokenizer

from marin_sft.data.tokenizer import load_tokenizer, vocabulary_hash
from marin_sft.data.train_tokenizer import TrainTokenizerConfig, train_tokenizer
from marin_sft.errors import ConfigError, DataError

MESSAGES = [{"role": "user", "content": "Hi \u00e9\u4e2d\U0001f600"}, {"role": "assistant", "content": "the fox"}]


def test_loads_in_transformers(tokenizer_path):
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_path)
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token) == ("<|im_end|>", "<|endoftext|>", None)
    text = "<|im_start|>user\nHi \u00e9\u4e2d\U0001f600<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.apply_chat_template(MESSAGES[:1], tokenize=False, add_generation_prompt=True) == text
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer("<|im_start|><|im_end|><|endoftext|>")["input_ids"]) == 3
    out = tokenizer.apply_chat_template(MESSAGES, return_dict=True, return_assistant_tokens_mask=True)
    trained = [i for i, m in zip(out["input_ids"], out["assistant_masks"], strict=True) if m]
    assert tokenizer.decode(trained) == "the fox<|im_end|>"


def test_same_rows_same_bytes(tmp_path, helpers):
    rows = helpers.chat_rows(100)
    for name in ("a", "b"):
        path = helpers.write_jsonl(tmp_path / f"{name}.jsonl", rows)
        train_tokenizer(TrainTokenizerConfig((path,), vocab_size=350, output_path=str(tmp_path / name)))
    assert helpers.tree_hash(tmp_path / "a") == helpers.tree_hash(tmp_path / "b")
    assert len(load_tokenizer(str(tmp_path / "a"))) == 350


def test_bad_rows_are_counted(tmp_path, helpers):
    path = helpers.write_jsonl(tmp_path / "x.jsonl", [*helpers.chat_rows(3), {"nothing": "x"}])
    with pytest.raises(DataError, match="1 of 4 rows dropped .unknown_format: 1"):
        train_tokenizer(TrainTokenizerConfig((path,), output_path=str(tmp_path / "out")))
    assert '"line": 4' in (tmp_path / "out/dropped.jsonl").read_text()
    config = TrainTokenizerConfig((path,), vocab_size=300, max_dropped=0.25, output_path=str(tmp_path / "out"))
    train_tokenizer(config)


def test_load_errors(tmp_path):
    with pytest.raises(ConfigError, match="no tokenizer in"):
        load_tokenizer(str(tmp_path))
    with pytest.raises(ConfigError, match="download step"):
        load_tokenizer("some-org/some-model")
    with pytest.raises(ConfigError, match="at least 259"):
        TrainTokenizerConfig(("x",), vocab_size=100)


def test_template_override_and_vocabulary(tokenizer_path, tokenizer):
    other = load_tokenizer(tokenizer_path, "{{ messages[0]['content'] }}")
    assert other.apply_chat_template(MESSAGES, tokenize=False) == MESSAGES[0]["content"]
    before = vocabulary_hash(other)
    other("some text", padding="max_length", truncation=True, max_length=4)
    assert vocabulary_hash(other) == before == vocabulary_hash(tokenizer)
