"""Ctrl-C and SIGTERM as a polite request: finish the step, save, then leave.

Of several processes one may be told, or all a little after one another; all must leave at the same
step, since the next one needs all.
"""

import os
import signal
import sys
import threading
from collections.abc import Sequence
from functools import cache
from types import FrameType

import jax
import numpy as np

from eln_jax.training import sharding

# Python's own handlers wait for compiled code to return; after a second Ctrl-C nobody wants to.
_PATIENCE = 1.0  # seconds


class StopRequest:
    """Notes the first signal; a second Ctrl-C interrupts at once.

    Use as a context manager around the work, in the main thread; `requested` is then safe to poll
    anywhere. Over several processes it changes in `agree` and `agree_on` alone, which all must
    call, and is the same in all. A thread of its own answers, because Python calls handlers between
    two lines of Python only: a compilation takes minutes without any.

    Attributes:
        signal: the first signal that this process was told, None before.
        doing: what has to end before the work stops, for the answer.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.doing = "this step"
        self._agreed: int | None = None
        self._told: jax.Array | None = None
        self._previous: dict[int, object] = {}
        self._interrupted = threading.Event()

    @property
    def requested(self) -> bool:
        """Whether somebody asked the run to stop."""
        return bool(self.exit_code)

    @property
    def exit_code(self) -> int:
        """The shell's convention, 128 + signal; 0 without a request."""
        number = self.signal if jax.process_count() == 1 else self._agreed
        return 0 if number is None else 128 + number

    def agree(self) -> None:
        """Tells the other processes, and hears what they told at the call before this.

        So nothing waits for a step that has just been started.
        """
        if jax.process_count() == 1:
            return
        largest, split = _largest_of_all()
        own = np.full(jax.local_device_count(), self.signal or 0, np.int32)
        told, self._told = self._told, largest(jax.make_array_from_process_local_data(split, own))
        if told is not None:
            self.agree_on([int(told)])

    def agree_on(self, signals: Sequence[int | None]) -> None:
        """Takes what all processes were told, the same in each, as a request to all."""
        if self._agreed is None:
            self._agreed = max((number or 0 for number in signals), default=0) or None

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._previous_writer = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._listener = threading.Thread(target=self._listen, args=(reader,), daemon=True)
        self._listener.start()
        return self

    def __exit__(self, *exception: object) -> None:
        signal.set_wakeup_fd(self._previous_writer)
        os.close(self._writer)
        self._interrupted.set()
        self._listener.join()
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.signal is not None and number == signal.SIGINT:
            self._interrupted.set()
            raise KeyboardInterrupt
        self.signal = number

    def _listen(self, reader: int) -> None:
        """Answers each signal as it comes, until the other end of the pipe is closed."""
        asked = False
        with os.fdopen(reader, "rb", buffering=0) as signals:
            while number := signals.read(1):
                if number[0] not in (signal.SIGINT, signal.SIGTERM):
                    continue
                if not asked:
                    asked = True
                    print(
                        f"eln_jax: stopping after {self.doing} and saving; Ctrl-C again stops at "
                        "once.",
                        flush=True,
                    )
                elif number[0] == signal.SIGINT and not self._interrupted.wait(_PATIENCE):
                    # Checkpoints become visible whole or not at all, and workers end with us.
                    show_cursor = "\x1b[?25h" if sys.stdout.isatty() else ""
                    print(f"{show_cursor}eln_jax: stopped by Ctrl-C.", file=sys.stderr, flush=True)
                    os._exit(128 + signal.SIGINT)


@cache
def _largest_of_all():
    mesh = sharding.make_mesh()
    largest = jax.jit(lambda numbers: numbers.max(), out_shardings=sharding.replicated(mesh))
    return largest, sharding.split(mesh)
