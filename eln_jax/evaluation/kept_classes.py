"""Which classes a gate loses, that is, of whose pseudo-labels it keeps hardly any, and what helps.

A threshold can keep nine tenths of a background and nothing of classes that are often wrong
(docs/results.md); the mean over all pixels does not show it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

KEPT, RIGHT = "pseudo_label/kept", "pseudo_label/accuracy"
_LOST_BELOW = 0.1  # of the pixels predicted as a class
_LISTED = 6


def rejects(figures: Mapping[str, Any]) -> bool:
    """Whether there is a gate that does not keep everything."""
    kept = figures.get(KEPT)
    return kept is not None and kept < 1


def lost_classes(figures: Mapping[str, Any]) -> list[str]:
    """Names of the classes of whose pseudo-labels less than a tenth is kept.

    Args:
        figures: with `pseudo_label/kept/CLASS`; nan or None where no pixel is predicted as CLASS.
    """
    start = f"{KEPT}/"
    return [
        key.removeprefix(start)
        for key, kept in figures.items()
        if key.startswith(start) and kept is not None and kept < _LOST_BELOW
    ]


def lost_words(figures: Mapping[str, Any]) -> str:
    """Such as "less than 10 % kept of pole and sign"; "" if no class is lost."""
    lost = lost_classes(figures)
    return f"less than {100 * _LOST_BELOW:g} % kept of {_listed(lost)}" if lost else ""


def advice(figures: Mapping[str, Any], method: Mapping[str, Any]) -> str:
    """Says which classes are lost, and what may help; "" if none is.

    Args:
        figures: as for `lost_classes`.
        method: the block of the configuration.
    """
    words = lost_words(figures)
    if not words:
        return ""
    words = f"Of the pixels predicted as a class: {words}."
    # The oracle takes no other mode; "soft" rejects nothing, the modes by class heed each already.
    if method["gate"] != "oracle" and method["gate_mode"] in ("threshold", "quantile"):
        words += (
            " If their IoU falls, method.gate_mode=class_floor or class_quantile keeps a share of "
            "each class."
        )
    return words


def _listed(names: Sequence[str]) -> str:
    """Up to seven names, or the first six and how many more there are."""
    if len(names) > _LISTED + 1:
        return f"{', '.join(names[:_LISTED])} and {len(names) - _LISTED} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
