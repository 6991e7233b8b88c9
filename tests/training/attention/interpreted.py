"""tokamax's kernels for GPUs, interpreted on a CPU: the same code, slowly."""

from unittest import mock

from jax.experimental import pallas as pl
from tokamax._src import gpu_utils


def interpreted():
    """A context in which tokamax's Triton kernels run here."""
    call, program_id = pl.pallas_call, pl.program_id
    ids = []

    def interpreted_call(kernel, *args, **options):
        axes = range(len(options["grid_spec"].grid))

        def with_ids(*refs):
            ids[:] = [program_id(axis) for axis in axes]
            return kernel(*refs)

        return call(with_ids, *args, interpret=True, **options)

    def known_id(axis):
        """The interpreter does not know the ids inside a loop, so they are looked up before it."""
        if axis >= len(ids):
            raise ValueError(axis)
        return ids[axis]

    return mock.patch.multiple(pl, pallas_call=interpreted_call, program_id=known_id), mock.patch.object(
        gpu_utils, "has_triton_support", lambda device=None: True
    )
