"""No two names of `streams` share a stream, and neither do two uses of one name."""

from itertools import product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from spos_quant.streams import Stream, generator, torch_seed

numbers = st.lists(st.integers(0, 2**32 - 1), max_size=4).map(tuple)
uses = st.tuples(st.sampled_from(Stream), st.integers(0, 2**64), numbers)


def drawn(stream, seed, where):
    return generator(stream, seed, *where).integers(2**63, size=4).tobytes()


def test_no_two_names_share_a_stream():
    # All lengths in use, with small numbers, since numpy pads short seeds with zeros.
    wheres = [where for length in range(4) for where in product(range(4), repeat=length)]
    found = {drawn(stream, seed, where) for stream in Stream for seed in range(4) for where in wheres}
    assert len(found) == len(Stream) * 4 * len(wheres)


@given(uses, uses)
def test_two_uses_share_a_stream_only_if_they_are_equal(one, other):
    assert (drawn(*one) == drawn(*other)) == (one == other)
    assert (torch_seed(one[0], one[1], *one[2]) == torch_seed(other[0], other[1], *other[2])) == (one == other)


def test_streams_that_once_collided_differ():
    """The augmentation of an image in epoch 3 and the path of a step once had the same seed: seed, 3 and a number."""
    for number in range(100):
        pair = (generator(Stream.AUGMENTATION, 0, 3, number), generator(Stream.PATH, 0, number))
        assert not np.array_equal(pair[0].random(3), pair[1].random(3))


@given(uses)
def test_torch_takes_the_seed(use):
    stream, seed, where = use
    assert 0 <= torch_seed(stream, seed, *where) < 2**63
