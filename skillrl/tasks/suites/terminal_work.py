"""What a family of terminal work gives, and how the start becomes the change that is undone."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sandbox_service.graders.terminal_probes import Probe
from sandbox_service.tasks import Overlay

Tree = Mapping[str, bytes]


@dataclass(frozen=True)
class Work:
    """The tree before and after. With `probes` their outcome decides, else the tree itself."""

    start: Tree
    finished: Tree
    instruction: str
    # Files and folders (with a slash at the end) of which the agent's changes count.
    owned: tuple[str, ...] = ()
    probes: tuple[Probe, ...] = ()
    # Changes of the start that look like the work and are not: name -> overlay.
    wrong: Mapping[str, Overlay] = field(default_factory=dict)


def encoded(texts: Mapping[str, str]) -> dict[str, bytes]:
    return {path: text.encode() for path, text in texts.items()}


def difference(before: Tree, after: Tree) -> dict[str, str | None]:
    """The overlay that makes `after` of `before`. Files that differ must be text."""
    paths = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    return {path: after[path].decode() if path in after else None for path in paths}
