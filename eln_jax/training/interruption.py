"""Ctrl-C and SIGTERM as a polite request: finish the step, save, then leave.

Of several processes one may be told, or all a little after one another; all must leave at the same
step, since the next one needs all.
"""

import signal
from collections.abc import Sequence
from functools import cache
from types import FrameType

import jax
import numpy as np

from eln_jax.training import sharding


class StopRequest:
    """Notes the first signal; a second Ctrl-C interrupts at once.

    Use as a context manager around the work; `requested` is then safe to poll anywhere. Over
    several processes it changes in `agree` and `agree_on` alone, which all must call, and is the
    same in all.

    Attributes:
        signal: that this process was told, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._agreed: int | None = None
        self._told: jax.Array | None = None
        self._previous: dict[int, object] = {}

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


@cache
def _largest_of_all():
    mesh = sharding.make_mesh()
    largest = jax.jit(lambda numbers: numbers.max(), out_shardings=sharding.replicated(mesh))
    return largest, sharding.split(mesh)
