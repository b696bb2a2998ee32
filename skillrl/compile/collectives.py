"""What chips send each other, read from the text of an optimised XLA program.

The text is XLA's dump after all optimisations: the partitioner's collectives are in it, the compiled object's own
text may fail to print (jax 0.10.2). A collective in the body of a loop stands there once and runs once a round.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute")

_BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4}
_BYTES |= {"u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
_HEAD = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_OPCODE = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = (.*?)\s([a-z][\w-]*)\(")
_CALLED = re.compile(r"(?:calls|to_apply|true_computation|false_computation)=%?([\w.-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_LOOP = re.compile(r"condition=%?([\w.-]+), body=%?([\w.-]+)")
_SHAPE = re.compile(r"\b([a-z]\w*?)\[([\d,]*)\]")


@dataclass(frozen=True)
class Collective:
    """All collectives of one kind in a program."""

    kind: str
    # In the text of the program.
    count: int
    # As they run: those in loops once a round. A loop whose length depends on data counts as one round.
    runs: int
    # That each chip sends in all runs, over rings (all-reduce twice the array, the others once).
    bytes: float
    # Of these, in groups that span several slices.
    dcn_bytes: float


def parse(text: str, num_devices: int, slices: int = 1) -> dict[str, Collective]:
    """The collectives of each kind that the program has."""
    computations, entry = _computations(text)
    rounds = _rounds(computations, entry)
    found: dict[str, list] = defaultdict(lambda: [0, 0, 0.0, 0.0])
    for name, lines in computations.items():
        for line in lines:
            match = _OPCODE.match(line)
            kind = match and match[3].removesuffix("-start")
            if kind not in KINDS or not rounds.get(name):
                continue
            size, spans = _group(line, num_devices, slices)
            sent = _sent(kind, match[2], match[3].endswith("-start"), size) * rounds[name]
            total = found[kind]
            total[0] += 1
            total[1] += rounds[name]
            total[2] += sent
            total[3] += sent if spans else 0.0
    return {kind: Collective(kind, *found[kind]) for kind in KINDS if kind in found}


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Lines of each computation, and the name of the one that the program starts with."""
    computations: dict[str, list[str]] = {}
    entry, lines = "", None
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head:
            lines = computations[head[2]] = []
            entry = head[2] if head[1] else entry
        elif line == "}":
            lines = None
        elif lines is not None:
            lines.append(line)
    return computations, entry


def _rounds(computations: Mapping[str, list[str]], entry: str) -> dict[str, int]:
    """How often each computation runs. Of a conditional every branch counts: an upper bound."""
    calls: dict[str, list[tuple[str, int]]] = {}
    for name, lines in computations.items():
        calls[name] = []
        for line in lines:
            if loop := _LOOP.search(line):
                calls[name].append((loop[2], _trip_count(computations[loop[1]])))
            called = _CALLED.findall(line)
            for branches in _BRANCHES.findall(line):
                called += [branch.strip().removeprefix("%") for branch in branches.split(",")]
            calls[name] += [(other, 1) for other in called]
    rounds: dict[str, int] = defaultdict(int)
    waiting = [(entry, 1)]
    while waiting:
        name, times = waiting.pop()
        rounds[name] += times
        waiting += [(other, times * more) for other, more in calls.get(name, ())]
    return rounds


def _trip_count(condition: list[str]) -> int:
    """Rounds of a loop that counts from 0 to a constant, as scans do; 1 for any other."""
    root = next(line for line in condition if line.lstrip().startswith("ROOT"))
    constants = dict(re.findall(r"%?([\w.-]+) = [su]32\[\]\S* constant\((\d+)\)", "\n".join(condition)))
    compared = re.search(r"compare\(%?[\w.-]+, %?([\w.-]+)\), direction=LT", root)
    return int(constants.get(compared[1], 1)) if compared else 1


def _sent(kind: str, shape: str, started: bool, size: int) -> float:
    """Bytes that one of `size` chips sends, by the shape of the result (of a -start: operand and result)."""
    arrays = [_BYTES[kind_] * _product(dims) for kind_, dims in _SHAPE.findall(shape) if kind_ in _BYTES]
    if started and len(arrays) > 1 and kind in ("all-gather", "collective-permute"):
        arrays = arrays[len(arrays) // 2 :] if kind == "all-gather" else arrays[:1]
    result = float(sum(arrays))
    if kind == "collective-permute":
        return result
    share = (size - 1) / size
    return result * {"all-reduce": 2 * share, "reduce-scatter": size - 1}.get(kind, share)


def _product(dims: str) -> int:
    out = 1
    for size in filter(None, dims.split(",")):
        out *= int(size)
    return out


def _group(line: str, num_devices: int, slices: int) -> tuple[int, bool]:
    """Chips that take part together, and whether they lie in several slices. The slices' ids follow each other."""
    if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", line):
        ids = [tuple(map(int, pair.split(","))) for pair in re.findall(r"\{(\d+,\d+)", pairs[1] + "}")]
        return 2, any(_slice(a, num_devices, slices) != _slice(b, num_devices, slices) for a, b in ids)
    ids = _first_group(line)
    if ids is None:
        return num_devices, slices > 1
    return len(ids), len({_slice(i, num_devices, slices) for i in ids}) > 1


def _slice(device: int, num_devices: int, slices: int) -> int:
    return device * slices // num_devices


def _first_group(line: str) -> list[int] | None:
    """Members of the first of the groups, which are all alike; None for a group of all."""
    import numpy as np

    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return [int(i) for i in listed[1].split(",")]
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line):
        groups, dims = ([int(i) for i in iota[k].split(",")] for k in (1, 2))
        ids = np.arange(np.prod(dims)).reshape(dims)
        ids = ids.transpose([int(i) for i in iota[3].split(",")]) if iota[3] else ids
        return ids.reshape(groups)[0].tolist()
    if mesh := re.search(r"replica_groups=mesh\[(.*?)\](?:, device_ids=\S+)? \{(.*?)\}", line):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh[1])}
        ids = np.arange(np.prod(list(sizes.values()))).reshape(list(sizes.values()))
        taken = [tuple(sizes).index(name) for name in re.findall(r"'(\w+)'", mesh[2])]
        rest = [axis for axis in range(len(sizes)) if axis not in taken]
        return ids.transpose([*rest, *taken]).reshape(-1, int(np.prod([ids.shape[a] for a in taken])))[0].tolist()
    return None
