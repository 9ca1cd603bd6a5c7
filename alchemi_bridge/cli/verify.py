"""``alchemi-bridge verify``: what OpenKIM calls verification checks, for any metatomic model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from alchemi_bridge.cli.console import (
    print_json,
    print_table,
    progress,
    stdout_console,
)
from alchemi_bridge.cli.options import (
    add_command,
    apply_threads,
    calculator_options,
    json_option,
    model_options,
)
from alchemi_bridge.errors import ConfigurationError

if TYPE_CHECKING:
    from ase import Atoms

    from alchemi_bridge.verify import Outcome, Report

EPILOG = """\
Without STRUCTURE, a crystal or random alloy is made from the model's atomic types.

A number beyond its tolerance is a failure, a warning (what many published models do, such as a
force that jumps at the cutoff) or only reported (an invariance that a model may lack by design).
Exit status: 0 nothing failed, 1 a check failed or ended in an error, 2 usage or bad input.
"""

_STYLES = {
    "pass": "green",
    "fail": "bold red",
    "error": "bold red",
    "warning": "yellow",
    "reported": "cyan",
    "not applicable": "dim",
}


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "verify",
        description="Check that a model is consistent, each check with its number.",
        parents=[model_options(optional=True), json_option()],
        epilog=EPILOG,
    )
    parser.add_argument(
        "structure",
        metavar="STRUCTURE",
        nargs="?",
        help="any file that ASE reads (default: made from the model's types)",
    )
    parser.add_argument(
        "--index", default="0", help="frame of the structure file (default: %(default)s)"
    )
    parser.add_argument(
        "--check",
        metavar="NAME",
        action="append",
        help="run only this check; may be repeated",
    )
    parser.add_argument("--list", action="store_true", help="list the checks and stop")
    parser.add_argument(
        "--seed", type=_seed, default=0, help="of all random choices (default: %(default)s)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; see the module's docstring for the exit status."""
    from alchemi_bridge.verify import select_checks, verify

    if args.list:
        _list_checks(args)
        return 0
    select_checks(args.check)
    if args.model is None:
        raise ConfigurationError(
            "MODEL", expected="a model file", got="none", fix="name one, or use --list"
        )
    apply_threads(args)
    report = verify(
        args.model,
        _structure(args),
        checks=args.check,
        seed=args.seed,
        progress=lambda checks: progress(checks, "verifying"),
        **calculator_options(args),
    )
    if args.json:
        print_json(report.as_dict())
    else:
        _print_report(report)
    return 0 if report.passed else 1


def _seed(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected an integer of zero or more, got '{text}'")
    return value


def _structure(args: argparse.Namespace) -> Atoms | None:
    if args.structure is None:
        return None
    from alchemi_bridge.engines.structure_files import read_structure

    return read_structure(args.structure, args.index)


def _list_checks(args: argparse.Namespace) -> None:
    from rich.table import Table

    from alchemi_bridge.verify import CHECKS

    checks = list(CHECKS.values())
    if args.json:
        rows = [
            {"name": one.name, "title": one.title, "beyond_tolerance": str(one.severity.value)}
            for one in checks
        ]
        print_json({"checks": rows})
        return
    table = Table("check", "what is checked", "beyond tolerance", box=None)
    for one in checks:
        table.add_row(one.name, one.title, str(one.severity.value))
    print_table(table)


def _print_report(report: Report) -> None:
    from rich.table import Table
    from rich.text import Text

    console = stdout_console()
    console.print(Text(f"{report.model}: {report.dtype} on {report.device}"))
    console.print(Text(f"structure: {report.structure}; seed {report.seed}"))
    table = Table("check", "status", "value", "tolerance", "unit", "s", box=None)
    for name in ("value", "tolerance", "s"):
        next(column for column in table.columns if column.header == name).justify = "right"
    for outcome in report.outcomes:
        status = str(outcome.status)
        table.add_row(
            outcome.name,
            Text(status, style=_STYLES[status]),
            _number(outcome.value),
            _number(outcome.tolerance),
            outcome.unit or "",
            f"{outcome.seconds:.1f}",
        )
    print_table(table, console)
    for outcome in report.outcomes:
        if str(outcome.status) != "pass":
            # the table has the numbers; what they mean needs a line of its own
            console.print(Text(_explanation(outcome), style=_STYLES[str(outcome.status)]))
    console.print(Text(_summary(report), style="green" if report.passed else "bold red"))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


def _explanation(outcome: Outcome) -> str:
    measures = [measure for measure in outcome.measures if measure.exceeded]
    numbers = "; ".join(f"{one.quantity} {one.value:.3g} {one.unit}" for one in measures)
    return f"{outcome.name}: {outcome.message}{f' [{numbers}]' if numbers else ''}"


def _summary(report: Report) -> str:
    counts: dict[str, int] = {}
    for outcome in report.outcomes:
        counts[str(outcome.status)] = counts.get(str(outcome.status), 0) + 1
    parts = ", ".join(f"{count} {status}" for status, count in counts.items())
    verdict = "passed" if report.passed else "failed"
    return f"verification {verdict}: {parts} ({report.seconds:.1f} s)"
