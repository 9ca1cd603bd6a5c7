"""What the code and the pickles of a TorchScript archive refer to; read as text, never executed.

TorchScript code can not run Python. But some of torch's and metatomic's operators reach outside of
the model: they write files, map files into memory, or load shared libraries
(``aten::save``, ``aten::from_file``, ``metatomic::load_model_extensions`` and others, listed with
``torch._C._jit_get_all_schemas()``). An atomistic model needs none of them, and with them the check
of the library paths would be worth nothing: the model's code could load any library itself. So
code that calls them is refused.

The pickles of an archive are read by torch's own C++ unpickler, which knows a short list of
builders and resolves every other name to a class of the archive's own code
(``torch/csrc/jit/serialization/unpickler.cpp``); it never imports Python modules. They are compared
with that list all the same, so that a file made for Python's unpickler does not get through.
"""

from __future__ import annotations

import ast
import pickletools
import re
import threading
import warnings

from alchemi_bridge.errors import ModelLoadError, UntrustedModelError

_NO_FILES = {
    "save": "writes files",
    "from_file": "maps files into memory, and can change them",
    "load_model_extensions": "loads shared libraries",
    "check_atomistic_model": "reads other files",
    "load": "reads other files",
    "load_block": "reads other files",
    "load_labels": "reads other files",
    "load_system": "reads other files",
    "load_tensor": "reads other files",
    "read_model_metadata": "reads other files",
}
# methods of any value: TorchScript lets every operator be called as a method of its first argument
_NO_METHODS = ("save", "from_file", "load_model_extensions")
_NAMESPACES = ("torch", "ops", "aten")
_GRADIENTS = ("grad", "backward")

_WORDS = re.compile(r"\.\s*(" + "|".join(_NO_FILES) + r")\b|\bgetattr\s*\(\s*(torch|ops|aten)\b")
_GRADIENT_WORDS = re.compile(r"\.\s*(grad|backward)\s*\(")

_BUILDERS = {
    "builtins": {"complex"},
    "collections": {"OrderedDict"},
    "torch": {"device", "Size", "Tensor"},
    "torch._tensor": {"_rebuild_from_type_v2"},
    "torch._utils": {"_rebuild_parameter", "_rebuild_tensor_v2", "_rebuild_qtensor"}
    | {"_rebuild_sparse_tensor"},
    "torch.jit._pickle": {
        "build_boollist",
        "build_doublelist",
        "build_intlist",
        "build_tensor_from_id",
        "build_tensorlist",
        "restore_type_tag",
    },
}
_TORCH_ENUM = re.compile(r"\w+Storage|per_(tensor|channel)_\w+")
_OWN_CLASS = re.compile(r"__torch__(\.\w+)*", re.ASCII)
# other ways of a pickle to name something; torch writes none of them
_NO_OPCODES = {
    *("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"),
    *("PERSID", "NEXT_BUFFER", "READONLY_BUFFER"),
}


_PARSING = threading.Lock()


def check_source(record: str, source: str) -> bool:
    """Check one file of TorchScript code; return whether it computes gradients itself.

    Parameters
    ----------
    record
        How messages name the file.
    source
        TorchScript code as ``torch.jit.save`` writes it: a subset of Python.

    Raises
    ------
    UntrustedModelError
        If the code calls an operator that reaches outside of the model, or does not say which.
    """
    try:
        # neither the parser (CPython 3.11: SystemError) nor the filter of warnings likes company
        with _PARSING, warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(source)
        nodes = list(ast.walk(tree))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return _scan_words(record, source)

    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    within = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    found = False
    for node in nodes:
        if isinstance(node, ast.Attribute):
            is_call = id(node) in called
            root = _root(node)
            if node.attr in _NO_FILES and (
                root in _NAMESPACES or (is_call and node.attr in _NO_METHODS)
            ):
                raise _reaches_out(record, node.attr)
            if root in _NAMESPACES and not is_call and id(node) not in within:
                raise _hidden(record, f"'{ast.unparse(node)}' that is not called")
            found |= is_call and node.attr in _GRADIENTS
        elif isinstance(node, ast.Name):
            loaded = isinstance(node.ctx, ast.Load) and id(node) not in within
            if loaded and node.id in _NAMESPACES:
                raise _hidden(record, f"the name '{node.id}' on its own")
        elif isinstance(node, ast.Call) and _is_getattr(node):
            _check_getattr(record, node)
    return found


def _root(node: ast.Attribute) -> str:
    value: ast.expr = node
    while isinstance(value, ast.Attribute):
        value = value.value
    return value.id if isinstance(value, ast.Name) else ""


def _is_getattr(node: ast.Call) -> bool:
    return isinstance(node.func, ast.Name) and node.func.id == "getattr"


def _check_getattr(record: str, node: ast.Call) -> None:
    # how torch spells an attribute whose name is no identifier, for example getattr(self, "0")
    name = node.args[1] if len(node.args) == 2 else None
    if not isinstance(name, ast.Constant) or not isinstance(name.value, str):
        raise _hidden(record, f"'{ast.unparse(node)}'")
    if name.value in _NO_METHODS:
        raise _reaches_out(record, name.value)


def _scan_words(record: str, source: str) -> bool:
    """The same for code that Python can not parse, from words alone: stricter, never laxer."""
    match = _WORDS.search(source)
    if match is not None:
        raise _reaches_out(record, match.group(1) or match.group(0))
    if re.search(r"=\s*(torch|ops|aten)\s*$", source, re.MULTILINE) or "\\x" in source:
        raise _hidden(record, "code that can not be parsed")
    return _GRADIENT_WORDS.search(source) is not None


def _reaches_out(record: str, name: str) -> UntrustedModelError:
    return UntrustedModelError(
        record,
        expected="code that computes, and touches no files or libraries",
        got=f"a call of '{name}', which {_NO_FILES.get(name, 'reaches outside of the model')}",
        fix="do not load this file, or export the model again without that call",
    )


def _hidden(record: str, got: str) -> UntrustedModelError:
    return UntrustedModelError(
        record,
        expected="code as torch.jit.save writes it, in which every operator is named where it is "
        "called",
        got=got,
        fix="do not load this file, or export the model again",
    )


def check_pickle(record: str, data: bytes) -> None:
    """Check that a pickle names only what torch's own unpickler builds; nothing is unpickled.

    Raises
    ------
    ModelLoadError
        If this is not a complete pickle.
    UntrustedModelError
        If it names anything else, or by other means than torch does.
    """
    end: int | None = 0
    try:
        for opcode, argument, at in pickletools.genops(data):
            end = at
            if opcode.name in _NO_OPCODES:
                raise _foreign_global(record, f"a reference by {opcode.name} ({argument!r})")
            if opcode.name == "GLOBAL":
                module, _, name = str(argument).partition(" ")
                if not _is_known(module, name):
                    raise _foreign_global(record, f"a reference to '{module}.{name}'")
    except (ValueError, UnicodeDecodeError, IndexError, OverflowError) as error:
        raise ModelLoadError(
            record,
            expected="a complete pickle, as torch.jit.save writes it",
            got=f"malformed data ({error})",
            fix="copy or download the file again, or export the model again",
        ) from error
    if end != len(data) - 1:
        raise _foreign_global(record, "bytes after the end of the pickle")


def _is_known(module: str, name: str) -> bool:
    if _OWN_CLASS.fullmatch(module):
        return re.fullmatch(r"\w+", name, re.ASCII) is not None
    if module == "torch" and _TORCH_ENUM.fullmatch(name):
        return True
    return name in _BUILDERS.get(module, ())


def _foreign_global(record: str, got: str) -> UntrustedModelError:
    return UntrustedModelError(
        record,
        expected="a pickle of tensors, plain values and TorchScript objects",
        got=got,
        fix="do not load this file; get it from its author again, or export the model again",
    )
