"""Values as text that gives them again, and what a call comes to. Runs inside the sandbox, beside `probe.py`."""

import collections
import datetime
import decimal
import fractions
import itertools
import math
import os
import re
import signal
import tempfile
import time
from collections.abc import Iterator

MAX_LITERAL = 200
MAX_REPR = 400
MAX_ITEMS = 20
CALL_TIMEOUT_S = 2.0

# What the text of an argument may name: values of the standard library that print as what makes them.
NAMES = {
    "inf": math.inf, "nan": math.nan, "range": range, "set": set, "frozenset": frozenset, "bytearray": bytearray,
    "datetime": datetime, "Decimal": decimal.Decimal, "Fraction": fractions.Fraction,
    "OrderedDict": collections.OrderedDict, "Counter": collections.Counter, "deque": collections.deque,
}  # fmt: skip
# Read once: a test may stop the clock.
_STARTED_S = time.time()
_YEAR = time.gmtime(_STARTED_S).tm_year
_DAYS = [time.strftime("%Y-%m-%d", time.gmtime(_STARTED_S + days * 86400)) for days in (-1, 0, 1)]
_FOLDERS = (tempfile.gettempdir() + os.sep, os.getcwd() + os.sep)
# Addresses, dates near the build's own, and seconds since 1970 of about now: they differ from build to build.
_PASSING = re.compile(
    rf" at 0x[0-9a-fA-F]|datetime\((?:{_YEAR - 1}|{_YEAR}|{_YEAR + 1}), |date\((?:{_YEAR - 1}|{_YEAR}|{_YEAR + 1}), "
    rf"|{'|'.join(_DAYS)}|\b{str(int(_STARTED_S))[:5]}\d{{5}}"
)


def literal(value):
    """Text that gives the value again in every build; None where there is none."""
    try:
        text = repr(value)
        again = made(text) if len(text) <= MAX_LITERAL and steady(text) else None
        return text if type(again) is type(value) and repr(again) == text else None
    except Exception:
        return None


def made(text):
    return eval(text, {"__builtins__": {}, **NAMES})


def steady(text):
    """Whether the text may be quoted: it names no address, no passing time, no file of the tree and none of /tmp."""
    return not _PASSING.search(text) and not any(folder in text for folder in _FOLDERS)


def answer(run):
    """[kind, text] of what `run()` comes to: "returned", "yielded" (an iterator's first items), "raised" or "unfit"."""
    signal.setitimer(signal.ITIMER_REAL, CALL_TIMEOUT_S)
    try:
        value = run()
        if isinstance(value, Iterator):
            items = list(itertools.islice(value, MAX_ITEMS + 1))
            kind, text = "yielded", repr(items[:MAX_ITEMS])
            text = text if len(items) <= MAX_ITEMS else f"{text[:-1]}, ...]"
        else:
            kind, text = "returned", repr(value)
    except _Timeout:
        kind, text = "raised", "no result after 2 seconds"
    except BaseException as e:
        kind, text = "raised", f"{type(e).__name__}: {e}".removesuffix(": ")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return [kind, text[: MAX_REPR + 1]] if steady(text) else ["unfit", ""]


class _Timeout(BaseException):
    pass


def on_alarm(number, frame):
    raise _Timeout
