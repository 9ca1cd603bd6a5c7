"""``alchemi-bridge bench``: what a step costs, against metatomic-ase and the model alone."""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alchemi_bridge.cli.console import print_json, print_table, progress, stdout_console
from alchemi_bridge.cli.options import add_command, json_option, positive_integer
from alchemi_bridge.errors import ConfigurationError

if TYPE_CHECKING:
    from alchemi_bridge.bench import BenchRow, ConversionRow, Options

EPILOG = """\
All paths take turns on the same moving atoms, the peers in a process of their own, whose memory is
as their users have it; times are medians. Ratios are the
time of the other over that of the bridge: larger is better. "bridge" is the provider, as an engine
uses it; "ASE" is the bridge's ASE calculator against metatomic's.
"""

#: Peers, and what has to be installed for each.
PEERS = {
    "metatomic-ase": ("metatomic_ase",),
    "metatomic-torchsim": ("metatomic_torchsim", "torch_sim"),
}

CONVERSION_ATOMS = 100_000
QUICK_SECONDS, FULL_SECONDS = 1.5, 6.0
QUICK_REPEATS, FULL_REPEATS = 3, 7
QUICK_STEPS = 10


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "bench",
        description="Time steps of the bridge, of its peers, and of the model alone.",
        parents=[json_option()],
        epilog=EPILOG,
    )
    parser.add_argument("--quick", action="store_true", help="less of everything, in a minute")
    parser.add_argument("--workload", action="append", metavar="NAME", help="only this model")
    parser.add_argument(
        "--atoms", action="append", type=int, metavar="N", help="only this number of atoms"
    )
    parser.add_argument("--model", metavar="FILE", help="time this model instead")
    parser.add_argument("--structure", metavar="FILE", help="structure for --model")
    parser.add_argument("--device", default="cpu", help="torch device (default: %(default)s)")
    parser.add_argument(
        "--threads", type=int, default=1, help="torch threads (default: %(default)s)"
    )
    parser.add_argument(
        "--seconds", type=float, metavar="S", help="time for each model and number of atoms"
    )
    parser.add_argument(
        "--no-conversion", action="store_true", help="leave out the conversion of cluster lists"
    )
    parser.add_argument(
        "--mpi", action="store_true", help="time a net on more and more ranks instead"
    )
    parser.add_argument(
        "--ranks", action="append", type=positive_integer, metavar="N",
        help="with --mpi: how many ranks, besides one (default: 2)",
    )  # fmt: skip
    parser.add_argument("--output", metavar="DIR", help="write bench.json and bench.png there")
    parser.add_argument(
        "--record", metavar="DIR", help="write the JSON there, named after the device"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    import torch

    from alchemi_bridge.bench import Options, measure_conversion
    from alchemi_bridge.device import select_device

    if args.mpi:
        from alchemi_bridge.cli import bench_mpi

        return bench_mpi.run(args)
    device = select_device(["cpu", "cuda"], args.device)
    _check(args)
    seconds = args.seconds or (QUICK_SECONDS if args.quick else FULL_SECONDS)
    least = QUICK_STEPS if args.quick else Options.least_steps
    options = Options(device, args.threads, seconds, least_steps=least)
    rows = _measure(args, options)
    conversion: list[ConversionRow] = []
    if not (args.no_conversion or args.model):
        repeats = QUICK_REPEATS if args.quick else FULL_REPEATS
        before = torch.get_num_threads()
        torch.set_num_threads(args.threads)
        try:
            for _ in progress([CONVERSION_ATOMS], "converting a cluster list"):
                conversion.append(measure_conversion(CONVERSION_ATOMS, device, repeats))
        finally:
            torch.set_num_threads(before)
    document = _document(rows, conversion, args)
    _write(document, rows, args)
    if args.json:
        print_json(document)
    else:
        _print(rows, conversion)
    return 0


def _check(args: argparse.Namespace) -> None:
    if (args.model is None) != (args.structure is None):
        raise ConfigurationError(
            "--model and --structure",
            expected="both or none",
            got="only one",
            fix="name a model file and a structure for it",
        )
    for option, least in (("threads", 1), ("seconds", 0.0)):
        value = getattr(args, option)
        if value is not None and not least <= value < float("inf"):
            raise ConfigurationError(
                f"--{option}",
                expected=f"a number from {least:g}",
                got=str(value),
                fix="choose another",
            )


def _measure(args: argparse.Namespace, options: Options) -> list[BenchRow]:
    from alchemi_bridge.bench import WORKLOADS, Peers, measure
    from alchemi_bridge.bench.run import measure_structure

    if args.model is not None:
        import torch

        from alchemi_bridge.engines.structure_files import read_structure

        if options.threads is not None:
            torch.set_num_threads(options.threads)
        atoms = read_structure(args.structure, "0")
        with Peers(options.device, options.threads) as peers:
            return [
                measure_structure(Path(args.model).stem, Path(args.model), atoms, options, peers)
            ]
    known = {workload.name: workload for workload in WORKLOADS}
    names = args.workload or [w.name for w in WORKLOADS if w.quick or not args.quick]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigurationError(
            "--workload",
            expected=" or ".join(known),
            got=repr(unknown[0]),
            fix="choose one of these",
        )
    tasks = []
    for name in names:
        sizes = known[name].sizes if args.workload or not args.quick else known[name].quick
        chosen = [size for size in sizes if not args.atoms or size in args.atoms]
        tasks += [(known[name], size) for size in chosen]
    if not tasks:
        raise ConfigurationError(
            "--atoms",
            expected=f"one of {sorted({s for n in names for s in known[n].sizes})}",
            got=str(args.atoms),
            fix="choose a size that the models have",
        )
    rows: list[BenchRow] = []
    with Peers(options.device, options.threads) as peers:
        for workload, size in progress(tasks, "timing"):
            rows += measure(workload, [size], options, peers)
    return rows


def _document(
    rows: list[BenchRow], conversion: list[ConversionRow], args: argparse.Namespace
) -> dict[str, Any]:
    from alchemi_bridge.bench import WORKLOADS
    from alchemi_bridge.native import kernel_path
    from alchemi_bridge.parity.machine import machine, versions

    kind = args.device.partition(":")[0]
    return {
        "about": "ratios are the time of the other over that of the bridge: larger is better; "
        "results[].ms_per_step is the provider's, ase_ms_per_step that of the ASE calculator",
        "quick": bool(args.quick),
        "machine": machine(args.threads),
        "versions": versions(),
        "kernels": re.sub(r" \(/.*", "", kernel_path(kind).description),
        "peers": {name: _installed(name) for name in PEERS},
        "models": {w.name: w.description for w in WORKLOADS},
        "results": [row.as_dict() for row in rows],
        "conversion": [row.as_dict() for row in conversion],
    }


def _installed(peer: str) -> str:
    missing = [name for name in PEERS[peer] if importlib.util.find_spec(name) is None]
    return f"not installed ({', '.join(missing)})" if missing else "installed"


def _write(document: dict[str, Any], rows: list[BenchRow], args: argparse.Namespace) -> None:
    if args.output:
        from alchemi_bridge.bench.plot import plot_rows

        folder = Path(args.output)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "bench.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        plot_rows(rows, folder / "bench.png", _hardware(document, args))
    if args.record:
        folder = Path(args.record)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(document, indent=1) + "\n"
        (folder / _record_name(document, args)).write_text(text, encoding="utf-8")


def _record_name(document: dict[str, Any], args: argparse.Namespace) -> str:
    """After the hardware: ``nvidia-h100-80gb-hbm3.json``, ``amd-epyc-1-thread.json``."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", _hardware(document, args))
    return name.strip("-").lower() + ".json"


def _hardware(document: dict[str, Any], args: argparse.Namespace) -> str:
    kind, _, index = args.device.partition(":")
    if kind == "cuda":
        return str(document["machine"]["gpus"][int(index or 0)])
    return f"{document['machine']['cpu']}, {args.threads} thread{'s' if args.threads > 1 else ''}"


def _print(rows: list[BenchRow], conversion: list[ConversionRow]) -> None:
    from rich.table import Table

    console = stdout_console()
    columns = ("model", "atoms", "ms per step", "metatomic-ase", "ratio", "ASE", "ratio",
               "over the model", "ms", "searches", "mode")  # fmt: skip
    table = Table(*columns, box=None)
    for row in rows:
        peer = row.paths.get("metatomic-ase")
        table.add_row(
            row.model,
            str(row.atoms),
            f"{row.ms_per_step:.3g}",
            f"{peer.median:.3g}" if peer else "not installed",
            _ratio(row.ratio_to_metatomic_ase),
            f"{row.ase_ms_per_step:.3g}",
            _ratio(row.ase_ratio_to_metatomic_ase),
            f"{row.overhead_over_model:+.0%}",
            f"{row.bridge_ms:.3g}",
            f"{row.searches} of {row.steps}",
            row.mode,
        )
    print_table(table)
    for one in conversion:
        console.print(
            f"conversion of a cluster list, {one.atoms} atoms, {one.pairs} pairs: {one.ms:.0f} ms; "
            f"key, sort and dedup {one.ms_sort_dedup:.0f} ms ({one.ratio_to_sort_dedup:.2f} x),"
            f" these alone {one.ms_sort_alone:.0f} ms ({one.ratio_to_sort_alone:.2f} x), "
            f"all in torch {one.ms_torch:.0f} ms ({one.ratio_to_torch:.2f} x), "
            f"vesin from scratch {one.ms_vesin:.0f} ms ({one.ratio_to_vesin:.2f} x); "
            f"copying the {one.megabytes:.0f} MB takes {one.ms_floor:.3g} ms"
        )


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
