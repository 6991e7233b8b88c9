"""Load a tokenizer, and tell two apart."""

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
"""The class for which transformers uses tokenizer.json unchanged."""
_TEMPLATES = "additional_chat_templates"
_TOKENIZER_FILES = ("tokenizer", "special", "chat", "added", "vocab", "merges", "config.json", _TEMPLATES)
_VOCABULARIES = ("tokenizer.json", "vocab", "merges", "tekken")
_VOCABULARY_KINDS = (".model", ".tiktoken")
_HUB_SECONDS = 10.0
_logger = logging.getLogger(__name__)
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")

_SAMPLED = 256  # tokens


def load_tokenizer(path: str, chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """The tokenizer saved in the directory `path` (local or remote), its chat template replaced by `chat_template`.

    Raises:
        ConfigError: no tokenizer there, an unreadable one, or a slow one: masks need a fast tokenizer.
    """
    path = os.fspath(path)  # in a config, a Path is a directory that counts by its content
    fs, root = file_system(path)
    names = {posixpath.basename(p) for p in fs.ls(root, detail=False)} if fs.isdir(root) else None
    names = _checked(path, names)
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


def check_directory(path: str) -> None:
    """Raise ConfigError for a local directory that holds no tokenizer. Loads nothing."""
    _checked(path, set(os.listdir(path)))


def stored_tokens(path: str) -> set[str]:
    """The tokens that a local tokenizer.json lists; empty if there is none that can be read. Loads nothing else."""
    try:
        with open(os.path.join(path, "tokenizer.json"), "rb") as file:
            stored = json.load(file)
        vocabulary = stored["model"]["vocab"]  # token: id, or [token, score] where tokens have probabilities
        tokens = vocabulary if isinstance(vocabulary, dict) else (token for token, _ in vocabulary)
        return {*tokens, *(token["content"] for token in stored.get("added_tokens", ()))}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _checked(path: str, names: set[str] | None) -> set[str]:
    """`names` of the files in a directory; None: there is none."""
    if names is None or not names & {"tokenizer.json", "tokenizer_config.json", "tokenizer.model"}:
        found = "no directory" if names is None else sorted(names)[:8] or "nothing"
        raise ConfigError(
            f"no tokenizer in {path!r} (found {found}); expected a directory with tokenizer.json. A hub id becomes a "
            "directory through a download step"
        )
    return names


def load_tokenizer_by_name(name: str) -> PreTrainedTokenizerFast:
    """The tokenizer in the directory `name`, or that of the hub id `name`.

    Raises:
        ConfigError: neither exists, the hub cannot be reached, or the tokenizer is slow.
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
    """Whether the hub has `name`. False if it cannot be reached: then only the local cache is used.

    Asked once here: the client would ask for each file of the tokenizer, several times.

    Raises:
        ConfigError: the hub says that it has no such model.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    try:
        HfApi().model_info(name, timeout=_HUB_SECONDS)
    except RepositoryNotFoundError as error:
        raise ConfigError(
            f"tokenizer {name!r}: no such directory, and no such model on the hub, or no permission to read it"
            f"{nearest_path(name)}"
        ) from error
    except HfHubHTTPError:  # it answers; a mirror may serve files only
        return True
    except Exception as error:  # depends on the HTTP client in use
        _logger.info("the hub cannot be asked for %s: %s", name, error)
        return False
    return True


def _from_pretrained(place: str, name: str, *, local_files_only: bool) -> PreTrainedTokenizerFast:
    """Of a local directory, or of the hub id `place`."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False, local_files_only=local_files_only)
    except Exception as error:  # for unreadable files, tokenizers raises a bare Exception
        if "trust_remote_code" in str(error):
            raise ConfigError(
                f"the tokenizer {name!r} comes with its own code (auto_map in its tokenizer_config.json), which is "
                "never run; expected a class of transformers: if there is a tokenizer.json, remove auto_map and "
                f"set tokenizer_class to {PLAIN_CLASS!r}"
            ) from error
        raise ConfigError(f"cannot load the tokenizer {name!r}: {_why_not(place, name, error)}") from error
    if not tokenizer.is_fast:
        raise ConfigError(f"{name!r} holds a {type(tokenizer).__name__}; expected a fast one (with a tokenizer.json)")
    return tokenizer


def _why_not(place: str, name: str, error: Exception) -> str:
    """Why a tokenizer cannot be loaded, and what to do."""
    reason = " ".join(str(error).split())
    if not os.path.isdir(place):
        return (
            f"{reason}; expected a directory with a Hugging Face tokenizer, or the id of one on the hub that can be "
            f"reached from here or is cached{nearest_path(name)}"
        )
    there = sorted(os.listdir(place))
    if not any(file.startswith(_VOCABULARIES) or file.endswith(_VOCABULARY_KINDS) for file in there):
        return f"it has no vocabulary (found {', '.join(there)}); expected tokenizer.json: copy or download it again"
    try:
        with open(os.path.join(place, "tokenizer.json"), "rb") as file:
            whole = isinstance(json.load(file), dict)
    except FileNotFoundError:
        whole = True
    except ValueError:
        whole = False
    what = reason if whole else f"tokenizer.json is not an object of JSON ({reason})"
    return f"{what}; expected the files of a Hugging Face tokenizer, whole: copy or download them again"


def vocabulary_size(tokenizer: PreTrainedTokenizerFast) -> int:
    """The number of embedding rows that a model needs for it: its largest id plus one."""
    return 1 + max(tokenizer.get_vocab().values())


def vocabulary_sample(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """The ids of a few hundred tokens, evenly spread. They show whether a model was made for other ids.

    Added tokens are left out: people rename the reserved ones.
    """
    added = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    ids = sorted((id, token) for token, id in tokenizer.get_vocab().items() if token not in added)
    return {token: id for id, token in ids[:: max(1, len(ids) // _SAMPLED)]}


def vocabulary_hash(tokenizer: PreTrainedTokenizerFast) -> str:
    """Equal for two tokenizers that give the same ids for the same text. The chat template does not count."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())
    # Left over from the last call, not part of the tokenizer.
    model["padding"] = model["truncation"] = None
    return hashlib.sha256(json.dumps(model, sort_keys=True).encode()).hexdigest()
