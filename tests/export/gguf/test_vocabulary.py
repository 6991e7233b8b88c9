import json

import pytest
import tokenizers
import transformers
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from marin_sft.errors import ExportError
from marin_sft.export.gguf import pre_tokenizers, vocabulary
from marin_sft.export.gguf.special_tokens import special_tokens
from marin_sft.export.gguf.vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, vocabulary_of
from marin_sft.training.fakes import word_tokenizer
from tests.published import tiny_tokenizers

AS_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
GPT_2 = {**AS_BYTES, "use_regex": True}


def split(regex: str, **how):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False, **how}


def sequence(*parts):
    return {"type": "Sequence", "pretokenizers": list(parts)}


def stored(pre_tokenizer, normalizer=None, ignore_merges=False):
    return {"pre_tokenizer": pre_tokenizer, "normalizer": normalizer, "model": {"ignore_merges": ignore_merges}}


LLAMA_3 = tiny_tokenizers.SPLIT.replace("DIGITS", "{1,3}")


@pytest.mark.parametrize(
    ("tokenizer", "name"),
    [
        (stored(GPT_2), "gpt-2"),
        (stored(sequence(split(LLAMA_3), AS_BYTES), ignore_merges=True), "llama-bpe"),
        (stored(sequence(split(LLAMA_3, behavior="Removed", invert=True), AS_BYTES), ignore_merges=True), "llama-bpe"),
        (stored(sequence(split(LLAMA_3), AS_BYTES)), "dbrx"),
        (stored(sequence(split(PRETOKENIZE_REGEX), AS_BYTES), {"type": "NFC"}), "qwen2"),
        (stored(sequence({"type": "Digits", "individual_digits": True}, GPT_2)), "smollm"),
    ],
)
def test_known_ways_to_split_text_have_their_names(tokenizer, name):
    assert pre_tokenizers.of_bytes(tokenizer) == name


@pytest.mark.parametrize(
    ("tokenizer", "why"),
    [
        (stored(sequence(split(r"\d+"), AS_BYTES)), r"no name for the pre-tokenizer.*\\\\d\+.*expected one of dbrx"),
        (stored({**GPT_2, "add_prefix_space": True}), "no name for the pre-tokenizer"),
        (stored(GPT_2, ignore_merges=True), "ignore_merges = True"),
        (stored(GPT_2, {"type": "Lowercase"}), "normalizer of tokenizer.json.*Lowercase"),
    ],
)
def test_others_are_refused(tokenizer, why):
    with pytest.raises(ExportError, match=why):
        pre_tokenizers.of_bytes(tokenizer)


def test_tokens_of_a_bpe_over_bytes():
    tokenizer = tiny_tokenizers.plain()
    tokenizer.add_tokens(["plainly added"])
    found = vocabulary_of(tokenizer, len(tokenizer) + 3)
    assert (found.model, found.pre, found.limits) == ("gpt2", "gpt-2", ())
    assert list(found.tokens[:-3]) == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert len(set(found.tokens)) == len(tokenizer) + 3
    assert list(found.types[-4:]) == [USER_DEFINED, UNUSED, UNUSED, UNUSED]
    assert [found.types[i] for i in tokenizer.all_special_ids] == [CONTROL] * len(tokenizer.all_special_ids)
    assert found.types[tokenizer.convert_tokens_to_ids("Ġ")] == NORMAL
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    assert list(found.merges) == [" ".join(merge) for merge in model["merges"]]


def test_tokens_without_a_row_are_left_out_and_counted():
    tokenizer = tiny_tokenizers.plain()
    found = vocabulary_of(tokenizer, len(tokenizer) - 2)
    assert len(found.tokens) == len(found.types) == len(tokenizer) - 2
    assert found.limits[0].startswith("2 tokens without a row in the embedding are left out")


def test_tokens_of_sentence_pieces():
    tokenizer = tiny_tokenizers.llama2()
    tokenizer.add_tokens(["two words"])
    found = vocabulary_of(tokenizer, len(tokenizer))
    assert (found.model, found.pre, found.space) == ("llama", "default", True)
    by_text = dict(zip(found.tokens, found.types, strict=True))
    assert (by_text["<unk>"], by_text["<s>"], by_text["<0x0A>"]) == (UNKNOWN, CONTROL, BYTE)
    assert (by_text["▁"], by_text["two words"]) == (NORMAL, USER_DEFINED)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    made = ["".join(merge) for merge in model["merges"]]
    scores = [found.scores[tokenizer.convert_tokens_to_ids(token)] for token in made]
    assert scores == sorted(scores, reverse=True) and scores[0] == 0 and len(set(scores)) == len(set(made))
    assert not vocabulary_of(tiny_tokenizers.gemma(), 400).space


def pieces(*merges: str):
    """SentencePiece's kind of tokenizer with the pieces a, b, c, ab, bc, abc."""
    vocab = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "a", "b", "c", "ab", "bc", "abc"]
    ids = {token: i for i, token in enumerate(vocab)}
    pairs = [tuple(merge.split()) for merge in merges]
    model = tokenizers.Tokenizer(tokenizers.models.BPE(ids, pairs, unk_token="<unk>", byte_fallback=True))
    model.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=model, unk_token="<unk>")


def test_merges_that_scores_cannot_say_are_refused():
    found = vocabulary_of(pieces("b c", "a b", "a bc", "ab c"), 263)
    assert [found.scores[found.tokens.index(token)] for token in ("bc", "ab", "abc")] == [0, -1, -2]
    for merges in (("b c", "a b", "a bc"), ("b c", "a bc", "a b", "ab c")):  # a pair that is no merge; one in between
        with pytest.raises(ExportError, match="merges pieces by the scores of SentencePiece.*'abc' is made by"):
            vocabulary_of(pieces(*merges), 263)


@pytest.mark.parametrize(("scheme", "space", "told"), [("always", True, 0), ("never", False, 0), ("first", False, 1)])
def test_spaces_in_front_of_sentence_pieces(scheme, space, told):
    tokenizer = tiny_tokenizers.llama2()
    tokenizer.backend_tokenizer.normalizer = None
    tokenizer.backend_tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    found = vocabulary_of(tokenizer, len(tokenizer))
    assert (found.space, len(found.limits)) == (space, told)


def test_other_kinds_of_tokenizers_are_refused():
    with pytest.raises(ExportError, match="tokenizer of type WordLevel.*expected BPE"):
        vocabulary_of(word_tokenizer(["a", "b"]), 20)
    tokenizer = tiny_tokenizers.llama2()
    tokenizer.backend_tokenizer.normalizer = tokenizers.normalizers.NFKC()
    with pytest.raises(ExportError, match="NFKC"):
        vocabulary_of(tokenizer, len(tokenizer))


def test_composing_is_told():
    assert "NFC" in vocabulary_of(tiny_tokenizers.qwen(), 410).limits[0]


def test_constants_are_those_of_the_format():
    import gguf

    for name in ("NORMAL", "UNKNOWN", "CONTROL", "USER_DEFINED", "UNUSED", "BYTE"):
        assert getattr(vocabulary, name) == gguf.TokenType[name]


def special(tokenizer, ends, config=None):
    return special_tokens(tokenizer, config or {}, {"eos_token_id": ends})


def test_what_ends_an_answer():
    tokenizer = tiny_tokenizers.with_template(tiny_tokenizers.qwen(), "qwen2_5")
    im_end, end_of_text = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    found = special(tokenizer, [end_of_text, im_end])
    assert (found.eos, found.eot, found.eom) == (im_end, end_of_text, None)
    assert (found.bos, found.begins, found.ends) == (None, False, False)
    assert special(tokenizer, [im_end], {"bos_token_id": end_of_text}).bos == end_of_text
    with pytest.raises(ExportError, match="room for three tokens.*generation_eos_token_ids"):
        special(tokenizer, [im_end, end_of_text, 5, 6])
    found = special(tokenizer, [900, im_end])  # no token
    assert (found.eos, found.eot) == (im_end, None)
    with pytest.raises(ExportError, match=r"eos_token_id \[900\], but the tokenizer has none of them"):
        special(tokenizer, [900])
    assert special(tokenizer, [im_end, 5, 6, end_of_text]).eom == 6  # the last is known by its text


def test_a_bos_is_put_in_front_only_if_chats_begin_with_it():
    llama = tiny_tokenizers.with_template(tiny_tokenizers.llama3(), "llama3")
    found = special(llama, [llama.eos_token_id])
    assert found.begins and found.limits == () and found.bos == llama.bos_token_id
    zephyr = tiny_tokenizers.with_template(tiny_tokenizers.llama2(), "zephyr")
    found = special(zephyr, [zephyr.eos_token_id])
    assert not found.begins and "does not begin with '<s>'" in found.limits[0]
    assert isinstance(zephyr, transformers.PreTrainedTokenizerFast)
    zephyr.chat_template = None
    assert special(zephyr, [zephyr.eos_token_id]).begins
