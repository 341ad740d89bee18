"""A study's plots: mean IoU by arm, risk over coverage by detector, kept labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from eln_jax.evaluation.curves import BLUE, FAINT, GREEN, GRID, INK, ORANGE, PINK, SKY
from eln_jax.studies.results import figure, final_mean_iou, gated_arms, over_seeds, paired

DETECTOR_NAMES = {
    "max_prob": "maximum probability",
    "entropy": "entropy",
    "margin": "margin",
    "temperature": "temperature-scaled",
    "class_confidence": "calibrated per class",
    "logistic": "logistic control",
    "eln": "ELN",
    "logistic_eln": "control with the ELN",
}
_COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, "#e69f00", "#5b5f97", "#a31621", INK, FAINT)
_DASHES = ("-", "--", ":")
_MARKERS = ("o", "s", "^")
_LEGEND_COLUMNS = 5  # at most; fewer where names are long
_ALIKE = 1e-4  # share of pixels; nobody sees curves apart that are closer


def draw(found: Mapping[str, Any], output: Path) -> list[Path]:
    """Draws what there are results of.

    Args:
        found: of `results.collect`.
        output: folder for the PNGs.

    Returns:
        Those that were drawn.
    """
    drawn = []
    if found["arms"]:
        drawn.append(_mean_iou(found["arms"], found["reference"], output / "mean_iou_by_arm.png"))
    if found["detectors"]:
        drawn.append(_risk_coverage(found["detectors"], output / "risk_coverage.png"))
    gated = gated_arms(found)
    if gated:
        drawn.append(_kept(gated, found["class_names"], output / "pseudo_labels.png"))
    return drawn


def _mean_iou(arms: Mapping[str, Any], reference: str, path: Path) -> Path:
    """Curves from where the arms part, and below what each has gained over the reference."""
    names = arm_labels(arms)
    looks = {name: _look(number) for number, name in enumerate(arms)}
    first = _third_phase(arms)
    gained = {name: _gained(arm, arms.get(reference)) for name, arm in arms.items()}
    gained = {name: values for name, values in gained.items() if values and name != reference}
    picture, (above, *below) = _figure(1 + bool(gained), (9.5, 5.4 + 3.6 * bool(gained)))
    for name, arm in arms.items():
        curves = [np.array(s["curve"], float).reshape(-1, 2) for s in arm["seeds"].values()]
        steps = sorted(set.intersection(*({float(x) for x in c[:, 0]} for c in curves)))
        steps = [step for step in steps if step >= first]
        if not steps:
            continue
        values = np.array([[c[c[:, 0] == step, 1][-1] for step in steps] for c in curves])
        colour, dash, marker = looks[name]
        mean, label = 100 * values.mean(0), names[name]
        above.plot(steps, mean, dash, color=colour, marker=marker, markersize=3.5, label=label)
        if len(values) > 1:
            above.plot(steps, 100 * values.T, dash, color=colour, linewidth=0.8, alpha=0.25)
    _style(above, "Mean IoU on val, %; teacher once there is one (thin: each seed)", "step")
    for axes in below:
        for place, (name, values) in enumerate(gained.items()):
            colour, _, marker = looks[name]
            axes.plot([place] * len(values), values, marker, color=colour, markersize=5, alpha=0.6)
            axes.plot(place, np.mean(values), "_", color=colour, markersize=22, markeredgewidth=2.5)
        axes.axhline(0, color=FAINT, linewidth=0.8)
        title = f"Mean IoU at the end less {reference}, points (dots: each seed; line: mean)"
        _style(axes, title, "")
        axes.set_xticks(range(len(gained)), list(gained), rotation=25, ha="right")
    return _save(picture, above, path)


def _third_phase(arms: Mapping[str, Any]) -> int:
    """The step at which it begins, where it does first; 0 where no arm has one."""
    steps = [arm["steps"] for arm in arms.values()]
    begins = [sum(s.values()) - s["semi_supervised"] for s in steps if s.get("semi_supervised")]
    return min(begins, default=0)


def _gained(arm: Mapping[str, Any], reference: Mapping[str, Any] | None) -> list[float]:
    """The arm's final mean IoU less the reference's, seed by seed, in points."""
    if reference is None:
        return []
    spread = paired(arm["seeds"], reference["seeds"], final_mean_iou)
    return [100 * value for value in spread.values]


def _risk_coverage(detectors: Mapping[str, Any], path: Path) -> Path:
    picture, (axes,) = _figure(1, (9.5, 5.6))
    arms = arm_labels({arm: {"seeds": seeds} for arm, seeds in detectors.items()})
    of_prediction: dict[str, np.ndarray] = {}
    number = 0
    for arm, seeds in detectors.items():
        first = next(iter(seeds.values()))["risk_coverage"]
        for name, title in DETECTOR_NAMES.items():
            if name not in first:
                continue
            risk = np.mean([s["risk_coverage"][name] for s in seeds.values()], axis=0)
            label = title
            if "eln" not in name:
                # Of the prediction alone: the same beside every ELN of the same network.
                known = of_prediction.setdefault(name, risk)
                if known is not risk and np.allclose(known, risk, atol=_ALIKE):
                    continue
                label = title if known is risk else f"{title}, {arms[arm]}"
            elif len(detectors) > 1:
                label = f"{title}, {arms[arm]}"
            colour, dash, _ = _look(number)
            coverage = 100 * np.array(first["coverage"])
            axes.plot(coverage, 100 * risk, dash, color=colour, label=label)
            number += 1
    _style(axes, "Wrong pixels among those kept, %", "pixels kept, best-scored first, %")
    return _save(picture, axes, path)


def _kept(arms: Mapping[str, Any], class_names: Sequence[str], path: Path) -> Path:
    picture, both = _figure(2, (11.5, 7.5))
    places = np.arange(len(class_names) + 1)
    titles = {"kept": "Pseudo-labels kept on val, %", "accuracy": "Right of those kept, %"}
    names = arm_labels(arms)
    ends = ("", *(f"/{name}" for name in class_names))
    for axes, (part, title) in zip(both, titles.items(), strict=True):
        for number, (name, arm) in enumerate(arms.items()):
            spreads = [over_seeds(arm["seeds"], figure(f"pseudo_label/{part}{e}")) for e in ends]
            means = [100 * spread.mean for spread in spreads]
            shift = 0.6 * (number / max(1, len(arms) - 1) - 0.5)
            colour, _, marker = _look(number)
            axes.plot(places + shift, means, marker, color=colour, markersize=5, label=names[name])
        _style(axes, title, "")
        axes.set_xticks(places, ["all", *class_names], rotation=30, ha="right")
    return _save(picture, both[-1], path)


def arm_labels(arms: Mapping[str, Any]) -> dict[str, str]:
    """Arm -> its name, with its seeds where it has not all that others have: means then differ."""
    seeds = {name: sorted(arm["seeds"], key=int) for name, arm in arms.items()}
    most = {seed for own in seeds.values() for seed in own}
    return {
        name: name if set(own) == most else f"{name} (seed{'s'[: len(own) > 1]} {', '.join(own)})"
        for name, own in seeds.items()
    }


class _Look(NamedTuple):
    colour: str
    dash: str
    marker: str


def _look(number: int) -> _Look:
    """Dash and marker change when the colours are used up."""
    turns, index = divmod(number, len(_COLOURS))
    return _Look(_COLOURS[index], _DASHES[turns % len(_DASHES)], _MARKERS[turns % len(_MARKERS)])


def _figure(rows: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    picture = Figure(figsize=size, dpi=120, facecolor="white", layout="constrained")
    FigureCanvasAgg(picture)
    return picture, list(picture.subplots(rows, 1, squeeze=False)[:, 0])


def _style(axes: Axes, title: str, across: str) -> None:
    axes.set_title(title, loc="left", fontsize=12, color=INK, fontweight="bold")
    axes.set_xlabel(across, color=FAINT, fontsize=9)
    axes.tick_params(colors=FAINT, labelsize=9, length=0)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _save(picture: Figure, axes: Axes, path: Path) -> Path:
    handles, labels = axes.get_legend_handles_labels()
    place = "outside lower left"
    for columns in range(_LEGEND_COLUMNS, 0, -1):
        legend = picture.legend(
            handles, labels, loc=place, ncols=columns, fontsize=8.5, frameon=False
        )
        picture.draw_without_rendering()
        if columns == 1 or legend.get_window_extent().x1 <= picture.bbox.x1:
            break
        legend.remove()
    picture.savefig(path, format="png")
    return path
