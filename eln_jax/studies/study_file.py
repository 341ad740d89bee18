"""A study's file: its fields, read and checked."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eln_jax import configuration
from eln_jax.errors import UserError, did_you_mean

_KEYS = {"config": str, "overrides": dict, "arms": dict, "seeds": tuple, "reference": str}


@dataclass(frozen=True)
class Study:
    """What a study's file says.

    Attributes:
        config: path of the configuration that all arms start from.
        overrides: dotted field name -> value, of all arms. In a text "{seed}" stands for the
            seed and "{root}" for data.root.
        arms: name -> its own overrides.
        seeds: of the initial weights, the data's order and, by "{seed}", of the partition.
        reference: the arm that others are compared with, seed by seed.
    """

    config: str
    overrides: Mapping[str, Any]
    arms: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...]
    reference: str


def load_study(path: str) -> Study:
    """Reads a study's file.

    Args:
        path: a Python file whose get_config(variant) returns the study's fields as a dictionary;
            "file.py:variant" passes the variant.

    Raises:
        UserError: the file, or a name in it, is wrong.
    """
    values = configuration.load_file(path)
    if not isinstance(values, dict) or not isinstance(values.get("arms"), dict):
        raise UserError(
            f"{path} is no study: its get_config() must return a dictionary with "
            f"{', '.join(_KEYS)}; see configs/study_camvid.py."
        )
    for name, kind in _KEYS.items():
        if not isinstance(values.get(name), kind) or not (values[name] or name == "overrides"):
            raise UserError(f"{path}: {name} must be a {kind.__name__} that is not empty.")
    for name in values.keys() - _KEYS.keys():
        raise UserError(f"{path}: a study has no {name!r}." + did_you_mean(name, _KEYS))
    study = Study(**values)
    for name, own in study.arms.items():
        named = isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9][\w.+-]*", name)
        if not named or name == "trunks":
            raise UserError(f"{path}: the arm {name!r} must be named so that a folder can be.")
        if not isinstance(own, dict):
            raise UserError(f"{path}: the arm {name} must be {{field: value}}, not {own!r}.")
    for fields in (study.overrides, *study.arms.values()):
        for name in fields:
            if not isinstance(name, str):
                raise UserError(f"{path}: {name!r} is no field's name, as 'method.gate' is.")
    if not all(isinstance(seed, int) and seed >= 0 for seed in study.seeds):
        raise UserError(f"{path}: seeds={study.seeds} must be whole numbers of 0 or more.")
    if study.reference not in study.arms:
        raise UserError(
            f"{path}: the reference {study.reference!r} is no arm; choose one of "
            f"{', '.join(study.arms)}."
        )
    return replace(study, config=str(Path(path.partition(":")[0]).parent / study.config))
