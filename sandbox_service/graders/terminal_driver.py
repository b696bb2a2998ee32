"""Starts a server of the workspace and asks it over loopback. Its text is run inside the sandbox, alone.

The argument is JSON: `command` (the port is added as its last word) and `asks`, each [method, path, body]. For every
ask a line of JSON is printed: [status, content type, body], or null where no answer came. What the answers must be is
not known here: the server shares this sandbox and could read it.
"""

import http.client
import json
import socket
import subprocess
import sys
import time

START_S = 30.0
ANSWER_S = 20.0
KEPT_BYTES = 64 * 1024


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(process: subprocess.Popen, port: int) -> None:
    """Returns when somebody listens, or when nobody will."""
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
            return
        except OSError:
            time.sleep(0.05)


def answer(port: int, method: str, path: str, body: str) -> list | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    try:
        connection.request(method, path, body.encode() or None)
        reply = connection.getresponse()
        kind = (reply.getheader("Content-Type") or "").partition(";")[0].strip().lower()
        return [reply.status, kind, reply.read(KEPT_BYTES).decode(errors="replace")]
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def main() -> None:
    wanted = json.loads(sys.argv[1])
    port = free_port()
    null = subprocess.DEVNULL
    process = subprocess.Popen([*wanted["command"], str(port)], stdin=null, stdout=null, stderr=null)
    wait_for(process, port)
    for method, path, body in wanted["asks"]:
        print(json.dumps(answer(port, method, path, body)), flush=True)
    process.kill()


if __name__ == "__main__":
    main()
