import collections

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillrl.sampling.pages import Pages


def test_sharing_and_copying_by_hand():
    pages = Pages(4)
    first = pages.take(2)
    second = pages.share(first)
    copy = pages.own(second[1])
    assert copy not in first
    assert (pages.holders(first[0]), pages.holders(first[1]), pages.holders(copy), pages.free) == (2, 1, 1, 1)
    assert pages.own(first[1]) == first[1]
    pages.drop(first)
    assert pages.free == 2


def test_wrong_use_is_refused():
    pages = Pages(2)
    with pytest.raises(ValueError, match="3 pages wanted, 2 of 2 are free"):
        pages.take(3)
    with pytest.raises(ValueError, match="page 1 is free already"):
        pages.drop([1])
    with pytest.raises(ValueError, match="only held pages"):
        pages.share([0])


@given(st.lists(st.tuples(st.sampled_from(["take", "share", "drop", "own"]), st.integers(0, 99)), max_size=60))
def test_holders_are_counted_right(actions):
    """Against a plain count of who holds what."""
    pages, held = Pages(7), []
    for action, number in actions:
        if action == "take" and pages.free >= number % 3:
            held += [[page] for page in pages.take(number % 3)]
        elif action == "share" and held:
            held.append(pages.share(held[number % len(held)]))
        elif action == "drop" and held:
            pages.drop(held.pop(number % len(held)))
        elif action == "own" and held and pages.free:
            chosen = held[number % len(held)]
            chosen[0] = pages.own(chosen[0])
            assert pages.holders(chosen[0]) == 1
        count = collections.Counter(page for (page,) in held)
        assert [pages.holders(page) for page in range(7)] == [count[page] for page in range(7)]
        assert pages.free == 7 - len(count)
