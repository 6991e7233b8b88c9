"""What Levanter and Haliax need from JAX, but newer releases no longer have.

Levanter 0.2.20 was written for JAX 0.10. This module makes it run with JAX 0.11.
Delete it when a newer Levanter is pinned.
"""

from __future__ import annotations

import operator
from typing import Any

import jax


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
