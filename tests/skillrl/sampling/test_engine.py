import asyncio
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillrl import sharding
from skillrl.models.config import ModelConfig
from skillrl.models.policy import init_params, merge, param_shardings
from skillrl.sampling import step
from skillrl.sampling.engine import Engine
from skillrl.sampling.scheduler import Shapes
from skillrl.sampling.turns import Sampled, SamplingError

CFG = ModelConfig(vocab=48, embed=32, layers=2, q_heads=2, kv_heads=1, head_dim=16, mlp=48)
STOPS = (5, 7)
SHAPES = Shapes(rows=(4,), chunks=(16,), decode_steps=4, page_tokens=8)


@pytest.fixture(scope="module")
def params():
    # Larger weights than at initialisation: a distribution that depends visibly on the context.
    return jax.tree.map(lambda x: x * 2.0, init_params(CFG, jax.random.key(0)))


@pytest.fixture
def engine(params):
    return Engine(CFG, params, stop_ids=STOPS, streams=6, max_tokens=96, shapes=SHAPES)


async def episode(engine, seed, prompts, *, budget=12, pauses=(), **options):
    """The stream of one episode: each prompt in turn and what was sampled after it."""
    handle = await engine.open(seed=seed, **options)
    stream, turns = [], []
    try:
        for i, prompt in enumerate(prompts):
            turn = await engine.generate(handle, prompt, budget=budget)
            stream += [*prompt, *turn.tokens.tolist()]
            turns.append(turn)
            for _ in range(pauses[i] if i < len(pauses) else 0):
                await asyncio.sleep(0.001)
    finally:
        engine.release(handle)
    return stream, turns


def prompts_of(seed):
    rng = np.random.default_rng(seed)
    return [rng.integers(6, 48, size=n).tolist() for n in rng.integers(1, 24, size=2)]


def learner_logprobs(params, stream, temperature=1.0, cfg=CFG):
    """Log-probability of stream[t] given what stands before, from the learner's side of the model."""
    tokens = np.zeros((1, 96), np.int32)
    tokens[0, : len(stream)] = stream
    logprobs = full_forward(cfg, params, tokens, temperature)
    return np.asarray(logprobs)[np.arange(len(stream) - 1), stream[1:]]


@functools.partial(jax.jit, static_argnums=0)
def full_forward(cfg, params, tokens, temperature):
    policy = merge(cfg, params)
    hidden = policy(tokens, jnp.arange(tokens.shape[1])[None], jnp.ones_like(tokens))
    return jax.nn.log_softmax(policy.logits(hidden)[0] / temperature, axis=-1)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_the_learner(engine, params, temperature):
    stream, turns = asyncio.run(episode(engine, 3, prompts_of(3), temperature=temperature))
    expected = learner_logprobs(params, stream, temperature)
    end = 0
    for prompt, turn in zip(prompts_of(3), turns, strict=True):
        start, end = end + len(prompt), end + len(prompt) + len(turn.tokens)
        np.testing.assert_allclose(turn.logprobs, expected[start - 1 : end - 1], atol=1e-4)
    assert end == len(stream)


MOE = ModelConfig(**{**vars(CFG), "experts": 4, "experts_per_token": 2, "expert_mlp": 16, "first_dense_layers": 1})


@pytest.mark.parametrize("cfg", [CFG, MOE], ids=["dense", "experts"])
def test_an_episode_does_not_depend_on_its_neighbours(cfg):
    """Bit by bit, whatever the others' temperatures and cuts."""
    params = jax.tree.map(lambda x: x * 2.0, init_params(cfg, jax.random.key(0)))
    engine = Engine(cfg, params, stop_ids=STOPS, streams=6, max_tokens=96, shapes=SHAPES)

    def one(seed, pauses=()):
        options = {
            "temperature": (1.0, 0.6, 1.4)[seed % 3],
            "top_k": (0, 9)[seed % 2],
            "top_p": (1.0, 0.9)[seed % 4 // 2],
        }
        return episode(engine, seed, prompts_of(seed), pauses=pauses, **options)

    async def together():
        return await asyncio.gather(*(one(s, pauses=(s % 3,)) for s in range(14)))

    crowd = asyncio.run(together())
    for seed, (stream, turns) in enumerate(crowd):
        alone, alone_turns = asyncio.run(one(seed))
        assert alone == stream
        for a, b in zip(turns, alone_turns, strict=True):
            np.testing.assert_array_equal(a.logprobs, b.logprobs)
    assert len({tuple(stream) for stream, _ in crowd}) == 14


def test_compilations_are_bounded(params):
    """Sizes of their own, so that no other test has compiled them: two programs, whatever the episodes are like."""
    shapes = Shapes(rows=(2,), chunks=(4, 20), decode_steps=3, page_tokens=8)
    engine = Engine(CFG, params, stop_ids=STOPS, streams=6, max_tokens=96, shapes=shapes)
    before = step.step._cache_size()

    async def many():
        await asyncio.gather(*(episode(engine, s, prompts_of(s), budget=5) for s in range(12)))

    asyncio.run(many())
    assert step.step._cache_size() - before == len(engine.compiled) <= engine.shapes.most == 2
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
    likeliest = full_forward(CFG, params, np.asarray(stream)[None], 1.0).argmax(axis=-1)
    assert likeliest[2:-1].tolist() == turn.tokens.tolist()
    np.testing.assert_allclose(turn.logprobs, learner_logprobs(params, stream)[2:], atol=1e-4)


def check_logprobs(params_of, stream, turns, prompts, cfg=CFG):
    """Sampled log-probabilities are those of a full forward pass under the weights of each token's version."""
    expected = {version: learner_logprobs(params, stream, cfg=cfg) for version, params in params_of.items()}
    end = 0
    for prompt, turn in zip(prompts, turns, strict=True):
        start, end = end + len(prompt), end + len(prompt) + len(turn.tokens)
        want = [expected[version][at - 1] for at, version in zip(range(start, end), turn.versions, strict=True)]
        np.testing.assert_allclose(turn.logprobs, want, atol=1e-4)


def test_a_group_computes_its_prompt_once(engine, params):
    prompts = [list(range(6, 36)), [7, 8, 9]]

    async def run():
        return await asyncio.gather(*(episode(engine, s, prompts) for s in range(6)))

    group = asyncio.run(run())
    counters = engine.counters()
    assert counters["reused_tokens"] == 5 * 29
    # The prompt once, then of each member the last sampled token and two of the three new ones.
    assert counters["prefill_tokens"] == 29 + 6 * 3
    for stream, turns in group:
        check_logprobs({0: params}, stream, turns, prompts)


def test_streams_that_lose_their_pages_go_on_the_same(engine, params):
    """A cache for one and a half of six streams: parked and running ones lose theirs, and nothing else changes."""
    small = Engine(CFG, params, stop_ids=STOPS, streams=6, max_tokens=96, cache_tokens=15 * 8, shapes=SHAPES)
    prompts = [[list(range(6 + s, 30)), [7] * 20] for s in range(6)]

    async def run(engine):
        return await asyncio.gather(*(episode(engine, s, prompts[s], pauses=(2 + s,)) for s in range(6)))

    roomy, tight = asyncio.run(run(engine)), asyncio.run(run(small))
    counters = small.counters()
    assert min(counters["evictions"] + counters["retractions"], counters["recomputed_tokens"]) > 0
    assert engine.counters()["recomputed_tokens"] == 0
    for s, ((stream, turns), (same, _)) in enumerate(zip(tight, roomy, strict=True)):
        assert stream == same
        check_logprobs({0: params}, stream, turns, prompts[s])


@pytest.mark.parametrize("mode", ["keep", "recompute", "drain"])
def test_new_weights_in_flight(params, mode):
    """They come in the middle of a turn, and between two turns of another stream."""
    new, prompts = jax.tree.map(lambda x: x * 1.5, params), [[7, 8, 9], [10, 11]]

    # No token ends a turn.
    engine = Engine(CFG, params, stop_ids=(-1,), streams=6, max_tokens=96, shapes=SHAPES)

    async def run():
        parked, flying = await engine.open(seed=1), await engine.open(seed=3)
        first = await engine.generate(parked, prompts[0], budget=8)
        turn = asyncio.create_task(engine.generate(flying, prompts[0], budget=80))
        while not flying.request or not flying.request.versions:
            await asyncio.sleep(0.001)
        await engine.update(new, version=4, mode=mode)
        return first, await engine.generate(parked, prompts[1], budget=8), await turn

    first, second, flying = asyncio.run(run())
    assert set(first.versions) == {0}
    assert set(second.versions) == {4}
    assert set(flying.versions) == ({0} if mode == "drain" else {0, 4})
    assert sorted(flying.versions) == list(flying.versions)
    if mode != "keep":
        check_logprobs({0: params, 4: new}, [*prompts[0], *flying.tokens.tolist()], [flying], prompts[:1])
    if mode == "recompute":
        stream = [*prompts[0], *first.tokens.tolist(), *prompts[1], *second.tokens.tolist()]
        check_logprobs({0: params, 4: new}, stream, [first, second], prompts)


def test_new_weights_do_not_touch_the_call_that_has_begun(params):
    """They come, and another turn is cancelled, at the very moment at which a call is handed to the worker."""
    new = jax.tree.map(lambda x: x * 1.5, params)
    engine = Engine(CFG, params, stop_ids=(-1,), streams=6, max_tokens=96, shapes=SHAPES)

    async def run(rounds):
        streams = [await engine.open(seed=seed) for seed in (3, 4)]
        turns = [asyncio.create_task(engine.generate(stream, [7, 8, 9], budget=80)) for stream in streams]
        while not streams[0].request or len(streams[0].request.versions) < 4:
            await asyncio.sleep(0)
        for _ in range(rounds):
            await asyncio.sleep(0)
        turns[1].cancel()
        await engine.update(new, version=4, mode="recompute")
        flying = await turns[0]
        for stream in streams:
            engine.release(stream)
        await engine.update(params, version=0)
        return flying

    for rounds in range(6):
        flying = asyncio.run(run(rounds))
        assert set(flying.versions) == {0, 4}
        check_logprobs({0: params, 4: new}, [7, 8, 9, *flying.tokens.tolist()], [flying], [[7, 8, 9]])


def test_parameters_that_do_not_fit_are_refused_and_the_others_stay(engine, params):
    async def run():
        stream = await engine.open(seed=1)
        turn = asyncio.create_task(engine.generate(stream, [7, 8], budget=20))
        await asyncio.sleep(0.001)
        with pytest.raises(ValueError, match="blocks.attention_norm_D is absent and was"):
            await engine.update({"broken": jnp.zeros(1)}, version=1)
        with pytest.raises(ValueError, match=r"final_norm_D is \(2,\) float32 and was \(32,\) float32"):
            await engine.update(dict(params, final_norm_D=jnp.zeros(2)), version=1)
        with pytest.raises(ValueError, match="one of keep, recompute, drain"):
            await engine.update(params, version=1, mode="retract")
        return await turn

    assert set(asyncio.run(run()).versions) == {0}


def test_streams_are_opened_in_order(engine):
    async def run():
        streams = [await engine.open(seed=0) for _ in range(6)]
        waiting = [asyncio.create_task(engine.open(seed=s)) for s in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        engine.release(streams[2])
        engine.release(streams[4])
        assert ((await waiting[1]).seed, (await waiting[2]).seed) == (1, 2)
        with pytest.raises(ValueError, match="release it once"):
            engine.release(streams[2])

    asyncio.run(run())


def test_a_cancelled_turn_frees_its_work_and_can_be_taken_again(engine):
    async def run():
        stream = await engine.open(seed=0)
        first = await engine.generate(stream, [7, 8], budget=6)
        task = asyncio.create_task(engine.generate(stream, [7] * 30, budget=40))
        await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        second = await engine.generate(stream, [9], budget=6)
        engine.release(stream)
        others = await asyncio.gather(*(episode(engine, s, prompts_of(s)) for s in range(8)))
        return [[7, 8, *first.tokens.tolist(), 9, *second.tokens.tolist()], *(stream for stream, _ in others)]

    cancelled, *after = asyncio.run(run())
    assert cancelled == asyncio.run(episode(engine, 0, [[7, 8], [9]], budget=6))[0]
    assert after == [asyncio.run(episode(engine, s, prompts_of(s)))[0] for s in range(8)]


def test_top_k_of_one_is_greedy_within_its_support(engine):
    async def run(**cut):
        stream = await engine.open(seed=5, **cut)
        turn = await engine.generate(stream, [7, 8, 9], budget=12)
        engine.release(stream)
        return turn

    cut, greedy = asyncio.run(run(top_k=1)), asyncio.run(run(temperature=0.0))
    assert cut.tokens.tolist() == greedy.tokens.tolist()
    np.testing.assert_allclose(cut.support_logprobs, 0, atol=1e-6)
    np.testing.assert_array_equal(cut.logprobs, greedy.logprobs)
    assert greedy.support_logprobs is None


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
    engine = Engine(cfg, poisoned, stop_ids=(40,), streams=4, max_tokens=96, shapes=SHAPES)

    async def run():
        return await asyncio.gather(
            episode(engine, 0, [[7, 40, 8]]), episode(engine, 1, [[7, 8]]), return_exceptions=True
        )

    error, (_, (turn,)) = asyncio.run(run())
    assert isinstance(error, SamplingError)
    assert "not finite" in str(error)
    assert isinstance(turn, Sampled)


def test_a_failed_call_fails_its_turns_and_the_others_go_on(engine):
    """The call consumed the cache; what it held is computed again."""

    async def run():
        parked = await engine.open(seed=1)
        first = await engine.generate(parked, [7, 8, 9], budget=6)
        # As a device would that ran out of memory in the middle of a call.
        jax.tree.map(lambda x: x.delete(), engine._cache)
        failed = await asyncio.gather(episode(engine, 2, [[7]]), return_exceptions=True)
        second = await engine.generate(parked, [10], budget=6)
        engine.release(parked)
        return failed, [7, 8, 9, *first.tokens.tolist(), 10, *second.tokens.tolist()]

    (error,), stream = asyncio.run(run())
    assert isinstance(error, SamplingError)
    assert "the sampler's call failed" in str(error)
    assert stream == asyncio.run(episode(engine, 1, [[7, 8, 9], [10]], budget=6))[0]


def test_weights_that_are_not_finite_are_an_error_of_each_turn_until_others_come(engine, params):
    """What they wrote into pages hurts nobody afterwards."""
    broken = jax.tree.map(lambda x: x * jnp.nan, params)

    async def run():
        stream = await engine.open(seed=1)
        await engine.update(broken, version=1)
        with pytest.raises(SamplingError, match="not finite at position 3, policy version 1"):
            await engine.generate(stream, [7, 8, 9], budget=6)
        await engine.update(params, version=2)
        turn = await engine.generate(stream, [7, 8, 9], budget=6)
        engine.release(stream)
        return turn

    turn, (_, (alone,)) = asyncio.run(run()), asyncio.run(episode(engine, 1, [[7, 8, 9]], budget=6))
    np.testing.assert_array_equal(turn.tokens, alone.tokens)


def test_a_cache_too_small_for_one_stream_is_refused(params):
    with pytest.raises(ValueError, match="raise cache_tokens to at least 104"):
        Engine(CFG, params, stop_ids=STOPS, streams=6, max_tokens=96, cache_tokens=96, shapes=SHAPES)


@pytest.mark.parametrize(("tokens", "budget"), [([], 3), ([7], 0)])
def test_nothing_to_sample_is_a_caller_error(engine, tokens, budget):
    async def run():
        await engine.generate(await engine.open(seed=0), tokens, budget=budget)

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

    assert asyncio.run(run()) > engine.counters()["calls"] / 2


def test_counters_tell_tokens_and_waiting(engine):
    async def run():
        stream = await engine.open(seed=0)
        first = await engine.generate(stream, list(range(6, 16)), budget=5)
        await asyncio.sleep(0.2)
        second = await engine.generate(stream, [7, 8], budget=5)
        engine.release(stream)
        return len(first.tokens) + len(second.tokens)

    sampled, counters = asyncio.run(run()), engine.counters()
    assert counters["tokens"] == sampled
    # 10 tokens of the prompt but its last; then the last sampled token and the first of the two new ones.
    assert counters["prefill_tokens"] == 9 + 2
    assert 0.2 <= counters["idle_s"] < 1.0
    # Pages of 8 positions: one or two for a prompt of 10 tokens and its first turn, up to three with the second.
    assert 2 <= counters["pages_used"] <= counters["pages_most"] <= 4


def test_a_turn_that_cannot_be_planned_fails_and_the_others_go_on(engine):
    async def run():
        bad, good = await engine.open(seed=1, top_k=3), await engine.open(seed=2)
        bad.top_k = 1 << 40  # does not fit into the call's arrays
        with pytest.raises(SamplingError, match="the sampler's call failed"):
            await engine.generate(bad, [7, 8], budget=4)
        turn = await engine.generate(good, [7, 8], budget=4)
        engine.release(bad)
        engine.release(good)
        return turn

    assert (
        asyncio.run(run()).tokens.tolist() == asyncio.run(episode(engine, 2, [[7, 8]], budget=4))[1][0].tokens.tolist()
    )


def test_a_huge_top_k_is_the_whole_vocabulary(engine):
    huge, whole = (asyncio.run(episode(engine, 2, [[7, 8]], top_k=k))[0] for k in (1 << 40, 0))
    assert huge == whole


@pytest.mark.parametrize("temperature", [-1.0, float("nan"), float("inf")])
def test_a_temperature_that_means_nothing_is_refused(engine, temperature):
    with pytest.raises(ValueError, match="nothing to sample"):
        asyncio.run(engine.open(seed=0, temperature=temperature))


def test_releasing_a_stream_ends_its_turn(engine):
    async def run():
        stream = await engine.open(seed=0)
        turn = asyncio.create_task(engine.generate(stream, [7], budget=90))
        await asyncio.sleep(0.001)
        engine.release(stream)
        with pytest.raises(SamplingError, match="released"):
            await turn
        return await asyncio.wait_for(episode(engine, 1, [[8]]), 60)

    assert asyncio.run(run())[0] == asyncio.run(episode(engine, 1, [[8]]))[0]


def test_closing_ends_turns_in_the_making(engine):
    async def run():
        async with engine:
            turn = asyncio.create_task(episode(engine, 0, [[7]], budget=90))
            await asyncio.sleep(0.001)
        with pytest.raises(SamplingError, match="closed"):
            await turn

    asyncio.run(run())


@pytest.mark.slow
@pytest.mark.parametrize("axes", [{"fsdp": 2}, {"tensor": 2}], ids=str)
def test_a_mesh_gives_the_same_episodes(params, axes):
    """Two replicas, or the heads of one on two devices: the same tokens as without a mesh, and as few compilations."""
    cfg = ModelConfig(**{**vars(CFG), "kv_heads": 2})
    params = jax.tree.map(lambda x: x * 2.0, init_params(cfg, jax.random.key(0)))
    mesh = sharding.make_mesh(axes, devices=jax.devices()[:2])
    placed = jax.device_put(params, param_shardings(cfg, mesh))
    shapes = Shapes(rows=(2,), chunks=(16,), decode_steps=4, page_tokens=8)
    engines = [
        Engine(cfg, p, stop_ids=STOPS, streams=4, max_tokens=64, mesh=m, shapes=shapes)
        for p, m in ((params, None), (placed, mesh))
    ]

    async def run(engine):
        return [s for s, _ in await asyncio.gather(*(episode(engine, s, prompts_of(s), budget=6) for s in range(3)))]

    alone, before = asyncio.run(run(engines[0])), step.step._cache_size()
    assert asyncio.run(run(engines[1])) == alone
    assert step.step._cache_size() - before <= len(engines[1].compiled) <= shapes.most


@pytest.mark.slow
def test_a_group_computes_its_prompt_once_whatever_the_replicas(params):
    """Two groups of three on two replicas, their episodes opened by turns: each prompt is computed by one of them."""
    mesh = sharding.make_mesh({"fsdp": 2}, devices=jax.devices()[:2])
    placed = jax.device_put(params, param_shardings(CFG, mesh))
    engine = Engine(CFG, placed, stop_ids=STOPS, streams=6, max_tokens=64, mesh=mesh, shapes=SHAPES)
    prompts = [list(range(6, 36)), list(range(40, 10, -1))]

    async def run():
        await asyncio.gather(*(episode(engine, s, [prompts[s % 2]], budget=4) for s in range(6)))

    asyncio.run(run())
    counters = engine.counters()
    assert (counters["prefill_tokens"], counters["reused_tokens"]) == (2 * 29, 4 * 29)


@pytest.mark.parametrize("mode", ["recompute", "drain"])
def test_a_policy_with_experts_has_the_log_probs_of_a_full_forward(mode):
    """Of forked, parked, evicted, retracted and recomputed episodes, before and after new weights."""
    old = init_params(MOE, jax.random.key(1))
    new = jax.tree.map(lambda x: x * 1.5, old)
    # Room for one and a half of six streams.
    engine = Engine(MOE, old, stop_ids=(-1,), streams=6, max_tokens=96, cache_tokens=15 * 8, shapes=SHAPES)
    # Two groups of three, and the last turn after the update.
    prompts = [[list(range(6 + s % 2, 30)), [7] * 20, [8]] for s in range(6)]

    async def run():
        streams = [await engine.open(seed=s) for s in range(6)]

        async def turn(s, i):
            return await engine.generate(streams[s], prompts[s][i], budget=8)

        rounds = [await asyncio.gather(*(turn(s, i) for s in range(6))) for i in range(2)]
        await engine.update(new, version=1, mode=mode)
        rounds.append(await asyncio.gather(*(turn(s, 2) for s in range(6))))
        return [stream.tokens for stream in streams], list(zip(*rounds, strict=True))

    streams, turns = asyncio.run(run())
    counters = engine.counters()
    assert min(counters["evictions"], counters["retractions"], counters["recomputed_tokens"]) > 0
    assert counters["reused_tokens"] > 0
    for s, stream in enumerate(streams):
        # After a drain the cache goes on with what the former weights made of it.
        checked = turns[s] if mode == "recompute" else turns[s][:2]
        check_logprobs({0: old, 1: new}, stream, checked, prompts[s][: len(checked)], MOE)


# Measured: 2.9e-6 and 1.1e-3.
@pytest.mark.parametrize(("dtype", "least", "most"), [("bfloat16", 1e-7, 3e-5), ("float8_e4m3fn", 1e-5, 1e-2)])
def test_a_coarser_cache_keeps_the_log_probs_within_its_bound(dtype, least, most):
    """k3 of learner and sampler: beyond the rounding of float32, and not more than importance weights can bear."""
    params = jax.tree.map(lambda x: x * 2 if x.ndim > 2 else x, init_params(CFG, jax.random.key(0)))
    engine = Engine(CFG, params, stop_ids=(-1,), streams=6, max_tokens=96, cache_dtype=dtype, shapes=SHAPES)

    async def run():
        return await asyncio.gather(*(episode(engine, s, [list(range(6 + s, 30))], budget=40) for s in range(6)))

    d = np.concatenate(
        [learner_logprobs(params, stream)[-40:] - turn.logprobs for stream, (turn,) in asyncio.run(run())]
    )
    assert engine._cache.dtype == dtype
    assert least < (np.expm1(d) - d).mean() < most
