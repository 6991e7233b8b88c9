import threading

import pytest

from marin_sft.data.batches.prefetch import Prefetched, prefetched


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_in_order_from_one_thread_and_errors_in_their_place():
    caller = threading.get_ident()
    made_by = set()

    def make(step):
        made_by.add(threading.get_ident())
        if step == 5:
            raise ValueError("five")
        return step

    assert list(prefetched(make, range(5))) == [0, 1, 2, 3, 4]
    assert caller not in made_by and len(made_by) == 1
    seen = []
    with pytest.raises(ValueError, match="five"):
        for step in prefetched(make, range(10)):
            seen.append(step)
    assert seen == [0, 1, 2, 3, 4]
    endless = prefetched(make, iter(int, 1))
    assert next(endless) == 0
    endless.close()
    assert not threads()


def test_no_more_than_asked_for_is_made_beforehand():
    made, reached = [], threading.Event()

    def make(step):
        made.append(step)
        if step == 3:
            reached.set()
        return step

    with Prefetched(make, stop=100, ahead=3) as batches:
        assert batches(0) == 0
        assert reached.wait(10)
    assert made == [0, 1, 2, 3] and not threads()


def test_any_step_can_be_asked_for():
    with Prefetched(lambda step: 10 * step, stop=20) as batches:
        assert [batches(step) for step in (4, 5, 6, 2, 19, 0, 1)] == [40, 50, 60, 20, 190, 0, 10]
        assert len(threads()) == 1
    assert not threads()


def test_a_step_that_fails_is_raised_where_it_is_asked_for():
    def make(step):
        if step == 2:
            raise ValueError("two")
        return step

    with pytest.raises(ValueError, match="two"), Prefetched(make, stop=9) as batches:
        assert [batches(0), batches(1)] == [0, 1]
        batches(2)
    assert not threads()
