"""Sliding windows as sums over shifted maps: depthwise convolution and max-pooling for CPUs.

A map read at stride s is first split into its s x s phases (every s-th row and column), so that
each tap of a window reads a dense block of one phase.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax


@dataclass(frozen=True)
class Window:
    """A square window that slides over maps.

    Attributes:
        map_size: height and width of the maps.
        size: taps on a side.
        stride: pixels between outputs.
        dilation: pixels between taps.
        padding: ((top, bottom), (left, right)) pixels around the map.
    """

    map_size: tuple[int, int]
    size: int
    stride: int
    dilation: int
    padding: tuple[tuple[int, int], tuple[int, int]]

    @property
    def extent(self) -> int:
        """Pixels from the first tap to the last, both counted."""
        return self.dilation * (self.size - 1) + 1

    @property
    def output_size(self) -> tuple[int, int]:
        """Rows and columns of the result."""
        rows, columns = (
            (length + sum(padding) - self.extent) // self.stride + 1
            for length, padding in zip(self.map_size, self.padding, strict=True)
        )
        return rows, columns

    def taps(self) -> Iterator[tuple[int, int]]:
        """Yields every tap's place in the window."""
        for i in range(self.size):
            for j in range(self.size):
                yield i, j

    def phase(self, tap: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Returns a tap's first row and column in its phase, and the phase."""
        (i, p), (j, q) = (divmod(self.dilation * t, self.stride) for t in tap)
        return (i, j), (p, q)

    def split(self, x: jax.Array, fill: float = 0.0) -> jax.Array:
        """Pads a map and returns its phases [batch, rows, stride, columns, stride, channels]."""
        s, edges, rows = self.stride, [], []
        for length, places, (low, _) in zip(
            self.map_size, self.output_size, self.padding, strict=True
        ):
            rows.append(-(-((places - 1) * s + self.extent) // s))
            edges.append((low, rows[-1] * s - length - low, 0))
        x = lax.pad(x, jnp.array(fill, x.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
        return x.reshape(x.shape[0], rows[0], s, rows[1], s, x.shape[-1])

    def view(self, split: jax.Array, tap: tuple[int, int]) -> jax.Array:
        """Returns what a tap sees at the window's places: [batch, rows, columns, channels]."""
        (i, j), (p, q) = self.phase(tap)
        rows, columns = self.output_size
        return split[:, i : i + rows, p, j : j + columns, q]

    def give_back(self, value: Callable[..., jax.Array], *sources: jax.Array) -> jax.Array:
        """Adds up, at every pixel of a map, what the taps that saw it give back: `view` reversed.

        Args:
            value: (tap, *sources) -> what the tap gives back, shaped as its sources.
            *sources: [batch, rows, columns, channels] over the window's places; where they are
                extended by zeros, `value` must be zero.

        Returns:
            [batch, height, width, channels].
        """
        s, margin = self.stride, (self.extent - 1) // self.stride
        edge = ((0, 0), (margin, margin), (margin, margin), (0, 0))
        padded = [jnp.pad(source, edge) for source in sources]
        batch, rows, columns, channels = sources[0].shape
        rows, columns = rows + margin, columns + margin

        def phase_sum(phase):
            total = jnp.zeros((batch, rows, columns, channels), sources[0].dtype)
            for tap in self.taps():
                (i, j), tap_phase = self.phase(tap)
                if tap_phase == phase:
                    i, j = margin - i, margin - j
                    parts = [source[:, i : i + rows, j : j + columns] for source in padded]
                    total = total + value(tap, *parts)
            return total

        phases = [jnp.stack([phase_sum((p, q)) for q in range(s)], 3) for p in range(s)]
        full = jnp.stack(phases, 2).reshape(batch, rows * s, columns * s, channels)
        edges = [
            (-low, length + low - covered, 0)
            for (low, _), length, covered in zip(
                self.padding, self.map_size, full.shape[1:3], strict=True
            )
        ]
        return lax.pad(full, jnp.zeros((), full.dtype), ((0, 0, 0), *edges, (0, 0, 0)))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """Convolves each channel with its own kernel.

    Args:
        x: [batch, height, width, channels].
        kernel: [size, size, 1, channels].
        window: the kernel's.

    Returns:
        [batch, rows, columns, channels].
    """
    split = window.split(x)
    return sum(
        (window.view(split, tap) * kernel[tap][None, None] for tap in window.taps()),
        jnp.zeros((), x.dtype),
    )


def _depthwise_forward(x, kernel, window):
    return depthwise(x, kernel, window), (x, kernel)


def _depthwise_backward(window, saved, dy):
    x, kernel = saved
    dx = window.give_back(lambda tap, part: part * kernel[tap][None, None], dy)
    # Row by row, so that the sums of all taps stay in the cache: XLA would read the maps once a
    # tap. The batch is left whole, as it may be sharded.
    batch, rows, columns, channels = dy.shape
    split = window.split(x)

    def add_row(row, sums):
        part = lax.dynamic_index_in_dim(dy, row, 1, keepdims=False)
        added = []
        for tap, total in zip(window.taps(), sums, strict=True):
            (i, j), (p, q) = window.phase(tap)
            seen = lax.dynamic_index_in_dim(split, row + i, 1, keepdims=False)
            added.append(total + seen[:, p, j : j + columns, q] * part)
        return tuple(added)

    start = (jnp.zeros((batch, columns, channels), dy.dtype),) * window.size**2
    sums = lax.fori_loop(0, rows, add_row, start)
    return dx, jnp.stack([total.sum((0, 1)) for total in sums]).reshape(kernel.shape)


depthwise.defvjp(_depthwise_forward, _depthwise_backward)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_pool(x: jax.Array, window: Window) -> jax.Array:
    """Maximum at the window's places; padding never wins.

    Of equal values the first one gets the gradient, as in PyTorch.

    Args:
        x: [batch, height, width, channels].
        window: the window.

    Returns:
        [batch, rows, columns, channels].
    """
    return _first_maximum(x, window)[0]


def _first_maximum(x, window):
    split = window.split(x, -jnp.inf)
    best = window.view(split, (0, 0))
    place = jnp.zeros(best.shape, jnp.uint8)
    for number, tap in enumerate(window.taps()):
        seen = window.view(split, tap)
        better = (seen > best) | jnp.isnan(seen)
        best = jnp.where(better, seen, best)
        place = jnp.where(better, jnp.uint8(number), place)
    return best, place


def _max_pool_backward(window, place, dy):
    def value(tap, part, part_place):
        number = jnp.uint8(tap[0] * window.size + tap[1])
        return jnp.where(part_place == number, part, jnp.zeros((), dy.dtype))

    return (window.give_back(value, dy, place),)


max_pool.defvjp(_first_maximum, _max_pool_backward)
