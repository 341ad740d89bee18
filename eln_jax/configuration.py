"""Loads, overrides and checks a configuration before any work: one clear sentence if it is wrong.

No accelerator library is imported here, so a mistyped flag is answered at once.
"""

import ast
import copy
import importlib.util
import inspect
import json
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from eln_jax.config_checks import check
from eln_jax.config_fields import TUPLES, field_names, get
from eln_jax.data.classes import ClassList
from eln_jax.data.doctor.checks import unused_ids
from eln_jax.data.doctor.faults import summary_lines
from eln_jax.data.labels import color_text
from eln_jax.defaults import default_config
from eln_jax.errors import UserError, did_you_mean
from eln_jax.training.opening import find_classes


def load(
    path: str, overrides: Sequence[tuple[str, str]] = (), *, needs_data: bool = True
) -> ConfigDict:
    """Loads a configuration file, applies overrides and checks the result.

    Args:
        path: a Python file with `get_config(variant="")`; "file.py:variant" passes the variant.
        overrides: pairs of a field's dotted name and its value as text.
        needs_data: it must say where the data set lies.

    Returns:
        The configuration, locked.

    Raises:
        UserError: the file, a field's name, its type or its value is wrong.
    """
    config = load_file(path)
    if isinstance(config, dict) and "arms" in config:
        raise UserError(
            f"{path} is the file of a study: give it to python -m eln_jax.study, with --output=DIR."
        )
    if not isinstance(config, ConfigDict):
        got = None if config is None else f"a {type(config).__name__}"
        raise UserError(f"{path}: get_config must return a ConfigDict; it returns {got}.")
    for name, text in overrides:
        _override(config, name, text)
    check(config, needs_data=needs_data)
    config.lock()
    return config


def read_json(
    path: Path, overrides: Sequence[tuple[str, str]] = (), *, needs_data: bool = False
) -> ConfigDict:
    """Reads the `config.json` of a run, applies overrides and checks the result.

    Args:
        path: the file.
        overrides: pairs of a field's dotted name and its value as text.
        needs_data: it must say where the data set lies, which a converted checkpoint does not.

    Raises:
        UserError: it is missing or damaged, has a field that this version does not know, or an
            override changes what the weights' shapes hang on.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give the --workdir of a training.") from error
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}).") from error
    config = default_config()
    _fill(config, values, path)
    trained = copy.deepcopy(config)
    for name, text in overrides:
        _override(config, name, text)
        shapes = name == "data.num_classes" or name.startswith("model.")
        if shapes and get(config, name) != get(trained, name):
            raise UserError(
                f"{name}={text} is not what the weights in {path.parent} were trained with "
                f"({get(trained, name)}): leave it as it is."
            )
    check(config, needs_data=needs_data)
    config.lock()
    return config


def _fill(block: Any, values: Any, path: Path, prefix: str = "") -> None:
    """Sets the fields of a block from plain values; fields that are not named keep the default."""
    if not isinstance(values, dict):
        raise UserError(f"{path}: damaged ({prefix or 'the whole'} should be a block of fields).")
    for name, value in values.items():
        if name not in block:
            raise UserError(
                f"{path} has the field {prefix}{name}, which this version of eln_jax does not know."
            )
        if isinstance(block[name], ConfigDict):
            _fill(block[name], value, path, f"{prefix}{name}.")
        else:
            try:
                block[name] = tuple(value) if isinstance(value, list) else value
            except TypeError as error:
                raise UserError(f"{path}: damaged ({prefix}{name} is {value!r}).") from error


def load_file(path: str) -> Any:
    """Returns what get_config(variant) of "FILE.py:variant" returns, unchecked.

    Raises:
        UserError: there is no such file, or running it fails.
    """
    name, _, variant = path.partition(":")
    file = Path(name)
    if not name:
        raise UserError(
            f"--config={path} names no file, as a variable of the shell that is not set."
        )
    if file.is_dir():
        inside = ", ".join(sorted(path.name for path in file.glob("*.py"))) or "none"
        raise UserError(f"{name} is a folder: give one of its .py files ({inside}).")
    if not file.is_file():
        nearby = sorted(str(p) for p in file.parent.glob("*.py")) if file.parent.is_dir() else []
        raise UserError(
            f"There is no configuration file {name}."
            + did_you_mean(name, nearby or sorted(str(p) for p in Path("configs").glob("*.py")))
        )
    spec = importlib.util.spec_from_file_location("eln_jax_config", file)
    if spec is None or spec.loader is None:
        raise UserError(f"{name} is not a Python file; a configuration is a .py file.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise UserError(f"{name} defines no get_config(variant=''); see configs/quickstart.py.")
        if not _takes_one_argument(module.get_config):
            raise UserError(
                f"{name}: get_config must be a function that takes the variant: write "
                "def get_config(variant=''), as in configs/quickstart.py."
            )
        return module.get_config(variant)
    except UserError:
        raise
    except Exception as error:  # whatever a person's own Python file may raise
        raise UserError(
            f"{name}{_line_in(file, error)}: {type(error).__name__}: {error}."
        ) from error


def _takes_one_argument(function: Any) -> bool:
    try:
        inspect.signature(function).bind("")
    except TypeError:  # also if it is no function
        return False
    return True


def _line_in(file: Path, error: Exception) -> str:
    """Returns ", line N" for the last line of the file that an exception passed through."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
    return f", line {lines[-1]}" if lines else ""


def _override(config: Any, name: str, text: str) -> None:
    """Sets one field from text, keeping its type."""
    *parents, last = name.split(".")
    block: Any = config
    for parent in parents:
        block = block.get(parent) if isinstance(block, ConfigDict) else None
    if not isinstance(block, ConfigDict) or last not in block:
        raise UserError(
            f"There is no field {name}." + did_you_mean(name, list(field_names(config)))
        )
    old = block[last]
    if isinstance(old, ConfigDict):
        inside = ", ".join(f"{name}.{field}" for field in old)
        raise UserError(f"{name} is a block of fields; set one of {inside}.")
    block[last] = _parse(name, text, old)


def _parse(name: str, text: str, old: Any) -> Any:
    if isinstance(old, str):
        return text
    if isinstance(old, bool):
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise UserError(f"{name}={text} must be true or false.")
    try:
        value = float(text) if isinstance(old, float) else ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError):
        value = None
        if isinstance(old, tuple) and TUPLES[name][0] is str:
            value = tuple(part.strip() for part in text.split(","))
    kinds = {
        int: "a whole number, such as 1",
        float: "a number, such as 0.5",
        tuple: 'a tuple, such as "(1, 2)"',
    }
    if isinstance(value, list):
        value = tuple(value)
    if type(value) is not type(old):
        raise UserError(f"{name}={text} must be {kinds[type(old)]}.")
    return value


def complete(config: Any, find: Callable[[Any], tuple[ClassList, str]] = find_classes) -> str:
    """Fills in what the data alone tells: a folder's classes (num_classes=0), the scenes' names.

    Args:
        config: the configuration.
        find: finds them, as `opening.find_classes` does.

    Returns:
        A sentence on the classes found, for the screen, and a second line if they are odd; empty if
        there was nothing to fill in.

    Raises:
        UserError: the folder, its list of classes or its masks cannot be used.
    """
    data = config.data
    if data.source == "synthetic" and not data.class_names:
        from eln_jax.data.synthetic import CLASS_NAMES

        with config.unlocked():
            data.class_names = CLASS_NAMES[: data.num_classes]
    if data.num_classes:
        return ""
    found, origin = find(data)
    with config.unlocked():
        set_classes(data, found)
    check(config)
    sentence = f"{len(found.names)} classes, {origin}: {', '.join(found.names)}."
    return "\n".join([sentence, *summary_lines(unused_ids(found), data.root)])


def set_classes(data: Any, found: ClassList) -> None:
    """Takes a list of classes over into the `data` block, which must not be locked."""
    data.classes = ""  # from now on the fields say it
    data.num_classes = len(found.names)
    data.class_names = found.names
    data.class_ids = () if found.ids == tuple(range(len(found.ids))) else found.ids
    data.class_colors = tuple(color_text(color) for color in found.colors)
    data.void_colors = tuple(color_text(color) for color in found.void_colors)
    data.void_labels = tuple(dict.fromkeys((*data.void_labels, *found.void_ids)))


def to_json(config: ConfigDict) -> str:
    """The configuration as stable, readable JSON, for `config.json` in a working directory."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"
