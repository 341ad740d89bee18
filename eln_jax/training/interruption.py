"""Ctrl-C and SIGTERM as a polite request: finish the step, save, then leave."""

import signal
from types import FrameType


class StopRequest:
    """Notes the first signal; a second Ctrl-C interrupts at once.

    Use as a context manager around the work; `requested` is then safe to poll anywhere.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, object] = {}

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
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
        print(
            "eln_jax: stopping after this step and saving; Ctrl-C again stops at once.", flush=True
        )
