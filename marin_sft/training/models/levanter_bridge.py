"""What Levanter and Haliax need from JAX and transformers, but newer releases no longer have.

Levanter 0.2.20 was written for JAX 0.10 and transformers 4. This module makes it run with JAX 0.11 and transformers 5.
Delete it when a newer Levanter is pinned.
"""

from __future__ import annotations

import operator
from typing import Any

import jax

from marin_sft.training.models.model_config import Fields, older_rope


def with_defaults(config: Fields) -> Fields:
    """The fields of a `config.json`, with the architecture's defaults for those it leaves out.

    transformers 5 has only `rope_parameters`; Levanter and our own checks read `rope_theta` and `rope_scaling`.
    """
    from transformers import AutoConfig

    fields = AutoConfig.for_model(**config).to_dict()
    return {"rope_scaling": None, **fields, **older_rope(fields.get("rope_parameters") or {})}


def _is_constant_dim(size: Any) -> bool:
    if isinstance(size, jax.core.Tracer):
        return False
    try:
        operator.index(size)
    except TypeError:
        return False
    return True


if jax.__version_info__ >= (0, 11):  # removed there; haliax.jax_utils calls it for every product
    jax.core.is_constant_dim = _is_constant_dim
