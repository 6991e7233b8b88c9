"""The settings of evaluation during training. Light: no JAX."""

from __future__ import annotations

from marin_sft.arguments import part_of_config
from marin_sft.execution.step import execution_only, omitted_when
from marin_sft.training.checks import require
from marin_sft.training.stops import EarlyStopping


@part_of_config
class EvaluationSettings:
    """When to evaluate on the mixture's validation examples, which are packed like training examples."""

    steps_per_eval: int | None = execution_only(default=None)
    """Steps between two evaluations. None: never."""

    max_evaluation_steps: int | None = omitted_when(None, default=None)
    """At most this many batches of each validation set. None: all."""

    do_eval: bool | None = execution_only(default=None)
    """False: never evaluate. True: also without held-out data, then on `max_evaluation_steps` training batches (None:
    8), and after the last step if `steps_per_eval` is not given. None: evaluate if there are held-out data."""

    eval_on_start: bool = execution_only(default=False)
    """Also evaluate before the first step, where training evaluates at all: `before/validation/loss`."""

    early_stopping: EarlyStopping | None = omitted_when(None, default=None)
    """End training when a metric stops improving. It also sets how often to evaluate."""

    def check_evaluation(self) -> None:
        """Raise ConfigError for a value that cannot be used."""
        most, every = self.max_evaluation_steps, self.steps_per_eval
        require(self, "max_evaluation_steps", most is None or most >= 1, "at least 1, or None")
        require(self, "steps_per_eval", every is None or every > 0, "above 0, or None")
        if self.early_stopping is not None:
            one = every in (None, self.early_stopping.steps)
            require(self, "early_stopping", one, f"steps = {every} as in steps_per_eval, or steps_per_eval = None")
            require(self, "early_stopping", self.do_eval is not False, "None where do_eval is False")

    def eval_cadence(self, num_steps: int) -> int | None:
        """Steps between two evaluations in a training of `num_steps`. None: never."""
        if self.do_eval is False:
            return None
        if self.early_stopping is not None:
            return self.early_stopping.steps
        return self.steps_per_eval or (num_steps if self.do_eval else None)
