"""Tokens and pairs per second of DPO with a cached reference on the accelerators of this machine.

python benchmarks/gpu_dpo.py FOLDER BACKEND/RECOMPUTE/PAIRS... [--steps 8] [--tiny]

FOLDER/pairs is what `gpu_checks.py prepare` made: pairs, and log-probabilities of a small reference. The policy is the
model of gpu_sft.py. Its weights are not the reference's, so the losses are meaningless: only the step is
timed, with the pairs packed as `dpo` packs them. Tokens are those of the packed rows.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import asdict
from pathlib import Path

from figures import DOES_NOT_FIT, each_alone, tell
from gpu_checks import PAIRS, prepared_pairs
from gpu_model import LLAMA_1B, TINY, TINY_VOCABULARY, VOCABULARY, does_not_fit, measure
from gpu_sft import options_of

BATCHES = 4


def one(folder: Path, setting: str, steps: int, tiny: bool) -> None:
    from marin_sft.training.dpo import DPOObjective
    from marin_sft.training.dpo_config import DPOConfig
    from marin_sft.training.objective import Layout

    backend, recompute, pairs = setting.split("/")
    config = DPOConfig(
        base_model=f"{folder}/model",
        output_path=f"{folder}/dpo",
        earlier_attempts=(),
        train_batch_size=int(pairs),
        num_train_steps=BATCHES,
        learning_rate=1e-5,
        **prepared_pairs(str(folder)),
    )
    objective = DPOObjective(config, Layout(devices=1, micro_steps=1))
    batches = [objective.arrays(step, 0, 1) for step in range(BATCHES)]
    tokens = statistics.mean(int((arrays["segment_ids"] >= 0).sum()) for arrays in batches)
    shape, vocabulary = (TINY, TINY_VOCABULARY) if tiny else (LLAMA_1B, VOCABULARY)
    try:
        result = measure(shape, vocabulary, options_of(backend, recompute), objective.loss, batches, tokens, steps)
    except Exception as error:
        if not does_not_fit(error):
            raise
        tell(f"dpo {setting}", "does not fit into memory")
        sys.exit(DOES_NOT_FIT)
    text = f"{int(pairs) / result.step_seconds:.1f} pairs/s, {result}"
    tell(f"dpo {setting}", text, setting=setting, tokens=tokens, **asdict(result))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("settings", nargs="+", metavar="SETTING")
    parser.add_argument("--steps", type=int, default=8, help="measured steps of each setting")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to try the script on any machine")
    parser.add_argument("--here", action="store_true", help="one setting, in this process")
    given = parser.parse_args()
    if given.here:
        one(given.folder / PAIRS, given.settings[0], given.steps, given.tiny)
        return
    options = ["--steps", str(given.steps), *(["--tiny"] if given.tiny else [])]
    each_alone("dpo", given.settings, [sys.executable, __file__, "--here", *options, str(given.folder)])


if __name__ == "__main__":
    main()
