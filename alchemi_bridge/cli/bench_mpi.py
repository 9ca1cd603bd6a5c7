"""``alchemi-bridge bench --mpi``: the same model on more and more ranks."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from alchemi_bridge.cli.console import print_json, print_table, progress, stdout_console
from alchemi_bridge.errors import ConfigurationError, EvaluationError

#: Seconds for one number of ranks.
PATIENCE = 1200.0


def run(args: argparse.Namespace) -> int:
    """Measure, compare with the model of the scaling, write."""
    from alchemi_bridge.bench.ranks import RanksRow
    from alchemi_bridge.bench.scaling import plot_scaling, predict
    from alchemi_bridge.parity.machine import machine, versions

    numbers = sorted({1, *(args.ranks or [2])})
    rows: list[RanksRow] = []
    for n_ranks in progress(numbers, "ranks"):
        rows += [RanksRow(**row) for row in _measured(n_ranks, args.quick)]
    alone = {row.model: row for row in rows if row.ranks == 1}
    results: list[dict[str, Any]] = []
    for row in rows:
        one = alone[row.model]
        found = predict(one, row.ranks)
        results.append({
            **row.as_dict(),
            "rows_over_serial": row.rows / one.rows / row.ranks,
            "predicted_time_over_serial": found.time,
            "predicted_crowded": found.time * row.crowded_serial_ms / row.serial_ms,
            "predicted_halo_per_rank": found.halo * row.atoms / row.ranks,
        })  # fmt: skip
    hardware = machine(1)
    document = {
        "about": "one torch thread for each rank; time_over_serial: 1/ranks would be ideal, "
        "rows_over_serial is what the numbers of pairs allow; crowded: every rank makes a serial "
        "step of its own at the same time, so that they share cores and memory, and nothing else; "
        "predicted_crowded: the prediction for cores and memory as busy as that",
        "machine": hardware,
        "versions": versions(),
        "results": results,
    }
    for folder in filter(None, (args.output, args.record)):
        Path(folder).mkdir(parents=True, exist_ok=True)
        stem = "bench-ranks" if folder == args.output else _stem(hardware["cpu"])
        text = json.dumps(document, indent=1) + "\n"
        (Path(folder) / f"{stem}.json").write_text(text, encoding="utf-8")
    if args.output:
        title = f"{hardware['cpu']}, {hardware['cores']} cores"
        plot_scaling(rows, Path(args.output) / "bench-ranks.png", title, hardware["cores"])
    if args.json:
        print_json(document)
    else:
        _print(results)
    return 0


def _stem(cpu: str) -> str:
    return "-".join(cpu.lower().split()) + "-ranks"


def _measured(n_ranks: int, quick: bool) -> list[dict[str, Any]]:
    from alchemi_bridge.domain.ranks import environment_of_one, mpi, mpiexec

    mpi()  # says what is missing
    launcher = mpiexec()
    if launcher is None:
        raise ConfigurationError(
            "mpiexec", expected="a launcher for ranks", got="none", fix="install MPICH or Open MPI"
        )
    sizes = ["--atoms", "3000", "--steps", "6"] if quick else []
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "rows.json"
        worker = [sys.executable, "-m", "alchemi_bridge.bench.ranks", str(output), *sizes]
        try:
            done = subprocess.run(
                [launcher, "-n", str(n_ranks), *worker],
                env={**environment_of_one(), "OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
                check=False,
                timeout=PATIENCE,
            )
        except subprocess.TimeoutExpired as error:
            raise _failed(n_ranks, f"nothing after {error.timeout:g} s") from error
        if done.returncode != 0 or not output.exists():
            said = (done.stderr + done.stdout).strip().splitlines()
            raise _failed(n_ranks, " / ".join(said[-5:]) or "no message")
        found: list[dict[str, Any]] = json.loads(output.read_text(encoding="utf-8"))
        return found


def _failed(n_ranks: int, said: str) -> EvaluationError:
    return EvaluationError(
        f"{n_ranks} ranks", expected="times", got=said, fix="try a run of mpiexec by hand"
    )


def _print(results: list[dict[str, Any]]) -> None:
    from rich.table import Table

    columns = ("model", "ranks", "ms per step", "over serial", "predicted", "same, crowded",
               "by pairs", "crowd", "exchange", "halo", "predicted", "kB per step")  # fmt: skip
    table = Table(*columns, box=None)
    for row in results:
        table.add_row(
            row["model"],
            str(row["ranks"]),
            f"{row['ms_per_step']:.3g}",
            f"{row['time_over_serial']:.3f}",
            f"{row['predicted_time_over_serial']:.3f}",
            f"{row['predicted_crowded']:.3f}",
            f"{row['rows_over_serial']:.3f}",
            f"{row['crowded_serial_ms'] / row['serial_ms']:.2f}",
            f"{row['exchange_share']:.1%}",
            f"{row['halo'] / row['ranks']:.0f}",
            f"{row['predicted_halo_per_rank']:.0f}",
            f"{row['bytes_per_step'] / 1e3:.0f}",
        )
    print_table(table)
    stdout_console().print(
        "one torch thread for each rank; crowd: what a serial step costs when all ranks make one "
        "of their own at the same time"
    )
