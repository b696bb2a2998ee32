"""Attacks on localization and review: answers that cover every case."""

import shelf
from attack import Attack

from sandbox_service.graders import Submission

LOCALIZATION = "shelf-limit-localization"


def located(*files: str) -> dict:
    return {"submission": Submission(files=files), "minimum": -1.0}


ATTACKS = [
    Attack("localization: every file", LOCALIZATION, **located(*shelf.FILES)),
    Attack("localization: every source file", LOCALIZATION, **located(*(p for p in shelf.FILES if "src" in p))),
    Attack("localization: a glob", LOCALIZATION, **located("src/shelf/*.py")),
    Attack("localization: a glob that fits one file", LOCALIZATION, **located("src/shelf/price[s].py")),
    Attack("localization: a folder", LOCALIZATION, **located("src/shelf")),
    Attack("localization: the test", LOCALIZATION, **located(shelf.T)),
    Attack("localization: the file and a decoy", LOCALIZATION, **located("src/shelf/prices.py", "src/shelf/stock.py")),
    Attack("localization: the file 21 times", LOCALIZATION, **located(*["src/shelf/prices.py"] * 21)),
    Attack("localization: nothing", LOCALIZATION, **located()),
    Attack(
        "localization: not in the format",
        LOCALIZATION,
        submission=Submission(files=("src/shelf/prices.py",), missing=True),
        minimum=-1.0,
    ),
    Attack("review: nothing", "shelf-limit-review-0", submission=Submission(missing=True)),
    Attack("review: both verdicts", "shelf-limit-review-0", submission=Submission(judgment="YES NO")),
    Attack("review: lower case", "shelf-limit-review-1", submission=Submission(judgment="no")),
    Attack(
        "review: verdict outside the format",
        "shelf-limit-review-0",
        submission=Submission(judgment="YES", missing=True),
    ),
]
