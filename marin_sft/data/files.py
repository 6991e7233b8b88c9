"""Small files of a step's output: arrays and JSON, with the same bytes for the same values. Local paths and URLs."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from marin_sft.paths import file_system, local_path

if TYPE_CHECKING:
    import numpy as np
    from fsspec.core import OpenFile

_NARROW = 2**28

Json: TypeAlias = dict[str, Any]
"""A JSON object, its values unchecked."""


def open_file(path: str, mode: str) -> OpenFile:
    """A binary file to use in a `with`. Folders are made as needed."""
    from fsspec.core import OpenFile

    filesystem, plain = file_system(path)
    if "w" in mode and local_path(path) is not None:
        filesystem.makedirs(os.path.dirname(plain), exist_ok=True)
    return OpenFile(filesystem, plain, mode)


def errors_of_reading(path: str) -> tuple[type[Exception], ...]:
    """What reading a file raises if it fails partway. fsspec passes errors of its HTTP client through."""
    if path.startswith(("https://", "http://")):
        import aiohttp

        return (OSError, EOFError, zlib.error, aiohttp.ClientError)
    return (OSError, EOFError, zlib.error)


def write_array(path: str, array: np.ndarray) -> None:
    """Write one .npy file. (An .npz would hold the time.)"""
    import numpy as np

    with open_file(path, "wb") as file:
        np.save(file, array, allow_pickle=False)


def read_array(path: str) -> np.ndarray:
    """Raises FileNotFoundError."""
    import numpy as np

    with open_file(path, "rb") as file:
        return np.load(file, allow_pickle=False)


def narrow(array: np.ndarray) -> np.ndarray:
    """Int64 values as int32 if they and small multiples of them fit: half the memory, for what has many of them."""
    import numpy as np

    small = array.size > 0 and -_NARROW < array.min() and array.max() < _NARROW
    return array.astype(np.int32) if small else array


def write_text(path: str, text: str) -> None:
    with open_file(path, "wb") as file:
        file.write(text.encode())


def write_json(path: str, value: object) -> None:
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def write_json_lines(path: str, values: Iterable[object]) -> None:
    """A lone surrogate, which UTF-8 cannot encode, is written as its JSON escape."""
    text = "".join(json.dumps(value, ensure_ascii=False, sort_keys=True) + "\n" for value in values)
    write_text(path, text.encode(errors="backslashreplace").decode())


def read_json(path: str) -> Any:
    """Raises FileNotFoundError."""
    with open_file(path, "rb") as file:
        return json.loads(file.read())
