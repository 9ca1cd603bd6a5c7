"""The training itself: steps, learning curve, checkpoints; on one rank or on several."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from alchemi_bridge.errors import ConfigurationError, NonFiniteResultError
from alchemi_bridge.potentials.deepmd import Definition, FrameResults, evaluate
from alchemi_bridge.training import checkpoint as files
from alchemi_bridge.training.checkpoint import Checkpoint
from alchemi_bridge.training.curve import LearningCurve
from alchemi_bridge.training.input import DataInput, TrainingInput
from alchemi_bridge.training.finetune import starting_model
from alchemi_bridge.training.loading import Batch, Batches, Buffered
from alchemi_bridge.training.preparation import new_model, resolve, shift_bias
from alchemi_bridge.training.ranks import Ranks
from alchemi_bridge.training.rmse import ErrorSums
from alchemi_bridge.training.stepping import Evaluated, stepper
from alchemi_bridge.training.systems import read_systems

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """Where a training begins.

    Attributes
    ----------
    restart
        Checkpoint to go on from, step and optimiser included.
    finetune
        Checkpoint, or se_e2_a model of DeePMD-kit, whose weights are taken for other data, from
        step zero; the energy bias is fitted to the data.
    """

    restart: Path | None = None
    finetune: Path | None = None


class Training:
    """A training that is ready to run.

    Parameters
    ----------
    settings
        The input.
    folder
        Where curve and checkpoints are written; it must exist.
    ranks
        The ranks that take part; all must make the same calls.
    start
        From where; from random weights by default.

    Attributes
    ----------
    definition, model
        The model, on the device of this rank.
    step
        Steps that are done.
    curve
        RMSEs so far; the first rank writes it.

    Raises
    ------
    ConfigurationError
        If input, data and checkpoint do not fit each other.
    InputError, ModelLoadError
        If data or a checkpoint are not usable.
    """

    def __init__(
        self, settings: TrainingInput, folder: Path, ranks: Ranks, start: Start = Start()
    ) -> None:
        if start.restart and start.finetune:
            raise ConfigurationError(
                "start of the training",
                expected="one of restart and fine-tuning",
                got="both",
                fix="choose one",
            )
        self.settings, self.ranks, self._folder = settings, ranks, folder
        found = None if start.restart is None else files.load(start.restart)
        names = settings.model.get("type_map")
        type_map = names if isinstance(names, list) else []
        systems = read_systems(settings.training.systems, type_map)
        if found is not None:
            model, self.definition = found.build(), found.definition
            _check_same(settings, self.definition)
        elif start.finetune is not None:
            model, self.definition = starting_model(start.finetune)
            _check_same(settings, self.definition)
            shift_bias(model, self.definition, systems)
        else:
            self.definition = resolve(settings.model, systems)
            model = new_model(self.definition, systems, settings.seed)
        self.model = model.to(ranks.device)
        self.step = 0
        self._stepper = stepper(settings, self.model, ranks)
        self._batches = self._loader(settings.training, systems)
        self._validation: Batches | None = None
        if settings.validation is not None:
            others = read_systems(settings.validation.systems, type_map)
            self._validation = self._loader(settings.validation, others)
        self._plan = {
            "seed": settings.seed, "ranks": ranks.n_ranks, "batches": len(self._batches),
        }  # fmt: skip
        if found is not None:
            self._go_on(found)
        self.curve = LearningCurve(folder / settings.curve_file, self.step)
        module = Evaluated(self.model)
        self._module = (
            # every parameter takes part on every rank: nets without atoms get empty slices
            DistributedDataParallel(
                module, forward_sync_buffers=False, gradient_as_bucket_view=True
            )
            if ranks.n_ranks > 1
            else module
        )

    def _loader(self, data: DataInput, systems: list) -> Batches:
        sizes = [data.batch_size(k, system.n_atoms) for k, system in enumerate(systems)]
        return Batches(
            systems, sizes, self.definition.rcut,
            seed=self.settings.seed, rank=self.ranks.rank, n_ranks=self.ranks.n_ranks,
        )  # fmt: skip

    def _go_on(self, found: Checkpoint) -> None:
        self.step = found.step
        if self.step >= self.settings.n_steps:
            LOGGER.warning(
                "nothing is left to do: the checkpoint has %d steps, training.numb_steps is %d",
                self.step,
                self.settings.n_steps,
            )
        if dict(found.plan) != self._plan:
            LOGGER.warning(
                "the order of the data is another one than before: seed, ranks and batches in an "
                "epoch were %s and are %s",
                tuple(found.plan.values()),
                tuple(self._plan.values()),
            )
        state = dict(found.optimiser)
        name = state.pop("name", None)
        if name != self.settings.optimiser.name:
            raise ConfigurationError(
                "restart",
                expected=f"a checkpoint of a training with {self.settings.optimiser.name}",
                got=f"one with {name}: the state of another optimiser",
                fix="choose the optimiser of that training, or start with --finetune",
            )
        self._stepper.optimiser.load_state_dict(state)

    @property
    def epoch_length(self) -> int:
        """Steps in an epoch."""
        return len(self._batches)

    def checkpoint_path(self, step: int) -> Path:
        """The checkpoint of a step."""
        return self._folder / f"{self.settings.checkpoint}-{step}.pt"

    def steps(self) -> Iterator[int]:
        """Run the training; yields the number of steps that are done, after each of them."""
        settings = self.settings
        if self.step == 0:
            self._report(None)
        with Buffered(self._batches.steps(self.step, settings.n_steps)) as batches:
            for made in batches:
                batch = made.to(self.ranks.device)
                results = self._stepper.step(self._module, batch, self.step)
                self.step += 1
                last = self.step == settings.n_steps
                if self.step % settings.curve_freq == 0 or last:
                    self._report((results, batch))
                if self.step % settings.checkpoint_freq == 0 or last:
                    self._save()
                yield self.step
        if self.ranks.is_first:
            self.curve.plot()
        self.ranks.wait()

    def _report(self, done: tuple[FrameResults, Batch] | None) -> None:
        """A row of the learning curve: RMSEs of the last batch, and of validation frames."""
        sums = ErrorSums()
        if done is None:
            batch = next(iter(self._batches.steps(0, 1))).to(self.ranks.device)
            done = self._evaluate(batch), batch
        sums.add(done[0], done[1].targets)
        sums.sums = self.ranks.sum(sums.sums)
        training, validation = sums.rmse(), None
        if self._validation is not None:
            others = ErrorSums()
            for one in self._validation_batches():
                batch = one.to(self.ranks.device)
                others.add(self._evaluate(batch), batch.targets)
            others.sums = self.ranks.sum(others.sums)
            validation = others.rmse()
        if not all(map(math.isfinite, training.values())):
            self._refuse_divergence()
        if self.ranks.is_first:
            rate = self.settings.rate(max(self.step - 1, 0))
            self.curve.add(self.step, rate, training, validation)

    def _validation_batches(self) -> Iterator[Batch]:
        """All, or as many as the input asks for, in an order that the step decides."""
        assert self._validation is not None and self.settings.validation is not None
        n_batches = self.settings.validation.n_batches
        epoch = self._validation.epoch(0 if n_batches is None else self.step)
        return islice(epoch, n_batches)

    def _evaluate(self, batch: Batch) -> FrameResults:
        return evaluate(self.model, batch.coordinates, batch.cells, batch.types, batch.pairs)

    def _save(self) -> None:
        if not all(bool(torch.isfinite(p).all()) for p in self.model.parameters()):
            self._refuse_divergence()
        if not self.ranks.is_first:
            return
        files.save(
            self.checkpoint_path(self.step),
            Checkpoint(
                definition=self.definition,
                step=self.step,
                model=self.model.state_dict(),
                optimiser={"name": self.settings.optimiser.name, **self._stepper.optimiser.state_dict()},
                plan=self._plan,
            ),
        )
        name = self._folder / self.settings.checkpoint
        files.remove_old(name, self.settings.checkpoints_kept, self.step)

    def _refuse_divergence(self) -> None:
        raise NonFiniteResultError(
            f"training at step {self.step}",
            expected="finite weights and errors",
            got="NaN or infinite ones",
            fix="restart from the last checkpoint with a smaller learning_rate.start_lr",
        )


def _check_same(settings: TrainingInput, definition: Definition) -> None:
    """The input asks for the model of the checkpoint; ``sel: "auto"`` is what it was."""
    descriptor = settings.model.get("descriptor")
    model = dict(settings.model)
    if isinstance(descriptor, dict) and isinstance(descriptor.get("sel", "auto"), str):
        model["descriptor"] = {**descriptor, "sel": list(definition.sel)}
    wanted = resolve(model, []).to_deepmd()
    known = definition.to_deepmd()
    for section in ("type_map", "descriptor", "fitting_net"):
        if wanted[section] == known[section]:
            continue
        keys = [section]
        if isinstance(known[section], dict):
            [key, *_] = [k for k in known[section] if known[section][k] != wanted[section][k]]
            keys = [section, key]
        theirs, ours = known, wanted
        for key in keys:
            theirs, ours = theirs[key], ours[key]
        raise ConfigurationError(
            f"model.{'.'.join(keys)}",
            expected=f"{theirs!r}, as in the checkpoint",
            got=repr(ours),
            fix="use the section model of the first training",
        )
