import pytest
from hypothesis import given
from hypothesis import strategies as st

from marin_sft.data.messages.examples import BadRow
from marin_sft.data.packing.pair_limits import PairLimits
from marin_sft.errors import ConfigError
from tests.data.pair_data import branch, made_up


def kept(pair, limits):
    """The (prompt, completion) that is left of each branch."""
    both = limits.keep(*pair)
    ids = [one.of(row).input_ids.tolist() for one, row in zip(both, pair, strict=True)]
    return [(some[: one.prompt], some[one.prompt :]) for some, one in zip(ids, both, strict=True)]


def reason(pair, limits):
    with pytest.raises(BadRow) as caught:
        limits.keep(*pair)
    return caught.value.reason


def test_the_prompt_keeps_its_end_and_the_completion_its_beginning():
    ((pair,)) = made_up([(4, 3, 2)])  # 1234 567, 1234 89
    assert kept(pair, PairLimits(7)) == [([1, 2, 3, 4], [5, 6, 7]), ([1, 2, 3, 4], [8, 9])]
    assert kept(pair, PairLimits(7, max_prompt_length=2)) == [([3, 4], [5, 6, 7]), ([3, 4], [8, 9])]
    assert kept(pair, PairLimits(7, max_completion_length=2)) == [([1, 2, 3, 4], [5, 6]), ([1, 2, 3, 4], [8, 9])]
    assert kept(pair, PairLimits(5)) == [([1, 2, 3, 4], [5]), ([1, 2, 3, 4], [8])]
    assert kept(pair, PairLimits(3, max_prompt_length=1)) == [([4], [5, 6]), ([4], [8, 9])]
    first, second = PairLimits(6, max_prompt_length=3, max_completion_length=2).keep(*pair)
    assert (first.prompt_is_cut, first.completion_is_cut) == (True, True)
    assert (second.prompt_is_cut, second.completion_is_cut) == (True, False)


def test_what_is_left_out():
    ((pair,)) = made_up([(4, 3, 2)])
    assert reason(pair, PairLimits(4)) == "no_trained_token"  # no room for a completion
    for policy in ("drop", "raise"):
        assert reason(pair, PairLimits(6, policy)) == "over_length"
        # The limits come first.
        PairLimits(6, policy, max_prompt_length=3).keep(*pair)
        PairLimits(6, policy, max_completion_length=2).keep(*pair)
    alike = branch([1, 2], [3, 4, 5]), branch([1, 2], [3, 4, 6])
    PairLimits(5).keep(*alike)
    assert reason(alike, PairLimits(4)) == "identical_pair"
    with pytest.raises(ConfigError, match="over_length='split'"):
        PairLimits(4, "split")


def test_targets_are_counted_in_what_is_kept():
    pair = branch([1, 2], [3, 4, 5, 6], gaps=(1, 2)), branch([1, 2], [7, 8])
    assert [one.trained for one in PairLimits(6).keep(*pair)] == [2, 2]
    assert [one.trained for one in PairLimits(5).keep(*pair)] == [1, 2]
    # Without a prompt the first token is predicted from nothing.
    assert [one.trained for one in PairLimits(6).keep(branch([], [1, 2]), branch([], [3, 4, 5]))] == [1, 2]


limit = st.none() | st.integers(1, 9)


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 8), st.integers(2, 12), limit, limit)
def test_any_limits(prompt, chosen, rejected, seq_len, max_prompt_length, max_completion_length):
    ((pair,)) = made_up([(prompt, chosen, rejected)])
    limits = PairLimits(seq_len, "truncate", max_prompt_length, max_completion_length)
    of_prompt = min(prompt, max_prompt_length or prompt)
    if of_prompt >= seq_len:
        assert reason(pair, limits) == "no_trained_token"
        return
    for (p, c), row in zip(kept(pair, limits), pair, strict=True):
        whole = row.input_ids.tolist()
        size = min(len(whole) - prompt, max_completion_length or 8, seq_len - of_prompt)
        assert p == whole[prompt - of_prompt : prompt] and c == whole[prompt : prompt + size]
