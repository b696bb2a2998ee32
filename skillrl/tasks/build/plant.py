"""Plants bugs in a package and proves each with the package's own suite."""

import asyncio
import functools
import hashlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sandbox_service.tasks import Overlay
from skillrl.tasks.build.baseline import Baseline, Suite, Verdict
from skillrl.tasks.build.removal import removals
from skillrl.tasks.mutate import Site, apply, changed_lines, sample, sites

# A bug that breaks more of the suite than this gives its place away.
MAX_FAILING_SHARE = 0.3
MAX_MUTANTS = 16
# Fewer would make a unit_tests task that one lucky assertion solves.
MIN_MUTANTS = 3
# Bugs kept in one function.
MAX_PER_FUNCTION = 3
# Mutations of one function that are tried for its mutants.
MAX_TRIED = 24
# Of the bugs, one in so many is two in different files; of the mutations tried, one in so many removes a whole body.
EVERY_SEVERAL = 4
EVERY_REMOVAL = 5


@dataclass(frozen=True)
class Mutation:
    """A site in a file, and the file's whole text with it."""

    path: str
    site: Site
    text: str

    @property
    def function(self) -> tuple[str, str]:
        return self.path, self.site.symbol

    @property
    def overlay(self) -> dict[str, str]:
        return {self.path: self.text}

    @property
    def key(self) -> str:
        """Short digest, for ids."""
        site = self.site
        text = f"{self.path}|{site.operator}|{site.start}|{site.end}|{site.replacement}"
        return hashlib.sha256(text.encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Bug:
    """Mutations, each in a file of its own, that the suite noticed, the same way each time."""

    mutations: tuple[Mutation, ...]
    failing: frozenset[str]
    passing: frozenset[str]
    # What each mutation alone makes fail.
    failing_alone: tuple[frozenset[str], ...]

    @property
    def overlay(self) -> dict[str, str]:
        return {m.path: m.text for m in self.mutations}

    @property
    def operator(self) -> str:
        return self.mutations[0].site.operator if len(self.mutations) == 1 else "several_files"

    @property
    def key(self) -> str:
        """Short digest, for ids."""
        return "".join(m.key[: 8 // len(self.mutations)] for m in self.mutations)


@dataclass
class Planter:
    """Proposes mutations in a seeded order and proves them. Results of single mutations are kept."""

    suite: Suite
    baseline: Baseline
    # Mutable source files: path -> text.
    sources: Mapping[str, str]
    # Symbol -> the test files that use it, which are enough to kill its mutants; empty for the whole suite.
    tests_of: Callable[[str], Sequence[str]]
    seed: int = 0
    confirmations: int = 2
    # Mutations that are proven at the same time.
    jobs: int = 2
    # What became of the mutations tried -> how many.
    tally: Counter = field(default_factory=Counter)

    async def bugs(self) -> AsyncIterator[Bug]:
        """Bugs as they are proven; one in `EVERY_SEVERAL` is made of two that are in different files."""
        waiting, made = None, 0
        async for bug in self._single():
            made += 1
            if waiting is not None:
                both = await self._together(waiting, bug)
                for ready in [both] if both else [waiting, bug]:
                    yield ready
                waiting = None
            elif made % EVERY_SEVERAL == 0:
                waiting = bug
            else:
                yield bug
        if waiting is not None:
            yield waiting

    async def _together(self, a: Bug, b: Bug) -> Bug | None:
        """Both bugs as one, if they are in two files and tests of each fail."""
        both = Bug((*a.mutations, *b.mutations), frozenset(), frozenset(), (a.failing, b.failing))
        if len(both.overlay) < 2:
            return None
        verdict = await self._verdict(both.overlay)
        noticed = verdict.failing & a.failing and verdict.failing & b.failing
        if reject(verdict, self.baseline.stable) or not noticed or await self._unconfirmed(both.overlay, verdict):
            return None
        self.tally["two kept bugs as one"] += 1
        return replace(both, failing=verdict.failing, passing=self.baseline.stable - verdict.failing)

    async def _single(self) -> AsyncIterator[Bug]:
        """Bugs of one mutation, until there is no place left."""
        kept: Counter = Counter()
        proposed = [self._mutation(*s) for s in self._proposed()]
        for batch in _batches(proposed, self.jobs):
            batch = [m for m in batch if kept[m.function] < MAX_PER_FUNCTION]
            verdicts = await asyncio.gather(*map(self.prove, batch))
            for mutation, verdict in zip(batch, verdicts, strict=True):
                if kept[mutation.function] == MAX_PER_FUNCTION:
                    continue
                reason = reject(verdict, self.baseline.stable) or await self._unconfirmed(mutation.overlay, verdict)
                self.tally[reason or "kept"] += 1
                if not reason:
                    kept[mutation.function] += 1
                    passing = self.baseline.stable - verdict.failing
                    yield Bug((mutation,), verdict.failing, passing, (verdict.failing,))

    def _proposed(self) -> list[tuple[str, Site]]:
        """Small mutations in their seeded order, and now and then a function whose whole body is gone."""
        small = sample(self.sources, self.seed, per_function=3 * MAX_PER_FUNCTION)
        whole = [(path, site) for path in sorted(self.sources) for site in removals(self.sources[path])]
        random.Random(self.seed).shuffle(whole)
        for index, site in enumerate(whole):
            small.insert(index * EVERY_REMOVAL + EVERY_REMOVAL // 2, site)
        return small

    async def killed(self, function: tuple[str, str], besides: Bug) -> list[tuple[Mutation, frozenset[str]]]:
        """Mutations of a function, other than those of `besides`, that the suite notices, with the tests that do."""
        path, symbol = function
        proposed = [self._mutation(path, site) for site in spread(self.sources[path], symbol, self.seed)[:MAX_TRIED]]
        paths, found = self.tests_of(symbol), []
        for batch in _batches([m for m in proposed if m not in besides.mutations], self.jobs):
            verdicts = await asyncio.gather(*(self._verdict(m.overlay, paths=paths) for m in batch))
            found += [(m, v.failing) for m, v in zip(batch, verdicts, strict=True) if v.proper]
            if len(found) >= MAX_MUTANTS:
                break
        return found[:MAX_MUTANTS]

    @functools.cached_property
    def mutable(self) -> frozenset[str]:
        """The source files that a bug can be planted in."""
        return frozenset(path for path, text in self.sources.items() if sites(text))

    def functions(self) -> list[tuple[str, str]]:
        """Functions that hold enough sites for a unit_tests task, those with most sites first."""
        counts = Counter((path, site.symbol) for path in sorted(self.sources) for site in sites(self.sources[path]))
        return [function for function, n in counts.most_common() if n > MIN_MUTANTS]

    def near(self, bug: Mutation) -> list[Mutation]:
        """Other mutations of the bug's function: those of the same lines first, then by distance."""
        others = [
            self._mutation(bug.path, site) for site in sites(self.sources[bug.path]) if site.symbol == bug.site.symbol
        ]
        return sorted((m for m in others if m.text != bug.text), key=lambda m: (distance(m.site, bug.site), m.key))

    async def prove(self, mutation: Mutation) -> Verdict:
        return await self.try_text(mutation.path, mutation.text)

    async def try_text(self, path: str, text: str) -> Verdict:
        """What the suite says of the correct tree with one file's text replaced."""
        return await self._verdict({path: text})

    async def _verdict(self, overlay: Overlay, **options) -> Verdict:
        limit_s = max(30.0, 8 * self.baseline.wall_s)
        return await self.suite.verdict(overlay, self.baseline, timeout_s=limit_s, **options)

    async def _unconfirmed(self, overlay: Overlay, verdict: Verdict) -> str:
        again = await asyncio.gather(*(self._verdict(overlay, repeat=n + 1) for n in range(self.confirmations)))
        return "" if all(v == verdict for v in again) else "differs between runs"

    def _mutation(self, path: str, site: Site) -> Mutation:
        return Mutation(path, site, apply(self.sources[path], site))


def reject(verdict: Verdict, stable: frozenset[str]) -> str:
    """Why a mutation is no usable bug; empty when it is one."""
    if verdict.rejected:
        return verdict.rejected
    if not verdict.failing:
        return "survived"
    if not verdict.proper:
        return "fails for another reason than the behaviour"
    if verdict.failing == stable:
        return "nothing passes"
    if len(verdict.failing) > MAX_FAILING_SHARE * len(stable):
        return "too many tests fail"
    return ""


def together(source: str, a: Site, b: Site) -> str:
    """The source with both mutations. Raises ValueError when their spans overlap."""
    first, second = sorted((a, b), key=lambda s: s.start)
    if first.end > second.start:
        raise ValueError("the two sites overlap")
    return apply(apply(source, second), first)


def _batches(items: list, size: int) -> list[list]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def spread(source: str, symbol: str, seed: int) -> list[Site]:
    """Sites of one function, taking turns over the operators."""
    inside = {(s.start, s.end, s.replacement) for s in sites(source) if s.symbol == symbol}
    chosen = sample({"": source}, seed, per_function=len(inside), per_file=1 << 30)
    return [site for _, site in chosen if (site.start, site.end, site.replacement) in inside]


def distance(a: Site, b: Site) -> int:
    """Lines between two sites; 0 when they share one."""
    return max(0, a.first_line - b.last_line, b.first_line - a.last_line)


def buggy_lines(site: Site) -> str:
    """`line 4` or `lines 4-6` of the buggy file."""
    first, last = changed_lines(site)
    return f"line {first}" if first == last else f"lines {first}-{last}"
