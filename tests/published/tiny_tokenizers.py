"""Small tokenizers of the kinds that published models have, trained on a few lines: the class of transformers, the way
text is split, the special tokens and the chat template are those of the family; merges are few."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parents[1] / "data/chat/templates"
LINES = ["What is 2 + 2? It is 4.", "def add(a, b):\n    return a + b\n", "Où est l'été ? C'est 1234567.", "  \t\n\n x"]
VOCAB_SIZE = 400
# How Llama 3, Qwen and OLMo split text before merges: a contraction, a word, digits, punctuation, white space.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def llama3() -> Any:
    """A plain fast tokenizer that puts the BOS in front."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    model = _byte_level(special, "{1,3}")
    bos = [(special[0], model.token_to_id(special[0]))]
    model.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=f"{special[0]} $A", special_tokens=bos),
        ]
    )
    names = {"bos_token": special[0], "eos_token": special[4]}
    inputs = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=model, model_input_names=inputs, **names)


def qwen() -> Any:
    """Qwen2Tokenizer, made as its publishers do: of vocab.json and merges.txt."""
    from tokenizers import normalizers
    from transformers import Qwen2TokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    model = _byte_level(special, "", normalizers.NFC())
    tokenizer = Qwen2TokenizerFast(tokenizer_object=model, eos_token=special[2], pad_token=special[0])
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:]})
    return tokenizer


def olmo() -> Any:
    """GPT2Tokenizer, though it splits otherwise than GPT-2's."""
    from transformers import GPT2TokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
    names = {"bos_token": special[0], "unk_token": special[0], "eos_token": special[0], "pad_token": special[3]}
    tokenizer = GPT2TokenizerFast(tokenizer_object=_byte_level(special, "{1,3}"), **names)
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:3]})
    return tokenizer


def plain() -> Any:
    """What our own step `train_tokenizer` makes: split as GPT-2's, in a plain fast tokenizer."""
    from tokenizers import pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    model = _trained(special, pre_tokenizers.ByteLevel(add_prefix_space=False))
    inputs = ["input_ids", "attention_mask"]
    names = {"eos_token": special[2], "pad_token": special[0], "additional_special_tokens": special[1:2]}
    return PreTrainedTokenizerFast(tokenizer_object=model, model_input_names=inputs, **names)


def llama2() -> Any:
    """LlamaTokenizer: SentencePiece's merges with a byte for what is not in the vocabulary."""
    from tokenizers import normalizers, processors
    from transformers import LlamaTokenizerFast

    special = ["<unk>", "<s>", "</s>"]
    model = _sentence_pieces(special, normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]))
    model.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return LlamaTokenizerFast(tokenizer_object=model, pad_token="<unk>")


def gemma() -> Any:
    """GemmaTokenizer: SentencePiece's merges, no space put in front."""
    from tokenizers import normalizers, pre_tokenizers, processors
    from transformers import GemmaTokenizerFast

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"]
    split = pre_tokenizers.Split(" ", "merged_with_previous")
    model = _sentence_pieces(special, normalizers.Replace(" ", "▁"), split)
    model.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    tokenizer = GemmaTokenizerFast(tokenizer_object=model)
    tokenizer.add_special_tokens({"additional_special_tokens": special[5:]})
    return tokenizer


def with_template(tokenizer: Any, name: str) -> Any:
    tokenizer.chat_template = (TEMPLATES / f"{name}.jinja").read_text().rstrip("\n")
    return tokenizer


def _byte_level(special: Sequence[str], digits: str, normalizer: Any = None) -> Any:
    from tokenizers import Regex, pre_tokenizers

    split = pre_tokenizers.Split(Regex(SPLIT.replace("DIGITS", digits)), "isolated")
    parts = [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    return _trained(special, pre_tokenizers.Sequence(parts), normalizer)


def _trained(special: Sequence[str], split: Any, normalizer: Any = None) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    model: Any = Tokenizer(models.BPE())
    model.pre_tokenizer, model.decoder = split, decoders.ByteLevel()
    model.post_processor = processors.ByteLevel(trim_offsets=False)
    if normalizer is not None:
        model.normalizer = normalizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    options = {"vocab_size": VOCAB_SIZE, "special_tokens": list(special), "initial_alphabet": alphabet}
    model.train_from_iterator(LINES * 3, trainers.BpeTrainer(show_progress=False, **options))
    return model


def _sentence_pieces(special: Sequence[str], normalizer: Any, split: Any = None) -> Any:
    """A BPE over characters, `▁` for a space, with the 256 bytes as tokens of their own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    trained: Any = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(LINES * 3, trainers.BpeTrainer(vocab_size=120, show_progress=False))
    learnt = json.loads(trained.to_str())["model"]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *learnt["vocab"]]
    merges = [tuple(merge) for merge in learnt["merges"]]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    model: Any = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    model.normalizer = normalizer
    if split is not None:
        model.pre_tokenizer = split
    model.add_special_tokens(list(special))
    replaced = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    stripped = [decoders.Strip(" ", 1, 0)] if split is None else []
    model.decoder = decoders.Sequence(replaced + stripped)
    return model
