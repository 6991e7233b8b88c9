"""Loading a tokenizer, and what tells two apart."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import posixpath
import re
import tempfile
from typing import TYPE_CHECKING

from marin_sft.errors import ConfigError
from marin_sft.paths import file_system, nearest_path

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PLAIN_CLASS = "PreTrainedTokenizerFast"
"""For which transformers takes tokenizer.json as it is."""
_TEMPLATES = "additional_chat_templates"
_TOKENIZER_FILES = ("tokenizer", "special", "chat", "added", "vocab", "merges", "config.json", _TEMPLATES)
_HUB_SECONDS = 10.0
_logger = logging.getLogger(__name__)
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")

_SAMPLED = 256  # tokens


def load_tokenizer(path: str, chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """The tokenizer saved in the directory `path` (local or remote), its chat template replaced by `chat_template`.

    Raises:
        ConfigError: no tokenizer there, one that cannot be read, or one that is not fast, which masks need.
    """
    path = os.fspath(path)  # a config holds a Path where the directory counts by content
    fs, root = file_system(path)
    names = {posixpath.basename(p) for p in fs.ls(root, detail=False)} if fs.isdir(root) else set()
    if not names & {"tokenizer.json", "tokenizer_config.json", "tokenizer.model"}:
        raise ConfigError(
            f"no tokenizer in {path!r} (found {sorted(names)[:8] or 'no directory'}); expected a directory with "
            "tokenizer.json. A hub id becomes a directory through a download step"
        )
    if "://" in path and not path.startswith("file://"):
        with tempfile.TemporaryDirectory() as local:
            for name in sorted(n for n in names if n.startswith(_TOKENIZER_FILES)):
                if name == _TEMPLATES:
                    fs.get(f"{root}/{name}", f"{local}/{name}", recursive=True)
                else:
                    fs.get_file(f"{root}/{name}", f"{local}/{name}")
            tokenizer = _from_pretrained(local, path, local_files_only=True)
    else:
        tokenizer = _from_pretrained(root, path, local_files_only=True)
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    return tokenizer


def load_tokenizer_by_name(name: str) -> PreTrainedTokenizerFast:
    """The tokenizer in the directory `name`, or that of the hub id `name`.

    Raises:
        ConfigError: neither is there, the hub cannot be reached, or the tokenizer is no fast one.
    """
    if "://" in name or os.path.isdir(name):
        return load_tokenizer(name)
    if not _HUB_ID.fullmatch(name):
        raise ConfigError(
            f"tokenizer {name!r}: no such directory; expected a directory with tokenizer.json, or a hub id"
            f"{nearest_path(name)}"
        )
    return _from_pretrained(name, name, local_files_only=not _is_on_hub(name))


def _is_on_hub(name: str) -> bool:
    """Whether the hub has `name`; False where it cannot be asked, and what was fetched before has to do.

    Asked once: the clients of tokenizers ask for each of their files, again and again.

    Raises:
        ConfigError: the hub answers that it has no such model.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    try:
        HfApi().model_info(name, timeout=_HUB_SECONDS)
    except RepositoryNotFoundError as error:
        raise ConfigError(
            f"tokenizer {name!r}: no such directory, and no such model on the hub, or none that may be read from here"
            f"{nearest_path(name)}"
        ) from error
    except HfHubHTTPError:  # it answers: a mirror may have files alone
        return True
    except Exception as error:  # of whatever client it uses
        _logger.info("the hub cannot be asked for %s: %s", name, error)
        return False
    return True


def _from_pretrained(place: str, name: str, *, local_files_only: bool) -> PreTrainedTokenizerFast:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False, local_files_only=local_files_only)
    except Exception as error:  # the tokenizers library raises bare ones for files that it cannot read
        if "trust_remote_code" in str(error):
            raise ConfigError(
                f"the tokenizer {name!r} is a class of its own code (auto_map in its tokenizer_config.json), which is "
                "never run; expected one that transformers has: where there is a tokenizer.json, leave out auto_map, "
                f"and set tokenizer_class to {PLAIN_CLASS!r}"
            ) from error
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"cannot load the tokenizer {name!r}: {reason}; expected a directory with the files of a Hugging Face "
            "tokenizer, or the id of one on the hub that can be reached from here or is in its cache"
            f"{nearest_path(name)}"
        ) from error
    if not tokenizer.is_fast:
        raise ConfigError(f"{name!r} holds a {type(tokenizer).__name__}; expected a fast one (with a tokenizer.json)")
    return tokenizer


def vocabulary_size(tokenizer: PreTrainedTokenizerFast) -> int:
    """How many rows the embeddings of a model need for it: its largest id, and one."""
    return 1 + max(tokenizer.get_vocab().values())


def vocabulary_sample(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """The ids of a few hundred tokens, evenly spread, by which to tell that a model was made for other ids.

    Added tokens are none of them: people give the reserved ones other names.
    """
    added = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    ids = sorted((id, token) for token, id in tokenizer.get_vocab().items() if token not in added)
    return {token: id for id, token in ids[:: max(1, len(ids) // _SAMPLED)]}


def vocabulary_hash(tokenizer: PreTrainedTokenizerFast) -> str:
    """Equal for two tokenizers when they give the same ids to the same text; the chat template does not count."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())
    # State of the last call, not of the tokenizer.
    model["padding"] = model["truncation"] = None
    return hashlib.sha256(json.dumps(model, sort_keys=True).encode()).hexdigest()
