"""Benchmarks make up what they measure on: `make bench` needs no files but the repository's."""

import json
import re
from pathlib import Path

from benchmarks.made_rows import alpaca_rows, chat_rows, preference_rows
from marin_sft.data.formats import ChatLmDatasetFormat
from marin_sft.data.messages.examples import Dialogue, Preference
from marin_sft.data.messages.reading import example_of

ROOT = Path(__file__).parents[1]


def test_made_rows_are_read_as_what_they_are():
    format = ChatLmDatasetFormat()
    assert alpaca_rows(20) == alpaca_rows(20) != alpaca_rows(20, seed=1)
    for row in [*alpaca_rows(20), *map(json.loads, chat_rows(20))]:
        assert isinstance(example_of(row, format), Dialogue)
    for row in preference_rows(20):
        assert isinstance(example_of(row, format), Preference)


def test_no_benchmark_reads_beside_the_repository():
    for file in (ROOT / "benchmarks").rglob("*.py"):
        assert not re.search(r"\.parent\.parent|parents\[2\]|\.\./", file.read_text()), file.name
