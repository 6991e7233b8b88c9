import subprocess
import sys

import pytest

from marin_sft.data import ChatLmDatasetFormat
from marin_sft.errors import ConfigError


def test_roles_must_differ():
    with pytest.raises(ConfigError, match="two different role names"):
        ChatLmDatasetFormat(input_field="x", output_field="x")


def test_configs_are_light():
    code = (
        "import sys, marin_sft.data;"
        "sys.exit(str({'numpy', 'jax', 'ray', 'transformers', 'levanter', 'tokenizers'} & set(sys.modules) or ''))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr.strip() == ""
