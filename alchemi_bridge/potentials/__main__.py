"""``python -m alchemi_bridge.potentials lennard-jones argon.pt``: write a potential as a file.

Options of the potential follow as ``name=value``, values as in Python: ``truncation=none``,
``types=[18]``, ``cutoff=7.5``.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from typing import Any

from alchemi_bridge.errors import BridgeError, ConfigurationError
from alchemi_bridge.potentials import NAMES, export


def main(arguments: Sequence[str]) -> int:
    """Export, and say what went wrong; the exit status."""
    try:
        if len(arguments) < 2:
            raise ConfigurationError(
                "arguments",
                expected="NAME FILE [option=value ...]",
                got=" ".join(arguments) or "none",
                fix=f"name one of {', '.join(NAMES)}, and a file, usually *.pt",
            )
        name, file, *options = arguments
        export(name, file, **dict(_option(text) for text in options))
    except BridgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigurationError(
            "option", expected="name=value", got=repr(text), fix="write cutoff=7.5, for example"
        )
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):  # a word: quotes would not survive a shell
        return name, value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
