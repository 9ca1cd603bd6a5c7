"""Which rank hands over to which, from what all ranks say about all stages.

Every rank decides from the same statements, so that all of them raise the same error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn

from alchemi_bridge.errors import ConfigurationError

#: nvalchemi's sign for "by the order of the stages".
UNSET = -1


@dataclass(frozen=True)
class StageFacts:
    """What a rank knows about a stage.

    Attributes
    ----------
    kind, prior, next, buffer, comm_mode, max_batch_size, n_steps, exit_status, refill_frequency
        The same wherever the stage is known.
    problems
        What is wrong with the stage by itself; only its own rank says that.
    """

    kind: str
    prior: int | None = UNSET
    next: int | None = UNSET
    buffer: tuple[int, int, int] | None = None
    comm_mode: str = "async_recv"
    max_batch_size: int = 100
    n_steps: int | None = None
    exit_status: int = 1
    refill_frequency: int = 1


@dataclass(frozen=True)
class RankFacts:
    """What a rank says: the stages that it knows, how the pipeline runs, and its own stage."""

    stages: Mapping[int, StageFacts]
    options: Mapping[str, Any] = field(default_factory=dict)
    has_work: bool = True
    has_sampler: bool = False
    has_sinks: bool = True
    problem: str | None = None


@dataclass(frozen=True)
class Place:
    """Where a rank stands: the ranks before and after it, and what may be handed on.

    Attributes
    ----------
    smallest
        Systems, atoms and edges that pass through the rest of the chain in one message; ``None``
        for the last stage.
    """

    prior: int | None
    next: int | None
    smallest: tuple[int, int, int] | None


def _wrong(what: str, expected: str, got: str, fix: str) -> NoReturn:
    raise ConfigurationError(what, expected=expected, got=got, fix=fix)


def plan(said: Sequence[RankFacts]) -> dict[int, Place]:
    """The place of every rank.

    Parameters
    ----------
    said
        By each rank, in order.

    Raises
    ------
    ConfigurationError
        If ranks contradict each other, or the stages do not make chains.
    """
    for rank, facts in enumerate(said):
        if facts.problem is not None:
            _wrong(f"stage of rank {rank}", "one that can run", facts.problem, "change that stage")
    stages = _agreed(said)
    world = set(range(len(said)))
    if set(stages) != world:
        _wrong(
            "stages of the pipeline",
            f"one for each of {len(said)} ranks, 0 to {len(said) - 1}",
            f"stages for ranks {sorted(stages)}",
            "start as many ranks as there are stages (torchrun --nproc_per_node)",
        )
    links = _links(stages)
    chains = _chains(links)
    for rank, (prior, following) in links.items():
        _require_ends(rank, said[rank], prior, following)
        if following is not None:
            _require_buffers(rank, stages[rank], following, stages[following])
    return {
        rank: Place(*links[rank], _smallest([stages[r] for r in chain[k:-1]]))
        for chain in chains
        for k, rank in enumerate(chain)
    }


def _agreed(said: Sequence[RankFacts]) -> dict[int, StageFacts]:
    stages: dict[int, StageFacts] = {}
    source: dict[int, int] = {}
    for rank, facts in enumerate(said):
        if dict(facts.options) != dict(said[0].options):
            _wrong(
                f"options of the pipeline on rank {rank}",
                f"those of rank 0, {dict(said[0].options)}",
                str(dict(facts.options)),
                "run the same script on all ranks",
            )
        if rank not in facts.stages:
            _wrong(
                f"stages on rank {rank}",
                "at least the stage of that rank",
                f"stages for ranks {sorted(facts.stages)} among {len(said)} ranks",
                "give every rank its stage, and start as many ranks as there are stages",
            )
        for of, stage in facts.stages.items():
            known = stages.setdefault(of, stage)
            source.setdefault(of, rank)
            if stage != known:
                one, other = asdict(known), asdict(stage)
                name = next(n for n in one if one[n] != other[n])
                _wrong(
                    f"{name} of the stage of rank {of} on rank {rank}",
                    f"{one[name]}, as on rank {source[of]}",
                    str(other[name]),
                    "run the same script on all ranks",
                )
    return stages


def _links(stages: Mapping[int, StageFacts]) -> dict[int, tuple[int | None, int | None]]:
    """Ranks before and after each; what is unset follows what others say, then the order."""
    ranks = sorted(stages)
    follows = {s.prior: r for r, s in stages.items() if s.prior not in (None, UNSET)}
    precedes = {s.next: r for r, s in stages.items() if s.next not in (None, UNSET)}
    links: dict[int, tuple[int | None, int | None]] = {}
    for k, rank in enumerate(ranks):
        prior, following = stages[rank].prior, stages[rank].next
        if prior == UNSET:
            before = ranks[k - 1] if k > 0 else None
            free = before is not None and stages[before].next == UNSET and before not in follows
            prior = precedes.get(rank, before if free else None)
        if following == UNSET:
            after = ranks[k + 1] if k + 1 < len(ranks) else None
            free = after is not None and stages[after].prior == UNSET and after not in precedes
            following = follows.get(rank, after if free else None)
        links[rank] = (prior, following)
    for rank, (prior, following) in links.items():
        for other, back, name in ((prior, 1, "prior_rank"), (following, 0, "next_rank")):
            if other is None:
                continue
            if other not in links or other == rank:
                _wrong(
                    f"{name} of the stage of rank {rank}",
                    f"another one of the ranks {ranks}",
                    str(other),
                    "name a rank that has a stage, or None",
                )
            if links[other][back] != rank:
                reverse = ("prior_rank", "next_rank")[back]
                _wrong(
                    f"{name} of the stage of rank {rank}",
                    f"a rank whose {reverse} is {rank}",
                    f"rank {other}, whose {reverse} is {links[other][back]}",
                    "give every rank at most one rank before and one after it, and name each link "
                    "from both sides",
                )
    return links


def _chains(links: Mapping[int, tuple[int | None, int | None]]) -> list[list[int]]:
    chains = []
    for rank in links:
        if links[rank][0] is not None:
            continue
        chain: list[int] = [rank]
        while (following := links[chain[-1]][1]) is not None:
            chain.append(following)
        chains.append(chain)
    lost = sorted(set(links) - {rank for chain in chains for rank in chain})
    if lost:
        _wrong(
            f"stages of ranks {lost}",
            "chains with a first and a last stage",
            "a circle",
            "set prior_rank=None at the first and next_rank=None at the last",
        )
    return chains


def _require_ends(rank: int, facts: RankFacts, prior: int | None, following: int | None) -> None:
    what = f"stage of rank {rank}"
    if prior is None and not facts.has_work:
        _wrong(
            what,
            "a sampler or an active_batch, as it is the first of its chain",
            "neither",
            "give it one, or name the rank that hands over to it",
        )
    if prior is not None and facts.has_sampler:
        _wrong(
            what,
            "no sampler, as it is not the first of its chain",
            "a sampler, which would never be asked",
            "give the sampler to the first stage",
        )
    if following is None and not facts.has_sinks:
        _wrong(
            what,
            "at least one sink, as it is the last of its chain",
            "none",
            "give it sinks, or results would be lost",
        )


def _require_buffers(rank: int, sender: StageFacts, to: int, receiver: StageFacts) -> None:
    for of, stage in ((rank, sender), (to, receiver)):
        if stage.buffer is None:
            _wrong(
                f"buffer_config of the stage of rank {of}",
                f"a BufferConfig, as rank {rank} hands over to rank {to}",
                "none",
                "give both the same one",
            )
    if sender.buffer != receiver.buffer:
        _wrong(
            f"buffer_config of the stage of rank {to}",
            f"that of rank {rank}, (systems, nodes, edges) {sender.buffer}",
            str(receiver.buffer),
            "give both the same one",
        )
    assert sender.buffer is not None
    if sender.buffer[0] < 1:
        _wrong(
            f"buffer_config of the stage of rank {rank}",
            "room for at least one system",
            f"num_systems={sender.buffer[0]}",
            "raise it",
        )


def _smallest(stages: Sequence[StageFacts]) -> tuple[int, int, int] | None:
    buffers = [stage.buffer for stage in stages if stage.buffer is not None]
    if not buffers:
        return None
    systems, nodes, edges = (min(column) for column in zip(*buffers, strict=True))
    return systems, nodes, edges
