"""Whether a high or a low figure is good."""

from __future__ import annotations

from marin_sft.errors import ConfigError

DIRECTIONS = ("max", "min")
_HIGHER = {"exact_match", "acc", "acc_norm", "accuracy", "accuracies", "margins", "f1", "bleu", "chrf"}
_HIGHER |= {"rouge1", "rouge2", "rougeL", "stopped"}
_LOWER = {"loss", "perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "ter"}


def order(direction: str, value: float) -> float:
    """What to sort values by, best first: the best has the lowest."""
    return -value if direction == "max" else value


def direction_of(what: str, metric: str, figure: str, given: str | None) -> str:
    """`given`, or the usual direction of a metric, which `figure`, its last parts, tell.

    Raises:
        ConfigError: another word, or none is usual.
    """
    if given is not None:
        if given not in DIRECTIONS:
            raise ConfigError(f"{what}: direction = {given!r}: expected 'max' or 'min'")
        return given
    words = set(figure.split("/"))
    directions = {"max": words & _HIGHER, "min": words & _LOWER}
    found = [direction for direction, known in directions.items() if known]
    if len(found) != 1:
        raise ConfigError(
            f"{what}: whether a high or a low {metric} is good is not known; give direction='max' or 'min'"
        )
    return found[0]
