"""What a service counts, for Prometheus, and a page of health for probes that cannot speak gRPC.

http://127.0.0.1:PORT/metrics    text for Prometheus; `skillrl_sandbox_load` is what an autoscaler should follow
http://127.0.0.1:PORT/healthz    200 while the service takes calls, else 503
"""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from sandbox_service.host_memory import left_share
from sandbox_service.logs import Event
from sandbox_service.sessions import Sessions

EXEC_BUCKETS_S = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
READ_TIMEOUT_S = 10.0
SCORE_BUCKETS_S = (0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)


class Metrics:
    """Counts events; `emit` is its sink. Numbers of the moment are read from the sessions when asked for."""

    def __init__(self):
        self.registry = CollectorRegistry()
        own = {"namespace": "skillrl", "subsystem": "sandbox", "registry": self.registry}
        self._opened = Counter("sessions_opened", "Sessions opened", ["skill"], **own)
        self._closed = Counter("sessions_closed", "Sessions ended", ["ending"], **own)
        self._lost = Counter("sessions_lost", "Sessions that an earlier service of this host left open", **own)
        self._execs = Counter("execs", "Commands ended", ["outcome"], **own)
        self._exec_s = Histogram("exec_seconds", "Wall time of commands", buckets=EXEC_BUCKETS_S, **own)
        self._edits = Counter("edits", "File views and edits", ["ok"], **own)
        self._scores = Counter("scores", "Gradings: graded, or the reason of an ungradable one", ["result"], **own)
        self._score_s = Histogram("score_seconds", "Wall time of gradings", buckets=SCORE_BUCKETS_S, **own)
        self._refused = Counter("refused_calls", "Calls answered with an error", ["error"], **own)
        self._own = own

    def watch(self, sessions: Sessions) -> None:
        """Adds the numbers of the moment. To be called once."""
        gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "open_sessions": ("Sessions that are open", lambda: len(sessions)),
            "running_execs": ("Commands and edits that run", lambda: sessions.running_execs),
            "waiting_calls": ("Calls that wait for their turn", lambda: sessions.waiting_calls),
            "memory_left": ("Share of the host's memory that is left, or of the service's group, 0 to 1", left_share),
            "load": ("The larger share in use of sessions and of slots for commands, 0 to 1", lambda: load(sessions)),
        }
        for name, (text, read) in gauges.items():
            Gauge(name, text, **self._own).set_function(read)

    def emit(self, event: Event) -> None:
        fields = event.fields
        match event.name:
            case "open":
                self._opened.labels(fields["skill"]).inc()
            case "close":
                self._closed.labels(fields["ending"]).inc()
            case "lost":
                self._lost.inc()
            case "exec":
                self._execs.labels(fields["outcome"]).inc()
                self._exec_s.observe(fields["wall_s"])
            case "edit":
                self._edits.labels(str(fields["ok"]).lower()).inc()
            case "score":
                self._scores.labels(fields["result"]).inc()
                self._score_s.observe(fields["wall_s"])
            case "refused" | "failed":
                self._refused.labels(fields["error"]).inc()


def load(sessions: Sessions) -> float:
    policy = sessions.policy
    return max(len(sessions) / policy.max_sessions, min(1.0, sessions.running_execs / policy.max_execs))


class Page:
    """The HTTP server of the two pages, in a thread of its own."""

    def __init__(self, metrics: Metrics, is_serving: Callable[[], bool], port: int, host: str = "127.0.0.1"):
        class Handler(BaseHTTPRequestHandler):
            # A caller that sends nothing holds a thread no longer than this.
            timeout = READ_TIMEOUT_S

            def do_GET(self) -> None:
                if self.path == "/metrics":
                    self._answer(200, generate_latest(metrics.registry), CONTENT_TYPE_LATEST)
                elif self.path == "/healthz":
                    serving = is_serving()
                    self._answer(200 if serving else 503, b"serving\n" if serving else b"not serving\n", "text/plain")
                else:
                    self._answer(404, b"only /metrics and /healthz are here\n", "text/plain")

            def _answer(self, code: int, body: bytes, kind: str) -> None:
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_) -> None:
                """A line for every look of a probe helps nobody."""

        self._server = ThreadingHTTPServer((host, port), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
