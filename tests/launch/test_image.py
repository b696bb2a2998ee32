"""The service's container image, built by a real engine and run with the rights that the Deployment asks for."""

import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml
from engine import IMAGE

pytestmark = pytest.mark.deep

ROOT = Path(__file__).parents[2]
TAG = "local/sandbox-service:1"
DEBIAN_PYTHON = "/usr/bin/python3"


@pytest.fixture(scope="module")
def client(engine):
    made = engine.client()
    yield made
    made.close()


@pytest.fixture(scope="module")
def image(client, tmp_path_factory):
    """Built as launch/build-image.sh does, on a base made of this machine's packages."""
    context = tmp_path_factory.mktemp("image")
    version = "import sys; print('%d.%d' % sys.version_info[:2])"
    version = subprocess.run([DEBIAN_PYTHON, "-c", version], capture_output=True, text=True, check=True).stdout.strip()
    environment = os.environ | {"PYTHON": sys.executable}
    subprocess.run([ROOT / "launch/wheels.sh", context / "wheels", version], check=True, env=environment)
    shutil.copy(ROOT / "launch/Dockerfile", context)
    log = [
        piece.get("stream") or piece.get("error", "")
        for piece in client.build(
            path=str(context), tag=TAG, buildargs={"BASE": IMAGE}, network_mode="none", decode=True, rm=True
        )
    ]
    assert client.images(TAG), "".join(log)[-2000:]
    return TAG


def run(client, image: str, command: list[str], unmasked: bool = False, **host) -> tuple[int, str]:
    """Exit status and output of a container with a network of its own and a read-only root."""
    host.setdefault("tmpfs", {"/tmp": "exec", "/state": "exec"})
    config = client.create_host_config(network_mode="none", read_only=True, **host)
    if unmasked:
        config |= {"MaskedPaths": [], "ReadonlyPaths": []}
    container = client.create_container(image, command, host_config=config)["Id"]
    try:
        client.start(container)
        status = client.wait(container, timeout=300)["StatusCode"]
        return status, client.logs(container).decode()
    finally:
        client.remove_container(container, force=True)


def rights() -> dict:
    """Of the Deployment, in the words of Docker."""
    documents = yaml.safe_load_all((ROOT / "launch/kubernetes/service.yaml").read_text())
    (deployment,) = (d for d in documents if d["kind"] == "Deployment")
    context = deployment["spec"]["template"]["spec"]["containers"][0]["securityContext"]
    assert (context["seccompProfile"], context["procMount"]) == ({"type": "Unconfined"}, "Unmasked")
    add = context["capabilities"]["add"]
    return {"cap_drop": ["ALL"], "cap_add": add, "security_opt": ["seccomp=unconfined"], "unmasked": True}


def test_the_image_says_what_it_lacks_without_rights(client, image):
    status, output = run(client, image, ["doctor"])
    assert status == 3 and "usable here: nothing that isolates" in output
    assert "CAP_SYS_ADMIN" in output


def test_the_deployments_rights_suffice_for_the_jail(client, image):
    status, output = run(client, image, ["doctor", "--state=/state"], **rights())
    assert status == 0 and "usable here: jail" in output, output


def test_its_own_commands_take_the_places_of_the_volumes(client, image):
    """The default command refuses an empty set of tasks by name, after it has read its arguments."""
    status, output = run(client, image, [], **rights())
    assert status == 2 and "error:" in output, output


def test_a_base_that_lacks_a_tool_is_refused(client, tmp_path):
    """The build fails by itself, and says what is missing."""
    bare = io.BytesIO()
    with tarfile.open(fileobj=bare, mode="w") as tar:
        for name in ("bin/sh",):
            tar.add(os.path.realpath("/bin/sh"), name)
        for library in ("/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"):
            if os.path.exists(library):
                tar.add(os.path.realpath(library), library[1:])
    client.import_image_from_data(bare.getvalue(), repository="local/bare", tag="1")
    shutil.copy(ROOT / "launch/Dockerfile", tmp_path)
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels/none").write_text("")
    pieces = client.build(path=str(tmp_path), buildargs={"BASE": "local/bare:1"}, network_mode="none", decode=True)
    assert "BASE lacks bash" in "".join(p.get("stream") or p.get("error", "") for p in pieces)
