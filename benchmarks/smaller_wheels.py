"""Compress wheels again, with LZMA, which pip reads too. A checkout with them may then weigh under 64 MiB.

python benchmarks/smaller_wheels.py FOLDER   # a minute
"""

import sys
import zipfile
from pathlib import Path

for wheel in Path(sys.argv[1]).glob("*.whl"):
    smaller = wheel.with_suffix(".smaller")
    with zipfile.ZipFile(wheel) as whole, zipfile.ZipFile(smaller, "w", zipfile.ZIP_LZMA) as packed:
        for entry in whole.infolist():
            content = whole.read(entry)
            entry.compress_type = zipfile.ZIP_LZMA
            packed.writestr(entry, content)
    smaller.replace(wheel)
