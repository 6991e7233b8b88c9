"""TRL's names: `from marin_sft.trl import SFTConfig, SFTTrainer, DPOConfig, DPOTrainer, LoraConfig`.

trainer = SFTTrainer("org/model", args=SFTConfig(output_dir="out"), train_dataset=rows, peft_config=LoraConfig(r=8))
trainer.train()
"""

from marin_sft.trainers import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer, TrainResult
from marin_sft.trainers.peft import PeftLoraConfig as LoraConfig

__all__ = ["DPOConfig", "DPOTrainer", "LoraConfig", "SFTConfig", "SFTTrainer", "TrainResult"]
