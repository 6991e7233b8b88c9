"""The step that keeps data that a script had in memory: rows, or the files of a tokenizer.

The script writes files below the prefix, and the step copies them to its output. Their content identifies them, so the
same rows are the same step in every process.
"""

from __future__ import annotations

import hashlib

from marin_sft.data.step_configs import KeptConfig
from marin_sft.errors import DataError
from marin_sft.paths import file_system

_BLOCK = 2**22


def keep(config: KeptConfig) -> None:
    """Copy the files of `config` to the output.

    Raises:
        DataError: a file is missing, or does not hold what the script had.
    """
    for name, digest in config.files.items():
        filesystem, source = file_system(f"{config.from_directory}/{name}")
        target_system, target = file_system(f"{config.output_path}/{name}")
        target_system.makedirs(target.rpartition("/")[0], exist_ok=True)
        found = hashlib.sha256()
        try:
            with filesystem.open(source, "rb") as read, target_system.open(target, "wb") as written:
                while block := read.read(_BLOCK):
                    found.update(block)
                    written.write(block)
        except FileNotFoundError:
            raise DataError(
                f"{source} is missing: it held data from the script's memory; run the script again to write it"
            ) from None
        if found.hexdigest() != digest:
            raise DataError(f"{source} does not hold what the script had in memory; run the script again to write it")
