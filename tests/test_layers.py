"""The import order of DESIGN section 2, held by the syntax tree."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# A module imports only what stands above it; modules on one line may import each other.
ORDER = [
    ["types", "metrics", "progress"],
    ["tasks"],
    ["skills"],
    ["tokenizer", "chat"],
    ["sharding"],
    ["models"],
    ["sampling"],
    ["rollout"],
    ["rl"],
    ["checkpoint"],
    ["export"],
    ["evaluate", "report"],
    ["demonstrators", "limits", "prompts", "renaming", "resume", "setup", "sft", "task_sets"],
    ["train", "exam"],
    ["main"],
    ["bench", "compile", "drill", "rehearse"],
]
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
# Offline tools that handle the hidden half of task sets; the trainer never imports them.
OFFLINE = {
    *("world", "build", "validate", "derive", "mutate", "submissions", "readers", "suites", "hiding", "joining"),
    *("cheats", "copies", "proving", "rehearse", "rename", "validation_report"),
}


def imports(path: Path) -> set[str]:
    """Absolute names of the modules that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", sources("skillrl"), ids=lambda p: str(p.relative_to(ROOT)))
def test_trainer_imports_only_what_stands_above(path):
    relative = path.relative_to(ROOT / "skillrl")
    own = relative.parts[0].removesuffix(".py")
    if own == "__init__":
        return
    assert own in RANK, f"{path} is not in the import order; add it to ORDER at its place"
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "skillrl" and len(parts) > 1:
            assert RANK[parts[1]] <= RANK[own], f"{path} imports {name}, which stands below it"
        if parts[0] == "sandbox_service" and not OFFLINE & {p.removesuffix(".py") for p in relative.parts}:
            assert parts[1] in ("client", "embedded", "sandbox_pb2"), f"{path} imports {name}: more than the contract"
    if {"rl", "rollout"} & set(relative.parts):
        other = "rollout" if own == "rl" else "rl"
        assert not any(n.startswith(f"skillrl.{other}") for n in imports(path)), "only train.py knows rl and rollout"


def reached_from(start: str) -> set[str]:
    """Every module of both packages that importing `start` leads to."""
    files = {
        ".".join(p.relative_to(ROOT).with_suffix("").parts): p
        for k in ("skillrl", "sandbox_service")
        for p in sources(k)
    }
    files = {name.removesuffix(".__init__"): path for name, path in files.items()}
    reached, waiting = set(), [start]
    while waiting:
        name = waiting.pop()
        if name in files and name not in reached:
            reached.add(name)
            # A module's packages are imported with it.
            waiting += [name.rpartition(".")[0], *imports(files[name])]
            waiting += [n.rpartition(".")[0] for n in imports(files[name])]
    return reached


@pytest.mark.parametrize("start", ["skillrl.train", "skillrl.exam", "skillrl.export"])
def test_training_and_evaluation_never_reach_the_hidden_half(start):
    reached = reached_from(start)
    assert "skillrl.models.policy" in reached
    assert not {name for name in reached if OFFLINE & set(name.split(".")) and name.startswith("skillrl.")}
    service = {name for name in reached if name.startswith("sandbox_service.")}
    parts = ("remote", "transport", "placement", "breaker", "credentials", "errors", "sandbox_pb2", "sandbox_pb2_grpc")
    assert service <= {f"sandbox_service.{m}" for m in ("client", *parts, "embedded", "scratch")}


@pytest.mark.parametrize("path", sources("sandbox_service"), ids=lambda p: str(p.relative_to(ROOT)))
def test_service_needs_neither_trainer_nor_jax(path):
    roots = {name.split(".")[0] for name in imports(path)}
    assert not roots & {"skillrl", "jax", "flax", "optax", "orbax"}
