"""Preference rows through the tokenize step."""

import json

import pytest

from marin_sft.data.chat.templates import has_generation_tags
from marin_sft.data.formats import ChatLmDatasetFormat, PreferenceChatLmDatasetFormat
from marin_sft.data.preview import preview
from marin_sft.data.token_cache import TokenCache
from marin_sft.data.tokenize import TokenizeConfig, tokenize
from marin_sft.errors import ConfigError, DataError
from tests.data.on_disk import read_mixture, read_pairs
from tests.data.pair_data import write_mixture

USER, GOOD, BAD = ({"role": r, "content": c} for r, c in (("user", "hi"), ("assistant", "ho"), ("assistant", "no")))
MORE = {"role": "user", "content": "more?"}
PLAIN = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
PLAIN += "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
TAGGED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}{{ '\\n' }}{% endfor %}"
)


@pytest.fixture
def tokenized(tmp_path, tokenizer_path, helpers):
    """The stats and documents of rows."""

    def run(rows, format=None, max_dropped=0.0, validation=(), name="out"):
        config = TokenizeConfig(
            (helpers.write_jsonl(tmp_path / f"{name}.jsonl", rows),),
            tokenizer_path,
            format or ChatLmDatasetFormat(),
            tuple(helpers.write_jsonl(tmp_path / f"{name}_validation.jsonl", some) for some in [validation] if some),
            max_dropped,
            f"{tmp_path}/{name}",
        )
        tokenize(config)
        cache = TokenCache.open(f"{tmp_path}/{name}/train")
        return json.loads((tmp_path / name / "stats.json").read_text())["train"], cache.read(range(len(cache)))

    return run


def chat_pairs(count):
    return [
        {"prompt": f"Q{i}", "chosen": [{**GOOD, "content": f"yes {i}"}], "rejected": [{**BAD, "content": "no"}]}
        for i in range(count)
    ]


def texts(tokenizer, documents):
    """(all before the first target, all from it on) of each document, and what is trained."""
    found = []
    for row in documents:
        first = int(row.mask.argmax())
        found.append(
            tuple(map(tokenizer.decode, (row.input_ids[:first], row.input_ids[first:], row.input_ids[row.mask == 1])))
        )
    return found


@pytest.mark.parametrize("template", [PLAIN, TAGGED, None])
def test_chosen_and_rejected_by_turns_with_targets_in_the_completion_only(tokenized, tokenizer, template):
    history = [USER, GOOD, MORE]
    rows = [
        {"prompt": history, "chosen": [GOOD], "rejected": [BAD]},
        {"chosen": [*history, GOOD], "rejected": [*history, BAD]},
        {"prompt": history, "chosen": [*history, GOOD], "rejected": [*history, BAD]},
        {"messages": history, "chosen": GOOD, "rejected": BAD},
    ]
    if template is not None:
        assert has_generation_tags(template) == (template == TAGGED)
    stats, documents = tokenized(rows, ChatLmDatasetFormat(chat_template=template))
    assert (stats["kind"], stats["pairs"], stats["documents"], stats["dropped"]) == ("pairs", 4, 8, {})
    for side, answer in ((0, "ho"), (1, "no")):
        # The answer in the prompt is no target, and all ways to write the pair come to the same.
        (same,) = {(tuple(row.input_ids.tolist()), tuple(row.mask.tolist())) for row in documents[side::2]}
        prompt, completion, trained = texts(tokenizer, documents[side : side + 1])[0]
        assert "ho<|im_end|>" in prompt and prompt.endswith("more?<|im_end|>\n<|im_start|>assistant\n")
        assert completion.rstrip("\n") == trained == f"{answer}<|im_end|>"


def test_text_pairs(tokenized, tokenizer):
    rows = [
        {"prompt": "Q: a\nA:", "chosen": " yes", "rejected": " no"},
        {"chosen": "Q: a\nA: yes", "rejected": "Q: a\nA: no"},
    ]
    stats, documents = tokenized(rows)
    assert stats["pairs"] == 2
    expected = [("Q: a\nA:", f"{answer}<|im_end|>", f"{answer}<|im_end|>") for answer in (" yes", " no")] * 2
    assert texts(tokenizer, documents) == expected


def test_several_turns_of_a_completion(tokenized, tokenizer):
    row = {"prompt": [USER], "chosen": [GOOD, MORE, GOOD], "rejected": [BAD]}
    _, (chosen, _) = tokenized([row])
    prompt, completion, trained = texts(tokenizer, [chosen])[0]
    assert prompt.endswith("hi<|im_end|>\n<|im_start|>assistant\n") and trained == "ho<|im_end|>ho<|im_end|>"
    assert "more?" in completion


def test_what_is_dropped_is_counted(tokenized):
    rows = [
        *chat_pairs(4),
        {"prompt": "Q", "chosen": [GOOD], "rejected": [GOOD]},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [{**GOOD, "name": "other"}]},  # the template shows no names
        {"prompt": [USER], "chosen": [{**GOOD, "train": False}], "rejected": [BAD]},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [{**BAD, "train": False}]},
    ]
    stats, documents = tokenized(rows, max_dropped=0.5)
    assert stats["dropped"] == {"identical_pair": 2, "no_trained_token": 2}
    assert (stats["pairs"], stats["documents"], len(documents)) == (4, 8, 8)


def test_shards_hold_whole_pairs(tokenized, tmp_path, monkeypatch):
    monkeypatch.setattr("marin_sft.data.tokenize.ROWS_PER_SHARD", 3)
    ranked = {"prompt": "q", "answers": [{"answer": text, "rank": rank} for rank, text in enumerate("abc", 1)]}
    stats, documents = tokenized([*chat_pairs(5), ranked, *chat_pairs(2)])
    assert stats["pairs"] == 9 and len(documents) == 18
    ledger = json.loads((tmp_path / "out/train/shard_ledger.json").read_text())
    assert list(ledger["shard_rows"].values()) == [6, 8, 4]


def test_pairs_and_documents_do_not_mix(tokenized):
    pairs, dialogues = chat_pairs(3), [{"messages": [USER, GOOD]}] * 2
    with pytest.raises(DataError, match=r"preference pairs {'train': 3} and single documents {'train': 2}; expected"):
        tokenized([*pairs, *dialogues])
    with pytest.raises(
        DataError, match=r"{'train': 3, 'validation': 0} and single documents {'train': 0, 'validation'"
    ):
        tokenized(pairs, validation=dialogues)
    # The way out that the error names.
    stats, _ = tokenized([*pairs, *dialogues], ChatLmDatasetFormat(shape="preference"), max_dropped=0.5)
    assert stats["pairs"] == 3 and sum(stats["dropped"].values()) == 2
    assert "pairs" not in tokenized(dialogues)[0]


def test_from_rows_to_a_mixture(tokenized, tmp_path):
    rows = [
        {"better": [USER, {**GOOD, "content": "ho " * i}], "worse": [USER, {**BAD, "content": "no " * (i + 1)}]}
        for i in range(1, 9)
    ]
    tokenized(rows, PreferenceChatLmDatasetFormat(chosen_field="better", rejected_field="worse"))
    write_mixture(tmp_path / "mixture", {"a": f"{tmp_path}/out"}, 64)
    assert read_mixture(f"{tmp_path}/mixture")["components"]["a"]["train"]["pairs"] == 8
    assert (read_pairs(f"{tmp_path}/mixture", "a", "train").prompts > 2).all()


def test_the_preview_shows_what_a_mixture_would_train(tokenizer, tmp_path, helpers):
    path = helpers.write_jsonl(
        tmp_path / "x.jsonl",
        [
            {"prompt": [USER], "chosen": [{**GOOD, "content": "ho " * 40}], "rejected": [BAD]},
            {"messages": [USER, GOOD]},
        ],
    )

    def shown(max_length, over_length="truncate"):
        return list(preview(tokenizer, path, ChatLmDatasetFormat(), 2, max_length, over_length))

    whole, cut = shown(None)[0], shown(20)[0]
    assert [(document.role, len(document.rows)) for document in cut.documents] == [("chosen", 1), ("rejected", 1)]
    (row,) = cut.documents[0].rows
    assert row.input_ids.tolist() == whole.documents[0].rows[0].input_ids.tolist()[:20]
    assert shown(20, "drop")[0].dropped.reason == "over_length"
    assert shown(5)[0].dropped.reason == "no_trained_token"
    with pytest.raises(ConfigError, match="over_length='split'"):
        shown(20, "split")
