"""Work of the kind ml_engineering: none is generated yet."""

from collections.abc import Iterator, Mapping

from sandbox_service.tasks import HiddenTask, Instance
from skillrl.tasks.suites.case import Case


def cases(seed: int) -> list[Case]:
    return []


def wrong(
    task: HiddenTask, instance: Instance, files: Mapping[str, bytes]
) -> Iterator[tuple[str, Mapping[str, bytes | None]]]:
    yield from ()
