"""``alchemi-bridge doctor``: is everything here that is needed, and does it compute the truth?"""

from __future__ import annotations

import argparse
import contextlib
import io
from dataclasses import asdict
from typing import Any

from alchemi_bridge.cli import environment_plugins
from alchemi_bridge.cli.console import print_json, print_table, stdout_console
from alchemi_bridge.cli.options import add_command, json_option

EXIT_OK = 0
EXIT_OFF = 1

#: The case of the quick check: few atoms, a cell smaller than the cutoff.
PARITY_CASE = "small-cell"
#: Paths of the quick check: the answer, and the bridge on whatever devices there are.
PARITY_PATHS = ("oracle", "bridge-cpu", "bridge-cuda")

_EPILOG = """\
exit status: 0 healthy, 1 something is off: a package that is needed is missing, an installed one
can not be imported, MPI can not be initialised, or the parity run failed. A version outside the
accepted range is a warning; an optional package that is not installed is neither.
"""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "doctor",
        description="Check versions against the accepted range, devices, MPI and native code, and"
        " compare the bridge with an independent computation.",
        parents=[json_option()],
        epilog=_EPILOG,
    )
    parser.add_argument("--no-parity", action="store_true", help="leave the parity run out")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command (see the module's ``--help``)."""
    from alchemi_bridge import __version__
    from alchemi_bridge.cli import environment

    packages = environment.packages()
    mpi = environment.mpi()
    document: dict[str, Any] = {
        "alchemi_bridge": __version__,
        "packages": environment.as_documents(packages),
        "mpi": asdict(mpi),
        "native": environment.native(),
        "engines": environment_plugins.engine_libraries(),
    }
    problems = _package_problems(packages)
    works = (environment.OK, environment.UNTESTED)
    torch_works = any(p.name == "torch" and p.status in works for p in packages)
    if torch_works:
        document["devices"] = environment.devices()
    if torch_works:
        problems += [
            f"kernels for {kind}: {path['problem']}"
            for kind, path in _kernel_paths(document)
            if path["problem"]
        ]
    if mpi.error:
        problems.append(f"MPI can not be initialised: {mpi.error}")
    if not args.no_parity:
        document["parity"] = _parity()
        problems += document["parity"]["failures"]
    document["problems"] = problems
    document["warnings"] = _warnings(document)
    document["healthy"] = not problems
    if args.json:
        print_json(document)
    else:
        _print(document)
    return EXIT_OK if document["healthy"] else EXIT_OFF


def _package_problems(packages: list) -> list[str]:
    problems = []
    for package in packages:
        if package.status == "broken":
            problems.append(f"{package.name} can not be imported: {package.detail}")
        elif package.status == "missing" and package.extra is None:
            problems.append(f"{package.name} is not installed (needed: {package.accepted})")
    return problems


def _kernel_paths(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """What runs the hot path, for the types of devices that are there."""
    paths = document["native"]["paths"]
    there = (
        ["cpu", "cuda"] if document.get("devices", {}).get("cuda", {}).get("devices") else ["cpu"]
    )
    return [(kind, paths[kind]) for kind in there]


def _warnings(document: dict[str, Any]) -> list[str]:
    warnings = [
        f"{package['name']} {package['version']} is outside the accepted range"
        f" {package['accepted']}"
        for package in document["packages"]
        if package["status"] == "untested"
    ]
    mpi = document["mpi"]
    if mpi["mpi4py"] and not mpi["error"] and mpi["mpiexec"] is None:
        warnings.append("mpi4py is installed, but there is no mpiexec to start ranks with")
    gpus = document.get("devices", {}).get("cuda", {}).get("devices", [])
    for kind, path in document["native"]["paths"].items():
        there = kind == "cpu" or gpus
        if there and not (path["compiled"] or path["plain_torch_chosen"] or path["problem"]):
            warnings.append(
                f"no compiled kernels for {kind}, which is slower: {path['description']}"
            )
    warnings += environment_plugins.warnings(document["engines"])
    for gpu in gpus:
        if not gpu["supported_by_torch"]:
            warnings.append(
                f"this torch has no code for {gpu['name']} (capability {gpu['capability']})"
            )
    return warnings


def _parity() -> dict[str, Any]:
    """The quick check; that it can not be run at all is a failure like any other."""
    noise = io.StringIO()
    try:
        # libraries that print when they are loaded must not get between the lines of --json
        with contextlib.redirect_stdout(noise):
            report = _run_parity()
    except Exception as error:  # whatever is broken here is what the doctor is asked to find
        reason = " ".join(str(error).split())
        return {
            "case": PARITY_CASE,
            "passed": False,
            "paths": [],
            "failures": [f"the parity run failed: {type(error).__name__}: {reason}"],
        }
    case = report.cases[0]
    failures = [
        f"parity, case '{case.case.name}', path '{path.name}': {failure}"
        for path in case.paths
        for failure in path.failures
    ]
    if not report.passed and not failures:
        failures = [f"parity, case '{case.case.name}': fewer than two paths could run"]
    return {
        "case": case.case.name,
        "reference": case.reference,
        "passed": report.passed,
        "paths": [
            {"name": path.name, "passed": path.passed, "skipped": path.skipped}
            for path in case.paths
        ],
        "failures": failures,
        "seconds": round(report.seconds, 2),
    }


def _run_parity() -> Any:
    from alchemi_bridge.parity import cases, paths
    from alchemi_bridge.parity.run import Settings, run

    settings = Settings(repeats=3, seconds_per_case=0.2, warm_up=0)
    return run(cases.select([PARITY_CASE]), paths.select(PARITY_PATHS), settings)


_COLOURS = {"ok": "green", "untested": "yellow", "missing": "dim", "broken": "red"}


def _print(document: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    console = stdout_console()
    table = Table(title=f"alchemi-bridge {document['alchemi_bridge']}", title_justify="left")
    for column in ("package", "installed", "accepted", "needed for", "status"):
        table.add_column(column)
    for package in document["packages"]:
        status = package["status"]
        table.add_row(
            package["name"],
            package["version"] or "-",
            package["accepted"],
            f"[{package['extra']}]".replace("[", "\\[") if package["extra"] else "everything",
            f"[{_COLOURS[status]}]{status}[/]",
        )
    print_table(table, console)
    facts = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    facts.add_column(no_wrap=True, style="bold")
    facts.add_column(overflow="fold")
    for name, value in _facts(document):
        facts.add_row(name, escape(value))
    console.print()
    print_table(facts, console)
    console.print()
    for problem in document["problems"]:
        console.print(f"[red]problem[/] {escape(problem)}", soft_wrap=True)
    for warning in document["warnings"]:
        console.print(f"[yellow]warning[/] {escape(warning)}", soft_wrap=True)
    verdict = "[green]healthy[/]" if document["healthy"] else "[red]something is off[/]"
    console.print(verdict)


def _facts(document: dict[str, Any]) -> list[tuple[str, str]]:
    """Lines of the second table."""
    facts = []
    if "devices" in document:
        cpu, cuda = document["devices"]["cpu"], document["devices"]["cuda"]
        cores = f"{cpu['usable_cores'] or cpu['cores']} of {cpu['cores']} cores usable"
        facts.append(("CPU", f"{cores}, torch uses {cpu['torch_threads']} threads"))
        if not cuda["devices"]:
            built = cuda["torch_built_for"]
            reason = f"torch is built for CUDA {built}" if built else "torch is built for the CPU"
            facts.append(("CUDA", f"no device ({reason})"))
        for index, gpu in enumerate(cuda["devices"]):
            memory = f"{gpu['memory_gib']} GiB, capability {gpu['capability']}"
            facts.append((f"cuda:{index}", f"{gpu['name']}, {memory}"))
    mpi = document["mpi"]
    if mpi["mpi4py"] is None:
        facts.append(("MPI", "mpi4py is not installed"))
    else:
        facts.append(("MPI", mpi["error"] or f"{mpi['library']} (standard {mpi['standard']})"))
    facts.append(("mpiexec", mpi["mpiexec"] or "not found"))
    native = document["native"]
    for kind, path in native["paths"].items():
        facts.append((f"kernels ({kind})", path["description"]))
        if path["cache"]:
            facts.append(("", f"compiled into {path['cache']}"))
    facts.append(("C++ compiler", native["compiler"] or "not found"))
    facts.append(("NVRTC", native["nvrtc"] or f"not found ({native['nvrtc_error']})"))
    facts += environment_plugins.facts(document["engines"])
    if "parity" in document:
        parity = document["parity"]
        ran = [path["name"] for path in parity["paths"] if path["skipped"] is None]
        verdict = "passed" if parity["passed"] else "failed"
        facts.append(("parity", f"{verdict}: case {parity['case']}, {', '.join(ran)}"))
    return facts
