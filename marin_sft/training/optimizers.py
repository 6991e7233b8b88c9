"""Optimizers and learning rate schedules by name, as Levanter builds them."""

from __future__ import annotations

import optax
from levanter.optim import AdamConfig

from marin_sft.training.train_config import TrainConfig


def schedule(config: TrainConfig, num_steps: int) -> optax.Schedule:
    """The learning rate of each update, counted from 0."""
    return _levanter(config).lr_scheduler(num_steps)


def optimizer(config: TrainConfig, num_steps: int) -> optax.GradientTransformation:
    """From gradients to updates of the weights. Weight decay on linear layers only."""
    return _levanter(config).build(num_steps)


def _levanter(config: TrainConfig) -> AdamConfig:
    return AdamConfig(
        learning_rate=config.learning_rate,
        lr_schedule=config.lr_schedule,
        warmup=config.warmup,
        decay=config.decay,
        min_lr_ratio=config.min_lr_ratio,
        weight_decay=config.weight_decay,
        beta1=config.beta1,
        beta2=config.beta2,
        max_grad_norm=config.max_grad_norm,
    )
