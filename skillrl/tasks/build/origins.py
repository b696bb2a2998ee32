"""Where a package's sources come from, and whether they may be trained on. Pure functions of addresses and metadata."""

import re
from collections.abc import Iterable, Mapping
from email.parser import HeaderParser

from skillrl.tasks.build.tree import BuildError
from skillrl.tasks.contamination import evaluated_in, repository_key

# https://host/owner/name/..., ssh://git@host:22/owner/name.git, git@host:owner/name. A path on this machine is none.
_HOSTED = re.compile(
    r"(?:[a-z][a-z0-9+.-]*://)?(?:[^@/\s]+@[\w.-]+|[\w-]+(?:\.[\w-]+)+)(?::\d+/|[:/])([\w.-]+)/([\w.-]+)", re.IGNORECASE
)


class Evaluated(BuildError):
    """The package is one that a policy is evaluated on."""


def hosted(addresses: Iterable[str]) -> tuple[str, ...]:
    """`owner/name` of those addresses that may be of a repository, on whatever host: mirrors keep both names."""
    matches = filter(None, (_HOSTED.match(address.strip()) for address in addresses))
    return tuple(dict.fromkeys(f"{m[1]}/{m[2].removesuffix('.git')}" for m in matches))


def addresses_in(metadata: str) -> list[str]:
    """All that PKG-INFO says about where the project is at home."""
    headers = HeaderParser().parsestr(metadata)
    labelled = [text.rpartition(",")[2] for text in headers.get_all("Project-URL", [])]
    return [a.strip() for a in (headers.get("Home-page", ""), headers.get("Download-URL", ""), *labelled) if a.strip()]


def key_of_clone(remotes: Iterable[str], name: str) -> str:
    """What a clone's tasks call their repository: the one on GitHub that it comes from, else the project."""
    key = repository_key(f"repo:{name}")
    on_github = [address for address in remotes if re.search(r"\bgithub\.com[/:]", address)]
    return next(map(repository_key, hosted(on_github)), key) if key.startswith("repo:") else key


def check_not_evaluated(label: str, names: Iterable[str]) -> None:
    """Raises Evaluated when one of the names is of a repository in the blocklist."""
    for name in names:
        if found := evaluated_in(name):
            raise Evaluated(
                f"{label} is {repository_key(name)}, which is in the evaluation set {found}, and must not be trained "
                "on; take another package, or give it the split heldout_repositories to evaluate on it"
            )


def urls_of(project: Mapping) -> list[str]:
    """The addresses in the [project] table of pyproject.toml."""
    urls = project.get("urls", {})
    return [str(url) for url in urls.values()] if isinstance(urls, Mapping) else []
