"""EasyDeL's command line of DPO training: `python -m marin_sft.scripts.finetune.dpo --help`."""

import sys

from marin_sft.trainers.commands import dpo_command
from marin_sft.trainers.settings import Dialect

if __name__ == "__main__":
    sys.exit(dpo_command(sys.argv[1:], Dialect.EASYDEL, "python -m marin_sft.scripts.finetune.dpo"))
