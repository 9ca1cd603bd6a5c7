"""The matrix as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jinja2

from alchemi_bridge.ensembles.sweep.comparison import STATUSES
from alchemi_bridge.ensembles.sweep.matrix import Matrix, Row

#: What is off is listed up to here; the table below holds all cells.
MOST_LISTED = 200


def page(matrix: Matrix, data: Mapping[str, Any], picture: Path) -> str:
    """The page.

    Parameters
    ----------
    matrix
        What it is about.
    data
        The matrix' document.
    picture
        The heat map, a PNG file.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("alchemi_bridge.ensembles.sweep", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    bad = matrix.bad()
    image = base64.b64encode(picture.read_bytes()).decode("ascii")
    return environment.get_template("sweep.html.j2").render(
        data=data,
        summary=matrix.summary(),
        image=f"data:image/png;base64,{image}",
        bad=bad[:MOST_LISTED],
        bad_count=len(bad),
        statuses=STATUSES,
        table=_table(matrix),
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _table(matrix: Matrix) -> dict[str, Any]:
    """All cells, names and reasons by number: tens of thousands are some hundred kilobytes."""
    plan = matrix.plan
    reasons: dict[str, int] = {}
    places = {
        "model": _places(one.name for one in plan.models),
        "structure": _places(one.name for one in plan.structures),
        "engine": _places(one.name for one in plan.engines),
    }

    def cell(row: Row) -> list[Any]:
        severity = row.severity
        return [
            *(places[what][getattr(row.cell, what).name] for what in places),
            STATUSES.index(row.status),
            None if severity is None else float(f"{severity:.2e}"),
            reasons.setdefault(str(row.record.get("reason", "")), len(reasons)),
        ]

    cells = [cell(row) for row in matrix.rows]
    return {
        "models": list(places["model"]),
        "structures": list(places["structure"]),
        "engines": list(places["engine"]),
        "statuses": list(STATUSES),
        "reasons": list(reasons),
        "cells": cells,
    }


def _places(names: Iterable[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(names)}
