"""Steps of Levanter's own Trainer, with its loss and its data loader, on packed rows of a prepared folder.

levanter_sft.py REPORT FOLDER STEPS: see benchmarks/ours_sft.py, whose settings it takes. Runs in our environment.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import haliax as hax
import jax
import jmp
import numpy as np
from levanter.data.dataset import ListAsyncDataset
from levanter.models.lm_model import LmExample
from levanter.optim import AdamConfig
from levanter.tracker import NoopConfig
from levanter.trainer import Trainer, TrainerConfig

sys.path.insert(0, str(Path(__file__).parents[1]))
from ours_sft import BATCH_SIZE, SEQ_LEN, WARM

from marin_sft.data.batches.packed_batches import PackedBatches
from marin_sft.data.packing.packed_mixture import PackedMixture
from marin_sft.training.models import levanter_model


def examples(folder: str, steps: int) -> list[LmExample]:
    mixture = PackedMixture.open(f"{folder}/mixture", {"chat": f"{folder}/tokenized"})
    batches = PackedBatches(mixture, BATCH_SIZE)
    position = hax.Axis("position", SEQ_LEN)
    found = []
    for step in range(steps):
        batch = batches.batch(step)
        for row in range(BATCH_SIZE):
            tokens, weight, segments = (
                hax.named(array[row], position) for array in (batch.tokens, batch.loss_weight, batch.segment_ids)
            )
            found.append(LmExample.causal(tokens, loss_weight=weight, segment_ids=segments))
    return found


def main(report: str, folder: str, steps: str) -> None:
    count = WARM + int(steps)
    config = TrainerConfig(
        id="levanter",
        mp=jmp.get_policy("f32"),
        tracker=NoopConfig(),
        train_batch_size=BATCH_SIZE,
        num_train_steps=count,
        require_accelerator=False,
        load_checkpoint=False,
    )
    adam = AdamConfig(learning_rate=1e-3, weight_decay=0.0, max_grad_norm=1.0, beta1=0.9, beta2=0.95, warmup=0.03)

    def loss(model: Any, example: LmExample, key: Any = None) -> Any:
        return model.compute_next_token_loss(example, key=key)

    with Trainer(config, adam.build(count), loss, add_default_hooks=False) as trainer:
        # Without recomputation, as ours: the faster setting if memory suffices.
        model = levanter_model.load_model(f"{folder}/model", axis_mapping=trainer.parameter_axis_mapping)
        state = trainer.initial_state(jax.random.PRNGKey(0), model=model)
        rows = examples(folder, count)
        loader = trainer.data_loader(ListAsyncDataset(rows))
        ended = []
        for info in trainer.training_steps(state, loader):
            ended.append(time.perf_counter())
            print(info.loss)
    measured = rows[WARM * BATCH_SIZE :]
    tokens = sum(int((np.asarray(row.attn_mask.segment_ids[0].array) >= 0).sum()) for row in measured)
    trained = sum(int((np.asarray(row.loss_weight.array) > 0).sum()) for row in measured)
    figures = {
        "seconds": (ended[-1] - ended[WARM - 1]) / int(steps),
        "tokens": tokens / int(steps),
        "trained_tokens": trained / int(steps),
    }
    Path(report).write_text(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
