"""Sample rows of a tokenized dataset, with the text of each token, and the lengths of its documents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from marin_sft.data.files import open_file
from marin_sft.data.token_cache import TokenCache
from marin_sft.errors import MarinSftError
from marin_sft.execution.documents import JsonObject

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Tokenizer

_DOCUMENTS = 6
_TOKENS = 512  # the most of a document that is shown
_BINS = 24
_LONG = 0.995  # longer documents than this share share the last bin


def read_tokenizer(directory: str) -> Tokenizer:
    """Raises MarinSftError if there is none."""
    from tokenizers import Tokenizer  # without transformers, whose import takes seconds

    path = f"{directory}/tokenizer.json"
    try:
        with open_file(path, "rb") as file:
            data = file.read()
    except FileNotFoundError as error:
        raise MarinSftError(f"{path}: no such file, so sample rows cannot be shown as text") from error
    return Tokenizer.from_buffer(data)


def split_json(cache: TokenCache, tokenizer: Tokenizer | None, pairs: bool) -> JsonObject:
    """Histograms over all documents, and a few of the documents. tokenizer: None if it is gone."""
    lengths, trained = cache.lengths, cache.trained
    edges = bin_edges(lengths)
    return {
        "edges": edges,
        "lengths": counts_in(lengths, edges),
        "trained": counts_in(trained, edges),
        "longest": int(lengths.max()),
        "median": int(sorted_middle(lengths)),
        "samples": samples(cache, tokenizer, pairs) if tokenizer is not None else [],
    }


def bin_edges(lengths: np.ndarray) -> list[int]:
    """Lower edges of bins of one round width, so that all but the longest documents fit in them."""
    import numpy as np

    most = int(np.quantile(lengths, _LONG))
    width = next(w * 10**e for e in range(12) for w in (1, 2, 5) if w * 10**e * _BINS > most)
    return list(range(0, most + width, width))


def counts_in(values: np.ndarray, edges: list[int]) -> list[int]:
    """How many values each bin has; the last bin has no upper edge."""
    import numpy as np

    return np.histogram(values, [*edges, np.iinfo(np.int64).max])[0].tolist()


def sorted_middle(values: np.ndarray) -> float:
    import numpy as np

    return float(np.median(values))


def samples(cache: TokenCache, tokenizer: Tokenizer, pairs: bool) -> list[JsonObject]:
    """Documents spread over the dataset. Of pairs, the chosen document and the rejected one together."""
    import numpy as np

    each = 2 if pairs else 1
    units = len(cache) // each
    chosen = np.unique(np.linspace(0, units - 1, min(_DOCUMENTS // each, units)).astype(int))
    documents = [int(unit) * each + part for unit in chosen for part in range(each)]
    roles = ("chosen", "rejected") if pairs else (None,)
    return [
        {
            "document": document,
            "role": roles[document % each],
            "tokens": len(row.input_ids),
            "trained": int(np.count_nonzero(row.mask[1:])),
            "texts": token_texts(tokenizer, row.input_ids[:_TOKENS].tolist()),
            "mask": "".join(map(str, row.mask[:_TOKENS].tolist())),
        }
        for document, row in zip(documents, cache.read(documents), strict=True)
    ]


def token_texts(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    """What each token adds to the text; a token that ends within a character adds nothing, the next one adds it all."""
    from tokenizers.decoders import DecodeStream

    stream = DecodeStream(skip_special_tokens=False)
    return [stream.step(tokenizer, token) or "" for token in ids]
