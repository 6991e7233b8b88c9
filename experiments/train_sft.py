"""Supervised fine-tuning with the flags of a script over transformers' Trainer:

    python experiments/train_sft.py --data_path experiments/examples/sample_alpaca.json --output_dir output --use_lora

`--help` lists the flags. As a class: `from marin_sft import SFTConfig, SFTTrainer`.
"""

import sys

from marin_sft.trainers.commands import sft_command
from marin_sft.trainers.settings import Dialect

if __name__ == "__main__":
    sys.exit(sft_command(sys.argv[1:], Dialect.SCRIPT, "train_sft.py"))
