import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marin_sft.data.chat.alignment import TokenRow
from marin_sft.data.data_configs import POLICIES
from marin_sft.data.messages.reading import BadRow
from marin_sft.data.packing.over_length import fit, pieces
from marin_sft.data.token_cache import trained_tokens
from marin_sft.errors import DataError

LENGTHS = np.array([5, 12, 10, 25, 4])


def spans(some):
    return list(zip(some.docs.tolist(), some.starts.tolist(), some.lengths.tolist(), strict=True))


def test_pieces():
    cut = pieces(LENGTHS, 10, "truncate")
    assert spans(cut) == [(0, 0, 5), (1, 0, 10), (2, 0, 10), (3, 0, 10), (4, 0, 4)]
    assert (cut.truncated, cut.split, cut.dropped) == (2, 0, 0)
    less = pieces(LENGTHS, 10, "drop")
    assert spans(less) == [(0, 0, 5), (2, 0, 10), (4, 0, 4)] and (less.truncated, less.split, less.dropped) == (0, 0, 2)
    more = pieces(LENGTHS, 10, "split")
    assert spans(more)[1:3] == [(1, 0, 10), (1, 10, 2)] and spans(more)[4:7] == [(3, 0, 10), (3, 10, 10), (3, 20, 5)]
    assert more.lengths.sum() == LENGTHS.sum() and (more.truncated, more.split, more.dropped) == (0, 2, 0)
    with pytest.raises(DataError, match="2 of 5 documents are longer than 10 tokens .document 3 has 25"):
        pieces(LENGTHS, 10, "raise")
    assert spans(pieces(LENGTHS, 25, "raise")) == [(i, 0, n) for i, n in enumerate(LENGTHS)]


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.lists(st.integers(0, 1), min_size=1, max_size=40), st.integers(2, 12), st.sampled_from(POLICIES))
def test_one_row_is_treated_as_many_are(mask, capacity, policy):
    row = TokenRow(np.arange(len(mask), dtype=np.int32), np.array(mask, np.uint8))
    try:
        some = pieces(np.array([len(mask)]), capacity, policy)
        expected = [row.input_ids[a : a + n].tolist() for _, a, n in spans(some) if trained_tokens(row.mask[a : a + n])]
    except DataError:
        expected = []
    try:
        found = fit(row, capacity, policy)
    except BadRow as bad:
        reason = "over_length" if len(mask) > capacity and policy in ("drop", "raise") else "no_trained_token"
        assert bad.reason == reason and not expected
    else:
        assert [piece.input_ids.tolist() for piece in found] == expected != []
        for piece in found:
            np.testing.assert_array_equal(piece.mask, row.mask[piece.input_ids])


def test_a_piece_in_the_middle_keeps_its_mask_and_has_no_prompt():
    row = TokenRow(np.arange(6, dtype=np.int32), np.array([0, 0, 0, 1, 1, 1], np.uint8))
    (second,) = fit(row, 3, "split")
    # The prompt alone trains nothing; of the answer, the first token has nothing to be predicted from.
    assert second.input_ids.tolist() == [3, 4, 5] and trained_tokens(second.mask) == 2
