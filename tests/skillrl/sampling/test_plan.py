import numpy as np
import pytest

from skillrl.sampling.plan import Plan, Request, Shapes, next_plan
from skillrl.sampling.step import Decoded
from skillrl.sampling.turns import SamplingError

SHAPES = Shapes(rows=(2, 4), chunks=(4, 16), decode_steps=3)


class Future:
    """Just enough of asyncio.Future to see what a plan did."""

    def __init__(self):
        self.outcome = None

    def done(self):
        return self.outcome is not None

    def set_result(self, _):
        self.outcome = "done"

    def set_exception(self, error):
        self.outcome = error


def request(row, pending, **changes):
    fields = dict(position=10, pending=list(range(pending)), budget=5, temperature=0.8, seed=9, future=Future())
    return Request(row=row, **(fields | changes))


def test_prefill_comes_first_while_rows_are_few():
    requests = [request(0, 1), request(1, 3), request(2, 5), request(3, 17), request(4, 200)]
    plan = next_plan(requests, SHAPES, padding_row=9)
    # 16 and 199 tokens to go want a chunk of 16; those with 2 and 4 to go wait for one of 4.
    assert (plan.chunk, plan.size, [r.row for r in plan.requests]) == (16, 2, [3, 4])


def test_full_calls_decode_before_more_is_prefilled():
    requests = [request(row, 1) for row in range(5)] + [request(7, 50)]
    plan = next_plan(requests, SHAPES, padding_row=9)
    assert (plan.chunk, [r.row for r in plan.requests], plan.min_active) == (0, [0, 1, 2, 3], 2)
    alone = next_plan([request(3, 1)], SHAPES, padding_row=9)
    assert (alone.size, alone.min_active) == (2, 0)


def test_a_chunk_holds_known_tokens_and_padding():
    first, second = request(3, 7, position=20), request(1, 3)
    rows, tokens, positions = Plan((first, second), 4, 4, padding_row=9).arrays()
    assert rows.tolist() == [3, 1, 9, 9]
    assert tokens.tolist() == [[0, 1, 2, 3], [0, 1, 0, 0], [0] * 4, [0] * 4]
    assert positions.tolist() == [[20, 21, 22, 23], [10, 11, -1, -1], [-1] * 4, [-1] * 4]


def test_prefill_moves_requests_up_to_their_last_token():
    first, second = request(3, 7, position=20), request(1, 3)
    plan = Plan((first, second), 4, 4, padding_row=9)
    assert plan.known_tokens == 6
    plan.apply(None, version=0)
    assert (first.position, first.pending) == (24, [4, 5, 6])
    assert (second.position, second.pending) == (12, [2])


def decoded(tokens, counts, stopped, failed):
    tokens = np.asarray(tokens, np.int32)
    return Decoded(tokens, tokens * -0.1, np.asarray(counts), np.asarray(stopped), np.asarray(failed), np.int32(3))


def test_decoding_moves_requests_and_ends_them():
    going, stopped, spent, failed = (request(row, 1, budget=b) for row, b in enumerate((5, 5, 2, 5)))
    plan = Plan((going, stopped, spent, failed), 4, 0, padding_row=9)
    rows, tokens, positions, budgets, seeds, temperatures, _ = plan.arrays()
    assert positions.tolist() == [10] * 4
    assert budgets.tolist() == [5, 5, 2, 5]
    assert temperatures.dtype == np.float32
    plan.apply(
        decoded([[1, 2, 3], [4, 7, 0], [5, 6, 0], [0, 0, 0]], [3, 2, 2, 0], [0, 1, 0, 0], [False, False, False, True]),
        version=8,
    )
    assert (going.tokens, going.position, going.pending, going.future.outcome) == ([1, 2, 3], 13, [3], None)
    assert (stopped.tokens, stopped.stopped, stopped.future.outcome) == ([4, 7], True, "done")
    assert (spent.tokens, spent.stopped, spent.future.outcome) == ([5, 6], False, "done")
    assert isinstance(failed.future.outcome, SamplingError)
    assert going.sampled().versions.tolist() == [8, 8, 8]
    assert Plan((going,), 2, 0, 9).arrays()[3].tolist() == [2, 0]


@pytest.mark.parametrize("rows", [1, 3, 8, 96])
def test_default_shapes_fit_the_cache(rows):
    shapes = Shapes.default(rows)
    assert 1 <= shapes.rows[-1] <= rows
    assert list(shapes.rows) == sorted(set(shapes.rows))
    assert Shapes((3, 4, 9), (4,)).rounded(4).rows == (4, 12)
