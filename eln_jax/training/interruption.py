"""Ctrl-C and SIGTERM as a polite request: finish the step, save, then leave."""

import os
import signal
import sys
import threading
from types import FrameType

# Python's own handlers wait for compiled code to return; after a second Ctrl-C nobody wants to.
_PATIENCE = 1.0  # seconds


class StopRequest:
    """Notes the first signal; a second Ctrl-C interrupts at once.

    Use as a context manager around the work, in the main thread; `requested` is then safe to poll
    anywhere. A thread of its own answers, because Python calls handlers between two lines of Python
    only: a compilation takes minutes without any.

    Attributes:
        signal: the first signal, None before.
        doing: what has to end before the work stops, for the answer.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.doing = "this step"
        self._previous: dict[int, object] = {}
        self._interrupted = threading.Event()

    @property
    def requested(self) -> bool:
        """Whether somebody asked the run to stop."""
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """The shell's convention, 128 + signal; 0 without a request."""
        return 0 if self.signal is None else 128 + self.signal

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
