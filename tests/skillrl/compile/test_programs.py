"""What is compiled is what the run executes, as often as it does, beside what it holds."""

import pytest

from configs import common
from skillrl.compile.programs import device_bytes, programs


@pytest.fixture(scope="module")
def programs_of(cfg, mesh):
    """The programs, by name, of a step of 16 full rows in four micro-batches, with some fields changed."""

    def make(changes):
        c = common.base_config()
        c.rollout.update(dict(groups_per_step=4, group_size=4, rows=4, max_tokens=128))
        c.packing.row_tokens = 128
        c.learner.update(dict(micro_rows=4, logprob_chunk=16))
        c.update_from_flattened_dict(changes)
        return {program.name: program for program in programs(c, cfg, mesh)}

    return make


@pytest.mark.parametrize(
    ("changes", "calls"),
    [
        ({}, {"learner.accumulate": 4, "learner.apply": 1}),
        ({"learner.micro_rows": 16}, {"learner.gradient": 1, "learner.apply": 1}),
        # The policy before its first update is scored once, however many follow.
        ({"learner.epochs": 3}, {"learner.score": 4, "learner.accumulate": 12, "learner.apply": 3}),
        ({"loss.kl_coef": 0.1}, {"learner.score": 4, "learner.accumulate": 4, "learner.apply": 1}),
        (
            {"learner.epochs": 2, "loss.kl_coef": 0.1},
            {"learner.score": 8, "learner.accumulate": 8, "learner.apply": 2},
        ),
    ],
    ids=str,
)
def test_a_step_calls_what_the_run_calls(programs_of, changes, calls):
    found = programs_of(changes)
    assert {name: program.calls for name, program in found.items()} == calls | {"sampler.step": 0}
    if score := found.get("learner.score"):
        # A gradient is a forward pass and two more; its head is made again.
        assert 3 * score.flops.model == found["learner.accumulate"].flops.model


def test_a_reference_is_held_beside_every_program(programs_of, cfg):
    plain, held = programs_of({}), programs_of({"loss.kl_coef": 0.1})
    for name, program in plain.items():
        assert device_bytes(held[name].held) - device_bytes(program.held) == 4 * cfg.num_params, name
    assert device_bytes(held["learner.score"].held) == device_bytes(held["learner.accumulate"].held)


def test_with_adapters_the_frozen_weights_are_held_while_sampling(programs_of, cfg):
    """Rank 2 on widths of 16, queries of 4 * 8, keys and values of 2 * 8, feed-forward of 32, in two layers."""
    adapters = 2 * 2 * ((16 + 32) + 2 * (16 + 16) + (32 + 16) + 3 * (16 + 32))
    # Scales of adapters, and counts of updates, take 4 bytes each.
    for changes in ({}, {"loss.kl_coef": 0.1}):  # the reference is the policy without its adapters
        found = programs_of({"learner.lora_rank": 2} | changes)
        assert device_bytes(found["learner.accumulate"].held) == 2 * 4 * adapters + 2 * 4
        assert device_bytes(found["learner.apply"].held) == 0
        sampling = device_bytes(found["sampler.step"].held) - device_bytes(found["learner.accumulate"].held)
        assert sampling == 4 * cfg.num_params + 4 * adapters + 4


def test_what_an_update_replaces_is_donated(programs_of, cfg):
    """Otherwise it would hold gradients, parameters and moments twice. What is scored is used again."""
    found = programs_of({"learner.epochs": 2})
    reused = {
        name: found[f"learner.{name}"].lower().compile().memory_analysis().alias_size_in_bytes
        for name in ("score", "accumulate", "apply")
    }
    assert reused["score"] == 0
    assert reused["accumulate"] >= 4 * cfg.num_params
    assert reused["apply"] >= 3 * 4 * cfg.num_params
