"""Show a matrix: table for the terminal, and its files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from alchemi_bridge.ensembles.sweep import heatmap
from alchemi_bridge.ensembles.sweep.comparison import STATUSES
from alchemi_bridge.ensembles.sweep.html import page
from alchemi_bridge.ensembles.sweep.matrix import Matrix, write_csv, write_json
from alchemi_bridge.errors import ConfigurationError
from alchemi_bridge.model.files import replacing, write_atomically

#: Cells that are listed in the terminal; the files hold all.
MOST_LISTED = 20

_STYLES = {"passed": "green", "failed": "bold red", "error": "bold red", "skipped": "dim"}


def write(matrix: Matrix, data: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Write all files.

    Parameters
    ----------
    matrix
        What it is about.
    data
        Its document.
    folder
        Where to; files of an earlier sweep are overwritten.

    Returns
    -------
    dict
        Path of each file: ``html``, ``json``, ``csv`` and ``heatmap``.

    Raises
    ------
    ConfigurationError
        If one can not be written.
    """
    files = {name: folder / f"sweep.{name}" for name in ("html", "json", "csv")}
    files["heatmap"] = folder / "sweep-heatmap.png"
    try:
        write_json(data, files["json"])
        with replacing(files["csv"]) as partial:
            write_csv(matrix, partial)
        with replacing(files["heatmap"]) as partial:
            heatmap.plot(matrix, partial)
        write_atomically(files["html"], page(matrix, data, files["heatmap"]).encode())
    except OSError as error:
        raise ConfigurationError(
            "report of the sweep",
            expected="files that can be written",
            got=f"{error.strerror}: '{error.filename or folder}'",
            fix="make room, or move away what is there; the cells are kept, so that the same "
            "command writes the report at once",
        ) from error
    return files


def tables(matrix: Matrix, data: Mapping[str, Any]) -> list[Table]:
    """Counts by engine and model, and the worst of what is off."""
    made = Table(title="Sweep", title_justify="left", header_style="bold")
    made.add_column("", no_wrap=True)
    for status in STATUSES:
        made.add_column(status, justify="right")
    made.add_column("worst error / limit", justify="right")
    for what in ("engines", "models"):
        for number, group in enumerate(data[what], start=1):
            made.add_row(
                Text(group["name"]),
                *(_count(status, group["counts"][status]) for status in STATUSES),
                _number(group["worst_severity"]),
                end_section=number == len(data[what]),
            )
    bad = matrix.bad()
    if not bad:
        return [made]
    more = f" (the first {MOST_LISTED} of {len(bad)})" if len(bad) > MOST_LISTED else ""
    off = Table(title=f"Off{more}", title_justify="left", header_style="bold")
    for header in ("model", "structure", "engine", "status"):
        off.add_column(header, no_wrap=True)
    off.add_column("reason", overflow="fold")
    for row in bad[:MOST_LISTED]:
        names = (row.cell.model.name, row.cell.structure.name, row.cell.engine.name)
        reason = str(row.record.get("reason", ""))
        off.add_row(*map(Text, names), Text(row.status, _STYLES[row.status]), Text(reason))
    return [made, off]


def _count(status: str, number: int) -> Text:
    return Text(str(number), _STYLES[status] if number else "dim")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"
