"""Makes the images of tasks whose submission is a container's state: python -m skillrl.tasks.readers.build_images DIR

DIR holds folders of Harbor tasks, or is what the reader sec_bench reads. Each image is made of the published one or,
where a Harbor task has none, of environment/Dockerfile, by the engine that DOCKER_HOST names: the folder that the
task works in becomes a link to the sandbox's workspace, its content the start of each workspace, and /tests, /solution
and /logs links to what the harness brings. Prints one JSON object for each image and what became of it. Exit status 1
when one could not be made.
"""

import argparse
import io
import json
import shlex
import sys
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from sandbox_service.backends.base import WORKSPACE
from sandbox_service.backends.docker import default_socket
from sandbox_service.errors import SandboxError
from sandbox_service.graders.state import HARNESS, PROOF, PROOF_START, START
from skillrl.tasks.readers import READERS
from skillrl.tasks.readers.directories import StateImage, harbor_folder, sec_bench_image
from skillrl.tasks.readers.record import Unusable
from skillrl.tasks.readers.rows import ReaderError

# Of the task's own Dockerfile; the tool's own steps need no network.
BUILD_TIMEOUT_S = 3600
_HARNESS_FOLDERS = ("tests", "solution", "logs")


class NotBuilt(Exception):
    """An image could not be made; the text is the engine's."""


def dockerfile(base: str, workdir: str) -> str:
    """How an image for sandboxes is made of the task's own.

    The leak sanitizer looks into other processes, which no program in a sandbox may, and would end every program.
    """
    links = " && ".join(
        f"rm -rf /{name} && ln -s {HARNESS}/{name} /{name}" for name in _HARNESS_FOLDERS if f"/{name}" != workdir
    )
    folder, above = shlex.quote(workdir), shlex.quote(str(Path(workdir).parent))
    return f"""\
FROM {base}
USER 0
WORKDIR /
ENV ASAN_OPTIONS=detect_leaks=0
RUN command -v bash tar python3 >/dev/null || {{ echo "the image lacks bash, tar or python3"; exit 1; }}
RUN mkdir -p {Path(START).parent} {WORKSPACE} {above} \\
 && if [ -d {folder} ]; then mv {folder} {START}; else mkdir {START}; fi \\
 && if [ -d /testcase ]; then mv /testcase {PROOF_START} && ln -s {PROOF} /testcase; fi \\
 && chmod -R a+rX {Path(START).parent} && ln -s {WORKSPACE} {folder} && {links}
"""


def build(client, image: StateImage, files: Mapping[str, bytes]) -> None:
    """Makes `image.name` with an engine. `files` are the task's own. Raises NotBuilt."""
    base = image.published
    if not base:
        base = f"{image.name}-own"
        own = {p.removeprefix("environment/"): d for p, d in files.items() if p.startswith("environment/")}
        if "Dockerfile" not in own:
            raise NotBuilt("it has neither a docker_image nor an environment/Dockerfile")
        run_build(client, own, base, network="")
    run_build(client, {"Dockerfile": dockerfile(base, image.workdir).encode()}, image.name, network="none")


def run_build(client, files: Mapping[str, bytes], tag: str, network: str) -> None:
    """Builds a folder with a Dockerfile as the image `tag`. Raises NotBuilt."""
    from docker import errors

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in sorted(files.items()):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755
            tar.addfile(info, io.BytesIO(data))
    buffer.seek(0)
    options = {"network_mode": network} if network else {}
    try:
        told = client.build(
            fileobj=buffer,
            custom_context=True,
            tag=tag,
            rm=True,
            forcerm=True,
            decode=True,
            timeout=BUILD_TIMEOUT_S,
            **options,
        )
        lines = []
        for message in told:
            if "error" in message:
                raise NotBuilt(f"{message['error']} {' '.join(lines[-3:])}".strip())
            lines += [message["stream"].strip()] if message.get("stream", "").strip() else []
    except (errors.DockerException, OSError) as e:
        raise NotBuilt(str(e)) from e


def images_of(source: str, dataset: str = "harbor") -> Iterator[tuple[StateImage, Mapping[str, bytes]]]:
    """Images of the tasks in `source`, and files that they are made of. Raises ReaderError."""
    for row in READERS[dataset].rows(source):
        yield (sec_bench_image(row), {}) if dataset == "sec_bench" else harbor_folder(row)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m skillrl.tasks.readers.build_images", description=__doc__)
    parser.add_argument("source", metavar="DIR", help="what the reader of the dataset reads")
    parser.add_argument("--dataset", choices=("harbor", "sec_bench"), default="harbor")
    options = parser.parse_args(argv)
    failed = 0
    try:
        from docker import APIClient

        client = APIClient(base_url=f"unix://{default_socket()}", version="auto", timeout=BUILD_TIMEOUT_S)
        for image, files in images_of(options.source, options.dataset):
            try:
                build(client, image, files)
                print(json.dumps({"image": image.name, "made": True}), flush=True)
            except NotBuilt as e:
                failed += 1
                print(json.dumps({"image": image.name, "made": False, "why": str(e)}), flush=True)
    except ImportError:
        print("error: images are made with the Docker SDK; pip install 'skillrl[docker]'", file=sys.stderr)
        return 2
    except (ReaderError, SandboxError, Unusable) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
