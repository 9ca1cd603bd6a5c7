"""``alchemi-bridge fit``: fit parameters of a model to averages, or to energies and forces."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from alchemi_bridge.cli.console import print_json, print_table, progress, stdout_console
from alchemi_bridge.cli.options import (
    add_command,
    apply_threads,
    check_threads,
    json_option,
    positive_integer,
)

_EPILOG = """\
CONFIG is a TOML file; files in it are relative to its folder:

    model = "argon.pt"                # any metatomic model
    steps = 40

    [parameters]                      # also: start = {NAME = NUMBER}, bounds = {NAME = [LOW, HIGH]}
    names = ["epsilon", "sigma"]      # names or patterns of parameters
    scale = "log"                     # "linear" or "log" (relative changes), or by name

    [[simulators]]                    # ase, lammps or nvalchemi; count = 4 or temperatures = [...]
    name = "liquid"                   # for several
    engine = "ase"
    structure = "liquid.xyz"
    temperature = 94.4                # K
    timestep = 10.0                   # fs
    steps = 2000
    equilibration = 500
    every = 20

    [[objectives]]                    # rdf, density, mean-energy, energy-force, or several averages
    name = "liquid-argon"             # in "reweighted"
    kind = "reweighted"
    simulators = ["liquid"]
    [[objectives.targets]]
    kind = "rdf"
    file = "rdf.csv"                  # columns r (Å) and g
    scale = 0.2
    [[objectives.targets]]
    kind = "mean-energy"              # eV per atom
    value = -0.0290
    scale = 0.002

    [optimizer]                       # adam, rmsprop or sgd; rates = {NAME = RATE}
    method = "adam"
    rate = 0.02
    decay = 0.95

    [executor]                        # in-process, or ray with address, init_options, runtime_env
    kind = "in-process"

Resources are said in [hints] (num_cpus, num_gpus, mem_mb, max_retries, custom), and in a table
'hints' of a simulator or an objective. Written are fitted.pt, fit.csv (a row for each step),
fit.png and fit.json. --restart goes on with parameters and optimiser of the last step;
trajectories are simulated anew. Only steps, [executor] and [hints] may differ from before.
Patterns fit no buffers (statistics, tables): these are named in full.
"""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "fit",
        description="Fit parameters of a model to averages of simulations (DiffTRe), or to "
        "energies and forces.",
        parents=[json_option()],
        epilog=_EPILOG,
    )
    parser.add_argument("config", metavar="CONFIG", help="what to fit, and to what (TOML)")
    parser.add_argument(
        "--output", metavar="DIR", default="fit", help="where files go (default: fit)"
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--restart", action="store_true", help="go on from the last step in the output folder"
    )
    start.add_argument("--force", action="store_true", help="overwrite a fit that is there")
    parser.add_argument(
        "--ray-address",
        metavar="ADDRESS",
        help="work on this Ray: 'local' for a new one on this machine, 'auto', HOST:PORT or "
        "ray://HOST:PORT (default: as CONFIG says)",
    )
    parser.add_argument("--threads", metavar="N", type=positive_integer, help="threads of torch")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command (see the module's ``--help``)."""
    check_threads(args)
    from alchemi_bridge.ensembles.fit.problem import read_fit
    from alchemi_bridge.ensembles.fit.run import Fit

    apply_threads(args)
    problem = read_fit(args.config, ray_address=args.ray_address)
    fit = Fit(problem, Path(args.output), restart=args.restart, force=args.force)
    with fit:
        left = problem.n_steps - fit.optimizer.steps_done
        for _ in progress(fit.steps(), "fitting", total=max(left, 0)):
            pass
        report = fit.finish()
    if args.json:
        print_json(report)
    else:
        _print(report)
    return 0


def _print(report: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("parameter", "start", "fitted", "change"):
        table.add_column(title, justify="left" if title == "parameter" else "right", no_wrap=True)
    for name, fitted in report["fitted"].items():
        start = report["start"][name]
        change = f"{100.0 * (fitted / start - 1.0):+.2f} %" if start else ""
        table.add_row(name, f"{start:.6g}", f"{fitted:.6g}", change)
    print_table(table, stdout_console())
    facts = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    facts.add_column(no_wrap=True, style="bold")
    facts.add_column(overflow="fold")
    if report["last"]:
        facts.add_row("loss", f"{report['last']['loss']:.6g}")
    facts.add_row("steps", f"{report['steps']} ({report['simulations']} simulations)")
    facts.add_row("time", f"{report['seconds']:.1f} s")
    for name, path in report["files"].items():
        facts.add_row(name, path)
    print_table(facts, stdout_console())
