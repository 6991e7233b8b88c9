import copy

import numpy as np
import pytest

from marin_sft.data.chat.alignment import Aligner, SpannedText, TokenRow, byte_lengths
from marin_sft.data.chat.encode import Encoder, PreferenceRow, encode
from marin_sft.data.formats import ChatLmDatasetFormat, TextLmDatasetFormat
from marin_sft.data.messages.examples import BadRow, Dialogue, Preference, Rated, Segments, Text, TextPreference, Tokens
from marin_sft.data.messages.reading import example_of

FORMAT = ChatLmDatasetFormat()
USER, GOOD, BAD = ({"role": r, "content": c} for r, c in (("user", "hi"), ("assistant", "ho"), ("assistant", "no")))
ODD = (
    "e\u0301 \U0001f468\u200d\U0001f469\u4e2d \u0645\u0631 \u200b \U0001f600"  # combining, joined, wide, right to left
)


@pytest.fixture(scope="module")
def with_bos(tokenizer):
    """As Llama's tokenizers: puts a bos before every text."""
    from tokenizers import processors

    made = copy.deepcopy(tokenizer)
    made.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"})
    single = [("<s>", made.bos_token_id)]
    made.backend_tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", single)
    return made


def trained(tokenizer, row):
    return tokenizer.decode(row.input_ids[row.mask == 1])


@pytest.mark.parametrize("text", ["hello world", ODD, " spaces  ", "a</s>", "<s>a"])
def test_text(with_bos, text):
    row = encode(with_bos, Text("", text), FORMAT)
    own = with_bos(text)["input_ids"]
    own = own[1:] if own[:2] == [with_bos.bos_token_id] * 2 else own
    own = own if own[-1] == with_bos.eos_token_id else [*own, with_bos.eos_token_id]
    assert row.input_ids.tolist() == own
    assert row.mask.all() and row.input_ids.dtype == np.int32 and row.mask.dtype == np.uint8
    assert (
        row.input_ids.tolist().count(with_bos.bos_token_id) == row.input_ids.tolist().count(with_bos.eos_token_id) == 1
    )


def test_text_without_bos(tokenizer):
    assert tokenizer.bos_token is None
    row = encode(tokenizer, Text("", "hello"), FORMAT)
    assert row.input_ids.tolist() == [*tokenizer("hello")["input_ids"], tokenizer.eos_token_id]


@pytest.mark.parametrize("prompt", ["Question: ", "Q", "the quick bro", ODD, "\U0001f600"])
@pytest.mark.parametrize("text", ["wn fox", "answer", ODD, " \u0301x"])
def test_prompt_and_text(with_bos, prompt, text):
    row = encode(with_bos, Text(prompt, text), FORMAT)
    joined = with_bos(prompt + text, return_offsets_mapping=True, add_special_tokens=False)
    assert row.input_ids.tolist() == [with_bos.bos_token_id, *joined["input_ids"], with_bos.eos_token_id]
    # From the first token that has the first character of the text.
    first = next(i for i, (a, b) in enumerate(joined["offset_mapping"]) if a <= len(prompt) < b)
    assert row.mask.tolist() == [0] * (1 + first) + [1] * (len(joined["input_ids"]) - first + 1)


def test_a_token_that_straddles_prompt_and_text_is_trained(tokenizer):
    words = [token for token in tokenizer.get_vocab() if len(token) > 3 and token.isascii() and token.isalpha()]
    token = next(word for word in words if len(tokenizer(word)["input_ids"]) == 1)
    row = encode(tokenizer, Text(token[:2], token[2:]), FORMAT)
    assert row.input_ids.tolist() == [tokenizer.convert_tokens_to_ids(token), tokenizer.eos_token_id]
    assert row.mask.tolist() == [1, 1]


def test_a_text_that_a_template_made_is_ended_once(with_bos):
    """As `formatting_func` returns it, with the line's end that most templates write after the last turn."""
    for text in ("<s>a</s>\n", "a</s>\n\n ", "a</s>"):
        row = encode(with_bos, Text("", text), FORMAT)
        ids = with_bos(text, add_special_tokens=False)["input_ids"]
        assert row.input_ids.tolist() == (ids if text.startswith("<s>") else [with_bos.bos_token_id, *ids])
        assert row.noted.counts["special_tokens_in_text"] == text.count("<s>") + 1
    escaped = ChatLmDatasetFormat(special_tokens_in_text="escape")
    assert encode(with_bos, Text("", "a</s>"), escaped).input_ids[-1] == with_bos.eos_token_id


def test_a_text_that_ends_in_another_end_of_turn_is_ended(with_bos):
    """Only the EOS ends a text: generation stops at it, whatever the template writes after turns."""
    turned = copy.deepcopy(with_bos)
    turned.add_special_tokens({"additional_special_tokens": ["<|turn_end|>"]})
    row = encode(turned, Text("", "a<|turn_end|>\n"), FORMAT)
    assert row.input_ids[-1] == turned.eos_token_id and row.input_ids.tolist().count(turned.eos_token_id) == 1


@pytest.mark.parametrize("text", ["a", "<s>a", " <s>a</s>\n", "a</s>"])
def test_special_tokens_of_texts(with_bos, tokenizer, text):
    """A BOS never comes twice, whoever asks for it, and an EOS always comes once."""
    silent = copy.deepcopy(tokenizer)  # has a BOS, and puts it before nothing
    silent.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    own = silent(text)["input_ids"]
    assert silent.bos_token_id == with_bos.bos_token_id and with_bos(text, add_special_tokens=False)["input_ids"] == own
    end = [] if "</s>" in text else [silent.eos_token_id]
    begin = [] if "<s>" in text else [silent.bos_token_id]
    for made, wanted, expected in (
        (with_bos, None, begin),
        (silent, None, []),
        (with_bos, False, []),
        (silent, False, []),
        (with_bos, True, begin),
        (silent, True, begin),
        (tokenizer, True, None),
    ):
        row = encode(made, Text("", text), TextLmDatasetFormat(add_special_tokens=wanted))
        if expected is None:  # a tokenizer without a BOS
            assert row.input_ids.tolist() == [*made(text)["input_ids"], made.eos_token_id]
        else:
            assert row.input_ids.tolist() == [*expected, *own, *end], (wanted, made is silent)
        assert row.mask.all()


def test_segments_and_tokens(tokenizer):
    row = encode(tokenizer, Segments([("one ", False), ("two", True)]), FORMAT)
    one, two = (tokenizer(text)["input_ids"] for text in ("one ", "two"))
    assert row.input_ids.tolist() == one + two and row.mask.tolist() == [0] * len(one) + [1] * len(two)
    row = encode(tokenizer, Tokens([5, 6, 7], [0, 0, 1]), FORMAT)
    assert (row.input_ids.tolist(), row.mask.tolist()) == ([5, 6, 7], [0, 0, 1])
    for wrong in (Tokens([5, len(tokenizer)], [1, 1]), Tokens([-1, 5], [1, 1]), Tokens([5, 6], [1])):
        with pytest.raises(BadRow, match="bad_tokens"):
            encode(tokenizer, wrong, FORMAT)


def test_preferences(tokenizer):
    history = [USER, GOOD, USER]
    for format in (FORMAT, ChatLmDatasetFormat(train_on="last"), ChatLmDatasetFormat(mask_user_turns=False)):
        pair = encode(tokenizer, Preference(history, [GOOD], [BAD]), format)
        assert isinstance(pair, PreferenceRow)
        for row, said, answer in ((pair.chosen, "ho", GOOD), (pair.rejected, "no", BAD)):
            whole = encode(tokenizer, Dialogue([*history, answer]), FORMAT)
            assert row.input_ids.tolist() == whole.input_ids.tolist()
            assert trained(tokenizer, row) == f"{said}<|im_end|>"
    pair = encode(tokenizer, TextPreference("Q:\n", "yes", "no"), FORMAT)
    assert trained(tokenizer, pair.chosen) == "yes<|im_end|>" and trained(tokenizer, pair.rejected) == "no<|im_end|>"
    assert trained(tokenizer, encode(tokenizer, Rated(Dialogue([USER, GOOD]), True), FORMAT)) == "ho<|im_end|>"
    with pytest.raises(BadRow, match="rated_bad"):
        encode(tokenizer, Rated(Dialogue([USER, BAD]), False), FORMAT)


def test_many_at_a_time_are_as_one_at_a_time(with_bos):
    examples = [
        Dialogue([USER, GOOD]),
        BadRow("given", "by the reader"),
        Text("a", "b"),
        Dialogue([USER]),
        Preference([USER], [GOOD], [BAD]),
        Tokens([1, 2], [0, 0]),
        Text("", ""),
        Segments([("x", False), ("y", True)]),
        Dialogue([USER, {"role": "assistant", "content": ODD}]),
    ]
    many = list(Encoder(with_bos, FORMAT).encode(examples))
    reasons = [item.reason for item in many if isinstance(item, BadRow)]
    assert reasons == ["given", "no_assistant_turn", "no_trained_token", "empty_text"]
    for example, found in zip(examples, many, strict=True):
        if isinstance(found, TokenRow):
            alone = encode(with_bos, example, FORMAT)
            assert isinstance(alone, TokenRow)
            assert alone.input_ids.tolist() == found.input_ids.tolist() and alone.mask.tolist() == found.mask.tolist()


def test_ranges_of_characters_are_those_of_transformers(tokenizer):
    """Looked up in the bytes of tokens, and by offsets where the tokenizer changes the text."""
    from tokenizers import normalizers

    lower = copy.deepcopy(tokenizer)
    lower.backend_tokenizer.normalizer = normalizers.Lowercase()
    text = f"The quick <|im_start|>{ODD} brown fox{ODD}\n jumps"
    for used in (tokenizer, lower):
        aligner = Aligner(used)
        encoding = used(text, add_special_tokens=False)
        for start in range(len(text)):
            for end in range(start + 1, len(text) + 1):
                (row,) = aligner.encode([SpannedText(text, [(start, end)])])
                first, last = encoding.char_to_token(start), encoding.char_to_token(end - 1)
                assert row.input_ids.tolist() == encoding["input_ids"]
                assert np.flatnonzero(row.mask).tolist() == list(range(first, last + 1)), (start, end)
    assert byte_lengths(lower, len(lower)) is None and byte_lengths(tokenizer, len(tokenizer)) is not None


def test_a_saved_truncation_is_not_used(tokenizer):
    cut = copy.deepcopy(tokenizer)
    cut.backend_tokenizer.enable_truncation(3)
    cut.backend_tokenizer.enable_padding()
    row = encode(cut, Dialogue([USER, GOOD]), FORMAT)
    assert row.input_ids.tolist() == encode(tokenizer, Dialogue([USER, GOOD]), FORMAT).input_ids.tolist()


def test_the_completion_of_rows_that_have_one_and_all_of_others(tokenizer):
    """Decided for each row, since nobody knows the rows of a dataset before it is read."""
    turns = [USER, GOOD]
    chat, plain = {"prompt": [*turns, USER], "completion": [BAD, USER, GOOD]}, {"prompt": "one ", "completion": "two"}

    def told(row, train_on):
        format = ChatLmDatasetFormat(train_on=train_on)
        return trained(tokenizer, encode(tokenizer, example_of(row, format), format))

    end = "<|im_end|>"
    assert told(chat, "completion") == f"no{end}ho{end}" and told(plain, "completion") == f"two{tokenizer.eos_token}"
    whole = tokenizer.apply_chat_template([*turns, USER, BAD, USER, GOOD], tokenize=False)
    assert told(chat, "everything") == whole and told(plain, "everything") == f"one two{tokenizer.eos_token}"
    assert told(chat, "all") == whole.replace(f"ho{end}", "", 1)
    chat_alone = tokenizer.apply_chat_template(turns, tokenize=False)
    for train_on in ("completion", "everything", "all"):
        assert told({"messages": turns}, train_on) == chat_alone
        assert told({"text": "one"}, train_on) == f"one{tokenizer.eos_token}"
    flagged = {"prompt": [USER, GOOD | {"train": False}, USER], "completion": [GOOD]}
    assert told(flagged, "everything") == tokenizer.apply_chat_template(
        [USER, GOOD, USER, GOOD], tokenize=False
    ).replace(f"ho{end}", "", 1)


def test_a_pair_of_texts_has_an_untrained_prompt_whatever_is_trained_of_others(tokenizer):
    pair = encode(tokenizer, TextPreference("one ", "two", "three"), ChatLmDatasetFormat(train_on="everything"))
    assert isinstance(pair, PreferenceRow) and trained(tokenizer, pair.chosen) == f"two{tokenizer.eos_token}"
