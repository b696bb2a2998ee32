"""Flaws of sizes: lengths that nobody checked, and sums that wrap around."""

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass

from skillrl.tasks.suites.security_flaw import Flaw, errors_module, fill, names

_MEMORY = '''\
"""Takes messages into one block of memory."""

import struct

from $package.$errors import $Refused

HEADER = struct.Struct("$layout")


class $Main:
    """Memory of $size bytes, used by one message after the other."""

    def __init__(self):
        self._memory = bytearray($size)

    def $handle(self, message):
        """Take a message in and return $answer.

        Raises $Refused when its text is shorter than the header says, or when it does not fit into the memory.
        """
        if not HEADER.size <= len(message) <= len(self._memory):
            raise $Refused("size")
        self._memory[: len(message)] = message
        received = len(message) - HEADER.size
        $first, $second = HEADER.unpack_from(self._memory)
$guard        if $check:
            raise $Refused("length")
        return bytes(self._memory[$result])
'''


@dataclass(frozen=True)
class _Kind:
    """A message of two numbers and a text."""

    layout: str
    answer: str
    fields: tuple[str, str]
    # What is refused.
    sound: str
    flawed: str
    # The part of the memory that is the answer.
    result: str
    # Headers that get more than was sent, the first of them reaches far.
    attacks: tuple[tuple[int, int], ...]
    # Proper headers for a text of four bytes.
    use: tuple[tuple[int, int], ...]
    # A bound that stops the first attack only.
    bound: str
    # (header, text) -> the answer; length of a text -> its header.
    part: Callable[[tuple[int, int], bytes], bytes]
    whole: Callable[[int], tuple[int, int]]


_KINDS = (
    _Kind(
        layout=">BH",
        answer="its text (header: a kind and the length of the text)",
        fields=("kind", "length"),
        sound="length > received",
        flawed="length > len(self._memory)",
        result="HEADER.size : HEADER.size + length",
        attacks=((7, 2000), (1, 200), (0, 5), (9, 1500)),
        use=((7, 4), (1, 0), (2, 3)),
        bound="length > 1600",
        part=lambda header, text: text[: header[1]],
        whole=lambda length: (7, length),
    ),
    _Kind(
        layout=">II",
        answer="its text (header: how many pieces it has, and the size of each)",
        fields=("count", "size"),
        sound="count * size > received",
        flawed="count * size & 0xFFFFFFFF > received",
        result="HEADER.size : HEADER.size + count * size",
        attacks=((1 << 17, 1 << 15), (1 << 16, 1 << 16), (1 << 31, 2), (3, 0x55555556)),
        use=((2, 2), (0, 9), (1, 3)),
        bound="(count, size) == (1 << 17, 1 << 15)",
        part=lambda header, text: text[: header[0] * header[1]],
        whole=lambda length: (1, length),
    ),
    _Kind(
        layout=">HH",
        answer="a part of its text (header: where the part begins in the text, and its length)",
        fields=("begin", "length"),
        sound="begin + length > received",
        flawed="(begin + length) & 0xFFFF > received",
        result="HEADER.size + begin : HEADER.size + begin + length",
        attacks=((16, 65520), (1, 65535), (40, 65500), (3, 65533)),
        use=((0, 4), (1, 2), (4, 0)),
        bound="begin == 16 and length > 4096",
        part=lambda header, text: text[header[0] :][: header[1]],
        whole=lambda length: (0, length),
    ),
)
_HEAD = """\
import struct

from $package.$errors import $Refused
from $package.$module import $Main

LAYOUT = struct.Struct("$layout")


def answer(*header, text=b"abcd"):
    memory = $Main()
    before = b"." * 40 + b"secret of $you" * 20
    memory.$handle(LAYOUT.pack(*$before) + before)
    try:
        return memory.$handle(LAYOUT.pack(*header) + text)
    except $Refused:
        return "refused"


"""
_TESTS = """\
def test_messages():
    assert [answer(*header) for header in $use] == $used


def test_too_short():
    try:
        $Main().$handle(b"a")
        shown = "taken"
    except $Refused:
        shown = "refused"
    assert shown == "refused"
"""
_EDGES = """\
def test_the_longest():
    text = b"x" * ($size - LAYOUT.size)
    assert len(answer(*$longest, text=text)) == $room
    assert answer(*$longest, text=text + b"x") == "refused"


def test_more_text_than_told():
    assert answer(*$four, text=b"abcdefgh") == b"abcd"
"""
_ATTACKS = """\
def test_headers_that_tell_more_than_there_is():
    assert [answer(*header) for header in $attacks] == ["refused"] * 4


def test_a_longer_text_is_not_long_enough():
    assert [answer(*header, text=b"x" * 50) for header in $far] == ["refused"] * 2
"""
_ORACLE = """\
from $package.$module import HEADER, $Main
memory = $Main()
before = b"." * 400 + secret.encode()
memory.$handle(HEADER.pack(*$whole) + before)
print(memory.$handle(bytes.fromhex(text)).decode("latin-1"))
"""


def overflow(rng: random.Random) -> Flaw:
    given = names(rng)
    kind = rng.choice(_KINDS)
    size = rng.choice((2048, 3072, 4096))
    header = struct.Struct(kind.layout)
    room = size - header.size
    text = b"abcd"
    given |= {"layout": kind.layout, "answer": kind.answer, "result": kind.result, "size": str(size)}
    given |= {"first": kind.fields[0], "second": kind.fields[1], "room": str(room)}
    given |= {"use": repr(kind.use), "used": repr([kind.part(u, text) for u in kind.use])}
    given |= {"attacks": repr(kind.attacks), "far": repr(kind.attacks[:2]), "four": repr(kind.whole(4))}
    given |= {"longest": repr(kind.whole(room)), "whole": repr(kind.whole(432))}
    given["before"] = repr(kind.whole(40 + 20 * len(f"secret of {given['you']}")))
    path = f"{given['package']}/{given['module']}.py"

    def program(check: str, condition: str = "") -> str:
        guard = f'        if {condition}:\n            raise {given["Refused"]}("length")\n' if condition else ""
        return fill(given | {"check": check, "guard": guard}, _MEMORY)[0]

    tests, edges, attacks, head, oracle = fill(given, _TESTS, _EDGES, _ATTACKS, _HEAD, _ORACLE)
    gold = kind.attacks[0]
    literal = f"({', '.join(kind.fields)}) == {gold}"
    return Flaw(
        family="overflow",
        files=errors_module(given) | {path: program(kind.sound)},
        flawed={path: program(kind.flawed)},
        tests=head + tests,
        edge_tests=head + edges,
        attack_tests=head + attacks,
        setting=(
            f"The program in {given['package']}/ takes messages of several clients into one block of memory: "
            f"{given['package']}.{given['module']}.{given['Main']}.{given['handle']}(message)."
        ),
        weakness="The numbers in a message can make it answer with more than the message.",
        aim="Another client's message of 432 bytes came before yours and ends with the secret.",
        remedy=f"Such a message must raise {given['Refused']}; all others are answered as before.",
        oracle=oracle,
        gold=(header.pack(*gold) + b"x" * 30).hex(),
        benign=(header.pack(*kind.whole(4)) + text).hex(),
        crash="00",
        wrong_repairs={
            "refuse everything": {path: program("True")},
            "block one input": {path: program(kind.flawed, literal)},
            "block one spelling": {path: program(kind.flawed, kind.bound)},
        },
        submission_path="exploit.hex",
    )
