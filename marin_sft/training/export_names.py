"""Where a training writes the exports that it makes while it runs. Light: no JAX."""


def part_of(step: int) -> str:
    """The export after `step` steps, as a path in the output."""
    return f"hf/step-{step}"
