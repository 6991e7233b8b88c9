"""What Levanter and Haliax expect of JAX and transformers that newer releases of both no longer have.

Levanter 0.2.20 was written for JAX 0.10 and transformers 4. Everything it needs to run with JAX 0.11 and transformers 5
is here; when a newer Levanter is pinned, this module goes.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import jax

from marin_sft.training.models.model_config import older_rope


def with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `config.json`, with the defaults of its architecture for those it leaves out.

    transformers 5 keeps `rope_parameters` only; Levanter and our own checks read `rope_theta` and `rope_scaling`.
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


if jax.__version_info__ >= (0, 11):  # which removed it; haliax.jax_utils calls it for every product
    jax.core.is_constant_dim = _is_constant_dim
