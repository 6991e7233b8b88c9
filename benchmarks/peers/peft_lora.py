"""Our adapters in PEFT: trains from our initial adapter, and loads our final one; runs in `.peers-peft`.

peft_lora.py MODEL START END BATCHES OPTIONS REPORT: START and END are adapters, BATCHES an .npy of
int[steps, rows, tokens], OPTIONS a JSON object, see benchmarks/peft_parity.py; REPORT is a directory to write to.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM


def load(model: str, adapter: str, is_trainable: bool = False) -> PeftModel:
    base = AutoModelForCausalLM.from_pretrained(
        model, dtype=torch.float32, attn_implementation="eager", trust_remote_code=False
    )
    return PeftModel.from_pretrained(base, adapter, is_trainable=is_trainable)


def train(model: PeftModel, batches: torch.Tensor, options: dict[str, float]) -> list[float]:
    """The losses with AdamW on the adapter alone and clipped gradients. Embeddings do not decay, as in our training."""
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    parameters = list(named.values())
    rows = {name for name in named if "trainable_tokens" in name}
    groups = [
        {"params": [parameter for name, parameter in named.items() if name not in rows]},
        {"params": [named[name] for name in sorted(rows)], "weight_decay": 0.0},
    ]
    betas = (options["beta1"], options["beta2"])
    optimizer = torch.optim.AdamW(
        groups, lr=options["learning_rate"], betas=betas, weight_decay=options["weight_decay"]
    )
    losses = []
    for batch in batches:
        loss = torch.nn.functional.cross_entropy(model(batch).logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, options["max_grad_norm"])
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def main(model: str, start: str, end: str, batches_file: str, options: str, report: str) -> None:
    batches = torch.tensor(np.load(batches_file)).long()
    trained = load(model, start, is_trainable=True)
    losses = train(trained, batches, json.loads(options))
    trained.save_pretrained(Path(report, "adapter"))
    loaded = load(model, end)
    with torch.no_grad():
        adapted = loaded(batches[0]).logits
        merged = loaded.merge_and_unload()(batches[0]).logits
    np.savez(Path(report, "figures.npz"), losses=losses, adapted=adapted.numpy(), merged=merged.numpy())


if __name__ == "__main__":
    main(*sys.argv[1:])
