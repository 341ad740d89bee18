"""TensorBoard's event files, written by whoever calls.

tensorboardX's own writer hands events to a thread: on a full disk that dies with a traceback, and a
few events later the training waits for it for ever.
"""

import os
import time
from pathlib import Path

import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # type: ignore[attr-defined]
from tensorboardX.summary import image, scalar


class EventFile:
    """An event file of its own for each start of a run; every method may raise OSError."""

    def __init__(self, folder: Path, first_step: int):
        """Opens a file.

        Args:
            folder: made if absent.
            first_step: what earlier starts wrote of this and later steps is to be hidden.
        """
        folder.mkdir(exist_ok=True)
        self._events = EventsWriter(str(folder / "events"), f".{os.getpid()}")
        self._write(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def scalar(self, name: str, value: float, step: int) -> None:
        """Adds a number."""
        self._write(Event(step=step, summary=scalar(name, value)))

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        """Adds a picture, uint8 [height, width, 3]."""
        self._write(Event(step=step, summary=image(name, picture, dataformats="HWC")))

    def flush(self) -> None:
        """Writes out what was added."""
        self._events.flush()

    def close(self) -> None:
        """Writes out what is left."""
        self._events.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._events.write_event(event)
