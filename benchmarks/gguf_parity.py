"""Checks that llama.cpp computes from our GGUF files what transformers computes from the export next to them.

make gguf
.venv/bin/python benchmarks/gguf_parity.py [--only PATTERN] [--keep FOLDER] [--export DIRECTORY]

For each release of `tests/published/releases.py` (as it is, and where llama.cpp cannot compute it, with the fields that
it can): a GGUF file of each type. With f32, 20 chats must get the same ids and the same greedy answers, and close
logits; the other types must load. Texts that tokenizers trip over must get the same ids. `--export`: an export of your
own instead. Prints a table; exits with 1 if anything differs that the export does not announce.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from marin_sft.errors import ExportError  # noqa: E402
from marin_sft.export.gguf.file import gguf_file, write_gguf  # noqa: E402
from marin_sft.export.gguf.metadata import context_length, with_defaults  # noqa: E402
from marin_sft.export.hf_config import GGUF_TYPES  # noqa: E402
from tests.published import releases  # noqa: E402

PYTHON = ROOT / ".peers-llamacpp/bin/python"
NEW_TOKENS = 12
QUESTIONS = [f"What is {i} + {i * i}?" for i in range(7)]
QUESTIONS += [
    "Où est l'été ?",
    "  Two spaces,\ttab.",
    "a\n\nb\r\n",
    "12345678 90 3.14",
    "It's, I'LL, we've",
    "日本語のテスト",
    "👩‍👩‍👧 🇫🇷!",
]
QUESTIONS += ["def f(x):\n    return x ** 2\n", "....", "x" * 40, "ﬁ ½ ①", "e\u0301", "<b>bold</b> & co."]
TEXTS = [
    *QUESTIONS,
    "",
    " ",
    "   ",
    "\n",
    "\n\n\n x",
    " \n ",
    "\t\t",
    "a  b   c    d",
    "a " * 8,
    "1 22 333 4444 55555",
    "①②",
    "\u00a0x",
    "\u200b",
]
TEXTS += [
    "don't DON'T 'S",
    "naïve café",
    "Ελληνικά",
    "русский текст",
    "العربية",
    "हिन्दी",
    "한국어",
    "🙂🙂🙂",
    "\x00a",
    "\x7f",
    "{{ x }}",
]
# What llama.cpp cannot compute, as it can.
INSTEAD: dict[str, dict[str, Any]] = {
    "gemma 2 it": {"query_pre_attn_scalar": 16},
    "mistral 0.1": {"sliding_window": None},
}
NFC = "e\u0301"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="releases, by a glob pattern")
    parser.add_argument("--keep", type=Path, help="the folder for all files, which are then kept")
    parser.add_argument("--export", type=Path, help="check this directory instead")
    arguments = parser.parse_args()
    if not PYTHON.exists():
        sys.exit(f"{PYTHON}: not there; run: make peers-llamacpp")
    with tempfile.TemporaryDirectory() as folder:
        place = arguments.keep or Path(folder)
        models = {"export": arguments.export} if arguments.export else written(place, arguments.only)
        lines = []
        for name, model in models.items():
            lines += checked(name, model, place)
            print(f"{name}: compared", file=sys.stderr, flush=True)
    print(table(lines))
    sys.exit(any(line.differs for line in lines))


_OURS = {**releases.LLAMA, "eos_token_id": "<|im_end|>", "rope_theta": 10000.0, "torch_dtype": "float32"}
MODELS = {"a tokenizer of train_tokenizer": releases.Release(_OURS, "plain", "chatml"), **releases.RELEASES}


def written(folder: Path, pattern: str) -> dict[str, Path]:
    models = {}
    for name, release in MODELS.items():
        if fnmatch.fnmatch(name, pattern):
            files = release.tokenizer_files
            if files == "vocabulary and merges":  # loaded from these, the special tokens of so few have other ids
                files = "template in the config"
            config = {**release.config, **INSTEAD.get(name, {})}
            changed = dataclasses.replace(release, config=config, tokenizer_files=files)
            models[name] = releases.write(folder / name, changed)
            if name in INSTEAD:
                refusal = releases.write(folder / f"{name}, as published", release)
                models[f"{name}, as published"] = refusal
    return models


@dataclasses.dataclass
class Line:
    """A row of the table."""

    name: str
    type: str
    loads: str = "refused"
    answers: str = ""
    chats: str = ""
    texts: str = ""
    logits: str = ""
    said: str = ""
    differs: bool = False


def checked(name: str, model: Path, folder: Path) -> list[Line]:
    import torch
    import transformers

    torch.set_num_threads(1)  # the models are tiny
    try:
        limits = gguf_file(str(model), None).limits
    except ExportError as error:
        return [Line(name, "-", said=str(error))]
    tokenizer = transformers.AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    fields = dict(config_of(model))
    config = transformers.AutoConfig.for_model(**fields)
    options = {"dtype": torch.float32, "attn_implementation": "eager", "config": config}
    reference = transformers.AutoModelForCausalLM.from_pretrained(model, trust_remote_code=False, **options).eval()
    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    special = [str(token) for id, token in tokenizer.added_tokens_decoder.items() if id < config.vocab_size]
    texts = [
        *TEXTS,
        "".join(special),
        *(f"a {token} b" for token in special),
    ]
    prompts = [tokenizer.apply_chat_template(chat, add_generation_prompt=True) for chat in chats]
    prompts = [list(getattr(prompt, "input_ids", prompt)) for prompt in prompts]
    context = context_length(with_defaults(config_of(model)))
    fit = [i for i, prompt in enumerate(prompts) if len(prompt) + NEW_TOKENS <= context]
    chats, prompts = [chats[i] for i in fit], [prompts[i] for i in fit]
    if not fit:
        return [Line(name, "-", loads="not compared", said="; ".join(limits))]
    jobs = []
    for type in GGUF_TYPES:
        write_gguf(str(model), type, title=name)
        job = {"file": str(model / f"model-{type}.gguf"), "texts": texts, "chats": chats, "prompts": prompts}
        jobs.append({**job, "new_tokens": NEW_TOKENS, "context": max(map(len, prompts)) + NEW_TOKENS + 1})
    (folder / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run(
        [PYTHON, ROOT / "benchmarks/peers/llama_cpp_run.py", folder / "jobs.json"], capture_output=True, text=True
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    if len(found) != len(jobs):
        return [Line(name, "-", loads="no", said=done.stderr[-2000:], differs=True)]
    answers, logits = greedy(reference, prompts)
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    return [
        compared(name, type, outcome, answers, logits, prompts, (texts, ids), limits)
        for type, outcome in zip(GGUF_TYPES, found, strict=True)
    ]


def config_of(model: Path) -> Any:
    from marin_sft.training.models.model_directory import ModelDirectory

    return ModelDirectory(model).config


def greedy(model: Any, prompts: list[list[int]]) -> tuple[list[list[int]], list[np.ndarray]]:
    import torch

    answers, logits = [], []
    with torch.no_grad():
        for prompt in prompts:
            ids = list(prompt)
            for i in range(NEW_TOKENS):
                last = model(torch.tensor([ids])).logits[0, -1]
                if i == 0:
                    logits.append(last.numpy())
                ids.append(int(last.argmax()))
            answers.append(ids[len(prompt) :])
    return answers, logits


def compared(
    name: str,
    type: str,
    outcome: dict[str, Any],
    answers: list[list[int]],
    logits: list[np.ndarray],
    prompts: list[list[int]],
    texts: tuple[list[str], list[list[int]]],
    limits: list[str],
) -> Line:
    if "error" in outcome:
        return Line(name, type, "no", said=outcome["error"], differs=True)
    same_answers = sum(a == b for a, b in zip(answers, outcome["answers"], strict=True))
    same_chats = sum(a == b for a, b in zip(prompts, outcome["chats"], strict=True))
    wrong = [t for t, a, b in zip(*texts, outcome["texts"], strict=True) if a != b]
    furthest = max(float(np.abs(a - np.array(b)).max()) for a, b in zip(logits, outcome["logits"], strict=True))
    scale = max(float(np.abs(a).max()) for a in logits)
    composed = any("NFC" in limit for limit in limits)
    unannounced = [text for text in wrong if not (composed and NFC in text)]
    exact = type == "f32"
    return Line(
        name,
        type,
        "yes",
        f"{same_answers}/{len(answers)}",
        f"{same_chats}/{len(prompts)}",
        f"{len(texts[0]) - len(wrong)}/{len(texts[0])}",
        f"{furthest:.1e} of {scale:.1f}",
        f"other ids: {wrong[:3]!r}" if wrong else "",
        bool(unannounced) or (exact and (same_answers < len(answers) or furthest > 1e-3 * max(scale, 1))),
    )


def table(lines: list[Line]) -> str:
    rows = [
        [field.name for field in dataclasses.fields(Line)],
        *(list(map(str, dataclasses.astuple(line))) for line in lines),
    ]
    widths = [max(map(len, column)) for column in zip(*[row[:-2] for row in rows], strict=True)]
    return "\n".join("  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), *row[-2:]]) for row in rows)


if __name__ == "__main__":
    main()
