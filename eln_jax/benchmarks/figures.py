"""What the measurements share: spreads, and what a device could do at best."""

import re
import statistics
from collections.abc import Sequence

Spread = dict[str, float]

# Makers' data sheets: operations a second of matrix units without sparsity, in bfloat16; by the
# beginning of JAX's name for the device. The longest that fits counts.
_PEAK_BFLOAT16 = {
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "NVIDIA L4": 121e12,
    "NVIDIA A10G": 70e12,
    "TPU v2": 46e12,
    "TPU v3": 123e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,  # v5p under its other name
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
}


def spread(values: Sequence[float]) -> Spread:
    """Returns the least and the median value, rounded for reading."""
    return {"min": round(min(values), 4), "median": round(statistics.median(values), 4)}


def gib(size: float) -> float:
    """Returns bytes in GiB, rounded for reading."""
    return round(size / 2**30, 3)


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """Returns a device's floating-point operations a second in bfloat16; None if not known.

    Args:
        device_kind: as JAX names it.
        dtype: of the arithmetic; for others than bfloat16 makers' figures cannot be compared.
    """
    fitting = [name for name in _PEAK_BFLOAT16 if re.match(rf"{name}(?![A-Za-z0-9])", device_kind)]
    if dtype != "bfloat16" or not fitting:
        return None
    return _PEAK_BFLOAT16[max(fitting, key=len)]
