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
from marin_sft.execution.step import ExecutorStep, kind_of

SCHEMA = 2  # of the payload's form: raise it when a value gets another text. It moves every output
Payload = dict[str, Any]
_FINGERPRINTED = re.compile(r"(?P<name>.+)-[0-9a-f]{10}")


def payload_of(
    step: ExecutorStep[Any],
    fingerprint_of: Callable[[ExecutorStep[Any]], str],
    contents: list[LocalContent] | None = None,
) -> Payload:
    """The readable form of a step's identity, given the fingerprints of its inputs.

    contents: gets the local files that count by what they hold.

    Raises:
        ConfigError: for a value without a stable text, or a body that is not there; the message names the step and the
            field.
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


def changed_code(config: Any, payload: Payload) -> list[str]:
    """Where functions and classes with methods stand in a config whose source is not what `payload` says.

    Those of `__main__` are left out: they travel to a worker by themselves. So is what cannot be read on this machine.
    """
    canonical = Canonical(lambda step: "", [])
    changed: list[str] = []

    def is_changed(value: Any, meant: Any, path: str) -> bool:
        of = value if isinstance(value, types.FunctionType) else type(value)
        if not isinstance(meant, dict) or of.__module__ == "__main__":
            return False
        if "$function" in meant:
            return bool(canonical.value(value, path) != meant)
        return "$code" in meant and canonical.code(type(value), path) != {"$code": meant["$code"]}

    def visit(value: Any, meant: Any, path: str) -> None:
        with contextlib.suppress(ConfigError):
            if is_changed(value, meant, path):
                changed.append(path)
        for part in parts_of(value, path) or ():
            child = _child(meant, part.key)
            if child is not None:
                visit(part.value, child, part.path)

    visit(config, payload["config"], "config")
    return changed


def _child(meant: Any, key: Any) -> Any:
    """What stands under a part's key in the text of its container; None where the part does not count."""
    if isinstance(meant, list):
        return meant[key]
    return meant.get(f"${key}" if str(key).startswith("$") else key) if isinstance(meant, dict) else None


def name_of_directory(directory: str) -> str | None:
    """The step name in `{name}-{fingerprint[:10]}`; None for any other directory name."""
    match = _FINGERPRINTED.fullmatch(directory)
    return match["name"] if match else None
