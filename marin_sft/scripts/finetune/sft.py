"""EasyDeL's command line of SFT training: `python -m marin_sft.scripts.finetune.sft --help`."""

import sys

from marin_sft.trainers.commands import sft_command
from marin_sft.trainers.settings import Dialect

if __name__ == "__main__":
    sys.exit(sft_command(sys.argv[1:], Dialect.EASYDEL, "python -m marin_sft.scripts.finetune.sft"))
