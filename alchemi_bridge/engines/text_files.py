"""Text files that users write, and what can go wrong when they are opened."""

from __future__ import annotations

from pathlib import Path

from alchemi_bridge.errors import StructureFileError


def content_of(path: Path, what: str) -> str:
    """The whole text.

    Raises
    ------
    StructureFileError
        If there is no such file, or it is no text in UTF-8.
    """
    try:
        # some editors put a mark before the text
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise StructureFileError(
            f"{what} '{path}'", expected="text in UTF-8", got=str(error), fix="convert the file"
        ) from error
    except (OSError, ValueError) as error:
        raise StructureFileError(
            f"{what} '{path}'",
            expected="a text file that can be read",
            got="no such file" if isinstance(error, FileNotFoundError) else str(error),
            fix="check the path",
        ) from error
