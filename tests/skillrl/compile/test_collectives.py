"""Collectives are counted as they run and priced as rings send them: a program written by hand."""

import pytest

from skillrl.compile import collectives

PROGRAM = """\
HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%inner_cond (p: (u32[])) -> pred[] {
  %four = u32[]{:T(128)} constant(4)
  %i = u32[] get-tuple-element(%p), index=0
  ROOT %less = pred[]{:T(512)} compare(%i, %four), direction=LT
}

%inner_body (p: (u32[])) -> (u32[]) {
  %send = (bf16[8,128]{1,0}, bf16[8,128], u32[]) collective-permute-start(%x), source_target_pairs={{0,1},{1,0}}
  ROOT %t = (u32[]) tuple(%i)
}

%layers_cond (p: (s32[])) -> pred[] {
  %ten = s32[]{:T(128)} constant(10)
  ROOT %less = pred[] compare(%i, %ten), direction=LT, metadata={op_name="while/cond"}
}

%layers_body (p: (s32[])) -> (s32[]) {
  %g = bf16[1024,512]{1,0:T(8,128)(2,1)} all-gather(%w), replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, d={0}
  %loop = (u32[]) while(%start), condition=%inner_cond, body=%inner_body
  ROOT %t = (s32[]) tuple(%i)
}

%until_done (p: (pred[])) -> pred[] {
  ROOT %more = pred[] get-tuple-element(%p), index=0
}

%sample (p: (pred[])) -> (pred[]) {
  %picked = s32[16]{0} all-reduce(%y), replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  ROOT %t = (pred[]) tuple(%d)
}

%taken (x: f32[100]) -> f32[100] {
  %scattered = f32[100]{0} reduce-scatter(%x), replica_groups=[2,4]<=[4,2]T(1,0), to_apply=%add
  ROOT %y = f32[100] copy(%scattered)
}

%never_called (x: f32[100]) -> f32[100] {
  ROOT %lost = f32[100] all-reduce(%x), replica_groups={}, to_apply=%add
}

ENTRY %main (x: f32[100]) -> f32[100] {
  %layers = (s32[]) while(%zero), condition=%layers_cond, body=%layers_body
  %decode = (pred[]) while(%first), condition=%until_done, body=%sample
  %either = f32[100] conditional(%which, %x, %x), branch_computations={%taken, %add}
  %norms = (f32[10]{0}, f32[30]{0}) all-reduce(%x, %x), replica_groups={}, to_apply=%add
  ROOT %out = f32[100] fusion(%either), kind=kLoop, calls=%add
}
"""


@pytest.fixture(scope="module")
def found():
    return collectives.parse(PROGRAM, num_devices=8)


def test_each_kind_is_counted_once_and_run_once_a_round(found):
    assert {kind: (c.count, c.runs) for kind, c in found.items()} == {
        "all-gather": (1, 10),
        "all-reduce": (2, 2),  # a loop without a known length is one round; what is never called is nothing
        "reduce-scatter": (1, 1),
        "collective-permute": (1, 40),
    }


def test_bytes_are_those_of_rings(found):
    assert found["all-gather"].bytes == 10 * 1024 * 512 * 2 * 3 / 4
    assert found["all-reduce"].bytes == 2 * 7 / 8 * (16 * 4 + 40 * 4)
    assert found["reduce-scatter"].bytes == 3 * 100 * 4
    assert found["collective-permute"].bytes == 40 * 8 * 128 * 2


def test_what_crosses_the_network_is_sent_after_the_sum_within_each_slice():
    text = """\
ENTRY %main (x: bf16[64,128]) -> bf16[64,128] {
  %part = bf16[16,128]{1,0} reduce-scatter(%x), replica_groups={{0,1,2,3}}, to_apply=%add
  %out = (bf16[16,128]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}, token[]) send(%part, %after), is_host_transfer=true
  %sent = token[] send-done(%out), is_host_transfer=true
  ROOT %all = bf16[64,128]{1,0} all-gather(%got), replica_groups={}, dimensions={0}
}
"""
    found = collectives.parse(text, num_devices=8, slices=2)
    assert found["send"].over_network
    assert found["send"].bytes == 16 * 128 * 2  # of two slices each sends its part once
    assert found["all-gather"].bytes == 64 * 128 * 2 * 3 / 4  # within a slice
    assert not found["all-gather"].over_network
