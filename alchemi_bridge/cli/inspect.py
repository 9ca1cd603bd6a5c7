"""``alchemi-bridge inspect``: what a model file is, and what the model in it needs and gives."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from alchemi_bridge.cli.console import print_json, print_table, printable, stdout_console
from alchemi_bridge.cli.options import add_command, add_file_options, json_option
from alchemi_bridge.errors import UntrustedModelError

if TYPE_CHECKING:
    from alchemi_bridge.model import LoadedModel
    from alchemi_bridge.model.trust import ModelRecords

_EPILOG = """\
The records of the file are read and checked first. Loading a model runs its code: with
--records-only nothing is loaded, and only what the records say is shown.
"""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "inspect",
        description="Show what a metatomic model file is: outputs, units, cutoffs, inputs, hash.",
        parents=[json_option()],
        epilog=_EPILOG,
    )
    parser.add_argument("model", metavar="MODEL", help="metatomic model file (.pt)")
    parser.add_argument(
        "--records-only", action="store_true", help="show what the file says; do not load the model"
    )
    add_file_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command (see the module's ``--help``)."""
    from alchemi_bridge.model.trust import read_records

    if args.records_only:
        records = read_records(args.model)
        _check_pin(records, args.sha256)
        document = describe_records(records)
    else:
        from alchemi_bridge.model import load_model

        loaded = load_model(args.model, extensions_directory=args.extensions, sha256=args.sha256)
        assert loaded.records is not None  # it came from a file
        document = describe_records(loaded.records) | describe_model(loaded)
    if args.json:
        print_json(document)
    else:
        _print(document)
    return 0


def describe_records(records: ModelRecords) -> dict[str, Any]:
    """What the records of the file say, as a JSON document."""
    metadata = records.model_metadata

    def libraries(entries: Any) -> list[dict[str, str]]:
        return [{"name": e.name, "path": e.path, "sha256": e.sha256} for e in entries]

    return {
        "file": {
            "path": str(records.path),
            "size_bytes": records.size,
            "sha256": records.sha256,
            "torch_version": records.torch_version,
            "metatomic_version": records.metatomic_version,
            "export": records.export_metadata,
        },
        "metadata": {
            key: metadata.get(key, empty)
            for key, empty in (
                ("name", ""),
                ("description", ""),
                ("authors", []),
                ("references", {}),
                ("extra", {}),
            )
        },
        "extensions": libraries(records.extensions),
        "extension_dependencies": libraries(records.extension_dependencies),
        "differentiates_internally": records.differentiates_internally,
    }


def describe_model(loaded: LoadedModel) -> dict[str, Any]:
    """What the loaded model says, as a JSON document; lengths also in Å."""
    from ase.data import chemical_symbols

    from alchemi_bridge.units import conversion_factor

    capabilities = loaded.capabilities
    to_angstrom = conversion_factor(loaded.length_unit, "angstrom")
    types = sorted(loaded.atomic_types)
    reach = loaded.interaction_range
    finite = math.isfinite(reach)
    return {
        "dtype": capabilities.dtype,
        "devices": list(capabilities.supported_devices),
        "length_unit": loaded.length_unit,
        "energy_unit": loaded.energy_unit,
        "atomic_types": types,
        "symbols": [chemical_symbols[t] if 0 < t < len(chemical_symbols) else "" for t in types],
        # null: atoms influence each other at any distance
        "interaction_range": reach if finite else None,
        "interaction_range_angstrom": reach * to_angstrom if finite else None,
        "neighbor_lists": [
            {
                "cutoff": float(request.cutoff),
                "cutoff_angstrom": float(request.cutoff) * to_angstrom,
                "full_list": bool(request.full_list),
                "strict": bool(request.strict),
                "requestors": list(request.requestors()),
            }
            for request in loaded.requests
        ],
        "outputs": [
            {
                "name": name,
                "quantity": name.partition("/")[0],
                "variant": name.partition("/")[2] or None,
                "unit": output.unit,
                "per": output.sample_kind,
                "explicit_gradients": list(output.explicit_gradients),
                "description": output.description,
            }
            for name, output in sorted(capabilities.outputs.items())
        ],
        "inputs": [
            {"name": name, "unit": output.unit, "per": output.sample_kind}
            for name, output in sorted(loaded.requested_inputs.items())
        ],
    }


def _check_pin(records: ModelRecords, sha256: str | None) -> None:
    if sha256 is not None and sha256.strip().lower() != records.sha256:
        raise UntrustedModelError(
            f"model file '{records.path}'",
            expected=f"the pinned file, SHA-256 {sha256}",
            got=f"SHA-256 {records.sha256}",
            fix="get the file that the hash was taken of, or check where the hash comes from",
        )


def _print(document: dict[str, Any]) -> None:
    from rich.table import Table

    console = stdout_console()
    facts = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    facts.add_column(no_wrap=True, style="bold")
    facts.add_column(overflow="fold")
    for name, value in _facts(document):
        facts.add_row(printable(name), printable(value))
    print_table(facts, console)
    if "outputs" not in document:
        return
    lists = Table(title="neighbour lists", title_justify="left")
    for column in ("cutoff (Å)", "kind", "strict", "requested by"):
        lists.add_column(column)
    for request in document["neighbor_lists"]:
        lists.add_row(
            f"{request['cutoff_angstrom']:g}",
            "full" if request["full_list"] else "half",
            "yes" if request["strict"] else "no",
            printable(", ".join(request["requestors"])),
        )
    outputs = Table(title="outputs", title_justify="left")
    for column in ("name", "unit", "per", "explicit gradients", "description"):
        outputs.add_column(column)
    for output in document["outputs"]:
        gradients = ", ".join(output["explicit_gradients"])
        words = (output["name"], output["unit"], output["per"], gradients, output["description"])
        outputs.add_row(*map(printable, words))
    inputs = Table(title="required inputs", title_justify="left")
    for column in ("name", "unit", "per"):
        inputs.add_column(column)
    for entry in document["inputs"]:
        inputs.add_row(*map(printable, (entry["name"], entry["unit"], entry["per"])))
    for table in (lists, outputs, inputs):
        if table.row_count:
            console.print()
            print_table(table, console)


def _entries(value: Any) -> list[str]:
    """A list of texts, whatever the file has in that place."""
    return [str(entry) for entry in value] if isinstance(value, list) else [str(value)]


def _facts(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Lines of the first table."""
    file, metadata = document["file"], document["metadata"]
    yield "file", file["path"]
    yield "size", f"{file['size_bytes']:,} bytes"
    yield "SHA-256", file["sha256"]
    versions = f"torch {file['torch_version']}, metatomic {file['metatomic_version']}"
    yield "exported with", ", ".join([versions, *(str(v) for v in file["export"].values())])
    for key in ("name", "description"):
        if metadata[key]:
            yield key, str(metadata[key])
    if metadata["authors"]:
        yield "authors", ", ".join(_entries(metadata["authors"]))
    references = metadata["references"]
    if not isinstance(references, dict):
        references = {"?": references}
    for kind, entries in references.items():
        for entry in _entries(entries):
            yield f"reference ({kind})", entry
    for key, what in (
        ("extensions", "extension"),
        ("extension_dependencies", "needed by extensions"),
    ):
        for library in document[key]:
            yield what, f"{library['name']} ({library['path']}, SHA-256 {library['sha256'] or '?'})"
    if not document["extensions"]:
        yield "extensions", "none"
    if "outputs" not in document:
        return
    yield (
        "types",
        ", ".join(
            f"{symbol} ({number})" if symbol else str(number)
            for number, symbol in zip(document["atomic_types"], document["symbols"], strict=True)
        ),
    )
    yield "dtype", document["dtype"]
    yield "devices", ", ".join(document["devices"])
    yield "units", f"length {document['length_unit']}, energy {document['energy_unit']}"
    reach = document["interaction_range_angstrom"]
    yield "interaction range", "infinite" if reach is None else f"{reach:g} Å"
