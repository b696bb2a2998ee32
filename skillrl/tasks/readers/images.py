"""Names of the container images that the public datasets publish. Pure functions of a row."""


def swebench(instance_id: str, arch: str = "x86_64") -> str:
    """On Docker Hub, where `__` may not stand in a name."""
    return f"swebench/sweb.eval.{arch}.{instance_id.replace('__', '_1776_')}:latest".lower()


def swe_smith(repository: str) -> str:
    """`swesmith/owner__repo.COMMIT8` -> the image of that repository."""
    name = repository.rpartition("/")[2]
    return f"jyangballin/swesmith.x86_64.{name.replace('__', '_1776_')}".lower()


def swe_gym(instance_id: str) -> str:
    return f"xingyaoww/sweb.eval.x86_64.{instance_id.replace('__', '_s_')}".lower()


def r2e(repository: str, commit: str) -> str:
    return f"namanjain12/{repository}_final:{commit}"


def swe_rebench(instance_id: str) -> str:
    return f"swerebench/sweb.eval.x86_64.{instance_id.replace('__', '_1776_')}".lower()


def swe_rebench_v2(repository: str, instance_id: str, base_commit: str) -> str:
    """`docker.io/swerebenchv2/OWNER-REPO:PR-COMMIT7`."""
    number = instance_id.rpartition("-")[2]
    return f"docker.io/swerebenchv2/{repository.replace('/', '-')}:{number}-{base_commit[:7]}".lower()


def sec_bench(instance_id: str, tag: str = "latest") -> str:
    """`tag` is "latest", "patch" or "poc"."""
    return f"hwiwonlee/secb.eval.x86_64.{instance_id}:{tag}"
