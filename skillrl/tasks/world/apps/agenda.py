"""An agenda: slots of time, bookings, gaps and how they are shown."""

import random

from skillrl.tasks.world.apps.base import App, Scenario

_SLOT = '''\
"""Spans of time, in minutes of one day."""


class $Slot:
    """From start to end, the end not included."""

    def __init__(self, start, end, title=""):
        self.start = start
        self.end = end
        self.title = title

    def length(self):
        """Return the minutes from start to end, never below zero."""
        return max(0, self.end - self.start)

    def overlaps(self, other):
        """Return whether the two share at least one minute."""
        return self.start < other.end and other.start < self.end

    def contains(self, minute):
        """Return whether a minute lies in the slot."""
        return self.start <= minute < self.end

    def moved(self, minutes):
        """Return a slot of the same length and title that starts this much later."""
        return $Slot(self.start + minutes, self.end + minutes, self.title)
'''

_CLOCK = '''\
"""Minutes as people write them."""


def $clock(minute):
    """Return hours and minutes with a colon between, two digits each."""
    hours = minute // 60
    rest = minute % 60
    return str(hours).zfill(2) + ":" + str(rest).zfill(2)


def $round_up(minute):
    """Return the minute itself if it is a multiple of $GRID, else the next multiple."""
    rest = minute % $GRID
    if rest == 0:
        return minute
    return minute + $GRID - rest
'''

_AGENDA = '''\
"""The bookings of one day."""

from $package.$slot import $Slot


class $Agenda:
    """Slots that do not overlap, in order of time, between $OPEN and $CLOSE."""

    def __init__(self):
        self.slots = []

    def book(self, start, end, title=""):
        """Book a slot if it lies within opening time and is free; return whether it was booked."""
        wanted = $Slot(start, end, title)
        if start < $OPEN or end > $CLOSE or wanted.length() == 0:
            return False
        for slot in self.slots:
            if slot.overlaps(wanted):
                return False
        self.slots.append(wanted)
        self.slots.sort(key=lambda slot: slot.start)
        return True

    def cancel(self, minute):
        """Remove the slot that holds a minute; return its title, or an empty text if there is none."""
        for slot in self.slots:
            if slot.contains(minute):
                self.slots.remove(slot)
                return slot.title
        return ""

    def busy(self):
        """Return the number of booked minutes."""
        return sum(slot.length() for slot in self.slots)

    def gaps(self):
        """Return start and end of each free span between opening and closing, in order."""
        found = []
        free = $OPEN
        for slot in self.slots:
            if slot.start > free:
                found.append([free, slot.start])
            free = slot.end
        if free < $CLOSE:
            found.append([free, $CLOSE])
        return found
'''

_SEARCH = '''\
"""Finding time."""

from $package.$clock_ import $clock, $round_up


def $first_free(agenda, minutes):
    """Return the first start on the grid of a free span of this many minutes, or minus one if there is none."""
    for start, end in agenda.gaps():
        begin = $round_up(start)
        if begin + minutes <= end:
            return begin
    return -1


def $longest(agenda):
    """Return the title of the longest slot, the earliest of equals, or an empty text."""
    best = None
    for slot in agenda.slots:
        if best is None or slot.length() > best.length():
            best = slot
    return best.title if best else ""


def $table(agenda):
    """Return a line for each slot: start, end and title."""
    lines = []
    for slot in agenda.slots:
        lines.append($clock(slot.start) + " " + $clock(slot.end) + " " + slot.title)
    return lines
'''


def _constants(rng: random.Random) -> dict[str, int]:
    start = 60 * rng.randint(6, 9)
    return {"OPEN": start, "CLOSE": start + 60 * rng.randint(4, 8), "GRID": rng.choice((10, 15, 20))}


def _scenarios(rng: random.Random, constants) -> list[Scenario]:
    first, last = constants["OPEN"], constants["CLOSE"]

    def clock(minute):
        return f"{minute // 60:02}:{minute % 60:02}"

    wanted, begin = [], first + rng.choice((0, 5, 30))
    for title in rng.sample(("tea", "walk", "talk", "swim", "chess"), 3):
        end = begin + rng.choice((20, 30, 45, 60))
        wanted.append((begin, end, title))
        begin = end + rng.choice((0, 0, 10, 25, -5))
    setup = ("agenda = $Agenda()", *(f'agenda.book({b}, {e}, "{t}")' for b, e, t in wanted))
    day = "a day with " + " and ".join(f"{t} from {clock(b)} to {clock(e)}" for b, e, t in wanted)
    start, end, title = rng.choice(wanted)
    minute = rng.choice((start, end, start + 5, end - 1))
    more = rng.choice(((end, end + 20), (start - 10, start), (first - 10, first + 5), (last - 20, last), (start, end)))
    need = rng.choice((10, 30, 60, 90, last - first))
    moment = rng.randint(first, last)
    on_grid = constants["GRID"] * rng.randint(1, 40)
    return [
        Scenario("busy", setup, "agenda.busy()", f"the booked minutes of {day}"),
        Scenario("gaps", setup, "agenda.gaps()", f"the free spans, in minutes of the day, of {day}"),
        Scenario("table", setup, "$table(agenda)", f"the printed plan of {day}"),
        Scenario("longest", setup, "$longest(agenda)", f"the longest booking of {day}"),
        Scenario(
            "first_free", setup, f"$first_free(agenda, {need})", f"the first minute with {need} free minutes on {day}"
        ),
        Scenario(
            "book",
            setup,
            f"agenda.book({more[0]}, {more[1]})",
            f"whether {clock(more[0])} to {clock(more[1])} fits {day}",
        ),
        Scenario("cancel", setup, f"agenda.cancel({minute})", f"what is cancelled at {clock(minute)} on {day}"),
        Scenario(
            "cancelled",
            (*setup, f"agenda.cancel({minute})"),
            "agenda.busy()",
            f"the minutes left after cancelling {clock(minute)} on {day}",
        ),
        Scenario(
            "moved",
            (f'slot = $Slot({start}, {end}, "{title}").moved({need})',),
            f"[slot.start, slot.end, slot.contains({minute + need})]",
            f"start, end and whether minute {minute + need} is inside when {title} at {start} to {end} moves by {need}",
        ),
        Scenario("clock", (), f"$clock({moment})", f"the time written for minute {moment}"),
        Scenario(
            "round_up",
            (),
            f"[$round_up({moment}), $round_up({on_grid})]",
            f"minutes {moment} and {on_grid} on the grid",
        ),
    ]


APP = App(
    name="agenda",
    modules={"slot": _SLOT, "clock_": _CLOCK, "agenda": _AGENDA, "search": _SEARCH},
    classes=("Slot", "Agenda"),
    functions=("clock", "round_up", "first_free", "longest", "table"),
    constants=_constants,
    scenarios=_scenarios,
)
