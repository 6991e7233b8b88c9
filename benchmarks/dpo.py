"""Pairs per second of our DPO compared with TRL's, Levanter's and EasyDeL's, on the same model and pairs, in one run.

python benchmarks/dpo.py [--runs 3] [--only ENGINE ...] [--data pairs.json]

A random Qwen3 of 6.8M parameters, fp32, on CPU, steps of 8 pairs. All trainers see the same pairs in the same steps,
and only EasyDeL cuts them. Compilation and the first steps are not counted. TRL runs with the whole batch at once, as
we do, and with two pairs and one pair at a time, which pads less. `make peers-trl` and `make peers-easydel` build the
environments of TRL and EasyDeL; a peer without its environment is skipped. Without `--data`, pairs are generated.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from made_rows import preference_rows
from ours_dpo import BATCH_SIZE, LEARNING_RATE, SEQ_LEN, STEPS
from parity import TRL_PYTHON
from step_python import STEP_PYTHON
from table import Row, Target, print_table

HERE = Path(__file__).parent
WARM = 2
LEVANTER = "levanter online"
# By name: whether the reference is precomputed, and pairs at once.
TRL = {
    "trl cached": (True, BATCH_SIZE),
    "trl cached by 2": (True, 2),
    "trl cached by 1": (True, 1),
    "trl online": (False, BATCH_SIZE),
    "trl online by 2": (False, 2),
    "trl online by 1": (False, 1),
}
EASYDEL_PYTHON = HERE.parent / ".peers-easydel/bin/python"
EASYDEL = {"easydel cached": "cached", "easydel online": "online"}
ENGINES = (*TRL, LEVANTER, *EASYDEL)
CACHED = [*(name for name, (cached, _) in TRL.items() if cached), "easydel cached"]
LIMITS = {**{name: 4.0 if name in CACHED else 5.0 for name in TRL}, **dict.fromkeys((LEVANTER, *EASYDEL), 3.0)}


class Bench:
    """Runs the measuring processes on one prepared folder."""

    def __init__(self, folder: Path, runs: int) -> None:
        self.folder, self.runs = folder, runs
        self._reports = 0

    def run(self, python: list[str], script: str, *arguments: str, report_last: bool = False) -> dict[str, Any]:
        self._reports += 1
        report = self.folder / f"report-{self._reports}.json"
        given = [*arguments, str(report)] if report_last else [str(report), *arguments]
        done = subprocess.run(
            [*python, str(HERE / script), *given], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if done.returncode:
            sys.exit(f"{script} {' '.join(arguments)} failed:\n{done.stdout}")
        found: dict[str, Any] = json.loads(report.read_text())
        return found

    def ours(self, mode: str) -> dict[str, Any]:
        return self.run(STEP_PYTHON, "ours_dpo.py", "train", str(self.folder), mode)

    def levanter(self) -> dict[str, Any]:
        return self.run([sys.executable], "peers/levanter_dpo.py", str(self.folder))

    def easydel(self, engine: str) -> dict[str, Any]:
        """`reference_seconds` includes loading the model."""
        return self.run([str(EASYDEL_PYTHON)], "peers/easydel_dpo.py", str(self.folder), EASYDEL[engine])

    def trl(self, engine: str) -> dict[str, Any]:
        """As `ours_dpo.train`. `reference_seconds`: for all pairs, in advance."""
        cached, micro_batch = TRL[engine]
        options = {
            "batch_size": BATCH_SIZE,
            "seq_len": SEQ_LEN,
            "learning_rate": LEARNING_RATE,
            "beta1": 0.9,
            "beta2": 0.95,
            "max_grad_norm": 1.0,
            "cases": {
                "measured": {
                    "steps": WARM + STEPS,
                    "per_device_train_batch_size": micro_batch,
                    "precompute_ref_log_probs": cached,
                }
            },
        }
        arguments = (str(self.folder / "model"), str(self.folder / "pairs.jsonl"), json.dumps(options))
        found = self.run([str(TRL_PYTHON)], "peers/trl_dpo.py", *arguments, report_last=True)["measured"]
        ended = found["ended"]
        seconds = (ended[-1] - ended[WARM - 1]) / STEPS
        return {**found, "seconds": seconds}

    def measure(self, engine: str) -> dict[str, Any]:
        if engine == LEVANTER:
            return self.levanter()
        return self.easydel(engine) if engine in EASYDEL else self.trl(engine)

    def medians(self, name: str, measure: Callable[[], Mapping[str, Any]]) -> dict[str, float]:
        """Over the runs: `seconds` of a step, and everything else that the engine measures in seconds."""
        found = []
        for _ in range(self.runs):
            found.append({key: value for key, value in measure().items() if key.endswith("seconds")})
            print(f"{name}: {found[-1]}", file=sys.stderr, flush=True)
        return {key: statistics.median(one[key] for one in found) for key in found[0]}


def rows(bench: Bench, prepared: Mapping[str, float], engines: list[str]) -> Iterator[Row]:
    def ours(mode: str) -> float:
        return bench.medians(f"ours {mode}", lambda: bench.ours(mode))["seconds"]

    cached, online = {"ours": ours("cached")}, {"ours": ours("online")}
    reference = {"ours": prepared["pairs/reference_seconds"]}
    for engine in engines:
        found = bench.medians(engine, partial(bench.measure, engine))
        (cached if engine in CACHED else online)[engine] = found["seconds"]
        if engine in CACHED:
            reference[engine] = found["reference_seconds"]
    targets = [Target(f">= {limit:g}x of", limit=limit, peer=engine) for engine, limit in LIMITS.items()]
    yield Row(f"step of {BATCH_SIZE} pairs, ours with a cached reference", {**online, **cached}, targets)
    yield Row("the same, ours with an online reference", online)
    yield Row(f"cached reference of {prepared['pairs/pairs']:.0f} pairs, once, at the start", reference)
    yield Row("the same, ours with and without share_prefix", {"ours": cached["ours"], "unshared": ours("unshared")})
    yield Row("long prompts, with and without share_prefix", {"ours": ours("long"), "unshared": ours("long-unshared")})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=ENGINES, metavar="ENGINE", default=ENGINES)
    parser.add_argument("--data", type=Path, help="a JSON list of ShareGPT pairs; generated without it")
    given = parser.parse_args()
    pythons = {**dict.fromkeys(TRL, TRL_PYTHON), **dict.fromkeys(EASYDEL, EASYDEL_PYTHON)}
    engines = [name for name in given.only if name not in pythons or pythons[name].exists()]
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(Path(temporary), given.runs)
        pairs = given.data or Path(temporary, "made.json")
        if given.data is None:
            pairs.write_text(json.dumps(preference_rows()))
        prepared = bench.run(STEP_PYTHON, "ours_dpo.py", "prepare", temporary, str(pairs))
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {prepared['parameters'] / 1e6:.1f}M parameters")
        for name in ("pairs", "long"):
            about = {key.split("/")[1]: value for key, value in prepared.items() if key.startswith(f"{name}/")}
            print(
                f"{name}: {about['pairs']:.0f}, branches of {about['tokens']:.0f} tokens on average, "
                f"{about['targets']:.0f} of them targets, the longest {about['longest']:.0f}, max_length {SEQ_LEN}"
            )
        print_table(["ours", *ENGINES, "unshared"], rows(bench, prepared, engines))
        print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
