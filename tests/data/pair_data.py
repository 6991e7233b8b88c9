"""Tokenizations of made-up preference pairs."""

import json
from pathlib import Path

import numpy as np

from marin_sft.data.chat.alignment import TokenRow
from marin_sft.data.data_configs import lm_mixture_data_config
from marin_sft.data.files import write_json
from marin_sft.data.mixture import MixtureConfig, mixture
from tests.data.on_disk import read_mixture, write_token_cache


def branch(prompt, completion, gaps=()):
    """Of lists of token ids; completion tokens at `gaps` are no targets."""
    mask = np.array([0] * len(prompt) + [i not in gaps for i in range(len(completion))], np.uint8)
    return TokenRow(np.array([*prompt, *completion], np.int32), mask)


def made_up(sizes, first=1):
    """Pairs of (prompt, chosen, rejected) many tokens; no token comes twice but for the prompts' in both branches."""
    pairs = []
    for prompt, *completions in sizes:
        shared = range(first, first + prompt)
        first += prompt
        sides = []
        for size in completions:
            sides.append(branch(shared, range(first, first + size)))
            first += size
        pairs.append(tuple(sides))
    return pairs


def write_tokenized(directory, pairs, split="train"):
    """What a tokenize step makes of `pairs` of TokenRows."""
    write_token_cache(f"{directory}/{split}", [row for pair in pairs for row in pair])
    path = Path(directory, "stats.json")
    stats = json.loads(path.read_text()) if path.exists() else {"vocabulary": "v"}
    write_json(str(path), {**stats, split: {"kind": "pairs", "pairs": len(pairs)}})
    return str(directory)


def write_mixture(output_path, tokenized, seq_len, weights=None, limits=None, **options):
    data = lm_mixture_data_config(tokenized, weights or dict.fromkeys(tokenized, 1), **options)
    mixture(MixtureConfig(data, seq_len, output_path=str(output_path), **limits or {}))
    return read_mixture(str(output_path))
