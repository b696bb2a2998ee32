"""A railway map (held out): stations, lines, ways and fares."""

import random

from skillrl.tasks.world.apps.base import App, Scenario

_MAP = '''\
"""Stations and the tracks between them."""


class $Map:
    """Tracks run both ways; each has a length."""

    def __init__(self):
        self.tracks = {}

    def connect(self, one, other, length=1):
        """Lay a track, or change its length. A track from a station to itself, or without length, is refused."""
        if one == other or length <= 0:
            return False
        self.tracks.setdefault(one, {})[other] = length
        self.tracks.setdefault(other, {})[one] = length
        return True

    def close(self, one, other):
        """Remove a track; return whether there was one."""
        if other not in self.tracks.get(one, {}):
            return False
        del self.tracks[one][other]
        del self.tracks[other][one]
        return True

    def next_to(self, station):
        """Return the stations one track away, in order."""
        return sorted(self.tracks.get(station, {}))

    def hubs(self):
        """Return the stations with at least $HUB tracks, in order."""
        return sorted(name for name, ways in self.tracks.items() if len(ways) >= $HUB)
'''

_WAYS = '''\
"""Ways from station to station."""


def $stops(map_, start, goal):
    """Return the smallest number of tracks from start to goal, or minus one if there is no way."""
    reached = {start: 0}
    queue = [start]
    for station in queue:
        for near in map_.next_to(station):
            if near not in reached:
                reached[near] = reached[station] + 1
                queue.append(near)
    return reached.get(goal, -1)


def $distance(map_, start, goal):
    """Return the smallest total length from start to goal, or minus one if there is no way."""
    best = {start: 0}
    for _ in range(len(map_.tracks)):
        for station in sorted(best):
            for near, length in map_.tracks.get(station, {}).items():
                reach = best[station] + length
                if near not in best or reach < best[near]:
                    best[near] = reach
    return best.get(goal, -1)
'''

_FARES = '''\
"""What a journey costs."""

from $package.$ways import $distance, $stops


def $fare(map_, start, goal, child=False):
    """Return $BASE plus $PER for each unit of length; from $FAR units on $CUT less; a child pays half, rounded down.

    Minus one if there is no way.
    """
    length = $distance(map_, start, goal)
    if length < 0:
        return -1
    price = $BASE + $PER * length
    if length >= $FAR:
        price -= $CUT
    if child:
        price //= 2
    return price


def $zone(map_, center, station):
    """Return the zone of a station: one for up to $RING tracks from the center, two beyond, zero if unreachable."""
    away = $stops(map_, center, station)
    if away < 0:
        return 0
    if away <= $RING:
        return 1
    return 2
'''

_PLAN = '''\
"""Lists for travellers."""

from $package.$ways import $stops


def $within(map_, start, most):
    """Return the stations that are one to most tracks away from start, in order."""
    found = []
    for station in sorted(map_.tracks):
        if 0 < $stops(map_, start, station) <= most:
            found.append(station)
    return found


def $board(map_):
    """Return a line for each track, its stations in order and its length, sorted."""
    lines = []
    for one in map_.tracks:
        for other, length in map_.tracks[one].items():
            if one < other:
                lines.append(one + " " + other + " " + str(length))
    return sorted(lines)
'''


def _constants(rng: random.Random) -> dict[str, int]:
    return {
        "HUB": rng.randint(2, 3),
        "BASE": rng.randint(1, 5),
        "PER": rng.randint(2, 4),
        "FAR": rng.randint(4, 7),
        "CUT": rng.randint(1, 3),
        "RING": rng.randint(1, 2),
    }


def _scenarios(rng: random.Random, constants) -> list[Scenario]:
    names = rng.sample(("north", "south", "east", "west", "port", "zoo", "park"), 5)
    tracks = {(names[i], names[i + 1]): rng.randint(1, 4) for i in range(3)}
    for _ in range(rng.randint(1, 3)):
        one, other = rng.sample(names, 2)
        tracks.setdefault((one, other), rng.randint(1, 6))
    setup = ("map_ = $Map()", *(f'map_.connect("{a}", "{b}", {n})' for (a, b), n in tracks.items()))
    told = "tracks " + " and ".join(f"{a} to {b} of {n}" for (a, b), n in tracks.items())
    start, goal = rng.sample(names, 2)
    (one, other), length = rng.choice(sorted(tracks.items()))
    closed = (*setup, f'map_.close("{one}", "{other}")')
    most = rng.randint(1, 2)
    return [
        Scenario(
            "connect",
            setup,
            f'[map_.connect("{one}", "{one}"), map_.connect("{start}", "{goal}", {length - 1})]',
            f"whether {one} to itself and {start} to {goal} of {length - 1} can be added to {told}",
        ),
        Scenario(
            "close", setup, f'map_.close("{start}", "{goal}")', f"whether {start} to {goal} can be closed on {told}"
        ),
        Scenario("closed", closed, "$board(map_)", f"the list after closing {one} to {other} on {told}"),
        Scenario("next_to", setup, f'map_.next_to("{start}")', f"what is next to {start} on {told}"),
        Scenario("hubs", setup, "map_.hubs()", f"the hubs on {told}"),
        Scenario("stops", setup, f'$stops(map_, "{start}", "{goal}")', f"the stops from {start} to {goal} on {told}"),
        Scenario(
            "distance", setup, f'$distance(map_, "{start}", "{goal}")', f"the way from {start} to {goal} on {told}"
        ),
        Scenario("fare", setup, f'$fare(map_, "{start}", "{goal}")', f"the fare from {start} to {goal} on {told}"),
        Scenario(
            "child",
            setup,
            f'$fare(map_, "{start}", "{goal}", child=True)',
            f"what a child pays from {start} to {goal} on {told}",
        ),
        Scenario("zone", setup, f'$zone(map_, "{start}", "{goal}")', f"the zone of {goal} seen from {start} on {told}"),
        Scenario("within", setup, f'$within(map_, "{start}", {most})', f"what is within {most} of {start} on {told}"),
        Scenario("board", setup, "$board(map_)", f"the list of {told}"),
    ]


APP = App(
    name="routes",
    modules={"map": _MAP, "ways": _WAYS, "fares": _FARES, "plan": _PLAN},
    classes=("Map",),
    functions=("stops", "distance", "fare", "zone", "within", "board"),
    constants=_constants,
    scenarios=_scenarios,
)
