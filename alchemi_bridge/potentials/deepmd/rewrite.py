"""Frozen models made to load where DeePMD-kit's C++ operators are not registered.

Where its library is there, DeePMD-kit scripts calls of these operators into every model, also into
those that never run them: tables of compressed models, and messages between the ranks of LAMMPS.
torch refuses to load code that names an operator it does not know. Here such calls are replaced in
the text of the code; a model that would run them is recognised afterwards, by its tables.

The masks of excluded types, which the files hold as plain tensors, are declared as buffers, so that
they follow the model to another device.
"""

from __future__ import annotations

import ast
import io
import re
import warnings
import zipfile
from collections.abc import Mapping

from alchemi_bridge.errors import ModelLoadError
from alchemi_bridge.model.script import check_source

# run by compressed models only, and between the ranks of DeePMD-kit's own plugin for LAMMPS only;
# all of them return lists of tensors
_DISPENSABLE = re.compile(r"tabulate_fusion_\w+|border_op")
_LIBRARY = re.compile(r"\bops\.(\w+)\.(\w+)")
_TORCHS_OWN = ("prim", "aten")
_CLASS = re.compile(r"^class \w+\(Module\):\n(?:  .*\n)*", re.MULTILINE)
_MASK = re.compile(r"^  type_mask : Tensor\n", re.MULTILINE)
_BUFFERS = re.compile(r"^  __buffers__ = \[(.*)\]\n", re.MULTILINE)


def rewrite(data: bytes, code: Mapping[str, str], label: str) -> tuple[bytes, tuple[str, ...]]:
    """Replace calls of DeePMD-kit's operators, and declare masks as buffers.

    Parameters
    ----------
    data
        The whole file, checked.
    code
        Its TorchScript sources by the names of their records.
    label
        How messages name the file.

    Returns
    -------
    data, operators
        The new file, and the names of the operators that were replaced.

    Raises
    ------
    ModelLoadError
        If the code needs operators of another library, or can not be parsed.
    UntrustedModelError
        If the new code touches files; see :func:`alchemi_bridge.model.script.check_source`.
    """
    operators: set[str] = set()
    changed: dict[str, str] = {}
    for record, source in code.items():
        found = {(library, name) for library, name in _LIBRARY.findall(source)}
        foreign = {library for library, _ in found} - {*_TORCHS_OWN, "deepmd"}
        if foreign:
            raise ModelLoadError(
                f"{label}, record {record!r}",
                expected="operators of torch, or of DeePMD-kit's own library",
                got=f"operators of {', '.join(sorted(foreign))}",
                fix="freeze the model without what brings them in",
            )
        own = {name for library, name in found if library == "deepmd"}
        needed = sorted(name for name in own if _DISPENSABLE.fullmatch(name) is None)
        if needed:
            raise ModelLoadError(
                f"{label}, record {record!r}",
                expected="no operators of DeePMD-kit but those of compressed models and of ranks",
                got=f"operators {', '.join(needed)}",
                fix="freeze the model where deepmd-kit is installed without its C++ library for "
                "torch",
            )
        new = _without_operators(source, f"{label}, record {record!r}") if own else source
        new = _with_buffers(new)
        operators |= own
        if new != source:
            # what is loaded is the new text
            check_source(f"{label}, record {record!r}, rewritten", new)
            changed[record] = new
    return (_replaced(data, changed) if changed else data), tuple(sorted(operators))


def _without_operators(source: str, what: str) -> str:
    """Each call becomes an empty list, of which no model that is taken ever asks an item."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ModelLoadError(
            what,
            expected="code in which the calls of DeePMD-kit's C++ operators can be found",
            got=f"code that can not be parsed ({error})",
            fix="freeze the model where deepmd-kit is installed without its C++ library for torch",
        ) from error
    lines = source.encode().splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    text = source.encode()
    spans: list[tuple[int, int]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and _is_operator(node.value):
            value = node.value
            assert value.end_lineno is not None
            assert value.end_col_offset is not None
            begin = starts[value.lineno - 1] + value.col_offset
            end = starts[value.end_lineno - 1] + value.end_col_offset
            # TorchScript writes an item of a list with brackets, and of a tensor as torch.select
            if re.search(rf"\b{re.escape(ast.unparse(node.targets[0]))}\[", source):
                spans.append((begin, end))
    for begin, end in sorted(spans, reverse=True):
        text = text[:begin] + b"annotate(List[Tensor], [])" + text[end:]
    result = text.decode()
    if "ops.deepmd." in result:
        raise ModelLoadError(
            what,
            expected="results of DeePMD-kit's C++ operators that are lists in a variable",
            got="a call in another place",
            fix="freeze the model where deepmd-kit is installed without its C++ library for torch",
        )
    return result


def _is_operator(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func).startswith("ops.deepmd.")


def _with_buffers(source: str) -> str:
    def declared(found: re.Match[str]) -> str:
        body = found.group(0)
        buffers = _BUFFERS.search(body)
        if _MASK.search(body) is None or buffers is None or '"type_mask"' in buffers.group(1):
            return body
        line = f'  __buffers__ = [{buffers.group(1)}"type_mask", ]\n'
        return body[: buffers.start()] + line + body[buffers.end() :]

    return _CLASS.sub(declared, source)


def _replaced(data: bytes, changed: Mapping[str, str]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            # positions in the old text
            if info.filename.removesuffix(".debug_pkl") in changed and info.filename not in changed:
                continue
            content = old.read(info)
            if info.filename in changed:
                content = changed[info.filename].encode()
            new.writestr(zipfile.ZipInfo(info.filename), content)
    return target.getvalue()
