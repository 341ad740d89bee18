"""The report of an examination as JSON and as tables for the screen."""

import json

from rich.console import Console
from rich.table import Table
from rich.text import Text

from eln_jax.data.doctor import Report
from eln_jax.data.doctor_checks import PART_NAMES, PARTS
from eln_jax.data.faults import by_kind, shorten, summary_lines

_TONES = {"error": "bold red", "warning": "yellow", "note": "cyan"}
# Files that the screen names of each kind of fault.
_NAMED = 3


def to_json(report: Report) -> str:
    """Writes the report as JSON in ASCII: "counts", "sizes", "classes" and "faults"."""
    return json.dumps(report.to_dict(), indent=1) + "\n"


def parts_table(report: Report) -> Table:
    """Tabulates the number of images and their sizes by part."""
    table = Table(title="images", title_justify="left")
    table.add_column("part")
    for head in ("images", "width min/median/max", "height min/median/max"):
        table.add_column(head, justify="right")
    for part in PARTS:
        size = report.sizes[part]
        cells = [
            "/".join(f"{size[axis][key]:g}" for key in ("min", "median", "max")) if size else "-"
            for axis in ("width", "height")
        ]
        table.add_row(PART_NAMES[part], str(report.counts[part]), *cells)
    if report.counts["unused"]:
        table.add_row("not used", str(report.counts["unused"]), "", "")
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
