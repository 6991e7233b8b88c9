"""Steps of Levanter's Trainer with its DPO loss on padded pairs of a prepared folder, with an online reference.

levanter_dpo.py REPORT FOLDER: see benchmarks/ours_dpo.py, whose settings it takes. Runs in our environment.

Runs what `levanter.main.train_dpo` runs in a step, without its data loader, which is not measured.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import haliax as hax
import jax
import jmp
import numpy as np
from levanter.data.text import DpoExample
from levanter.dpo import DpoModel, dpo_loss
from levanter.layers.attention import AttentionMask
from levanter.models.lm_model import LmExample
from levanter.optim import AdamConfig
from levanter.tracker import NoopConfig
from levanter.trainer import Trainer, TrainerConfig
from levanter.utils.tree_utils import inference_mode

sys.path.insert(0, str(Path(__file__).parents[1]))
from ours_dpo import BATCH_SIZE, LEARNING_RATE, SEQ_LEN, STEPS

from marin_sft.training.models import levanter_model

WARM = 2


def batches(folder: str) -> Iterator[DpoExample]:
    """Pairs in order, as in `levanter.data.text.PreferencePairDataset`: one per row, padded to its length."""
    axes = (hax.Axis("batch", BATCH_SIZE), hax.Axis("position", SEQ_LEN))
    data = np.load(f"{folder}/pairs-padded.npz")
    padding = np.arange(SEQ_LEN) >= data["lengths"][:, None]

    def side(documents: np.ndarray) -> LmExample:
        weights = np.roll(data["masks"][documents], -1, axis=1).astype(np.float32)
        weights[:, -1] = 0
        segments = hax.named(np.where(padding[documents], -1, 0).astype(np.int32), axes)
        return LmExample(
            tokens=hax.named(data["tokens"][documents], axes),
            loss_weight=hax.named(weights, axes),
            attn_mask=AttentionMask.causal().with_segment_ids(segments),
        )

    for first in range(0, len(padding) // 2, BATCH_SIZE):
        pairs = np.arange(first, first + BATCH_SIZE)
        yield DpoExample(chosen=side(2 * pairs), rejected=side(2 * pairs + 1))


def main(report: str, folder: str) -> None:
    config = TrainerConfig(
        id="levanter",
        mp=jmp.get_policy("f32"),
        tracker=NoopConfig(),
        train_batch_size=BATCH_SIZE,
        num_train_steps=WARM + STEPS,
        require_accelerator=False,
        load_checkpoint=False,
    )
    adam = AdamConfig(
        learning_rate=LEARNING_RATE,
        weight_decay=0.0,
        max_grad_norm=1.0,
        beta1=0.9,
        beta2=0.95,
        lr_schedule="constant",
        warmup=0,
    )

    def loss(model: DpoModel, example: DpoExample, *, key: Any = None) -> Any:
        return dpo_loss(model.policy, inference_mode(model.reference, True), example, beta=0.1)

    with Trainer(config, adam.build(WARM + STEPS), loss, add_default_hooks=False) as trainer:
        # Without recomputation, as ours: the faster setting if memory suffices.
        policy, reference = (
            levanter_model.load_model(f"{folder}/model", axis_mapping=trainer.parameter_axis_mapping) for _ in range(2)
        )
        state = trainer.initial_state(
            jax.random.PRNGKey(0),
            model=DpoModel(policy=policy, reference=reference),
            is_trainable=DpoModel(policy=True, reference=False),
        )
        given = list(batches(folder))
        losses, ended = [], []
        for step in range(WARM + STEPS):
            info = trainer.train_step(state, given[step % len(given)])
            state = info.state
            losses.append(float(info.loss))
            ended.append(time.perf_counter())
    Path(report).write_text(json.dumps({"seconds": (ended[-1] - ended[WARM - 1]) / STEPS, "losses": losses}))


if __name__ == "__main__":
    main(*sys.argv[1:])
