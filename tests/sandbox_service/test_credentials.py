"""Who may call: certificates made here, tokens for one run, two runs on one service."""

import asyncio
import stat

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from service_support import served, sessions_on

from sandbox_service import credentials, sandbox_pb2, sandbox_pb2_grpc
from sandbox_service.client import Patience, SandboxClient, ServiceUnreachable
from sandbox_service.credentials import ClientCredentials, ServiceCredentials, TokenCheck, covers, make_token
from sandbox_service.errors import BadRequest, Forbidden, NotFound, Unauthenticated
from sandbox_service.server import Server

IMPATIENT = Patience(unreachable_s=0.5)
SECRET = b"s" * 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Credentials of a service on loopback and of the runs "one" and "two"."""
    out = tmp_path_factory.mktemp("credentials") / "all"
    assert credentials.main([f"--out={out}", "--host=127.0.0.1", "--host=localhost", "--run=one"]) == 0
    assert credentials.main([f"--out={out}", "--run=two"]) == 0
    return out


def bearer(token):
    return [("user-agent", "x"), ("authorization", f"Bearer {token}")]


def test_secrets_are_private(folder):
    for name in ("ca.key", "service/key.pem", "service/token_secret", "client-one/key.pem", "client-one/token"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600, name
    assert not (folder / "client-one" / "token_secret").exists()
    assert not list(folder.glob("*/ca.key")) and not list(folder.glob("*/extensions.txt"))


def test_a_token_is_good_for_its_run_until_it_expires():
    check = TokenCheck(SECRET, clock=lambda: 100.0)
    assert check.scope(bearer(make_token(SECRET, "joint-7", 101))) == "joint-7"
    with pytest.raises(Unauthenticated, match="expired"):
        check.scope(bearer(make_token(SECRET, "joint-7", 100)))
    with pytest.raises(Unauthenticated, match="not of this service"):
        check.scope(bearer(make_token(b"other", "joint-7", 101)))
    for metadata in ([], [("authorization", "Basic x")], bearer("x") * 2, [("authorization", b"Bearer x")]):
        with pytest.raises(Unauthenticated, match="token"):
            check.scope(metadata)
    with pytest.raises(BadRequest, match="letters, digits"):
        make_token(SECRET, "a.b", 101)


@given(st.text(max_size=80), st.integers(0, 200))
def test_no_changed_token_is_accepted(text, at):
    check, token = TokenCheck(SECRET, clock=lambda: 0.0), make_token(SECRET, "one", 100)
    for forged in (text, token[:at] + text + token[at + 1 :], token.replace("one", "two")):
        if forged != token:
            with pytest.raises(Unauthenticated):
                check.scope(bearer(forged))


def test_a_scope_covers_what_is_below_it():
    assert covers("a", "a") and covers("a", "a/b") and covers("a", "a/b/c")
    assert not any(covers("a", other) for other in ("", "b", "ab", "/a", "A"))


def on_secured(tmp_path, folder, test):
    async def run():
        options = {"bind": "127.0.0.1:0", "credentials": ServiceCredentials(folder / "service")}
        async with served(tmp_path, **options) as (address, sessions, _, digest, _):
            await test(address, sessions, digest)

    asyncio.run(run())


def test_one_run_cannot_touch_another(tmp_path, folder):
    async def test(address, sessions, digest):
        one = SandboxClient(address, "job", credentials=folder / "client-one")
        two = SandboxClient(address, "job", credentials=folder / "client-two")
        async with one, two:
            await one.wait_ready(10)
            session = await one.open(digest, "t-editing", "editing")
            assert [s.run_id for s in sessions._leases] == ["one/job"]
            assert (await session.exec("echo mine")).output == "mine\n"
            thief = two.adopt(session.session_id)
            for call in (
                thief.exec("echo stolen"),
                thief.str_replace("view", "pkg/core.py"),
                thief.score(sandbox_pb2.Submission()),
                two.open(digest, "t-editing", "editing", session_id=session.session_id),
            ):
                with pytest.raises(NotFound, match="is unknown here"):
                    await call
            with pytest.raises(NotFound, match="is unknown here"):
                async for _ in thief.output("r"):
                    pass
            await thief.kill("r")
            await thief.close()
            with pytest.raises(Forbidden, match="the token is for the run 'two', not for 'one/job'"):
                await two.call(thief.service, "Close", sandbox_pb2.CloseRequest(run_id="one/job"), 5)
            stub = thief.service.link.stub
            assert (await stub.Close(sandbox_pb2.CloseRequest(session_ids=[session.session_id]))).closed == 0
            assert list((await stub.Renew(sandbox_pb2.RenewRequest(session_ids=[session.session_id]))).lost)
            two.run_id = "one/job"
            with pytest.raises(Forbidden, match="not for 'one/job'"):
                await two.open(digest, "t-editing", "editing")
            assert (await session.exec("echo still mine")).output == "still mine\n"
            assert await one.destroy_run("one/job") == 1

    on_secured(tmp_path, folder, test)


def test_without_certificate_or_token_nothing_is_answered(tmp_path, folder):
    ca = (folder / "ca.pem").read_bytes()

    async def test(address, sessions, digest):
        async with SandboxClient(address, "run", patience=IMPATIENT) as plain:
            with pytest.raises(ServiceUnreachable):
                await plain.info()
        request = sandbox_pb2.InfoRequest()
        async with grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(ca)) as no_certificate:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await sandbox_pb2_grpc.SandboxServiceStub(no_certificate).Info(request, timeout=5)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        mine = [(folder / "client-one" / name).read_bytes() for name in ("key.pem", "cert.pem")]
        async with grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(ca, *mine)) as no_token:
            stub = sandbox_pb2_grpc.SandboxServiceStub(no_token)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Info(request, timeout=5)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert "--credentials" in caught.value.details()

    on_secured(tmp_path, folder, test)


def test_another_authoritys_client_is_refused(tmp_path, folder):
    stranger = credentials.make(tmp_path / "stranger", ["127.0.0.1"], "one")
    (stranger / "ca.pem").write_bytes((folder / "ca.pem").read_bytes())
    (stranger / "token").write_bytes((folder / "client-one" / "token").read_bytes())

    async def test(address, sessions, digest):
        async with SandboxClient(address, "run", patience=IMPATIENT, credentials=stranger) as client:
            with pytest.raises(ServiceUnreachable):
                await client.info()

    on_secured(tmp_path, folder, test)


def test_binds_beyond_loopback_need_credentials_and_complete_ones(tmp_path, folder):
    async def run():
        async with sessions_on(tmp_path) as (sessions, *_):
            with pytest.raises(BadRequest, match="python -m sandbox_service.credentials"):
                await Server(sessions, "0.0.0.0:0").start()
            open_to_all = Server(sessions, "0.0.0.0:0", ServiceCredentials(folder / "service"))
            assert (await open_to_all.start()).startswith("0.0.0.0:")
            await open_to_all.stop()

    asyncio.run(run())
    with pytest.raises(BadRequest, match="cannot read key.pem .*python -m sandbox_service.credentials"):
        ServiceCredentials(folder).server_credentials()
    with pytest.raises(BadRequest, match="cannot read"):
        ClientCredentials(tmp_path).channel_credentials()
    assert credentials.main([f"--out={tmp_path / 'x'}", "--host=h", "--run=a.b"]) == 2


def test_new_certificates_are_taken_over_without_a_restart(tmp_path):
    out = tmp_path / "rotating"
    credentials.make(out, ["127.0.0.1"], "one")

    async def test(address, sessions, digest):
        async with SandboxClient(address, "a", credentials=out / "client-one") as client:
            await client.info()
        for old in ("ca.pem", "ca.key"):
            (out / old).unlink()
        credentials.make(out, ["127.0.0.1"], "one")
        async with SandboxClient(address, "b", credentials=out / "client-one") as client:
            assert (await client.info()).backend == "plain"

    on_secured(tmp_path, out, test)
