"""A step's identity: its config as canonical JSON, hashed together with the fingerprints of its inputs.

    payload     = {"schema", "kind", "version", "config"}, in which an input is given by its fingerprint
    fingerprint = sha256(canonical_json(payload))

`canonical` says which values of a config count.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import types
from collections.abc import Callable
from typing import Any

from marin_sft.errors import ConfigError
from marin_sft.execution.canonical import Canonical
from marin_sft.execution.configs import parts_of
from marin_sft.execution.contents import LocalContent
from marin_sft.execution.documents import canonical_json
from marin_sft.execution.source import check_exists
from marin_sft.execution.step import AnyStep, kind_of

SCHEMA = 2  # version of the payload's format. Raise it if a value gets another text; that moves every output
Payload = dict[str, object]
_FINGERPRINTED = re.compile(r"(?P<name>.+)-[0-9a-f]{10}")


def payload_of(
    step: AnyStep,
    fingerprint_of: Callable[[AnyStep], str],
    contents: list[LocalContent] | None = None,
) -> Payload:
    """The readable form of a step's identity, given the fingerprints of its inputs.

    contents: the local files that count by content are added to it.

    Raises:
        ConfigError: a value has no stable text form, or the body does not exist; names the step and the field.
    """
    try:
        kind = kind_of(step.fn)
        check_exists(step.fn)
        config = Canonical(fingerprint_of, [] if contents is None else contents).config(step.config)
    except ConfigError as error:
        raise ConfigError(f"step '{step.name}' {error}") from None
    return {"schema": SCHEMA, "kind": kind.kind, "version": kind.version, "config": config}


def fingerprint_of_payload(payload: Payload) -> str:
    """sha256 of the canonical JSON, 64 hex digits."""
    return hashlib.sha256(canonical_json(payload).encode()).hexdigest()


def changed_code(config: object, payload: Payload) -> list[str]:
    """The paths in a config of functions, and of classes with methods, whose source differs from `payload`.

    Skips those of `__main__`, which are sent to the worker, and those that cannot be read on this machine.
    """
    canonical = Canonical(lambda step: "", [])
    changed: list[str] = []

    def is_changed(value: object, meant: object, path: str) -> bool:
        of = value if isinstance(value, types.FunctionType) else type(value)
        if not isinstance(meant, dict) or of.__module__ == "__main__":
            return False
        if "$function" in meant:
            return bool(canonical.value(value, path) != meant)
        return "$code" in meant and canonical.code(type(value), path) != {"$code": meant["$code"]}

    def visit(value: object, meant: object, path: str) -> None:
        with contextlib.suppress(ConfigError):
            if is_changed(value, meant, path):
                changed.append(path)
        for part in parts_of(value, path) or ():
            child = _child(meant, part.key)
            if child is not None:
                visit(part.value, child, part.path)

    visit(config, payload["config"], "config")
    return changed


def _child(meant: object, key: Any) -> object:
    """The canonical child under a part's key; None if the part does not count."""
    if isinstance(meant, list):
        return meant[key]
    return meant.get(f"${key}" if str(key).startswith("$") else key) if isinstance(meant, dict) else None


def name_of_directory(directory: str) -> str | None:
    """The step name in `{name}-{fingerprint[:10]}`; None for any other directory name."""
    match = _FINGERPRINTED.fullmatch(directory)
    return match["name"] if match else None
