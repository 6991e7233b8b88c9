"""The model card of an export: README.md with front matter for the Hugging Face Hub. It has no times and no local
paths, so the same inputs always give the same card."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from marin_sft.data.packing.packed_mixture import PackedMixture
from marin_sft.export.card_config import CardConfig
from marin_sft.export.hf_config import HfExport
from marin_sft.training.metrics.meter import TIMED
from marin_sft.training.models.model_config import Fields

_STEP = re.compile(r"(?:^|/)([^/]+-[0-9a-f]{10})(?=/|$)")


def model_card(export: HfExport, origin: Fields | None, dtype: str, metrics: Mapping[str, float], path: str) -> str:
    """`origin`: .provenance.json of the base model, if it was downloaded. `path`: where the export is written."""
    card = export.card
    sections = [
        _front_matter(card, origin),
        f"# {card.title}",
        f"{_base(export.base_model, origin)}, trained with {card.method} by marin_sft. Weights are {dtype}.",
        _data(card),
        _table("Hyper-parameters", ("parameter", "value"), card.hyperparameters.items()),
        _table("Final metrics", ("metric", "value"), _metrics(metrics).items()),
        f"Step `{step_of(path)}`." if step_of(path) else "",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def step_of(path: str) -> str | None:
    """`name-fingerprint` of the step whose output contains `path` (the last part of its name). None: no step does."""
    found = _STEP.findall(path)
    return found[-1] if found else None


def _front_matter(card: CardConfig, origin: Fields | None) -> str:
    fields: dict[str, object] = {
        **({"base_model": origin["id"]} if origin else {}),
        **({"datasets": list(card.datasets)} if card.datasets else {}),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["marin_sft", card.method.lower(), "conversational"],
    }
    # JSON is YAML.
    return "\n".join(["---", *(f"{name}: {json.dumps(value)}" for name, value in fields.items()), "---"])


def _base(base_model: str, origin: Fields | None) -> str:
    if origin:
        return f"[{origin['id']}](https://huggingface.co/{origin['id']}) at `{origin['commit']}`"
    step = step_of(base_model)
    return f"The model of step `{step}`" if step else "A base model"


def _data(card: CardConfig) -> str:
    """One line per component: its share of the training rows, its size, and how often it is seen per epoch."""
    if card.mixture is None:
        return ""
    mixture = PackedMixture.open(card.mixture, {})
    about = mixture.about
    stages = about["order"]["stages"]
    lines = []
    for name in sorted(stages[0]["share_of_rows"]):
        counts = about["components"][name]["train"]
        lines.append(
            (
                name,
                _over_stages(stages, "share_of_rows", name),
                *(f"{counts[key]:,}" for key in ("documents", "tokens", "trained_tokens")),
                _over_stages(stages, "times_seen_per_epoch", name),
            )
        )
    headings = ("component", "share of rows", "documents", "tokens", "trained tokens", "seen per epoch")
    return f"{_table('Data', headings, lines)}\n\n{mixture.kind.card.format(seq_len=mixture.seq_len)}"


def _over_stages(stages: list[Fields], key: str, name: str) -> str:
    """The figure, or one for each stage of the weight schedule."""
    figures = [f"{stage[key][name]:.4g}" for stage in stages]
    if len(stages) == 1:
        return figures[0]
    return ", ".join(f"{figure} from step {stage['start_step']}" for figure, stage in zip(figures, stages, strict=True))


def _metrics(metrics: Mapping[str, float]) -> dict[str, str]:
    return {
        name: f"{value:,}" if isinstance(value, int) else f"{value:.6g}"
        for name, value in sorted(metrics.items())
        if not name.endswith(TIMED)
    }


def _table(title: str, headings: tuple[str, ...], lines: Iterable[Iterable[object]]) -> str:
    rows = [tuple(str(cell).replace("|", "\\|") for cell in line) for line in lines]
    if not rows:
        return ""
    table = [headings, tuple("---" for _ in headings), *rows]
    return f"## {title}\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in table)
