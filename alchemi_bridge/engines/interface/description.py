"""What an engine prints about a model: who made it, and what to cite."""

from __future__ import annotations

from collections.abc import Iterator

from alchemi_bridge.model import LoadedModel

#: Kinds of references that a metatomic model may name.
REFERENCES = ("model", "architecture", "implementation")


def describe(loaded: LoadedModel) -> str:
    """Name, authors, description, hash and references, one fact a line."""
    return "\n".join(_lines(loaded))


def _lines(loaded: LoadedModel) -> Iterator[str]:
    about = loaded.metadata
    yield f"Model: {about.name or 'without a name'}"
    if about.description:
        yield "  " + about.description.strip()
    if about.authors:
        yield "  by " + ", ".join(about.authors)
    if loaded.sha256:
        yield f"  SHA-256 {loaded.sha256}"
    yield f"  on {loaded.device}, {str(loaded.dtype).removeprefix('torch.')}"
    references = about.references
    cited = [(kind, text) for kind in REFERENCES for text in references.get(kind, [])]
    if cited:
        yield "  Please cite:"
        for kind, text in cited:
            yield f"  - {text} ({kind})"
