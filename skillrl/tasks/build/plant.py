"""Plants bugs in a package and proves each with the package's own suite."""

import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from skillrl.tasks.build.baseline import Baseline, Suite, Verdict
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
    """A mutation that the suite noticed, the same way each time."""

    mutation: Mutation
    failing: frozenset[str]
    passing: frozenset[str]


@dataclass
class Planter:
    """Proposes mutations in a seeded order and proves them. Results of single mutations are kept."""

    suite: Suite
    baseline: Baseline
    # Mutable source files: path -> text.
    sources: Mapping[str, str]
    seed: int = 0
    confirmations: int = 2
    # What became of the mutations tried -> how many.
    tally: Counter = field(default_factory=Counter)
    _proved: dict[str, Verdict] = field(default_factory=dict)

    async def bugs(self) -> AsyncIterator[Bug]:
        """Bugs as they are proven, until there is no place left."""
        kept: Counter = Counter()
        for path, site in sample(self.sources, self.seed, per_function=3 * MAX_PER_FUNCTION):
            mutation = self._mutation(path, site)
            if kept[mutation.function] == MAX_PER_FUNCTION:
                continue
            verdict = await self.prove(mutation)
            reason = reject(verdict, self.baseline.stable) or await self._unconfirmed(mutation, verdict)
            self.tally[reason or "kept"] += 1
            if not reason:
                kept[mutation.function] += 1
                yield Bug(mutation, verdict.failing, self.baseline.stable - verdict.failing)

    async def killed(self, function: tuple[str, str], besides: Mutation) -> list[tuple[Mutation, frozenset[str]]]:
        """Mutations of a function, other than `besides`, that the suite notices, with the tests that do."""
        path, symbol = function
        candidates = [self._mutation(path, site) for site in spread(self.sources[path], symbol, self.seed)]
        found = []
        for mutation in candidates[:MAX_TRIED]:
            if mutation.text == besides.text:
                continue
            verdict = await self.prove(mutation)
            if verdict.failing:
                found.append((mutation, verdict.failing))
            if len(found) == MAX_MUTANTS:
                break
        return found

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
        if mutation.key not in self._proved:
            self._proved[mutation.key] = await self._verdict(mutation)
        return self._proved[mutation.key]

    async def _unconfirmed(self, mutation: Mutation, verdict: Verdict) -> str:
        for _ in range(self.confirmations):
            if await self._verdict(mutation) != verdict:
                return "differs between runs"
        return ""

    async def _verdict(self, mutation: Mutation) -> Verdict:
        limit_s = max(10.0, 8 * self.baseline.wall_s)
        return await self.suite.verdict(mutation.overlay, self.baseline.stable, timeout_s=limit_s)

    def _mutation(self, path: str, site: Site) -> Mutation:
        return Mutation(path, site, apply(self.sources[path], site))


def reject(verdict: Verdict, stable: frozenset[str]) -> str:
    """Why a mutation is no usable bug; empty when it is one."""
    if verdict.rejected:
        return verdict.rejected
    if not verdict.failing:
        return "survived"
    if verdict.failing == stable:
        return "nothing passes"
    if len(verdict.failing) > MAX_FAILING_SHARE * len(stable):
        return "too many tests fail"
    return ""


def spread(source: str, symbol: str, seed: int) -> list[Site]:
    """Sites of one function, taking turns over the operators."""
    inside = {(s.start, s.end, s.replacement) for s in sites(source) if s.symbol == symbol}
    chosen = sample({"": source}, seed, per_function=len(inside), per_file=1 << 30)
    return [site for _, site in chosen if (site.start, site.end, site.replacement) in inside]


def distance(a: Site, b: Site) -> int:
    """Lines between two sites; 0 when they share one."""
    return max(0, a.first_line - b.last_line, b.first_line - a.last_line)


def buggy_lines(bug: Bug) -> str:
    """`line 4` or `lines 4-6` of the buggy file."""
    first, last = changed_lines(bug.mutation.site)
    return f"line {first}" if first == last else f"lines {first}-{last}"
