import json

import pytest

from marin_sft import progress
from marin_sft.data import token_cache
from marin_sft.data.chat import encode_chat
from marin_sft.data.formats import ChatLmDatasetFormat
from marin_sft.data.rows import SourceFile
from marin_sft.data.token_cache import TokenCache
from marin_sft.data.tokenize import Span, TokenizeConfig, plan_blocks, tokenize
from marin_sft.errors import ConfigError, DataError


def test_tokenize(tmp_path, tokenizer, tokenizer_path, helpers, monkeypatch):
    monkeypatch.setattr(token_cache, "ROWS_PER_SHARD", 16)
    rows = helpers.chat_rows(50)
    helpers.write_jsonl(tmp_path / "raw/a.jsonl.gz", rows[:21])
    helpers.write_jsonl(tmp_path / "raw/b.jsonl", rows[21:40])
    held_out = helpers.write_jsonl(tmp_path / "held_out.jsonl", rows[40:])
    config = TokenizeConfig(
        (f"{tmp_path}/raw/*.jsonl*",), tokenizer_path, validation_paths=(held_out,), output_path=f"{tmp_path}/out"
    )
    heard = []
    with progress.listening(heard.append):
        tokenize(config)
    for split, some in (("train", rows[:40]), ("validation", rows[40:])):
        expected = [encode_chat(tokenizer, row["messages"], ChatLmDatasetFormat()) for row in some]
        found = TokenCache.open(f"{tmp_path}/out/{split}").read(range(len(some)))
        assert [r.input_ids.tolist() for r in found] == [r.input_ids.tolist() for r in expected]
        assert [r.mask.tolist() for r in found] == [r.mask.tolist() for r in expected]
        stats = json.loads((tmp_path / "out/stats.json").read_text())[split]
        assert stats == {
            "rows": len(some),
            "documents": len(some),
            "tokens": sum(len(r.input_ids) for r in expected),
            "trained_tokens": sum(int(r.mask.sum()) for r in expected),
            "dropped": {},
        }
    assert not (tmp_path / "out/dropped.jsonl").exists()
    assert (heard[0].done, heard[0].total) == (0, 40) and heard[-1].done == heard[-1].total == 10


def test_bytes_depend_on_rows_only(tmp_path, tokenizer_path, helpers):
    rows = [*helpers.chat_rows(40), {"text": "x"}]
    for name, cuts in (("a", [0, 41]), ("b/c", [0, 1, 30, 41])):
        for i, (start, stop) in enumerate(zip(cuts, cuts[1:], strict=False)):
            # The bad row keeps its file name and line.
            helpers.write_jsonl(tmp_path / name / f"raw/{i}.jsonl", rows[start:stop])
        tokenize(TokenizeConfig((f"{tmp_path}/{name}/raw",), tokenizer_path, output_path=f"{tmp_path}/{name}/out"))
    for split in ("train", "stats.json"):
        first, second = tmp_path / "a/out" / split, tmp_path / "b/c/out" / split
        if first.is_dir():
            assert helpers.tree_hash(first) == helpers.tree_hash(second)
        else:
            assert first.read_bytes() == second.read_bytes()
    text = (tmp_path / "a/out/dropped.jsonl").read_text()
    assert str(tmp_path) not in text and json.loads(text)["file"] == "0.jsonl"


def test_bad_rows_are_counted_and_sampled(tmp_path, tokenizer_path, helpers):
    alone = {"messages": [{"role": "user", "content": "alone"}]}
    path = helpers.write_jsonl(tmp_path / "x.jsonl", [*helpers.chat_rows(11), "{oops", {"text": "x"}, *[alone] * 7])
    config = TokenizeConfig((path,), tokenizer_path, max_dropped=0.45, output_path=f"{tmp_path}/out")
    tokenize(config)
    stats = json.loads((tmp_path / "out/stats.json").read_text())["train"]
    assert stats["rows"] == 20 and stats["documents"] == 11
    assert stats["dropped"] == {"invalid_json": 1, "unknown_format": 1, "no_assistant_turn": 7}
    samples = [json.loads(line) for line in (tmp_path / "out/dropped.jsonl").read_text().splitlines()]
    assert [(s["line"], s["reason"]) for s in samples[:3]] == [
        (12, "invalid_json"),
        (13, "unknown_format"),
        (14, "no_assistant_turn"),
    ]
    assert len(samples) == 7 and samples[1]["row"] == '{"text": "x"}'
    with pytest.raises(DataError, match="9 of 20 rows dropped .no_assistant_turn: 7, invalid_json: 1"):
        tokenize(TokenizeConfig((path,), tokenizer_path, max_dropped=0.4, output_path=f"{tmp_path}/strict"))


def test_untrained_rows_are_dropped(tmp_path, tokenizer_path, helpers):
    path = helpers.write_jsonl(tmp_path / "x.jsonl", helpers.chat_rows(2))
    format = ChatLmDatasetFormat(chat_template="{{ '!' }}", mask_user_turns=False)
    with pytest.raises(DataError, match="no_trained_token: 2"):
        tokenize(TokenizeConfig((path,), tokenizer_path, format, max_dropped=1.0, output_path=f"{tmp_path}/out"))


def test_one_dialogue_in_three_shapes(tmp_path, tokenizer_path, helpers):
    user, assistant = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}
    shapes = [
        {"messages": [user, assistant]},
        {"prompt": [user], "completion": [assistant]},
        {"instruction": "hi", "response": "ho"},
    ]
    path = helpers.write_jsonl(tmp_path / "x.jsonl", shapes)
    tokenize(TokenizeConfig((path,), tokenizer_path, output_path=f"{tmp_path}/out"))
    documents = TokenCache.open(f"{tmp_path}/out/train").read(range(3))
    assert len({(tuple(d.input_ids), tuple(d.mask)) for d in documents}) == 1


def test_plan_blocks():
    a, b, c, d = (SourceFile(name, name) for name in "abcd")
    assert plan_blocks([a, b, c, d], [3, 0, 9, 1], 5) == [
        (Span(a, 0, 3), Span(c, 0, 2)),
        (Span(c, 2, 7),),
        (Span(c, 7, 9), Span(d, 0, 1)),
    ]
    assert plan_blocks([a], [5], 5) == [(Span(a, 0, 5),)]
    assert plan_blocks([b], [0], 5) == []


def test_config_errors():
    with pytest.raises(ConfigError, match="one string"):
        TokenizeConfig("x.jsonl", "tokenizer")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="both empty"):
        TokenizeConfig((), "tokenizer")
    with pytest.raises(ConfigError, match="0 to 1"):
        TokenizeConfig(("x",), "tokenizer", max_dropped=5)
