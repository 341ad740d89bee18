"""Gathers what a folder holds of a run or an evaluation, and writes `report.html` into it."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from eln_jax import __version__
from eln_jax.defaults import default_config
from eln_jax.errors import StorageError
from eln_jax.evaluation import findings
from eln_jax.evaluation.curves import read_metrics
from eln_jax.evaluation.findings import Findings
from eln_jax.evaluation.kept_classes import advice
from eln_jax.evaluation.report import Subject, make_report
from eln_jax.output import write_whole
from eln_jax.training.gate_fitting import ORACLE_WORDS
from eln_jax.training.logging import duration
from eln_jax.training.trained_model import TrainedModel, class_palette
from eln_jax.training.validation import LAST_EVALUATION
from eln_jax.training.workdir import changed_fields

REPORT = "report.html"
SUPERVISED_ONLY = "supervised_only"  # folder in the workdir, of the run to compare with


def report_or_reason(write: Callable[[], Path]) -> str:
    """Writes a report; returns where it lies, or why there is none.

    The results are on the disk by then: whatever is wrong with the page must not cost them.

    Raises:
        StorageError: `write` has said so.
    """
    try:
        return str(write())
    except StorageError:
        raise
    except Exception as error:
        return f"not written ({type(error).__name__}: {error}); all other results are in place"


def write_run_report(workdir: Path, config: Any, config_json: str) -> Path:
    """Writes the report of a finished run from what its folder holds, reading no data.

    Args:
        workdir: the run's folder, with the run to compare with in `supervised_only` if the
            configuration asks for one.
        config: of the run.
        config_json: the same as JSON.

    Returns:
        The file.
    """
    summary = _read_summary(workdir)
    alone = None
    if config.compare_supervised:
        alone = _read_summary(workdir / SUPERVISED_ONLY)
    words = (
        f"{summary['labeled']} labelled, {summary['unlabeled']} unlabelled, {summary['val']} "
        f"validation images; {summary['last']['step']} steps of {config.model.encoder}"
    )
    facts = [("time of training", _unbroken(duration(summary["seconds"])))]
    if alone:
        words_alone = _unbroken(duration(alone["seconds"]))
        facts.append(("time of training, supervised only", words_alone))
    if config.method.gate == "oracle":
        facts.append(("ORACLE", ORACLE_WORDS))
    facts += [
        ("memory of the host at most", f"{summary['peak_memory_bytes'] / 1e9:.1f} GB"),
        ("devices", _counted(summary["devices"])),
        *((name, summary[name]) for name in ("eln_jax", "jax", "python") if name in summary),
    ]
    return _write(
        workdir,
        f"Training: {workdir.absolute().name}",
        _subject(workdir, summary),
        _subject(workdir / SUPERVISED_ONLY, alone) if alone else None,
        words=words,
        time=duration(summary["seconds"]),
        class_names=summary["class_names"],
        palette=class_palette(config.data),
        facts=facts,
        config_json=config_json,
    )


def write_evaluation_report(
    output: Path,
    folder: Path,
    model: TrainedModel,
    seconds: float,
    config_json: str,
) -> Path:
    """Writes the report of an evaluation from what `findings` left.

    The supervised-only run of the model's folder is compared with if it was judged on the same
    images in the same way.

    Args:
        output: where the evaluation was written.
        folder: of the model.
        model: that was judged.
        seconds: how long the evaluation took.
        config_json: the evaluation's configuration.

    Returns:
        The file.
    """
    found = findings.read(output)
    assert found is not None  # written by the caller
    head = found.metrics
    alone = findings.read(folder / SUPERVISED_ONLY / LAST_EVALUATION)
    if alone is not None and not _comparable(found, alone):
        alone = None
    return _write(
        output,
        f"Evaluation: {folder.absolute().name}",
        _evaluated(found, folder),
        _evaluated(alone, folder / SUPERVISED_ONLY) if alone else None,
        words=f"{model.description}; {head['images']} images ({head['split']}) "
        f"{_in_words(head['views'])}",
        time=duration(seconds),
        class_names=model.class_names,
        palette=model.palette,
        facts=[
            ("time of the evaluation", _unbroken(duration(seconds))),
            ("devices", _counted([device.device_kind for device in jax.devices()])),
            ("eln_jax", __version__),
            ("jax", jax.__version__),
        ],
        config_json=config_json,
    )


def _write(folder: Path, title: str, subject: Subject, alone: Subject | None, **rest: Any) -> Path:
    path = folder / REPORT
    defaults = json.loads(json.dumps(default_config().to_dict()))  # with lists, as JSON has them
    config = json.loads(rest["config_json"])
    html = make_report(
        title,
        subject,
        alone,
        advice=advice(subject.figures, config["method"]),
        changes=changed_fields(defaults, config),
        **rest,
    )
    write_whole(path, html.encode())
    return path


def _read_summary(workdir: Path) -> dict[str, Any]:
    return json.loads((workdir / "summary.json").read_text(encoding="utf-8"))


def _subject(workdir: Path, summary: Mapping[str, Any]) -> Subject:
    found = findings.read(workdir / LAST_EVALUATION)
    if found is not None and found.metrics["step"] != summary["last"]["step"]:
        found = None  # of another run that once had this folder
    return Subject(summary["last"], found, _history(workdir))


def _evaluated(found: Findings, run: Path) -> Subject:
    """An evaluation, with its figures by the keys of `metrics.jsonl`."""
    values = found.metrics
    network = values["network"]
    named = {f"{network}/{k}": v for k, v in values.items() if k == "mean_iou" or k[:4] == "iou/"}
    return Subject({**values, **named}, found, _history(run))


def _comparable(found: Findings, alone: Findings) -> bool:
    same = all(found.metrics[key] == alone.metrics[key] for key in ("split", "views"))
    return same and found.thumbnails.keys() == alone.thumbnails.keys()


def _history(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    return read_metrics(path) if path.is_file() else []


def _in_words(views: Mapping[str, Any]) -> str:
    """How images were looked at, from the header of an evaluation."""
    words = ["warped to the crop size" if views["protocol"] == "warp" else "at original size"]
    if views["scales"] != [1.0]:
        words.append("at scales " + ", ".join(f"{scale:g}" for scale in views["scales"]))
    if views["flip"]:
        words.append("with the mirror image")
    if views["window"]:
        words.append("in windows of {} x {} pixels".format(*views["window"]))
    return ", ".join(words)


def _counted(kinds: list[str]) -> str:
    return ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))


def _unbroken(words: str) -> str:
    """The same on one line, however narrow the page."""
    return words.replace(" ", "\N{NO-BREAK SPACE}")
