"""Tokens per second and MFU of supervised fine-tuning on the accelerators of this machine.

python benchmarks/gpu_sft.py SETTING... [--steps 8] [--profile FOLDER] [--tiny]

SETTING is BACKEND/RECOMPUTE/ROWS, like jax_flash/recompute/8: an attention backend ("default": ours for the
device), what the backward pass recomputes ("none", or a value of `gradient_checkpointing`), and packed rows per
step over all devices. levanter/RECOMPUTE/ROWS is the step of Levanter's own Trainer, with its loss and its defaults.

A Llama of 1.2 billion random parameters (the shape of Llama 3.2 1B), bfloat16 forward and backward, float32 weights and
AdamW; packed rows of 4096 tokens of documents of 400 tokens on average, half of each trained. Only the training step of
`sft` is timed; nothing is read or written. Each setting runs in its own process, so that peak memory is its own, and
its figures are printed as soon as they are known.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from figures import DOES_NOT_FIT, each_alone, tell

LEVANTER = "levanter"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="+", metavar="SETTING")
    parser.add_argument("--steps", type=int, default=8, help="measured steps of each setting")
    parser.add_argument("--profile", type=Path, help="a folder for the profile of each setting")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to try the script on any machine")
    parser.add_argument("--here", action="store_true", help="one setting, in this process")
    given = parser.parse_args()
    if given.here:
        one(given.settings[0], given.steps, given.profile, given.tiny)
        return
    options = ["--steps", str(given.steps), *(["--tiny"] if given.tiny else [])]
    options += ["--profile", str(given.profile)] if given.profile else []
    each_alone("sft", given.settings, [sys.executable, __file__, "--here", *options])


def one(setting: str, steps: int, profile: Path | None, tiny: bool) -> None:
    import gpu_model

    shape, vocabulary = (
        (gpu_model.TINY, gpu_model.TINY_VOCABULARY) if tiny else (gpu_model.LLAMA_1B, gpu_model.VOCABULARY)
    )
    backend, recompute, rows = setting.split("/")
    folder = None if profile is None else profile / setting.replace("/", "-")
    try:
        if backend == LEVANTER:
            result = levanter(shape, vocabulary, recompute, int(rows), steps)
        else:
            result = ours(shape, vocabulary, backend, recompute, int(rows), steps, folder)
    except Exception as error:
        if not gpu_model.does_not_fit(error):
            tell(f"sft {setting}", f"failed: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
            raise
        tell(f"sft {setting}", "does not fit into memory")
        sys.exit(DOES_NOT_FIT)
    tell(f"sft {setting}", str(result), setting=setting, **asdict(result))


def options_of(backend: str, recompute: str) -> dict[str, Any]:
    return {
        "gradient_checkpointing": False if recompute == "none" else recompute,
        "attention_backend": None if backend in ("default", LEVANTER) else backend,
    }


def rows_of(shape: Any, vocabulary: int, rows: int) -> list[Any]:
    from gpu_model import packed_rows

    return [packed_rows(rows, shape.max_seq_len, vocabulary, shape.max_seq_len // 10, seed) for seed in range(4)]


def ours(shape: Any, vocabulary: int, backend: str, recompute: str, rows: int, steps: int, profile: Path | None) -> Any:
    from gpu_model import measure

    from marin_sft.training.loss import LossBatch, loss_arrays, nll

    def loss(model: Any, batch: Any, key: Any, reference: Any) -> Any:
        return nll(model, LossBatch(**batch)), {}

    batches = [
        {name: array[None] for name, array in loss_arrays(batch).items()} for batch in rows_of(shape, vocabulary, rows)
    ]
    tokens = rows * shape.max_seq_len
    return measure(shape, vocabulary, options_of(backend, recompute), loss, batches, tokens, steps, profile)


def levanter(shape: Any, vocabulary: int, recompute: str, rows: int, steps: int) -> Any:
    """Levanter's Trainer with its own step and loss. It waits for the loss of a step before it starts the next."""
    import haliax as hax
    import jax
    import jmp
    import optax
    from gpu_model import WARM, Result
    from levanter.models.lm_model import LmExample
    from levanter.tracker import NoopConfig
    from levanter.trainer import Trainer, TrainerConfig

    from marin_sft.training.metrics.memory import MemoryWatch
    from marin_sft.training.metrics.throughput import throughput
    from marin_sft.training.models.architectures import levanter_config

    hf_config = shape.hf_config(vocab_size=vocabulary)
    config = TrainerConfig(
        id="levanter",
        mp=jmp.get_policy("p=f32,c=bf16"),
        tracker=NoopConfig(),
        train_batch_size=rows,
        require_accelerator=False,
        load_checkpoint=False,
    )
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-5))
    batch, position = hax.Axis("batch", rows), hax.Axis("position", shape.max_seq_len)

    def example(packed: Any) -> LmExample:
        tokens, weight, segments = (
            hax.named(array, (batch, position)) for array in (packed.tokens, packed.loss_weight, packed.segment_ids)
        )
        return hax.vmap(causal, batch)(tokens, weight, segments)

    def causal(tokens: Any, weight: Any, segments: Any) -> LmExample:
        return LmExample.causal(tokens, loss_weight=weight, segment_ids=segments)

    def loss(model: Any, example: LmExample, key: Any = None) -> Any:
        return model.compute_next_token_loss(example, key=key)

    with Trainer(config, adam, loss, add_default_hooks=False) as trainer:
        build = levanter_config(hf_config, **options_of(LEVANTER, recompute)).build
        model = hax.named_jit(
            lambda key: build(hax.Axis("vocab", vocabulary), key=key), out_axis_resources=trainer.parameter_axis_mapping
        )(jax.random.PRNGKey(0))
        state = trainer.initial_state(jax.random.PRNGKey(0), model=model)
        examples = [
            hax.shard(example(packed), trainer.compute_axis_mapping) for packed in rows_of(shape, vocabulary, rows)
        ]
        begun, ended = time.perf_counter(), []
        for step in range(1 + WARM + steps):
            info = trainer.train_step(state, examples[step % len(examples)])
            state = info.state
            ended.append(time.perf_counter())
    seconds = (ended[-1] - ended[WARM]) / steps
    speed = rows * shape.max_seq_len / seconds
    devices = throughput(hf_config, jax.devices()[0].device_kind, jax.device_count())
    memory = MemoryWatch(0.0).figures().get("memory/device_peak_gib")
    mfu = devices.utilisation(speed, shape.max_seq_len)
    return Result(rows, seconds, ended[0] - begun, speed, mfu, memory)


if __name__ == "__main__":
    main()
