"""The speed of supervised fine-tuning, compared with TRL's and Levanter's own trainers, in one run.

python benchmarks/sft.py [--data alpaca.json] [--runs 3] [--steps 8] [--json]

All train the same model of 6.8 million random parameters in float32 on the same dialogues of at most 512 tokens, with
about as many dialogues per step: packed into 8 rows, or 21 dialogues padded to the longest. The result is trained
tokens per second after compilation; padding and prompts do not count. TRL runs in `.peers-trl` (`make peers-trl`), and
the best of four settings counts. Levanter's Trainer runs with its own loss and data loader on our packed rows. Without
`--data`, dialogues are generated.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from made_rows import alpaca_rows
from step_python import STEP_PYTHON
from table import Row, Target, print_table

HERE = Path(__file__).parent
TRL = HERE.parent / ".peers-trl/bin/python"
SETTINGS = ("padded", "packed", "padded by 1", "packed by 1")
Figures = dict[str, float]


@dataclass(frozen=True)
class Bench:
    folder: Path
    rows: Path
    runs: int
    steps: int
    trl_steps: int

    def measure(self) -> dict[str, Figures]:
        """Medians over runs, by engine; "prepared" is what all of them train on. Engines take turns."""
        prepared = self.ours("prepare", str(self.folder), str(self.rows))
        engines: dict[str, Callable[[], Figures]] = {
            "ours": lambda: self.ours("train", str(self.folder), str(self.steps)),
            "Levanter": lambda: self.python("peers/levanter_sft.py", str(self.folder), str(self.steps)),
            "matmul": lambda: self.ours("matmul"),
        }
        if TRL.exists():
            for setting in SETTINGS:
                engines[f"TRL {setting}"] = partial(self.trl, setting, prepared)
        found: dict[str, list[Figures]] = {name: [] for name in engines}
        for run in range(self.runs):
            for name, engine in engines.items():
                found[name].append(engine())
                print(f"run {run + 1}: {name} {found[name][-1]}", file=sys.stderr, flush=True)
        return {"prepared": prepared, **{name: _medians(figures) for name, figures in found.items()}}

    def ours(self, work: str, *arguments: str) -> Figures:
        return self.run([*STEP_PYTHON, str(HERE / "ours_sft.py")], work, *arguments)

    def python(self, script: str, *arguments: str) -> Figures:
        return self.run([sys.executable, str(HERE / script)], *arguments)

    def trl(self, setting: str, prepared: Figures) -> Figures:
        options = {"rows": 8, "dialogues": round(prepared["dialogues"]), "seq_len": 512}
        given = (str(self.folder), str(self.rows), str(self.trl_steps), "2", setting, json.dumps(options))
        return self.run([str(TRL), str(HERE / "peers/trl_speed.py")], *given)

    def run(self, command: list[str], *arguments: str) -> Figures:
        report, log = self.folder / "report.json", self.folder / "log"
        with log.open("w") as file:
            done = subprocess.run([*command, str(report), *arguments], stdout=file, stderr=file)
        if done.returncode:
            sys.exit(f"{command[-1]} failed:\n{log.read_text()[-4000:]}")
        return json.loads(report.read_text())


def write_rows(data: Path | None, path: Path) -> None:
    """Rows of instruction, input and output as chats, which TRL also reads."""
    with path.open("w") as file:
        for row in alpaca_rows() if data is None else json.loads(data.read_text()):
            asked = "\n\n".join(filter(None, (row["instruction"], row.get("input"))))
            messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": row["output"]}]
            file.write(json.dumps({"messages": messages}) + "\n")


def compared(found: dict[str, Figures]) -> dict[str, tuple[float | None, bool | None]]:
    """The target, the figure, and whether it holds. None: not measured."""
    ours, mine = found["ours"], speed(found["ours"])
    theirs = [speed(found[name]) for setting in SETTINGS if (name := f"TRL {setting}") in found]
    trl = mine / max(theirs) if theirs else None
    levanter = mine / speed(found["Levanter"])
    outside = ours["idle"] / ours["seconds"]
    share = utilisation(found)
    return {
        "trained tokens/s >= 4x TRL's best setting": (trl, None if trl is None else trl >= 4),
        "trained tokens/s >= 1.1x Levanter's trainer": (levanter, levanter >= 1.1),
        "share of a step outside the compiled step < 5%": (outside, outside < 0.05),
        "share of the rate of a large matrix product >= 60%": (share, share >= 0.6),
    }


def speed(figures: Figures) -> float:
    """Trained tokens per second."""
    return figures["trained_tokens"] / figures["seconds"]


def utilisation(found: dict[str, Figures]) -> float:
    """FLOPs that the model needs, without padding, relative to those of a large matrix product in the same time."""
    from ours_sft import SEQ_LEN, SHAPE

    from marin_sft.training.metrics.throughput import flops_per_token
    from marin_sft.training.models import Qwen3Config

    shape = Qwen3Config(max_seq_len=SEQ_LEN, **SHAPE).hf_config(vocab_size=int(found["prepared"]["vocabulary"]))
    ours = found["ours"]
    return flops_per_token(shape, SEQ_LEN) * ours["tokens"] / ours["seconds"] / found["matmul"]["flops"]


def _medians(runs: list[Figures]) -> Figures:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def table_rows(found: dict[str, Figures]) -> list[Row]:
    targets = [
        Target(f"{text}, here {value:.3g}" if value is not None else text, holds=holds)
        for text, (value, holds) in compared(found).items()
    ]
    timed = {name: figures for name, figures in found.items() if "seconds" in figures}
    rows = {
        "10,000 trained tokens": {name: 10_000 / speed(figures) for name, figures in timed.items()},
        "a step": {name: figures["seconds"] for name, figures in timed.items()},
    }
    return [Row(work, seconds, targets if i == 0 else []) for i, (work, seconds) in enumerate(rows.items())]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a JSON list of Alpaca rows; generated without it")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="measured steps of a run")
    parser.add_argument("--trl_steps", type=int, default=3, help="measured steps of TRL, which take longer")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"median of {given.runs} runs, {os.cpu_count()} cores, load before {load:.1f}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_rows(given.data, folder / "rows.jsonl")
        bench = Bench(folder, folder / "rows.jsonl", given.runs, given.steps, given.trl_steps)
        found = bench.measure()
    results = compared(found)
    if given.json:
        targets = [{"target": text, "value": value, "holds": holds} for text, (value, holds) in results.items()]
        print(json.dumps({"load": load, "engines": found, "targets": targets}, indent=1))
    else:
        print_table([name for name in found if "seconds" in found[name]], table_rows(found))
    return int(any(holds is False for _, holds in results.values()))


if __name__ == "__main__":
    sys.exit(main())
