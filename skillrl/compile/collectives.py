"""What chips send each other, read from the text of an optimised XLA program.

The text is XLA's dump after all optimisations: the partitioner's collectives are in it, the compiled object's own
text may fail to print (jax 0.10.2). A collective in the body of a loop stands there once and runs once a round. What
crosses the network between slices is a `send` there: the compiler sums within each slice first, and each device then
hands its part of the sum to the network.
"""

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

SEND = "send"
KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute", SEND)

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
    # That each device sends in all runs, over rings (all-reduce twice the array, the others once).
    bytes: float

    @property
    def over_network(self) -> bool:
        """Between slices; everything else goes over a slice's own links."""
        return self.kind == SEND


def parse(text: str, num_devices: int, slices: int = 1) -> dict[str, Collective]:
    """The collectives of each kind that the program for `slices` slices of `num_devices` together has."""
    computations, entry = _computations(text)
    rounds = _rounds(computations, entry)
    found: dict[str, list] = defaultdict(lambda: [0, 0, 0.0])
    for name, lines in computations.items():
        for line in lines:
            match = _OPCODE.match(line)
            kind = match and match[3].removesuffix("-start")
            if kind not in KINDS or not rounds.get(name):
                continue
            started = match[3].endswith("-start")
            size = slices if kind == SEND else _group_size(line, num_devices // slices)
            total = found[kind]
            total[0] += 1
            total[1] += rounds[name]
            total[2] += _sent(kind, match[2], started, size) * rounds[name]
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
    """Bytes that one of `size` participants sends, by the shape of the result.

    The result of a -start holds operands and results; that of a send its operand and what belongs to no data.
    """
    arrays = [_BYTES[kind_] * _product(dims) for kind_, dims in _SHAPE.findall(shape) if kind_ in _BYTES]
    if kind == SEND or (started and kind == "collective-permute"):
        arrays = arrays[:1]
    elif started and kind == "all-gather" and len(arrays) > 1:
        arrays = arrays[len(arrays) // 2 :]
    result, share = float(sum(arrays)), (size - 1) / size
    factors = {"all-reduce": 2 * share, SEND: 2 * share, "reduce-scatter": size - 1, "collective-permute": 1}
    return result * factors.get(kind, share)


def _product(dims: str) -> int:
    return math.prod(int(size) for size in dims.split(",") if size)


def _group_size(line: str, everyone: int) -> int:
    """Devices that take part together; the groups of a collective are all of one size."""
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return listed[1].count(",") + 1
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]<=", line):
        return int(iota[1])
    if mesh := re.search(r"replica_groups=mesh\[(.*?)\].*? \{(.*?)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        return math.prod(int(part or sizes[axis]) for axis, part in re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", mesh[2]))
    return everyone
