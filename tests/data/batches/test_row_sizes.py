import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from marin_sft.data.batches.row_sizes import choose_sizes, rows_needed, size_for
from marin_sft.data.packing.packs import pack


@given(st.lists(st.lists(st.integers(0, 12), min_size=6, max_size=6), min_size=1, max_size=8))
def test_rows_are_those_of_pack(batches):
    lengths = np.array(batches)
    expected = [len(pack(line[line > 0], 12)) for line in lengths]
    assert rows_needed(lengths, 12).tolist() == expected


@given(st.lists(st.integers(0, 15), min_size=1, max_size=12), st.integers(1, 3), st.integers(1, 4))
def test_no_other_sizes_make_fewer_rows(needed, multiple, most):
    sizes = choose_sizes(np.array(needed), multiple, most)
    assert 1 <= len(sizes) <= most and list(sizes) == sorted(set(sizes)) and all(s % multiple == 0 for s in sizes)

    def rows(some):
        return sum(min((s for s in some if s >= n), default=10**6) for n in needed)

    possible = range(multiple, 18, multiple)
    every = (some for count in range(1, most + 1) for some in itertools.combinations(possible, count))
    assert rows(sizes) == min(map(rows, every))


def test_a_batch_that_needs_more_gets_the_next_multiple():
    assert [size_for(needed, (2, 6), 2) for needed in (0, 2, 3, 6, 7, 8)] == [2, 2, 6, 6, 8, 8]
