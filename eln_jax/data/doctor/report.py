"""What an examination found: its figures and faults, as JSON and as tables for the screen."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from eln_jax.data.doctor.faults import (
    PART_NAMES,
    PARTS,
    Fault,
    by_kind,
    shorten,
    summary_lines,
)

_TONES = {"error": "bold red", "warning": "yellow", "note": "cyan"}
# Files that the screen names of each kind of fault.
_NAMED = 3


@dataclasses.dataclass(frozen=True)
class Report:
    """What an examination found.

    Attributes:
      counts: Images by part, "labeled", "unlabeled" and "val"; "unused" ones of the training
        split; and "errors", "warnings" and "notes".
      sizes: By part, of "width" and "height" the "min", "median" and "max" in pixels; empty
        without images.
      classes: "labeled" and "val" have the share of the masks' pixels by class name, and "void";
        "images" has by part the number of masks with the class; "never_labeled" lists names.
      faults: What is wrong, the gravest first.
    """

    counts: dict[str, int]
    sizes: dict[str, dict[str, dict[str, float]]]
    classes: dict[str, Any]
    faults: tuple[Fault, ...]

    @property
    def exit_code(self) -> int:
        """1 if there are errors, else 0."""
        return 1 if self.counts["errors"] else 0

    def to_json(self) -> str:
        """Writes all of it as JSON in ASCII."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    def part_rows(self) -> list[tuple[str, str, str, str]]:
        """Returns of each part its name, its number of images, their widths and their heights.

        Widths and heights are smallest/median/largest in pixels, "-" without images.
        """
        rows = []
        for part in PARTS:
            size = self.sizes[part]
            width, height = (
                "/".join(f"{size[axis][key]:g}" for key in ("min", "median", "max"))
                if size
                else "-"
                for axis in ("width", "height")
            )
            rows.append((PART_NAMES[part], str(self.counts[part]), width, height))
        if self.counts["unused"]:
            rows.append(("not used", str(self.counts["unused"]), "-", "-"))
        return rows

    def count_words(self, severities: Sequence[str]) -> str:
        """Says how many faults there are of each severity, as "1 error, 2 warnings"."""
        numbers = ((self.counts[f"{severity}s"], severity) for severity in severities)
        return ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for count, word in numbers)


def parts_table(report: Report) -> Table:
    """Tabulates the number of images and their sizes by part."""
    table = Table(title="images", title_justify="left")
    table.add_column("part")
    for head in ("images", "width min/median/max", "height min/median/max"):
        table.add_column(head, justify="right")
    for row in report.part_rows():
        table.add_row(*row)
    return table


def classes_table(report: Report) -> Table:
    """Tabulates the classes' shares of the masks' pixels in percent; none is shown as "-"."""
    table = Table(title="pixels of the masks, %", title_justify="left")
    table.add_column("class")
    for part in ("labeled", "val"):
        table.add_column(PART_NAMES[part], justify="right")
    for name in report.classes["labeled"]:
        shares = [report.classes[part][name] for part in ("labeled", "val")]
        table.add_row(Text(name), *(f"{100 * share:.2f}" if share else "-" for share in shares))
    return table


def print_faults(report: Report, console: Console, root: str = "") -> None:
    """Prints the kinds of faults: a table on a terminal, else a line each.

    Args:
      report: What was found.
      console: Where to print.
      root: Folder that paths are shown below, to keep them short.
    """
    if console.is_terminal and report.faults:
        console.print(_faults_table(report, root))
        return
    for line in summary_lines(report.faults, root):
        console.print(line, markup=False, soft_wrap=True)


def _faults_table(report: Report, root: str) -> Table:
    table = Table(title="what was found", title_justify="left", show_lines=True)
    for head in ("", "fault", "files", "such as", "what to do"):
        table.add_column(head, justify="right" if head == "files" else "left", overflow="fold")
    for kind, group in by_kind(report.faults):
        lines = [
            f"{shorten(fault.file, root)}: {shorten(fault.detail, root)}"
            for fault in group[:_NAMED]
        ]
        if len(group) > _NAMED:
            lines.append(f"... {len(group) - _NAMED} more in the report")
        severity = group[0].severity
        table.add_row(
            Text(severity, style=_TONES[severity]),
            kind,
            str(len(group)),
            Text("\n".join(lines)),
            group[0].remedy,
        )
    return table
