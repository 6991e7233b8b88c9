"""The parts of a model card that the export itself does not know."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class CardConfig:
    """A model card: what it says in addition to what the export knows."""

    title: str = "A fine-tuned model"
    """The title."""

    method: str = "SFT"
    """How the model was trained."""

    datasets: tuple[str, ...] = ()
    """Ids on the Hugging Face Hub."""

    mixture: str | None = None
    """Output of the mixture step that the model was trained on."""

    hyperparameters: dict[str, object] = field(default_factory=dict)
    """Plain values by name."""
