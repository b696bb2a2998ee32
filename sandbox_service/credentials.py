"""Who may call a service that listens beyond loopback: mutual TLS, and a token for one run.

A folder of credentials holds ca.pem, cert.pem, key.pem and, for a service, token_secret; for a client, token. Made by

    python -m sandbox_service.credentials --out=DIR --host=10.0.0.5 --host=sandbox-1 --run=joint-7

which writes DIR/service and DIR/client-joint-7; run again with --run=OTHER it adds DIR/client-OTHER. The authority's
key stays in DIR and belongs on no host. A token reads `v1.RUN.EXPIRES.SIGNATURE` and covers the run ids RUN and RUN/...
"""

import argparse
import base64
import hashlib
import hmac
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from sandbox_service.errors import BadRequest, Unauthenticated

VERSION = "v1"
DAYS = 30
_RUN = re.compile(r"[A-Za-z0-9_-]+")


def make_token(secret: bytes, run: str, expires_at: float) -> str:
    """`expires_at` is a Unix time."""
    if not _RUN.fullmatch(run):
        raise BadRequest(f"--run={run}: a token's run is made of letters, digits, - and _")
    body = f"{VERSION}.{run}.{int(expires_at)}"
    return f"{body}.{_signature(secret, body)}"


def _signature(secret: bytes, body: str) -> str:
    return base64.urlsafe_b64encode(hmac.digest(secret, body.encode(), hashlib.sha256)).decode().rstrip("=")


def run_of(token: str) -> str:
    """The run of a token, which is not checked here."""
    return token.split(".")[1] if token.count(".") == 3 else ""


def covers(scope: str, run_id: str) -> bool:
    """Whether a token of the run `scope` is good for `run_id`."""
    return run_id == scope or run_id.startswith(scope + "/")


class TokenCheck:
    """Finds the run that a call may act for."""

    def __init__(self, secret: bytes, clock: Callable[[], float] = time.time):
        self._secret, self._clock = secret, clock

    def scope(self, metadata: Iterable[tuple[str, str | bytes]]) -> str:
        """Raises Unauthenticated."""
        values = [value for key, value in metadata if key == "authorization"]
        if len(values) != 1 or not isinstance(values[0], str) or not values[0].startswith("Bearer "):
            raise Unauthenticated("no token; give the client --credentials with a token for its run")
        body, _, signature = values[0].removeprefix("Bearer ").rpartition(".")
        if not hmac.compare_digest(_signature(self._secret, body).encode(), signature.encode()):
            raise Unauthenticated(
                "the token is not of this service; make one with python -m sandbox_service.credentials"
            )
        version, run, expires_at = body.split(".")
        if version != VERSION or int(expires_at) <= self._clock():
            raise Unauthenticated("the token has expired; make one with python -m sandbox_service.credentials")
        return run


@dataclass(frozen=True)
class ServiceCredentials:
    """The service's half, read from its folder. Certificates that change on disk are taken over without a restart."""

    folder: Path

    @property
    def token_check(self) -> TokenCheck:
        return TokenCheck(_read(self.folder, "token_secret"))

    def server_credentials(self) -> grpc.ServerCredentials:
        """Mutual TLS. Raises BadRequest when a file is missing."""
        first, seen = self._certificates(), self._stamp()

        def changed() -> grpc.ServerCertificateConfiguration | None:
            nonlocal seen
            if self._stamp() == seen:
                return None
            try:
                fresh = self._certificates()
            except BadRequest:
                return None  # half written: the next connection looks again
            seen = self._stamp()
            return fresh

        return grpc.dynamic_ssl_server_credentials(first, changed, require_client_authentication=True)

    def _certificates(self) -> grpc.ServerCertificateConfiguration:
        key, cert, ca = (_read(self.folder, name) for name in ("key.pem", "cert.pem", "ca.pem"))
        return grpc.ssl_server_certificate_configuration([(key, cert)], root_certificates=ca)

    def _stamp(self) -> tuple:
        files = (self.folder / name for name in ("key.pem", "cert.pem", "ca.pem"))
        return tuple(f.stat().st_mtime_ns if f.exists() else 0 for f in files)


@dataclass(frozen=True)
class ClientCredentials:
    """The client's half, read from its folder."""

    folder: Path

    @property
    def token(self) -> str:
        return _read(self.folder, "token").decode().strip()

    def channel_credentials(self) -> grpc.ChannelCredentials:
        key, cert, ca = (_read(self.folder, name) for name in ("key.pem", "cert.pem", "ca.pem"))
        return grpc.composite_channel_credentials(
            grpc.ssl_channel_credentials(ca, key, cert), grpc.access_token_call_credentials(self.token)
        )


def _read(folder: Path, name: str) -> bytes:
    try:
        return (Path(folder) / name).read_bytes()
    except OSError as e:
        raise BadRequest(
            f"--credentials={folder}: cannot read {name} ({e.strerror}); make the folder with "
            "python -m sandbox_service.credentials"
        ) from e


def make(out: Path, hosts: Sequence[str], run: str, days: int = DAYS) -> Path:
    """Makes what is not there yet below `out`; returns the client's folder. Needs the program openssl."""
    if not shutil.which("openssl"):
        raise BadRequest("no openssl on this machine; apt-get install openssl")
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not (out / "ca.pem").exists():
        subject = ["-subj", "/CN=skillrl sandboxes", "-days", "3650", "-out", str(out / "ca.pem")]
        _openssl("req", "-x509", *_new_key(out / "ca.key"), *subject)
    service, client = out / "service", out / f"client-{run}"
    if hosts:
        names = ",".join(f"IP:{h}" if re.fullmatch(r"[0-9.]+|.*:.*", h) else f"DNS:{h}" for h in hosts)
        _certificate(out, service, "service", days, f"subjectAltName={names}\nextendedKeyUsage=serverAuth\n")
    if not (service / "token_secret").exists():
        service.mkdir(exist_ok=True, mode=0o700)
        _write_private(service / "token_secret", secrets.token_bytes(32))
    _certificate(out, client, run, days, "extendedKeyUsage=clientAuth\n")
    token = make_token(_read(service, "token_secret"), run, time.time() + days * 86400)
    _write_private(client / "token", token.encode() + b"\n")
    return client


def _new_key(path: Path) -> list[str]:
    _write_private(path, b"")
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(path)]


def _certificate(out: Path, folder: Path, name: str, days: int, extensions: str) -> None:
    folder.mkdir(exist_ok=True, mode=0o700)
    request, text = folder / "request.pem", folder / "extensions.txt"
    text.write_text(extensions)
    _openssl("req", "-new", *_new_key(folder / "key.pem"), "-subj", f"/CN={name}", "-out", str(request))
    authority = ["-CA", str(out / "ca.pem"), "-CAkey", str(out / "ca.key"), "-set_serial", str(secrets.randbits(63))]
    options = ["-days", str(days), "-extfile", str(text), "-out", str(folder / "cert.pem")]
    _openssl("x509", "-req", "-in", str(request), *authority, *options)
    request.unlink()
    text.unlink()
    shutil.copyfile(out / "ca.pem", folder / "ca.pem")


def _write_private(path: Path, data: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(data)


def _openssl(*arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise BadRequest(f"openssl {arguments[0]} failed: {done.stderr.strip()}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sandbox_service.credentials", description="Makes certificates and tokens."
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--host", action="append", default=[], help="a name or address that clients dial; may repeat")
    parser.add_argument("--run", required=True, help="the run that the client's token is for")
    parser.add_argument("--days", type=int, default=DAYS, help="how long certificates and token are good")
    options = parser.parse_args(argv)
    if not options.host and not (options.out / "service" / "cert.pem").exists():
        parser.error("give the service's --host, once for each name")
    try:
        client = make(options.out, options.host, options.run, options.days)
    except BadRequest as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    print(f"service: {options.out / 'service'}\nclient: {client}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
