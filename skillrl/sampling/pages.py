"""Which pages of the cache are free, and how many streams hold each of the others. Pure bookkeeping, no device.

A page holds keys and values of a fixed number of consecutive positions. Streams that begin alike share pages; a
stream that wants to write into a shared page gets a copy first (`own`), so nobody's past changes.
"""

from collections.abc import Iterable


class Pages:
    """Reference counts of `total` pages, numbered from 0."""

    def __init__(self, total: int):
        self.total = total
        self._holders = [0] * total
        self._free = list(range(total - 1, -1, -1))

    @property
    def free(self) -> int:
        return len(self._free)

    def holders(self, page: int) -> int:
        return self._holders[page]

    def take(self, count: int) -> list[int]:
        """`count` pages that nobody holds. Raises ValueError where there are not so many."""
        if count > self.free:
            raise ValueError(f"{count} pages wanted, {self.free} of {self.total} are free")
        taken = [self._free.pop() for _ in range(count)]
        for page in taken:
            self._holders[page] = 1
        return taken

    def share(self, pages: Iterable[int]) -> list[int]:
        """One more holder of each page."""
        shared = list(pages)
        for page in shared:
            if not self._holders[page]:
                raise ValueError(f"page {page} is free; only held pages can be shared")
            self._holders[page] += 1
        return shared

    def drop(self, pages: Iterable[int]) -> None:
        """One holder less of each page; without any it is free."""
        for page in pages:
            if not self._holders[page]:
                raise ValueError(f"page {page} is free already")
            self._holders[page] -= 1
            if not self._holders[page]:
                self._free.append(page)

    def own(self, page: int) -> int:
        """A page to write into in place of `page`: itself if nobody else holds it, else a free one to copy it to."""
        if self._holders[page] == 1:
            return page
        (copy,) = self.take(1)
        self.drop([page])
        return copy
