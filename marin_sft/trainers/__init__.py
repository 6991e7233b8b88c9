"""Trainers with the names and defaults of EasyDeL, TRL and training scripts, over the steps of this package."""

from marin_sft.trainers.configs import DPOConfig, SFTConfig
from marin_sft.trainers.enums import (
    AttentionMechanisms,
    EasyDeLBaseConfigDict,
    EasyDeLGradientCheckPointers,
    EasyDeLOptimizers,
    EasyDeLQuantizationMethods,
    EasyDeLSchedulers,
    LossConfig,
    PartitionAxis,
)
from marin_sft.trainers.models import AutoEasyDeLModelForCausalLM
from marin_sft.trainers.results import TrainResult
from marin_sft.trainers.trainer import DPOTrainer, SFTTrainer

__all__ = [
    "AttentionMechanisms",
    "AutoEasyDeLModelForCausalLM",
    "DPOConfig",
    "DPOTrainer",
    "EasyDeLBaseConfigDict",
    "EasyDeLGradientCheckPointers",
    "EasyDeLOptimizers",
    "EasyDeLQuantizationMethods",
    "EasyDeLSchedulers",
    "LossConfig",
    "PartitionAxis",
    "SFTConfig",
    "SFTTrainer",
    "TrainResult",
]
