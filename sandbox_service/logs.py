"""What happens to sessions, as events; and the service's log as JSON lines with run, task and session ids."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

_EXTRA = "event_fields"


@dataclass(frozen=True)
class Event:
    """One thing that happened to a session. `name`: open, exec, edit, score, close, lost, refused or failed."""

    name: str
    run_id: str = ""
    task_id: str = ""
    session_id: str = ""
    # exec: outcome, wall_s. score: result, detail, wall_s. close: ending. refused, failed: error, detail.
    fields: Mapping[str, object] = field(default_factory=dict)


Emit = Callable[[Event], None]


def to_all(*sinks: Emit) -> Emit:
    """One sink that feeds several."""

    def emit(event: Event) -> None:
        for sink in sinks:
            sink(event)

    return emit


def log_event(event: Event) -> None:
    """A line of the log: commands at DEBUG, since there are many; the rest at INFO."""
    level = logging.DEBUG if event.name in ("exec", "edit") else logging.INFO
    ids = {"run_id": event.run_id, "task_id": event.task_id, "session_id": event.session_id}
    fields = {name: value for name, value in ids.items() if value} | dict(event.fields)
    logging.getLogger("sandbox_service").log(level, event.name, extra={_EXTRA: fields})


class JsonLines(logging.Formatter):
    """One JSON object a line: time (Unix, seconds), level, logger, message, an event's fields, a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": round(record.created, 3),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, _EXTRA, {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(level: str) -> None:
    """Sends the process's log to stderr as JSON lines."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
