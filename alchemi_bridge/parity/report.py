"""Show a report: table, JSON, CSV, plots, and one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import jinja2
from rich.table import Table
from rich.text import Text

from alchemi_bridge.parity.document import csv_rows, document, write_csv
from alchemi_bridge.parity.plots import plot_case, plot_margins, styles
from alchemi_bridge.parity.run import CaseReport, PathReport, Report

#: Path whose time the others are compared with.
PEER = "metatomic-ase"

#: Share of the processor below which a machine counts as busy: a single thread that nobody
#: disturbs has 0.97 and more.
BUSY = 0.85


def table(report: Report) -> Table:
    """The report as a table for the terminal."""
    made = Table(title="Parity", title_justify="left", header_style="bold")
    made.add_column("case", no_wrap=True)
    made.add_column("atoms", justify="right", no_wrap=True)
    made.add_column("path", no_wrap=True)
    for header in ("dE/atom\n[eV]", "dF max\n[eV/Å]", "dF rms\n[eV/Å]", "dVirial/atom\n[eV]"):
        made.add_column(Text(header), justify="right", no_wrap=True)
    made.add_column(Text("dE(i) max\n[eV]"), justify="right", no_wrap=True)
    made.add_column("ms/step", justify="right", no_wrap=True)
    made.add_column(Text(f"speed /\n{PEER}"), justify="right", no_wrap=True)
    made.add_column("verdict", overflow="fold")
    for case in report.cases:
        for number, path in enumerate(case.ran):
            first = number == 0
            made.add_row(
                Text(case.case.name if first else ""),
                str(len(case.frames[0])) if first else "",
                *_cells(case, path),
                end_section=number == len(case.ran) - 1,
            )
    for name, reason, where in _skipped(report):
        made.add_row(Text(where), "", name, *[""] * 7, Text(f"not run: {reason}", "dim"))
    return made


def _skipped(report: Report) -> list[tuple[str, str, str]]:
    """Paths that did not run: name, reason, and the cases it is about."""
    cases: dict[tuple[str, str], list[str]] = {}
    for case in report.cases:
        for path in case.paths:
            if path.skipped is not None:
                cases.setdefault((path.name, path.skipped), []).append(case.case.name)
    return [
        (name, reason, "all" if len(names) == len(report.cases) else ", ".join(names))
        for (name, reason), names in cases.items()
    ]


def _cells(case: CaseReport, path: PathReport) -> list[Text | str]:
    comparison = path.comparison
    numbers: list[str] = []
    if path.name == case.reference and path.passed:
        numbers = [""] * 5
    else:
        numbers.append(_number(comparison.energy_error_per_atom if comparison else None))
        for name in ("force_max", "force_rms", "virial_per_atom", "energies_max"):
            numbers.append(_number(comparison.error(name) if comparison else None))
    ms = f"{path.ms_per_step:.2f}" if path.ms_per_step is not None else "-"
    return [path.name, *numbers, ms, _speed(case, path), _verdict(case, path)]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _speed(case: CaseReport, path: PathReport) -> str:
    """How many times faster than the peer, in the same run."""
    peer = next((other for other in case.ran if other.name == PEER), None)
    if peer is None or path is peer or path.name == case.reference:
        return ""
    if not peer.ms_per_step or not path.ms_per_step:
        return ""
    return f"{peer.ms_per_step / path.ms_per_step:.2f}x"


def _verdict(case: CaseReport, path: PathReport) -> Text:
    if not path.passed:
        return Text("OFF: " + "; ".join(path.failures), "bold red")
    if path.name == case.reference:
        return Text("reference", "dim")
    return Text("ok", "green")


def summary(report: Report) -> str:
    """The outcome in one line."""
    compared = [(c, p) for c in report.cases for p in c.ran if p.name != c.reference]
    off = [f"{c.case.name}/{p.name}" for c in report.cases for p in c.ran if not p.passed]
    cases, comparisons = len(report.cases), len(compared)
    text = f"{cases} case{'s' * (cases != 1)}, {comparisons} comparison{'s' * (comparisons != 1)}"
    text += f" in {report.seconds:.0f} s: "
    return text + ("all within tolerance" if report.passed else f"OFF: {', '.join(off)}")


def busy(report: Report) -> str | None:
    """A word of warning where times were taken on a busy machine, else None."""
    if report.cpu_share is None or report.cpu_share > BUSY or report.settings.threads != 1:
        return None
    if any(path.name == "bridge-cuda" for case in report.cases for path in case.ran):
        return None  # waiting for a GPU is not what is meant
    return (
        f"the machine was busy: this process had a processor for {100 * report.cpu_share:.0f}% of "
        "the timed steps, so that times are too long and speeds uncertain"
    )


def write(report: Report, folder: Path) -> dict[str, Path]:
    """Write all files of a report.

    Parameters
    ----------
    report
        The report.
    folder
        Folder for the files; made if need be. Files of an earlier report there are overwritten.

    Returns
    -------
    dict
        ``html``, ``json``, ``csv``, ``margins`` and, for each case that could be drawn,
        ``plot:<case>``, with the file of each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = document(report)
    files = {name: folder / f"parity.{name}" for name in ("html", "json", "csv")}
    files["json"].write_text(json.dumps(data, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    write_csv(report, files["csv"])
    margins = folder / "parity-margins.png"
    if plot_margins(report, margins):
        files["margins"] = margins
    for case, stem in zip(report.cases, _stems(report), strict=True):
        image = folder / f"parity-{stem}.png"
        if plot_case(case, image, styles(report)):
            files[f"plot:{case.case.name}"] = image
    files["html"].write_text(_html(report, data, files), encoding="utf-8")
    return files


def _stems(report: Report) -> list[str]:
    """A file name for each case, whatever its structure file is called."""
    stems: list[str] = []
    for number, case in enumerate(report.cases):
        stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", case.case.name).strip("-.") or "case"
        stems.append(f"{stem}-{number}" if stem in stems else stem)
    return stems


def _html(report: Report, data: dict[str, Any], files: dict[str, Path]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("alchemi_bridge.parity", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    images = {name: _embedded(path) for name, path in files.items() if path.suffix == ".png"}
    template = environment.get_template("report.html.j2")
    return template.render(
        data=data,
        images=images,
        summary=summary(report),
        busy=busy(report),
        rows=list(csv_rows(report)),
        skipped=_skipped(report),
    )


def _embedded(image: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(image.read_bytes()).decode("ascii")
