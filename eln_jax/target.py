"""What kind of device programs are traced for: this machine's, unless told otherwise.

Some operations have a form that is fast on one kind alone.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax

_platform: ContextVar[str] = ContextVar("platform")


def platform() -> str:
    """Returns "cpu", "gpu" or "tpu"."""
    return _platform.get(None) or jax.default_backend()


@contextlib.contextmanager
def traced_for(name: str) -> Iterator[None]:
    """Programs that are traced meanwhile, and were not before, are for that kind of device."""
    token = _platform.set(name)
    try:
        yield
    finally:
        _platform.reset(token)
