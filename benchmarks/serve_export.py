"""Checks that an export gives the same results in transformers 4 and 5.

make peers-transformers5
.venv/bin/python benchmarks/serve_export.py EXPORT [--ask "2 + 2 = ?"]

Loads the directory in both, each in its own process, and compares rope and dtype, logits, the text and ids of the chat
template, the ids of unusual texts, and greedy answers, which must stop by themselves. Exits with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
INTERPRETERS = {"4": ROOT / ".venv/bin/python", "5": ROOT / ".peers-transformers5/bin/python"}
LOGIT_TOLERANCE = 1e-4  # both compute in float32
POSITIONS, MAX_NEW_TOKENS = 48, 256
# Whitespace, normalization, digits, text outside of any vocabulary, contractions, special tokens within text.
TEXTS = [
    "  two  spaces\n\n\tand a tab ",
    "l'\u00e9te\u0301 12345 \u4e2d\U0001f600",
    "don't\r\nDON'T",
    "a<s>b</s> c<|im_end|>\nd<end_of_turn> e",
]


def report(path: str, question: str) -> dict[str, Any]:
    """The results for the export at `path` with the transformers of this process."""
    import torch
    import transformers

    stored = transformers.AutoConfig.from_pretrained(path, trust_remote_code=False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    # Eager: the fused attention of transformers 4 leaves out Gemma 2's soft caps.
    options = {"dtype": torch.float32, "attn_implementation": "eager"}
    model = transformers.AutoModelForCausalLM.from_pretrained(path, **options, trust_remote_code=False).eval()
    dialogue = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(dialogue, tokenize=False, add_generation_prompt=True)
    prompt = tokenizer.apply_chat_template(dialogue, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    ids = torch.randint(model.config.vocab_size, (2, POSITIONS), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(ids).logits
        answer = model.generate(**prompt, do_sample=False, max_new_tokens=MAX_NEW_TOKENS)
    answer = answer[0, prompt["input_ids"].shape[1] :].tolist()
    return {
        "transformers": transformers.__version__,
        "dtype": str(getattr(stored, "dtype", None)),
        "rope": _inverse_frequencies(model),
        "eos": model.generation_config.eos_token_id,
        "text": text,
        "ids": prompt["input_ids"][0].tolist(),
        "texts": [tokenizer.encode(text) for text in TEXTS],
        "answer": answer,
        "stopped": bool(answer) and answer[-1] in model.generation_config.eos_token_id,
        "decoded": tokenizer.decode(answer),
        "logits": logits.flatten().tolist(),
    }


def _inverse_frequencies(model: Any) -> list[list[float]]:
    """The distinct values of the rope fields, which layers and versions repeat."""
    found = {tuple(buffer.tolist()) for name, buffer in model.named_buffers() if name.endswith("inv_freq")}
    return [list(frequencies) for frequencies in sorted(found)]


@dataclass(frozen=True)
class Comparison:
    """Results for an export in transformers 4 (`old`) and 5 (`new`). `difference`: the largest one of logits."""

    old: dict[str, Any]
    new: dict[str, Any]
    difference: float

    @property
    def differs(self) -> list[str]:
        """The names of the results that differ, other than logits."""
        return [key for key in self.old if key != "transformers" and self.old[key] != self.new[key]]

    @property
    def stopped(self) -> bool:
        return bool(self.old["stopped"])

    def good_but_for(self, names: Sequence[str] = ()) -> bool:
        """Whether exactly `names` differ."""
        return self.differs == list(names) and self.difference <= LOGIT_TOLERANCE and self.stopped

    def details(self) -> list[str]:
        return [f"{key} differs: {self.old[key]!r} and {self.new[key]!r}" for key in self.differs]


def compare(export: str, question: str) -> Comparison:
    old, new = (_in(python, export, question) for python in INTERPRETERS.values())
    pairs = zip(old.pop("logits"), new.pop("logits"), strict=True)
    return Comparison(old, new, max(abs(a - b) for a, b in pairs))


def _in(python: Path, export: str, question: str) -> dict[str, Any]:
    if not python.exists():
        raise SystemExit(f"no {python}; run: make env-dev peers-transformers5")
    command = [str(python), __file__, export, "--ask", question, "--report"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{python} could not serve {export}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export")
    parser.add_argument("--ask", default="2 + 2 = ?")
    parser.add_argument("--report", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.report:
        print(json.dumps(report(arguments.export, arguments.ask)))
        return 0
    found = compare(arguments.export, arguments.ask)
    versions = f"transformers {found.old['transformers']} and {found.new['transformers']}"
    print(f"{versions}; largest difference of logits {found.difference:.2g}")
    print(f"answer: {found.old['decoded']!r}, ends by itself: {found.stopped}")
    good = found.good_but_for()
    print("\n".join([*found.details(), "serves the same in both" if good else "does not serve the same in both"]))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
