"""A board game (held out): pieces on a grid, captures, lines and scores."""

import random

from skillrl.tasks.world.apps.base import App, Scenario

_BOARD = '''\
"""The board."""


class $Board:
    """A grid of $SIZE by $SIZE cells; an empty cell holds a dot."""

    def __init__(self):
        self.rows = [["."] * $SIZE for _ in range($SIZE)]

    def inside(self, x, y):
        """Return whether a cell is on the board; x counts columns, y counts rows, both from zero."""
        return 0 <= x < $SIZE and 0 <= y < $SIZE

    def place(self, x, y, piece):
        """Put a piece on a free cell of the board; return whether that was possible."""
        if not self.inside(x, y) or self.rows[y][x] != ".":
            return False
        self.rows[y][x] = piece
        return True

    def at(self, x, y):
        """Return the piece of a cell, a dot if it is empty, an empty text outside the board."""
        if not self.inside(x, y):
            return ""
        return self.rows[y][x]

    def count(self, piece):
        """Return the number of cells that hold a piece."""
        total = 0
        for row in self.rows:
            total += row.count(piece)
        return total
'''

_RULES = '''\
"""Neighbours and captures."""

SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1))


def $around(board, x, y, piece):
    """Return how many of the four neighbours of a cell hold a piece."""
    found = 0
    for dx, dy in SIDES:
        if board.at(x + dx, y + dy) == piece:
            found += 1
    return found


def $capture(board, piece, other):
    """Remove each piece that has at least $NEED neighbours of the other kind; return how many were removed."""
    lost = []
    for y in range($SIZE):
        for x in range($SIZE):
            if board.at(x, y) == piece and $around(board, x, y, other) >= $NEED:
                lost.append((x, y))
    for x, y in lost:
        board.rows[y][x] = "."
    return len(lost)
'''

_LINES = '''\
"""Rows of equal pieces."""


def $run(board, x, y, dx, dy):
    """Return how many equal pieces follow each other from a cell in a direction; zero for an empty cell."""
    piece = board.at(x, y)
    if piece in (".", ""):
        return 0
    length = 0
    for step in range($SIZE):
        if board.at(x + dx * step, y + dy * step) != piece:
            break
        length += 1
    return length


def $winner(board):
    """Return the first piece, row by row, that begins $LINE in a line to the right, down or down right, else a dot."""
    for y in range($SIZE):
        for x in range($SIZE):
            for dx, dy in ((1, 0), (0, 1), (1, 1)):
                if $run(board, x, y, dx, dy) >= $LINE:
                    return board.at(x, y)
    return "."
'''

_SCORES = '''\
"""Points."""


def $points(board, piece):
    """Return one point for each piece and $EDGE more for each in the top or bottom row."""
    total = board.count(piece)
    for row in (board.rows[0], board.rows[-1]):
        total += $EDGE * row.count(piece)
    return total


def $picture(board):
    """Return the rows as texts, from top to bottom."""
    return ["".join(row) for row in board.rows]
'''


def _constants(rng: random.Random) -> dict[str, int]:
    return {"SIZE": rng.randint(3, 4), "NEED": rng.randint(2, 3), "LINE": rng.randint(2, 3), "EDGE": rng.randint(1, 4)}


def _scenarios(rng: random.Random, constants) -> list[Scenario]:
    size = constants["SIZE"]
    cells = rng.sample([(x, y) for x in range(size) for y in range(size)], rng.randint(4, size * size - 2))
    moves = [(x, y, rng.choice("xo")) for x, y in cells]
    setup = ("board = $Board()", *(f'board.place({x}, {y}, "{p}")' for x, y, p in moves))
    told = "a board with " + " and ".join(f"{p} at {x} {y}" for x, y, p in moves)
    x, y = rng.choice([*cells, (size - 1, size - 1), (0, 0)])
    out = rng.choice(((size, 0), (0, size), (-1, 0), (x, y)))
    dx, dy = rng.choice(((1, 0), (0, 1), (1, 1)))
    captured = (*setup, '$capture(board, "x", "o")')
    return [
        Scenario(
            "place", setup, f'board.place({out[0]}, {out[1]}, "x")', f"whether x fits at {out[0]} {out[1]} of {told}"
        ),
        Scenario(
            "at",
            setup,
            f"[board.at({x}, {y}), board.at({out[0]}, {out[1]})]",
            f"cells {x} {y} and {out[0]} {out[1]} of {told}",
        ),
        Scenario("count", setup, '[board.count("x"), board.count("o")]', f"how many x and o are on {told}"),
        Scenario("around", setup, f'$around(board, {x}, {y}, "o")', f"how many o are next to {x} {y} on {told}"),
        Scenario("capture", setup, '$capture(board, "x", "o")', f"how many x are lost on {told}"),
        Scenario("captured", captured, "$picture(board)", f"the picture after x lost pieces on {told}"),
        Scenario("run", setup, f"$run(board, {x}, {y}, {dx}, {dy})", f"the line from {x} {y} by {dx} {dy} on {told}"),
        Scenario("winner", setup, "$winner(board)", f"the winner on {told}"),
        Scenario("points", setup, '[$points(board, "x"), $points(board, "o")]', f"the points of x and o on {told}"),
        Scenario("picture", setup, "$picture(board)", f"the picture of {told}"),
    ]


APP = App(
    name="board",
    modules={"board": _BOARD, "rules": _RULES, "lines": _LINES, "scores": _SCORES},
    classes=("Board",),
    functions=("around", "capture", "run", "winner", "points", "picture"),
    constants=_constants,
    scenarios=_scenarios,
)
