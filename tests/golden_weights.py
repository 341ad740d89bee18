"""The golden numbers of the official code, and its weights, which are drawn by a rule.

`golden/r50_voc.json` lists every entry of an official checkpoint with its shape; each value follows
from the entry's name and a seed, so that 400 MB of weights need not be stored. `golden/r50_voc.npz`
holds what the official PyTorch code computed with them (float32, CPU).
"""

import functools
import json
import math
import pathlib
import zlib

import numpy as np

from eln_jax.models.official import Official, from_official

FOLDER = pathlib.Path(__file__).parent / "golden"


def golden_numbers() -> dict:
    """Losses, gradient norms and shapes: keys `losses`, `grad_norms`, `shapes`."""
    return json.loads((FOLDER / "r50_voc.json").read_text())


def golden_arrays() -> dict[str, np.ndarray]:
    """Inputs (stored as float16, exact) and outputs, channels last, floating ones as float32."""
    with np.load(FOLDER / "r50_voc.npz") as arrays:
        return {
            name: value.astype(np.float32) if value.dtype == np.float16 else value
            for name, value in arrays.items()
        }


def golden_value(key: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """The value of one checkpoint entry, by the first rule that fits its name and rank."""
    rng = np.random.default_rng([zlib.crc32(key.encode()), seed])
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if key.endswith("running_var"):
        value = rng.uniform(0.5, 1.5, shape)
    elif key.endswith("running_mean"):
        value = 0.1 * rng.standard_normal(shape)
    elif len(shape) == 4:
        value = rng.standard_normal(shape) * math.sqrt(1.5 / math.prod(shape[1:]))
    elif key.endswith("weight"):
        last_norm = key.endswith(".bn3.weight") or (
            key.startswith("eln_state_dict.backbone.layer") and key.endswith(".bn2.weight")
        )
        value = (0.3 if last_norm else 1.0) * (1 + 0.1 * rng.standard_normal(shape))
    else:
        value = 0.1 * rng.standard_normal(shape)
    return value.astype(np.float32)


@functools.cache
def golden_checkpoint(seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """The weights as an official checkpoint holds them: {"enc_state_dict": {name: array}, ...}.

    Made once a process (1.5 s, 400 MB) and shared: copy before changing.
    """
    state: dict[str, dict[str, np.ndarray]] = {}
    for key, shape in golden_numbers()["shapes"].items():
        network, _, name = key.partition(".")
        state.setdefault(network, {})[name] = golden_value(key, tuple(shape), seed)
    return state


@functools.cache
def golden_official() -> Official:
    """The same weights in our layout, through the converter; shared as well."""
    return from_official(golden_checkpoint())


def golden_variables(network: str, which: str = "") -> dict:
    """{"params", "batch_stats"} to apply one network: student, eln, or aux_decoders and which."""
    trees = {kind: tree[network] for kind, tree in golden_official().variables.items()}
    return {kind: tree[which] for kind, tree in trees.items()} if which else trees
