"""Compares the first steps of our DPO with TRL's, on the same checkpoint, preference pairs and hyperparameters.

python benchmarks/trl_dpo_parity.py [--only CASE ...]

Both tokenize the pairs themselves, with the chat template of the checkpoint: fp32, AdamW without decay, constant rate,
clipped gradients, pairs in order, two micro-batches a step, which TRL pads and we pack. Each case is a loss or an
option. All run on the first architecture, and `sigmoid` also on the other one. Prints the largest differences from TRL
over all steps, relative for figures above 1. Exits with 1 if one is above 1e-4. `make peers-trl` builds
`.peers-trl`, in which TRL runs.

Left out: `simpo`, a loss of another trainer. Compared on one micro-batch: `sft`, which is a mean over the tokens of a
micro-batch in TRL and of the batch here; and the AOT losses, which sort the pairs of a micro-batch: TRL splits a batch
in order, we split it into parts of about equal length.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from parity import FAMILIES, WORDS, require_trl, run_trl, verdict, write_model, write_rows

FIGURES = ("loss", "grad_norm", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies",
           "logps/chosen", "logps/rejected")  # fmt: skip
OPTIONS: dict[str, Any] = {
    "batch_size": 4,
    "seq_len": 64,
    "learning_rate": 1e-3,
    "beta1": 0.9,
    "beta2": 0.95,
    "max_grad_norm": 0.5,
}
Figures = Mapping[str, list[float]]


@dataclass(frozen=True)
class Case:
    """`fields` of our DPOConfig that have the same name in TRL's. `online`: the reference is held in memory, not
    precomputed."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 3
    micro_batch: int = 2
    online: bool = False

    def of_trl(self) -> dict[str, Any]:
        fields = dict(self.fields)
        if isinstance(losses := fields.get("loss_type"), Mapping):
            fields |= {"loss_type": [*losses], "loss_weights": [*losses.values()]}
        about = {"steps": self.steps, "per_device_train_batch_size": self.micro_batch}
        return {**fields, **about, "precompute_ref_log_probs": not self.online}


def _loss(name: str, micro_batch: int = 2, **fields: Any) -> Case:
    return Case({"loss_type": name, **fields}, micro_batch=micro_batch)


CASES = {
    "sigmoid": Case(steps=8),
    "sigmoid, online reference": Case(steps=8, online=True),
    "sigmoid, beta 0.5": Case({"beta": 0.5}),
    "hinge": _loss("hinge"),
    "ipo": _loss("ipo"),
    "exo_pair": _loss("exo_pair", label_smoothing=1e-3),
    "nca_pair": _loss("nca_pair"),
    "robust": _loss("robust", label_smoothing=0.1),
    "bco_pair": _loss("bco_pair"),
    "sppo_hard": _loss("sppo_hard"),
    "aot": _loss("aot", 4),
    "aot, smoothed": _loss("aot", 4, label_smoothing=0.1),
    "aot_unpaired": _loss("aot_unpaired", 4),
    "apo_zero": _loss("apo_zero"),
    "apo_down": _loss("apo_down"),
    "discopop": _loss("discopop"),
    "sigmoid_norm": _loss("sigmoid_norm"),
    "sigmoid + 0.5 sft": Case({"loss_type": {"sigmoid": 1.0, "sft": 0.5}}, micro_batch=4),
    "0.8 sigmoid + 0.2 ipo": Case({"loss_type": {"sigmoid": 0.8, "ipo": 0.2}}),
    "MPO": Case({"loss_type": {"sigmoid": 0.8, "bco_pair": 0.2, "sft": 1.0}}, micro_batch=4),
    "LD-DPO": Case({"ld_alpha": 0.3}),
    "LD-DPO, online reference": Case({"ld_alpha": 0.3}, online=True),
    "WPO": Case({"use_weighting": True}),
    "WPO, LD-DPO": Case({"use_weighting": True, "ld_alpha": 0.3}),
    "forward_kl": Case({"f_divergence_type": "forward_kl"}),
    "js_divergence": Case({"f_divergence_type": "js_divergence"}),
    "alpha_divergence": Case({"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.3}),
}


def pair_rows(count: int) -> list[dict[str, Any]]:
    """Pairs of very unequal lengths; prompts of one or three turns."""
    rng = np.random.default_rng(0)

    def turn(role: str, most: int) -> dict[str, str]:
        return {"role": role, "content": " ".join(rng.choice(WORDS, rng.integers(1, most)))}

    def prompt() -> list[dict[str, str]]:
        earlier = [turn("user", 6), turn("assistant", 6)] if rng.integers(2) else []
        return [*earlier, turn("user", 10)]

    return [
        {"prompt": prompt(), "chosen": [turn("assistant", 25)], "rejected": [turn("assistant", 25)]}
        for _ in range(count)
    ]


class Ours:
    """Our step functions on one checkpoint. Tokens and reference are made once for all cases."""

    def __init__(self, rows: Path, model: str) -> None:
        from marin_sft.data.data_configs import lm_mixture_data_config
        from marin_sft.data.mixture import MixtureConfig, mixture
        from marin_sft.data.tokenize import TokenizeConfig, tokenize
        from marin_sft.training.dpo_config import ReferenceConfig
        from marin_sft.training.reference import reference_logprobs as run

        self._model = model
        self._tokenized = {"pairs": f"{model}-tokenized"}
        tokenize(TokenizeConfig((str(rows),), model, output_path=self._tokenized["pairs"]))
        data = lm_mixture_data_config(self._tokenized, {"pairs": 1}, shuffle=False)
        mixture(MixtureConfig(data, OPTIONS["seq_len"], output_path=f"{model}-mixture"))
        of_data: dict[str, Any] = {"mixture": f"{model}-mixture", "tokenized": self._tokenized}
        run(ReferenceConfig(model=model, precision="fp32", output_path=f"{model}-reference", **of_data))

    def figures(self, name: str, case: Case) -> Figures:
        from marin_sft.training.dpo import dpo as run
        from marin_sft.training.dpo_config import DPOConfig

        reference: dict[str, Any] = (
            {"reference_model": self._model} if case.online else {"reference_logprobs": f"{self._model}-reference"}
        )
        config = DPOConfig(
            mixture=f"{self._model}-mixture",
            tokenized=self._tokenized,
            base_model=self._model,
            output_path=f"{self._model}-{name}",
            earlier_attempts=(),
            train_batch_size=OPTIONS["batch_size"],
            per_device_parallelism=case.micro_batch,
            num_train_steps=case.steps,
            learning_rate=OPTIONS["learning_rate"],
            beta1=OPTIONS["beta1"],
            beta2=OPTIONS["beta2"],
            max_grad_norm=OPTIONS["max_grad_norm"],
            lr_schedule="constant",
            warmup=0.0,
            precision="fp32",
            gradient_checkpointing=False,
            steps_per_log=1,
            starts_at_reference=True,
            **reference,
            **case.fields,
        )
        run(config)
        lines = [json.loads(line) for line in Path(config.output_path, "metrics.jsonl").read_text().splitlines()]
        return {figure: [line[figure] for line in lines] for figure in FIGURES}


def differences(mine: Figures, theirs: Figures) -> dict[str, float]:
    """The largest difference of each figure over the steps, relative to TRL's if that is above 1."""
    found = {}
    for name in FIGURES:
        got, expected = np.array(mine[name]), np.array(theirs[name])
        assert got.shape == expected.shape, (name, got, expected)
        found[name] = float((np.abs(got - expected) / np.maximum(1.0, np.abs(expected))).max())
    return found


def print_case(name: str, found: Mapping[str, float]) -> None:
    print(f"{name:<26}" + "".join(f"{found[figure]:>19.1e}" for figure in FIGURES), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CASES, metavar="CASE")
    cases = {name: CASES[name] for name in parser.parse_args().only or CASES}
    require_trl()
    worst = 0.0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rows = folder / "rows.jsonl"
        write_rows(rows, pair_rows(OPTIONS["batch_size"] * max(case.steps for case in cases.values())))
        for family in FAMILIES:
            if family != FAMILIES[0]:  # losses do not have this option
                cases = {name: case for name, case in cases.items() if name.startswith("sigmoid")}
            model = write_model(folder, family)
            options = {**OPTIONS, "cases": {name: case.of_trl() for name, case in cases.items()}}
            theirs = run_trl("trl_dpo.py", model, str(rows), json.dumps(options))
            ours = Ours(rows, model)
            print(f"\n{family:<26}" + "".join(f"{figure:>19}" for figure in FIGURES))
            for name, case in cases.items():
                found = differences(ours.figures(name, case), theirs[name])
                print_case(name, found)
                worst = max(worst, *found.values())
    return verdict(worst, "all figures")


if __name__ == "__main__":
    sys.exit(main())
