import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from skillrl.sampling.batches import batch_of
from skillrl.sampling.scheduler import Scheduler, Shapes
from skillrl.sampling.step import Decoded
from skillrl.sampling.streams import Stream

SHAPES = Shapes(rows=(2, 4), chunks=(4, 16), decode_steps=3, page_tokens=4)
STOP = 0


def token_after(stream, position):
    """What the policy of these tests says at a position: a function of the seed and of the past."""
    past = stream.tokens[:position]
    return (sum(past) * 31 + stream.seed * 17 + position) % 9


def decoded(plan, size=4, fail=()):
    """What a device would answer: no rows but those of the plan, no more tokens than their steps."""
    tokens, counts, stopped = np.zeros((size, 3), np.int32), np.zeros(size, int), np.zeros(size, bool)
    for row, slot in enumerate(plan.slots):
        known = list(slot.stream.tokens)
        for step in range(slot.steps if slot.stream not in fail else 0):
            tokens[row, step] = token_after(Stream(slot.stream.seed, tokens=known), len(known))
            known.append(int(tokens[row, step]))
            counts[row], stopped[row] = step + 1, tokens[row, step] == STOP
            if stopped[row]:
                break
    failed = np.asarray([row < len(plan.slots) and plan.slots[row].stream in fail for row in range(size)])
    logprobs = tokens * -0.1
    return Decoded(tokens, logprobs, logprobs, counts, stopped, failed, np.int32(3))


def advance(scheduler, **answer):
    plan = scheduler.plan()
    over = scheduler.apply(plan, decoded(plan, **answer), version=0)
    for stream, _ in over:
        scheduler.park(stream)
    return plan, over


def finish(scheduler):
    calls = 0
    while scheduler.running:
        advance(scheduler)
        calls += 1
        assert calls < 500, "a stream starves"
    return calls


def submitted(scheduler, *prompts, budget=6):
    streams = [Stream(seed) for seed in range(len(prompts))]
    for stream, prompt in zip(streams, prompts, strict=True):
        scheduler.submit(stream, prompt, budget)
    return streams


def test_chunks_and_decode_rows_share_a_call():
    scheduler = Scheduler(SHAPES, 40)
    short, long, late = submitted(scheduler, [1], [2] * 15, [3] * 9)
    plan = scheduler.plan()
    # 14 known tokens of the second, then 2 of the 16 are left for the third, which cannot sample yet.
    assert [(slot.stream, slot.chunk, slot.steps) for slot in plan.slots] == [
        (long, 14, 3),
        (late, 2, 0),
        (short, 0, 3),
    ]
    assert plan.min_active == 1


def test_the_arrays_of_a_call():
    scheduler = Scheduler(SHAPES, 40)
    first, second = submitted(scheduler, [5], [1, 2, 3])
    batch = batch_of([scheduler.plan()], SHAPES, 3, 40, (STOP,))
    assert batch.chunk_ST.tolist() == [[1, 2, 0, 0]]
    assert batch.chunk_starts_SA.tolist() == [[0, 2, 2]]
    assert (batch.chunk_lengths_SA.tolist(), batch.chunk_rows_S.tolist()) == ([[2, 0]], [1])
    assert (batch.last_SA.tolist(), batch.position_SA.tolist()) == ([[3, 5]], [[2, 0]])
    assert batch.table_SAP[0, 0, :2].tolist() == second.pages
    assert batch.table_SAP[0, 1, :1].tolist() == first.pages
    assert batch.copy_to_SA.tolist() == [[40, 40]]


def test_a_group_computes_its_prompt_once():
    scheduler, prompt = Scheduler(SHAPES, 40), [1, 2, 3, 4, 5, 6, 7]
    group = submitted(scheduler, prompt, prompt, prompt)
    plan, _ = advance(scheduler)
    assert [slot.stream for slot in plan.slots] == group[:1]
    plan, _ = advance(scheduler)
    assert len(plan.slots) == 3
    # 6 tokens: the first page of 4 is shared by all, the partial one copied by those who did not compute it.
    assert len(plan.copies) == 2
    assert len({stream.pages[0] for stream in group}) == 1
    assert len({stream.pages[1] for stream in group}) == 3
    finish(scheduler)
    assert (scheduler.totals.prefill_tokens, scheduler.totals.reused_tokens) == (6, 12)


def test_the_longest_waiting_lose_their_pages_first():
    scheduler = Scheduler(SHAPES, 5)
    streams = submitted(scheduler, [1] * 6, [2] * 6, [3] * 6, budget=2)
    finish(scheduler)
    kept = [bool(stream.pages) for stream in streams]
    assert kept == sorted(kept)
    assert not kept[0]
    before = streams[0].tokens.copy()
    scheduler.submit(streams[0], [4], 2)
    finish(scheduler)
    assert streams[0].tokens[: len(before)] == before
    assert scheduler.totals.recomputed_tokens == len(before) - 1


def test_a_prompt_in_use_is_kept_while_others_can_give_pages():
    scheduler, prompt = Scheduler(SHAPES, 8), [1] * 9
    old, first = submitted(scheduler, [2] * 13, prompt, budget=1)
    finish(scheduler)
    # Now the first goes on and needs two pages where one is free, and another one of its group begins.
    scheduler.submit(first, [5] * 8, 1)
    (second,) = submitted(scheduler, prompt, budget=1)
    finish(scheduler)
    assert not old.pages and first.pages[:2] == second.pages[:2]
    assert (scheduler.totals.evictions, scheduler.totals.reused_tokens) == (1, 8)


def test_a_cancelled_turn_leaves_the_stream_as_it_was():
    scheduler = Scheduler(SHAPES, 40)
    (stream,) = submitted(scheduler, [1, 2, 3])
    finish(scheduler)
    before = stream.tokens.copy(), stream.cached
    scheduler.submit(stream, [4] * 30, 5)
    plan = scheduler.plan()
    scheduler.cancel(stream)
    assert not scheduler.apply(plan, decoded(plan), version=0)
    assert (stream.tokens, stream.cached) == before


def test_a_failed_stream_hurts_no_other():
    scheduler = Scheduler(SHAPES, 40)
    bad, good = submitted(scheduler, [1], [2])
    _, over = advance(scheduler, fail=(bad,))
    assert [(stream, "not finite" in reason) for stream, reason in over if reason] == [(bad, True)]
    assert not bad.pages
    finish(scheduler)
    assert len(good.tokens) > 1


def test_weights_that_come_during_a_call():
    """Its tokens count, with the version that sampled them; what it wrote into the cache does not."""
    scheduler = Scheduler(SHAPES, 40)
    (stream,) = submitted(scheduler, [1, 2, 3], budget=40)
    plan = scheduler.plan()
    scheduler.new_weights(1, recompute=True)
    scheduler.apply(plan, decoded(plan), version=0)
    assert (stream.request.versions, stream.cached, stream.pages) == ([0] * (len(stream.tokens) - 3), 0, [])
    assert scheduler.plan().slots[0].chunk == len(stream.tokens) - 1


def holders(scheduler, streams):
    pages = scheduler.pages
    listed = [page for stream in streams for page in stream.pages]
    listed += [page for prompt in scheduler._prompts.values() for page in prompt]
    return pages.total - len(set(listed)), [listed.count(page) for page in range(pages.total)]


actions = st.lists(
    st.tuples(st.sampled_from(["open", "turn", "step", "cancel", "close", "weights"]), st.integers(0, 10**6)),
    max_size=60,
)


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(actions, st.integers(8, 20))
def test_no_page_leaks_nobody_starves_no_row_over_budget(actions, num_pages):
    """Streams of at most 28 tokens: 7 pages and one to copy into."""
    scheduler, streams = Scheduler(SHAPES, num_pages), []
    for action, number in actions:
        chosen = streams[number % len(streams)] if streams else None
        if action == "open":
            streams.append(Stream(seed=number))
        elif action == "turn" and chosen and chosen.request is None and len(chosen.tokens) < 16:
            # Three prompts for all, so that groups come about.
            scheduler.submit(chosen, [1 + number % 3] * (1 + number % 7), 1 + number % 5)
        elif action == "step" and scheduler.running:
            plan = scheduler.plan()
            check_plan(plan, scheduler.pages)
            for stream, _ in scheduler.apply(plan, decoded(plan), version=scheduler.version):
                assert len(stream.request.versions) <= stream.request.budget
                scheduler.park(stream)
        elif action == "cancel" and chosen and chosen.request:
            scheduler.cancel(chosen)
        elif action == "close" and chosen:
            scheduler.close(chosen)
            streams.remove(chosen)
        elif action == "weights":
            scheduler.new_weights(number, recompute=number % 2 == 0)
        free, counts = holders(scheduler, streams)
        assert scheduler.pages.free == free
        assert [scheduler.pages.holders(page) for page in range(num_pages)] == counts
    finish(scheduler)
    for stream in streams:
        # Sampled tokens are those of the policy, whatever was lost and computed again in between.
        assert stream.cached <= max(len(stream.tokens) - 1, 0)
        scheduler.close(stream)
    scheduler.new_weights(0, recompute=False)
    assert scheduler.pages.free == num_pages


def check_plan(plan, pages):
    assert 0 < len(plan.slots) <= SHAPES.rows[-1]
    assert plan.chunk <= SHAPES.chunks[-1]
    assert len({slot.stream for slot in plan.slots}) == len(plan.slots)
    written = []
    for slot in plan.slots:
        assert slot.chunk + slot.steps > 0
        assert slot.steps <= slot.request.left
        end = slot.start + slot.chunk + slot.steps
        first = slot.start // SHAPES.page_tokens
        written += slot.stream.pages[first : -(-end // SHAPES.page_tokens)]
    # Nobody writes where another one writes or reads.
    assert len(set(written)) == len(written)
    assert {pages.holders(page) for page in written} == {1}


@pytest.mark.parametrize("rows", [1, 3, 8, 96])
def test_default_shapes_fit_the_streams(rows):
    shapes = Shapes.default(rows, 1000)
    assert 1 <= shapes.rows[-1] <= rows
    assert shapes.most == len(shapes.rows) * len(shapes.chunks)
