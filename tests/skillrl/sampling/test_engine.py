import asyncio

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillrl import sharding
from skillrl.models.config import ModelConfig
from skillrl.models.policy import init_params, merge, param_shardings
from skillrl.sampling import step
from skillrl.sampling.engine import Engine
from skillrl.sampling.plan import Shapes
from skillrl.sampling.turns import Sampled, SamplingError

CFG = ModelConfig(vocab=48, embed=32, layers=2, q_heads=2, kv_heads=1, head_dim=16, mlp=48)
STOPS = (5, 7)
SHAPES = Shapes(rows=(2, 4), chunks=(4, 16), decode_steps=4)


@pytest.fixture(scope="module")
def params():
    # Larger weights than at initialisation: a distribution that depends visibly on the context.
    return jax.tree.map(lambda x: x * 2.0, init_params(CFG, jax.random.key(0)))


@pytest.fixture
def engine(params):
    return Engine(CFG, params, stop_ids=STOPS, rows=6, max_tokens=96, shapes=SHAPES)


async def episode(engine, seed, prompts, *, budget=12, temperature=1.0, pauses=()):
    """The stream of one episode: each prompt in turn and what was sampled after it."""
    row = await engine.acquire()
    stream, turns = [], []
    try:
        for i, prompt in enumerate(prompts):
            turn = await engine.generate(row, prompt, budget=budget, temperature=temperature, seed=seed)
            stream += [*prompt, *turn.tokens.tolist()]
            turns.append(turn)
            for _ in range(pauses[i] if i < len(pauses) else 0):
                await asyncio.sleep(0.001)
    finally:
        engine.release(row)
    return stream, turns


def prompts_of(seed):
    rng = np.random.default_rng(seed)
    return [rng.integers(6, 48, size=n).tolist() for n in rng.integers(1, 24, size=2)]


def learner_logprobs(params, stream, temperature=1.0):
    """Log-probability of stream[t] given what stands before, from the learner's side of the model."""
    tokens = jnp.asarray(stream)[None]
    policy = merge(CFG, params)
    hidden = policy(tokens, jnp.arange(tokens.shape[1])[None], jnp.ones_like(tokens))
    logprobs = jax.nn.log_softmax(policy.logits(hidden)[0] / temperature, axis=-1)
    return np.asarray(jnp.take_along_axis(logprobs[:-1], tokens[0, 1:, None], axis=-1)[:, 0])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_the_learner(engine, params, temperature):
    stream, turns = asyncio.run(episode(engine, 3, prompts_of(3), temperature=temperature))
    expected = learner_logprobs(params, stream, temperature)
    end = 0
    for prompt, turn in zip(prompts_of(3), turns, strict=True):
        start, end = end + len(prompt), end + len(prompt) + len(turn.tokens)
        np.testing.assert_allclose(turn.logprobs, expected[start - 1 : end - 1], atol=1e-4)
    assert end == len(stream)


def test_an_episode_does_not_depend_on_its_neighbours(engine):
    async def together():
        return await asyncio.gather(*(episode(engine, s, prompts_of(s), pauses=(s % 3,)) for s in range(14)))

    crowd = asyncio.run(together())
    for seed, (stream, turns) in enumerate(crowd):
        alone, alone_turns = asyncio.run(episode(engine, seed, prompts_of(seed)))
        assert alone == stream
        for a, b in zip(turns, alone_turns, strict=True):
            np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5)
    assert len({tuple(stream) for stream, _ in crowd}) == 14


def test_compilations_are_bounded(engine):
    before = step.prefill._cache_size() + step.decode._cache_size()

    async def many():
        await asyncio.gather(*(episode(engine, s, prompts_of(s)) for s in range(30)))

    asyncio.run(many())
    compiled = step.prefill._cache_size() + step.decode._cache_size() - before
    assert compiled <= len(engine.compiled) <= engine.shapes.most == 6
    counters = engine.counters()
    assert counters["compilations"] == len(engine.compiled)
    assert min(counters["tokens"], counters["prefill_tokens"], counters["busy_s"]) > 0


def test_turns_end_at_the_stop_token_or_at_the_budget(engine):
    async def run():
        return await asyncio.gather(*(episode(engine, s, [[8 + s]], budget=20, temperature=3.0) for s in range(12)))

    turns = [turns[0] for _, turns in asyncio.run(run())]
    assert {turn.stopped for turn in turns} == {True, False}
    assert {int(turn.tokens[-1]) for turn in turns if turn.stopped} == set(STOPS)
    for turn in turns:
        assert not set(STOPS) & set(turn.tokens[:-1].tolist())
        assert (turn.tokens[-1] in STOPS) == turn.stopped
        assert turn.stopped or len(turn.tokens) == 20
        assert len(turn.tokens) == len(turn.logprobs) == len(turn.versions)


def test_temperature_zero_takes_the_likeliest_token(engine, params):
    stream, (turn,) = asyncio.run(episode(engine, 0, [[7, 8, 9]], temperature=0.0))
    policy, tokens = merge(CFG, params), jnp.asarray(stream)[None]
    hidden = policy(tokens, jnp.arange(len(stream))[None], jnp.ones_like(tokens))
    assert jnp.argmax(policy.logits(hidden)[0, 2:-1], -1).tolist() == turn.tokens.tolist()
    np.testing.assert_allclose(turn.logprobs, learner_logprobs(params, stream)[2:], atol=1e-4)


def test_new_weights_count_from_the_next_call(engine, params):
    async def run():
        row = await engine.acquire()
        first = await engine.generate(row, [7, 8], budget=3, temperature=1.0, seed=0)
        await engine.update(jax.tree.map(lambda x: x * 1.5, params), version=4)
        second = await engine.generate(row, [9], budget=3, temperature=1.0, seed=0)
        engine.release(row)
        return first, second

    first, second = asyncio.run(run())
    assert set(first.versions) == {0}
    assert set(second.versions) == {4}


def test_rows_are_handed_on_in_order(engine):
    async def run():
        rows = [await engine.acquire() for _ in range(6)]
        waiting = [asyncio.create_task(engine.acquire()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        engine.release(rows[2])
        engine.release(rows[4])
        assert (await waiting[1], await waiting[2]) == (rows[2], rows[4])
        with pytest.raises(ValueError, match="not held"):
            engine.release(99)

    asyncio.run(run())


def test_a_cancelled_turn_frees_its_work_and_its_row(engine):
    async def run():
        row = await engine.acquire()
        task = asyncio.create_task(engine.generate(row, [7] * 40, budget=50, temperature=1.0, seed=0))
        await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(SamplingError, match="did not finish"):
            await engine.generate(row, [7], budget=2, temperature=1.0, seed=0)
        engine.release(row)
        return await asyncio.gather(*(episode(engine, s, prompts_of(s)) for s in range(8)))

    after = asyncio.run(run())
    assert [stream for stream, _ in after] == [asyncio.run(episode(engine, s, prompts_of(s)))[0] for s in range(8)]


def test_a_stream_too_long_hurts_only_its_episode(engine):
    async def run():
        return await asyncio.gather(
            episode(engine, 0, [[7] * 90]), episode(engine, 1, prompts_of(1)), return_exceptions=True
        )

    error, (stream, _) = asyncio.run(run())
    assert isinstance(error, SamplingError)
    assert "raise max_tokens" in str(error)
    assert stream == asyncio.run(episode(engine, 1, prompts_of(1)))[0]


def test_logits_that_are_not_finite_are_an_error_of_that_episode(engine, params):
    poisoned = dict(params, embed_VD=params["embed_VD"].at[40].set(jnp.nan))
    # Untied rows stay clean: only episodes that read token 40 see it, so the head must not share the embedding.
    cfg = ModelConfig(**{**vars(CFG), "tied": False})
    poisoned["head_DV"] = params["embed_VD"].T
    engine = Engine(cfg, poisoned, stop_ids=(40,), rows=4, max_tokens=96, shapes=SHAPES)

    async def run():
        return await asyncio.gather(
            episode(engine, 0, [[7, 40, 8]]), episode(engine, 1, [[7, 8]]), return_exceptions=True
        )

    error, (_, (turn,)) = asyncio.run(run())
    assert isinstance(error, SamplingError)
    assert "not finite" in str(error)
    assert isinstance(turn, Sampled)


def test_a_failed_call_fails_its_episodes_and_the_engine_recovers(engine, params):
    async def run():
        await engine.update({"broken": jnp.zeros(1)}, version=1)
        failed = await asyncio.gather(*(episode(engine, s, prompts_of(s)) for s in range(3)), return_exceptions=True)
        await engine.update(params, version=2)
        return failed, await episode(engine, 1, prompts_of(1))

    failed, (stream, _) = asyncio.run(run())
    assert all(isinstance(error, SamplingError) for error in failed)
    assert stream == asyncio.run(episode(engine, 1, prompts_of(1)))[0]


@pytest.mark.parametrize(("tokens", "budget"), [([], 3), ([7], 0)])
def test_nothing_to_sample_is_a_caller_error(engine, tokens, budget):
    async def run():
        row = await engine.acquire()
        await engine.generate(row, tokens, budget=budget, temperature=1.0, seed=0)

    with pytest.raises(ValueError, match="nothing to sample"):
        asyncio.run(run())


def test_tokens_outside_the_vocabulary_are_refused(engine):
    with pytest.raises(SamplingError, match="vocabulary of 48"):
        asyncio.run(episode(engine, 0, [[48]]))


def test_the_event_loop_stays_free(engine):
    """While turns are sampled, a ticker of 1 ms keeps ticking."""

    async def run():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(0.001)
                ticks += 1

        ticker = asyncio.create_task(tick())
        await asyncio.gather(*(episode(engine, s, prompts_of(s), budget=20) for s in range(12)))
        ticker.cancel()
        return ticks

    calls = engine.counters()["decode_calls"]
    assert asyncio.run(run()) > (engine.counters()["decode_calls"] - calls) / 2


def test_counters_tell_tokens_and_waiting(engine):
    async def run():
        row = await engine.acquire()
        first = await engine.generate(row, list(range(6, 16)), budget=5, temperature=1.0, seed=0)
        await asyncio.sleep(0.2)
        second = await engine.generate(row, [7, 8], budget=5, temperature=1.0, seed=0)
        engine.release(row)
        return len(first.tokens) + len(second.tokens)

    sampled, counters = asyncio.run(run()), engine.counters()
    assert counters["tokens"] == sampled
    # 10 tokens of the prompt but its last; then the last sampled token and the first of the two new ones.
    assert counters["prefill_tokens"] == 9 + 2
    assert 0.2 <= counters["idle_s"] < 1.0


def test_closing_ends_turns_in_the_making(engine):
    async def run():
        async with engine:
            turn = asyncio.create_task(episode(engine, 0, [[7]], budget=90))
            await asyncio.sleep(0.001)
        with pytest.raises(SamplingError, match="closed"):
            await turn

    asyncio.run(run())


@pytest.mark.slow
def test_a_mesh_gives_the_same_episodes(params):
    """Two devices by rows: the same tokens as without a mesh, and as few compilations."""
    mesh = sharding.make_mesh({"fsdp": 2}, devices=jax.devices()[:2])
    placed = jax.device_put(params, param_shardings(CFG, mesh))
    shapes = Shapes(rows=(2,), chunks=(16,), decode_steps=4)
    engines = [
        Engine(CFG, p, stop_ids=STOPS, rows=4, max_tokens=64, mesh=m, shapes=shapes)
        for p, m in ((params, None), (placed, mesh))
    ]

    async def run(engine):
        return [s for s, _ in await asyncio.gather(*(episode(engine, s, prompts_of(s), budget=6) for s in range(3)))]

    alone, before = asyncio.run(run(engines[0])), step.prefill._cache_size() + step.decode._cache_size()
    assert asyncio.run(run(engines[1])) == alone
    compiled = step.prefill._cache_size() + step.decode._cache_size() - before
    assert compiled <= len(engines[1].compiled) <= engines[1].shapes.most
