"""A study's results as Markdown: means and deviations over seeds, and paired differences."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eln_jax.output import write_whole
from eln_jax.studies.detectors import COVERAGES
from eln_jax.studies.plots import DETECTOR_NAMES
from eln_jax.studies.results import (
    Spread,
    figure,
    final_mean_iou,
    gated_arms,
    over_seeds,
    paired,
)

TABLES = "results.md"
_CONTROL, _BASELINE = "logistic", "max_prob"
_DETECTION = {
    "auroc": "AUROC",
    "aupr": "AUPR of the wrong",
    "auroc_within_class": "AUROC within class",
    **{f"accuracy_at_{c}": f"right of best {c}%" for c in COVERAGES},
    "risk_coverage_area": "area under risk-coverage",
    "calibration_error": "calibration error",
}
_COMPARED = ("auroc", "aupr", "auroc_within_class")


def write(found: Mapping[str, Any], output: Path, command: str, plots: Sequence[Path]) -> Path:
    """Writes `results.md`.

    Args:
        found: of `results.collect`.
        output: the study's folder.
        command: what made the results.
        plots: pictures in the same folder.
    """
    seeds = ", ".join(str(seed) for seed in found["seeds"])
    parts = [
        "# Results of the study",
        f"`{command}`",
        f"Seeds {seeds}. Figures are percent on the validation images, mean \N{PLUS-MINUS SIGN} "
        "standard deviation over the seeds that are finished. A difference is taken seed by seed; "
        "where its mean is within twice its standard error, no difference is seen.",
        _segmentation(found),
        _pseudo_labels(found),
        *(_detectors(found, arm) for arm in found["detectors"]),
        *(f"![{path.stem.replace('_', ' ')}]({path.name})" for path in plots),
    ]
    path = output / TABLES
    write_whole(path, ("\n\n".join(filter(None, parts)) + "\n").encode())
    return path


def _segmentation(found: Mapping[str, Any]) -> str:
    arms, reference = found["arms"], found["reference"]
    if not arms:
        return "No arm is finished yet."
    head = ["arm", "labelled", "steps", "student", "teacher", "best", f"less {reference}", "seeds"]
    rows = []
    for name, arm in arms.items():
        seeds = arm["seeds"]
        networks = [over_seeds(seeds, figure(f"{n}/mean_iou")) for n in ("student", "teacher")]
        difference = ""
        if reference in arms and name != reference:
            difference = signed(paired(seeds, arms[reference]["seeds"], final_mean_iou))
        rows.append(
            [
                name + (" (reads the truth)" if _is_oracle(arm) else ""),
                str(arm["labeled"]),
                " + ".join(str(n) for n in arm["steps"].values() if n),
                *(percent(spread) for spread in networks),
                percent(over_seeds(seeds, lambda s: s["best"])),
                difference,
                str(len(seeds)),
            ]
        )
    note = ""
    if any(_is_oracle(arm) for arm in arms.values()):
        note = (
            "\n\n**The oracle reads the masks of the unlabelled images: its row is no "
            "semi-supervised result, only the ceiling of what a gate could give.**"
        )
    return "## Mean IoU\n\n" + table(head, rows) + note


def _is_oracle(arm: Mapping[str, Any]) -> bool:
    return arm["gate"] == "oracle"


def _pseudo_labels(found: Mapping[str, Any]) -> str:
    arms = gated_arms(found)
    if not arms:
        return ""
    parts = ["## Pseudo-labels at the end, on val"]
    head = ["arm", "all", *found["class_names"]]
    ends = ["", *(f"/{name}" for name in found["class_names"])]
    for title, part in (("Kept by the gate", "kept"), ("Right of those kept", "accuracy")):
        rows = []
        for name, arm in arms.items():
            each = [over_seeds(arm["seeds"], figure(f"pseudo_label/{part}{e}")) for e in ends]
            rows.append([name, *map(percent, each)])
        parts.append(f"{title}, by predicted class:\n\n" + table(head, rows))
    return "\n\n".join(parts)


def _detectors(found: Mapping[str, Any], arm: str) -> str:
    seeds = found["detectors"][arm]
    first = next(iter(seeds.values()))
    names = [n for n in DETECTOR_NAMES if f"{n}/auroc" in first["figures"]]

    rows = [
        [
            DETECTOR_NAMES[name],
            *(percent(over_seeds(seeds, figure(f"{name}/{each}"))) for each in _DETECTION),
        ]
        for name in names
    ]
    compared = [
        [DETECTOR_NAMES[name]]
        + [
            signed(paired(seeds, seeds, figure(f"{name}/{each}"), figure(f"{other}/{each}")))
            if name != other
            else ""
            for other in (_BASELINE, _CONTROL)
            for each in _COMPARED
        ]
        for name in names
    ]
    heads = [
        f"{_DETECTION[each]} less {DETECTOR_NAMES[other]}"
        for other in (_BASELINE, _CONTROL)
        for each in _COMPARED
    ]
    wrong = percent(over_seeds(seeds, lambda s: s["error_rate"]))
    images = first["fitted_to"]["images"]
    return (
        f"## Finding the student's wrong pixels, ELN of {arm}\n\n{wrong} % of the pixels are wrong "
        f"at step {first['step']}, the end of the ELN's phase. Calibrations are fitted to the "
        f"{images} labelled images.\n\n"
        + table(["detector", *_DETECTION.values()], rows)
        + "\n\nSeed by seed:\n\n"
        + table(["detector", *heads], compared)
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percent(spread: Spread) -> str:
    """A share as "53.1 ± 0.4", without the deviation for a single seed; "-" if undefined."""
    if math.isnan(spread.mean):
        return "-"
    text = f"{100 * spread.mean:.1f}"
    if not math.isnan(spread.deviation):
        text += f" \N{PLUS-MINUS SIGN} {100 * spread.deviation:.1f}"
    return text


def signed(spread: Spread) -> str:
    """A difference in points with its sign, and in words where the seeds do not tell it from 0."""
    if math.isnan(spread.mean):
        return "-"
    text = f"{100 * spread.mean:+.1f}".replace("-", "\N{MINUS SIGN}")
    if math.isnan(spread.deviation):
        return text
    text += f" \N{PLUS-MINUS SIGN} {100 * spread.deviation:.1f}"
    return text + (" (no difference seen)" if spread.is_noise else "")
