"""Reads back what a run wrote for TensorBoard."""

import struct
from pathlib import Path

from tensorboardX.proto import event_pb2


def scalars(folder: Path) -> dict[tuple[str, int], float]:
    """(tag, step) -> value, as float32, of all event files of a folder, the newest last."""
    found = {}
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            # A record: its length, a checksum of that, the event, a checksum of that.
            (length,) = struct.unpack("<Q", data[:8])
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
            data = data[12 + length + 4 :]
    return found
