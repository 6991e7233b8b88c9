import copy
import dataclasses
import json
import os
import random
import subprocess
import sys

import pytest

from marin_sft import progress
from marin_sft.data.chat.renderer import encode_chat
from marin_sft.data.formats import (
    ChatLmDatasetFormat,
    PrebuiltLmDatasetFormat,
    SupervisedLmDatasetFormat,
    TextLmDatasetFormat,
)
from marin_sft.data.rows.blocks import cut
from marin_sft.data.rows.source_rows import SourceFile, Span
from marin_sft.data.token_cache import TokenCache
from marin_sft.data.tokenize import TokenizeConfig, tokenize
from marin_sft.errors import ConfigError, DataError


def test_tokenize(tmp_path, tokenizer, tokenizer_path, helpers, monkeypatch):
    monkeypatch.setattr("marin_sft.data.tokenize.ROWS_PER_SHARD", 16)
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
    assert json.loads((tmp_path / "out/stats.json").read_text())["vocabulary_size"] == len(tokenizer)
    assert not (tmp_path / "out/dropped.jsonl").exists()
    assert (heard[0].done, heard[0].total) == (0, 40) and heard[-1].done == heard[-1].total == 10


def test_bytes_depend_on_rows_only(tmp_path, tokenizer_path, helpers):
    rows = [*helpers.chat_rows(40), {"nothing": "x"}]
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
    path = helpers.write_jsonl(tmp_path / "x.jsonl", [*helpers.chat_rows(11), "{oops", {"nothing": "x"}, *[alone] * 7])
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
    assert len(samples) == 7 and samples[1]["row"] == '{"nothing": "x"}'
    with pytest.raises(DataError, match="9 of 20 rows dropped .no_assistant_turn: 7, invalid_json: 1"):
        tokenize(TokenizeConfig((path,), tokenizer_path, max_dropped=0.4, output_path=f"{tmp_path}/strict"))


def test_too_many_bad_rows_are_told_and_kept(tmp_path, tokenizer_path, helpers):
    good = helpers.write_jsonl(tmp_path / "good.jsonl", [*helpers.chat_rows(19), {"nothing": "x"}])
    bad = helpers.write_jsonl(tmp_path / "bad.jsonl", [{"mesages": []}] * 60)
    with pytest.raises(DataError) as raised:
        tokenize(TokenizeConfig((good,), tokenizer_path, validation_paths=(bad,), output_path=f"{tmp_path}/out"))
    message = str(raised.value)
    assert "validation_paths: 60 of 60 rows dropped (unknown_format: 60)" in message
    assert f"\n  {bad}:1: unknown_format: 'mesages': did you mean 'messages'? the keys ['mesages'] fit none" in message
    assert (
        f"{tmp_path}/out/dropped.jsonl" in message and "marin-sft preview --data" in message and "columns=" in message
    )
    samples = [json.loads(line) for line in (tmp_path / "out/dropped.jsonl").read_text().splitlines()]
    assert [(s["split"], s["file"], s["line"]) for s in samples[:2]] == [
        ("train", "good.jsonl", 20),
        ("validation", "bad.jsonl", 1),
    ]
    empty = helpers.write_jsonl(tmp_path / "empty.jsonl", [])
    with pytest.raises(DataError, match="train_paths, .*empty.jsonl: 0 of 0 rows dropped .there were no rows"):
        tokenize(TokenizeConfig((empty,), tokenizer_path, output_path=f"{tmp_path}/none"))


def test_rows_rated_bad_are_left_out(tmp_path, tokenizer, tokenizer_path, helpers):
    rows = [{**row, "label": i % 2 == 0} for i, row in enumerate(helpers.chat_rows(20))]
    path = helpers.write_jsonl(tmp_path / "x.jsonl", rows)
    tokenize(TokenizeConfig((path,), tokenizer_path, max_dropped=0.0, output_path=f"{tmp_path}/out"))
    stats = json.loads((tmp_path / "out/stats.json").read_text())["train"]
    assert stats["documents"] == 10 and stats["dropped"] == {"rated_bad": 10}
    found = TokenCache.open(f"{tmp_path}/out/train").read(range(10))
    expected = [encode_chat(tokenizer, row["messages"], ChatLmDatasetFormat()) for row in rows[::2]]
    assert [row.input_ids.tolist() for row in found] == [row.input_ids.tolist() for row in expected]


def test_a_raw_half_of_a_surrogate_pair_and_a_missing_field(tmp_path, tokenizer_path, helpers):
    path = tmp_path / "x.jsonl"
    helpers.write_jsonl(path, [*helpers.chat_rows(30), {**helpers.chat_rows(1)[0], "tools": float("nan")}])
    half = b'{"messages": [{"role": "user", "content": "\xed\xa0\xbd"}, {"role": "assistant", "content": "a"}]}\n'
    path.write_bytes(path.read_bytes() + half)
    tokenize(TokenizeConfig((str(path),), tokenizer_path, output_path=f"{tmp_path}/out"))
    stats = json.loads((tmp_path / "out/stats.json").read_text())["train"]
    assert stats["documents"] == 31 and stats["dropped"] == {"invalid_unicode": 1}


def test_what_is_noted_of_rows_stands_in_the_stats(tmp_path, tokenizer, tokenizer_path, helpers):
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"a<|im_end|> {i}", "country": "FR"},
                {"role": "assistant", "content": "b"},
            ],
            "topic": "x",
            "id": i,
        }
        for i in range(3)
    ]
    path = helpers.write_jsonl(tmp_path / "x.jsonl", [*rows, *helpers.chat_rows(2), {"nothing": 1}])
    dated = "{{ strftime_now('%d %b %Y') }}" + tokenizer.chat_template
    format = ChatLmDatasetFormat(chat_template=dated, template_date="2025-01-02")
    tokenize(TokenizeConfig((path,), tokenizer_path, format, max_dropped=0.5, output_path=f"{tmp_path}/out"))
    stats = json.loads((tmp_path / "out/stats.json").read_text())["train"]
    assert stats["noted"] == {"special_tokens_in_text": {"documents": 3, "count": 3}}
    assert stats["unread_keys"] == {"messages.country": 3, "topic": 3}
    assert stats["template_date"] == "2025-01-02"
    (document,) = TokenCache.open(f"{tmp_path}/out/train").read([0])
    assert tokenizer.decode(document.input_ids).startswith("02 Jan 2025<|im_start|>")
    refused = ChatLmDatasetFormat(special_tokens_in_text="raise")
    with pytest.raises(DataError, match="x.jsonl:1: its text has 1 special tokens, the first is '<.im_end.>'"):
        tokenize(TokenizeConfig((path,), tokenizer_path, refused, max_dropped=1.0, output_path=f"{tmp_path}/refused"))


def test_the_clock_reaches_no_output(tmp_path, tokenizer, tokenizer_path, helpers, monkeypatch):
    import datetime

    from transformers.utils import chat_template_utils

    path = helpers.write_jsonl(tmp_path / "x.jsonl", helpers.chat_rows(2))
    format = ChatLmDatasetFormat(chat_template="{{ strftime_now('%d %b %Y') }}" + tokenizer.chat_template)
    hashes = set()
    for day in (1, 2):
        now = type("Now", (datetime.datetime,), {"now": classmethod(lambda cls, day=day: cls(2031, 1, day))})
        monkeypatch.setattr(chat_template_utils, "datetime", now)
        tokenize(TokenizeConfig((path,), tokenizer_path, format, output_path=f"{tmp_path}/{day}"))
        hashes.add(helpers.tree_hash(tmp_path / str(day)))
    assert len(hashes) == 1


def test_untrained_rows_are_dropped(tmp_path, tokenizer_path, helpers):
    path = helpers.write_jsonl(tmp_path / "x.jsonl", helpers.chat_rows(2))
    format = ChatLmDatasetFormat(chat_template="{{ '!' }}", mask_user_turns=False, allow_not_rendered=("content",))
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


def _fuzzed(chance, value, depth=0):
    """`value` with some part of it left out, doubled, or replaced by something else."""
    odd = [
        None,
        5,
        -1.5,
        True,
        "",
        " \n",
        "\ud800",
        "\x00",
        [],
        {},
        [[]],
        "assistant",
        {"role": "user"},
        "\U0001f600" * 3,
    ]
    if depth and chance.random() < 0.12:
        return chance.choice(odd)
    if isinstance(value, dict):
        kept = {key: _fuzzed(chance, item, depth + 1) for key, item in value.items() if chance.random() > 0.05}
        return {**kept, "extra": chance.choice(odd)} if chance.random() < 0.1 else kept
    if isinstance(value, list):
        items = [_fuzzed(chance, item, depth + 1) for item in value]
        return items * 2 if chance.random() < 0.05 else items
    return value


def test_ten_thousand_fuzzed_rows(tmp_path, tokenizer_path, helpers):
    """Whatever is in a file, every row of it is a document or a counted drop."""
    chance = random.Random(0)
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": [1, "y"]}}}
    asked = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "tool_calls": [call]}]
    shapes = [
        *helpers.chat_rows(6),
        {
            "messages": asked,
            "tools": [{"type": "function", "function": {"name": "f"}}],
            "chat_template_kwargs": {"k": 1},
        },
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        {"instruction": "a", "input": "b", "output": "c"},
        {"prompt": "a", "completion": "b"},
        {"text": "a"},
        {"input_ids": [1, 2, 3], "labels": [-100, 2, 3]},
        "not an object",
    ]
    lines = [json.dumps(_fuzzed(chance, chance.choice(shapes))).encode() for _ in range(9_998)]
    for index in range(0, len(lines), 37):
        spoiled = bytearray(lines[index])
        spoiled[chance.randrange(len(spoiled))] = chance.choice(b'\xff\xc3\x00{"')
        lines[index] = bytes(spoiled).replace(b"\n", b" ")
    long = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "word " * 2_000_000}]}
    lines += [json.dumps(long).encode(), b'{"messages": [{"role": "us']
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines))
    config = TokenizeConfig((f"{tmp_path}/rows.jsonl",), tokenizer_path, max_dropped=1.0, output_path=f"{tmp_path}/out")
    tokenize(config)
    stats = json.loads((tmp_path / "out/stats.json").read_text())["train"]
    blank = sum(not line.strip() for line in lines)
    assert stats["rows"] == 10_000 - blank == stats["documents"] + sum(stats["dropped"].values())
    assert stats["documents"] > 2_000 and len(stats["dropped"]) > 10
    assert stats["trained_tokens"] > 2_000_000  # the long turn is whole
    for sample in map(json.loads, (tmp_path / "out/dropped.jsonl").read_text().splitlines()):
        assert sample["file"] == "rows.jsonl" and 1 <= sample["line"] <= 10_000 and sample["message"]


def test_fuzzed_pairs(tmp_path, tokenizer_path, helpers):
    """Whatever is in a file, every row of it is a pair or a counted drop."""
    chance = random.Random(0)
    user, answers = {"role": "user", "content": "a"}, [{"role": "assistant", "content": text} for text in "bc"]
    shapes = [
        {"prompt": [user], "chosen": answers[:1], "rejected": answers[1:]},
        {"chosen": [user, *answers[:1]], "rejected": [user, *answers[1:]]},
        {"prompt": "a", "chosen": "b", "rejected": "c"},
    ]
    path = helpers.write_jsonl(tmp_path / "x.jsonl", [_fuzzed(chance, chance.choice(shapes)) for _ in range(1000)])
    format = ChatLmDatasetFormat(shape="preference")
    tokenize(TokenizeConfig((path,), tokenizer_path, format, max_dropped=1.0, output_path=f"{tmp_path}/out"))
    stats = json.loads((tmp_path / "out/stats.json").read_text())["train"]
    assert stats["rows"] == 1000 == stats["pairs"] + sum(stats["dropped"].values())
    assert stats["pairs"] > 200 and len(stats["dropped"]) > 5 and stats["documents"] == 2 * stats["pairs"]


def test_a_file_cut_off_is_an_error_that_names_it(tmp_path, tokenizer_path, helpers):
    path = helpers.write_jsonl(tmp_path / "x.jsonl.gz", helpers.chat_rows(200))
    whole = (tmp_path / "x.jsonl.gz").read_bytes()
    (tmp_path / "x.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="x.jsonl.gz"):
        tokenize(TokenizeConfig((path,), tokenizer_path, output_path=f"{tmp_path}/out"))


def test_rows_nested_deep_are_counted(tmp_path, tokenizer_path, helpers):
    """Around the depth at which Python gives up, whichever part of the work meets it first."""
    deep = ['{"messages": ' + "[" * depth + "]" * depth + "}" for depth in (10, 500, *range(880, 1000, 7), 100_000)]
    path = helpers.write_jsonl(tmp_path / "x.jsonl", [*deep, *helpers.chat_rows(2)])
    tokenize(TokenizeConfig((path,), tokenizer_path, max_dropped=1.0, output_path=f"{tmp_path}/out"))
    stats = json.loads((tmp_path / "out/stats.json").read_text())["train"]
    assert stats["documents"] == 2 and sum(stats["dropped"].values()) == len(deep)


def test_a_row_with_several_examples_is_dropped_once(tmp_path, tokenizer_path, helpers):
    silent = [{"content": text, "role": "assistant", "train": False} for text in "abc"]
    answers = [{"answer": [turn], "rank": rank} for rank, turn in enumerate(silent, 1)]
    rows = [{"prompt": "q", "answers": answers}, {"prompt": "q", "chosen": "a", "rejected": "b"}]
    path = helpers.write_jsonl(tmp_path / "x.jsonl", rows)
    tokenize(TokenizeConfig((path,), tokenizer_path, max_dropped=0.5, output_path=f"{tmp_path}/out"))
    stats = json.loads((tmp_path / "out/stats.json").read_text())["train"]
    assert stats["documents"] == 2 and stats["dropped"] == {"no_trained_token": 1}


@pytest.mark.slow
def test_ten_times_the_rows_take_the_same_memory(tmp_path, tokenizer_path, helpers):
    program = (
        "import resource, sys; from marin_sft.data.tokenize import TokenizeConfig, tokenize;"
        "tokenize(TokenizeConfig((sys.argv[1],), sys.argv[2], output_path=sys.argv[3]));"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for count in (6_000, 60_000):
        path = helpers.write_jsonl(tmp_path / f"{count}.jsonl", helpers.chat_rows(count))
        command = [sys.executable, "-c", program, path, tokenizer_path, f"{tmp_path}/{count}"]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    assert peaks[1] <= 1.2 * peaks[0]


def test_rows_of_other_kinds(tmp_path, tokenizer, tokenizer_path, helpers):
    """Each format's rows become documents; of a preference pair two."""
    cases = [
        (TextLmDatasetFormat("body"), {"body": "some text"}, "some text<|im_end|>"),
        (SupervisedLmDatasetFormat(), {"input": "q:\n", "target": "a"}, "a<|im_end|>"),
        (PrebuiltLmDatasetFormat(), {"input_ids": tokenizer("ready made")["input_ids"]}, "ready made"),
    ]
    for index, (format, row, expected) in enumerate(cases):
        path = helpers.write_jsonl(tmp_path / f"{index}.jsonl", [row])
        tokenize(TokenizeConfig((path,), tokenizer_path, format, output_path=f"{tmp_path}/out{index}"))
        (document,) = TokenCache.open(f"{tmp_path}/out{index}/train").read([0])
        assert tokenizer.decode(document.input_ids[document.mask == 1]) == expected
    path = helpers.write_jsonl(tmp_path / "pair.jsonl", [{"prompt": "q", "chosen": "a", "rejected": "b"}])
    tokenize(TokenizeConfig((path,), tokenizer_path, output_path=f"{tmp_path}/pair"))
    documents = TokenCache.open(f"{tmp_path}/pair/train").read([0, 1])
    assert [tokenizer.decode(row.input_ids[row.mask == 1]) for row in documents] == ["a<|im_end|>", "b<|im_end|>"]


def test_another_template_in_the_same_place_is_used(tmp_path, tokenizer, tokenizer_path, helpers):
    """Processes keep the tokenizer that they have loaded, but not beyond its contents."""
    place = tmp_path / "tokenizer"
    path = helpers.write_jsonl(tmp_path / "x.jsonl", helpers.chat_rows(1))
    found = []
    for mark in ("!", "?"):
        changed = copy.deepcopy(tokenizer)
        changed.chat_template = mark + tokenizer.chat_template
        changed.save_pretrained(place)
        tokenize(TokenizeConfig((path,), str(place), output_path=f"{tmp_path}/out{len(found)}"))
        (document,) = TokenCache.open(f"{tmp_path}/out{len(found)}/train").read([0])
        found.append(tokenizer.decode(document.input_ids)[0])
    assert found == ["!", "?"]


def test_rows_of_files_in_blocks():
    a, b, c, d = (SourceFile(name, name) for name in "abcd")
    assert cut([Span(a, 0, 3), Span(b, 0, 0), Span(c, 0, 9), Span(d, 0, 1)], 5) == [
        (Span(a, 0, 3), Span(c, 0, 2)),
        (Span(c, 2, 7),),
        (Span(c, 7, 9), Span(d, 0, 1)),
    ]
    assert cut([Span(a, 0, 5)], 5) == [(Span(a, 0, 5),)]
    assert cut([Span(b, 0, 0)], 5) == []


def test_config_errors():
    with pytest.raises(ConfigError, match="one string"):
        TokenizeConfig("x.jsonl", "tokenizer")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="both empty"):
        TokenizeConfig((), "tokenizer")
    with pytest.raises(ConfigError, match="0 to 1"):
        TokenizeConfig(("x",), "tokenizer", max_dropped=5)


def test_goes_on_from_the_shards_of_an_earlier_attempt(tmp_path, tokenizer_path, helpers, monkeypatch, capsys):
    """Of three shards, the second lacks its record, and the third a byte of its file. The same bytes come out."""
    monkeypatch.setattr("marin_sft.data.tokenize.ROWS_PER_SHARD", 16)
    rows = [*helpers.chat_rows(40), "{oops", {"nothing": "x"}]
    path = helpers.write_jsonl(tmp_path / "x.jsonl.gz", rows)

    def run(attempt, *earlier, max_dropped=0.1):
        earlier = tuple(f"{tmp_path}/{one}" for one in earlier)
        config = {"max_dropped": max_dropped, "earlier_attempts": earlier, "output_path": f"{tmp_path}/{attempt}"}
        tokenize(TokenizeConfig((path,), tokenizer_path, **config))
        return helpers.tree_hash(tmp_path / attempt), capsys.readouterr().err

    whole, err = run("undisturbed")
    assert "earlier attempt" not in err and (tmp_path / "undisturbed/dropped.jsonl").exists()
    with pytest.raises(DataError, match="2 of 42 rows dropped"):
        run("1", max_dropped=0)
    found, err = run("2", "1")
    assert found == whole and "train: 3 of 3 shards are from an earlier attempt" in err
    (tmp_path / "1/.finished/train/shard_00001.json").unlink()
    (data,) = (tmp_path / "1/train/shard_00002/input_ids").glob("data/c/*")
    data.write_bytes(data.read_bytes()[:-1])
    found, err = run("3", "2", "1")
    assert found == whole and "train: 1 of 3 shards are from an earlier attempt" in err
    helpers.write_jsonl(tmp_path / "x.jsonl.gz", [*rows[:41], {"nothing": "y"}])
    _, err = run("4", "1")
    assert "earlier attempt" not in err, "the file changed"


def test_only_the_output_stays(tmp_path, tokenizer_path, helpers, monkeypatch):
    monkeypatch.setattr("marin_sft.data.rows.row_files._ROWS_WITHOUT_COPY", 10)
    path = helpers.write_jsonl(tmp_path / "x.jsonl.gz", helpers.chat_rows(50))
    config = TokenizeConfig((path,), tokenizer_path, output_path=f"{tmp_path}/with")
    with monkeypatch.context() as patch:
        patch.setattr("marin_sft.data.tokenize.remove_all", lambda path: None)
        tokenize(config)
    assert {".rows", ".finished"} <= set(os.listdir(tmp_path / "with")), "a copy of the rows was read"
    tokenize(dataclasses.replace(config, output_path=f"{tmp_path}/without"))
    assert sorted(os.listdir(tmp_path / "without")) == ["metrics.json", "stats.json", "train"]
    assert helpers.tree_hash(f"{tmp_path}/without/train") == helpers.tree_hash(f"{tmp_path}/with/train")
