"""The cost of turning chat rows into training batches, compared with the `tokenizers` library alone, in one run.

python benchmarks/data.py [--quick] [--runs 3] [--rows 20000]

Rows are generated from seeded text: dialogues of one to three exchanges, a few hundred tokens each. Each measurement
runs in its own process, with one thread of `tokenizers` per worker. Imports are not counted.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from made_rows import chat_rows
from table import Row, Target, print_table
from tokenize_rows import TARGET

from marin_sft.data.packing.packs import pack
from marin_sft.data.token_cache import ROWS_PER_SHARD
from marin_sft.data.train_tokenizer import TrainTokenizerConfig, train_tokenizer

HERE = Path(__file__).parent
VOCABULARY = 8000
DOCUMENTS, CAPACITY, MEAN = 1_000_000, 4096, 300  # to pack


@dataclass(frozen=True)
class Bench:
    """One run of all measurements on files in `folder`."""

    folder: Path
    rows: int
    runs: int
    documents: int

    def measure(self) -> Iterable[Row]:
        few, many = self.write_rows(self.rows), self.write_rows(10 * self.rows)
        self.train_tokenizer(few)
        yield from self.tokenization(few)
        yield from self.two_workers(many)
        yield self.memory(few, many)
        yield from self.packing()
        yield self.loader()

    def write_rows(self, count: int) -> Path:
        path = self.folder / f"{count}.jsonl"
        with path.open("w") as file:
            file.writelines(chat_rows(count))
        return path

    def train_tokenizer(self, rows: Path) -> None:
        train_tokenizer(TrainTokenizerConfig((str(rows),), VOCABULARY, output_path=str(self.folder / "tokenizer")))

    def tokenization(self, rows: Path) -> Iterable[Row]:
        found = self.run("beside", rows)
        seconds = {"ours": found["seconds"], "tokenizers": found["tokenizers"]}
        target = Target(f">= {TARGET} of its speed, here {found['ratio']:.2f}", holds=found["ratio"] >= TARGET)
        yield Row(f"{self.rows:,} chat rows to a token cache", seconds, [target])
        millions = found["tokens"] / 1e6
        yield Row("  each million tokens", {name: of / millions for name, of in seconds.items()})

    def two_workers(self, rows: Path) -> Iterable[Row]:
        one = self.run("tokenize", rows, self.folder / "one")
        two = self.run("workers", rows, self.folder / "two")
        holds = two["seconds"] <= one["seconds"]
        target = Target(f"no slower than one, which took {one['seconds']:.1f} s", holds=holds)
        yield Row(f"{10 * self.rows:,} chat rows, two workers on Ray", {"ours": two["seconds"]}, [target])
        yield Row("  the driver, for each shard", {"ours": two["shard_cpu"]}, [Target("<= 20 ms", 0.02)])
        each = two["cpu"] / two["shards"]
        text = f"in all <= 20 ms for each of {two['shards']:.0f} shards, here {1000 * each:.1f} ms"
        yield Row("  the driver, once", {"ours": two["fixed_cpu"]}, [Target(text, holds=each <= 0.02)])

    def memory(self, few: Path, many: Path) -> Row:
        runs = [self.run("tokenize", rows, self.folder / f"memory{rows.stem}") for rows in (few, many)]
        peaks = [run["peak_mib"] for run in runs]
        text = f"10x rows: at most 1.2x memory, here {peaks[0]:.0f} -> {peaks[1]:.0f} MiB"
        return Row(
            f"{10 * self.rows:,} chat rows, one worker",
            {"ours": runs[1]["seconds"]},
            [Target(text, holds=peaks[1] <= 1.2 * peaks[0])],
        )

    def packing(self) -> Iterable[Row]:
        sizes = np.random.default_rng(0).lognormal(math.log(MEAN) - 0.5, 1, self.documents)
        lengths = np.clip(sizes, 1, CAPACITY).astype(np.int64)
        seconds = []
        for _ in range(self.runs):
            begun = time.perf_counter()
            packs = pack(lengths, CAPACITY)
            seconds.append(time.perf_counter() - begun)
        least = math.ceil(lengths.sum() / CAPACITY)
        yield Row(
            f"pack {self.documents:,} documents",
            {"ours": statistics.median(seconds)},
            [
                Target("<= 3 s", 3.0),
                Target(f"rows within 1% of {least:,}, here {len(packs):,}", holds=len(packs) <= 1.01 * least),
            ],
        )

    def loader(self) -> Row:
        runs = [
            self.run("loader", self.folder / f"memory{self.rows}", self.folder / f"loader{n}") for n in range(self.runs)
        ]
        step, waited, unhidden = (_median(runs, name) for name in ("seconds", "waited", "unhidden"))
        text = f"waits < 2% of a step, here {waited / step:.2%}; a batch takes {1000 * unhidden:.1f} ms"
        return Row(
            "a training step of the quickstart's size", {"ours": step}, [Target(text, holds=waited < 0.02 * step)]
        )

    def run(self, work: str, source: Path, output: Path | None = None) -> dict[str, float]:
        report, log = self.folder / "report.json", self.folder / "log"
        paths = [str(path) for path in (source, self.folder / "tokenizer", output) if path]
        with log.open("w") as file:
            command = [sys.executable, str(HERE / "ours_data.py"), str(report), work, *paths]
            done = subprocess.run(command, stdout=file, stderr=file)
        if done.returncode:
            sys.exit(f"{work} failed:\n{log.read_text()[-4000:]}")
        return json.loads(report.read_text())


def _median(runs: list[dict[str, float]], figure: str) -> float:
    return statistics.median(run[figure] for run in runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000, help="chat rows; ten times as many for memory and workers")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one run with 2,000 rows: a check only")
    arguments = parser.parse_args()
    rows, runs, documents = (2000, 1, 100_000) if arguments.quick else (arguments.rows, arguments.runs, DOCUMENTS)
    if 10 * rows <= 2 * ROWS_PER_SHARD:
        parser.error(f"--rows {rows}: ten times as many are too few for three shards of {ROWS_PER_SHARD}")
    print(f"median of {runs}, {os.cpu_count()} cores, load average before {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        print_table(["ours", "tokenizers"], Bench(Path(folder), rows, runs, documents).measure())
    print(f"load average after {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
