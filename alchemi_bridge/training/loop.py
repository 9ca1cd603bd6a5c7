"""The training itself: steps, learning curve, checkpoints; on one rank or on several."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from alchemi_bridge.errors import ConfigurationError, NonFiniteResultError
from alchemi_bridge.potentials.deepmd import FrameResults, evaluate
from alchemi_bridge.training import checkpoint as files
from alchemi_bridge.training.checkpoint import Checkpoint
from alchemi_bridge.training.checks import check_fit, check_settings, too_few_neighbours
from alchemi_bridge.training.curve import LearningCurve
from alchemi_bridge.training.finetune import starting_model
from alchemi_bridge.training.input import DataInput, TrainingInput
from alchemi_bridge.training.loading import Batch, Batches, Buffered
from alchemi_bridge.training.output import OutputFolder
from alchemi_bridge.training.plan import differences, plan
from alchemi_bridge.training.preparation import new_model, resolve, shift_bias
from alchemi_bridge.training.ranks import Ranks
from alchemi_bridge.training.restart import check_same_model, restore
from alchemi_bridge.training.rmse import ErrorSums
from alchemi_bridge.training.stepping import Evaluated, stepper
from alchemi_bridge.training.systems import TrainingSystem, read_systems
from alchemi_bridge.training.timing import rank_times

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
    force
        Whether checkpoints and curve of another run in the folder are removed.
    """

    restart: Path | None = None
    finetune: Path | None = None
    force: bool = False


class Training:
    """A training that is ready to run.

    Parameters
    ----------
    settings
        The input.
    folder
        Where curve and checkpoints are written; it is made before the first step if need be.
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
    last_checkpoint
        The last one of this run; None if there is none yet.

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
        self.settings, self.ranks, self._start = settings, ranks, start
        check_settings(settings)
        self._output = OutputFolder(folder, settings.checkpoint, settings.curve_file)
        self.last_checkpoint = None if start.restart is None else files.find(start.restart)
        found = None if self.last_checkpoint is None else files.load(self.last_checkpoint)
        begun = None if start.finetune is None else starting_model(start.finetune)
        self._check_output()
        names = settings.model.get("type_map")
        type_map = names if isinstance(names, list) else []
        systems = read_systems(settings.training.systems, type_map)
        if found is not None:
            model, self.definition = found.build(), found.definition
            check_same_model(settings, self.definition)
        elif begun is not None:
            model, self.definition = begun
            check_same_model(settings, self.definition)
            shift_bias(model, self.definition, systems)
        else:
            self.definition = resolve(settings.model, systems, f"{settings.where}.model")
            model = new_model(self.definition, systems, settings.seed)
            if ranks.is_first:
                self._warn(too_few_neighbours(settings.model, self.definition, systems))
        self._warn(check_fit(settings, self.definition, systems))
        self.model = model.to(ranks.device)
        self.step = 0
        self._stepper = stepper(settings, self.model, ranks)
        self._batches = self._loader(settings.training, systems)
        self._validation: Batches | None = None
        if settings.validation is not None:
            others = read_systems(settings.validation.systems, type_map)
            self._validation = self._loader(settings.validation, others)
        sizes = _batch_sizes(settings.training, systems)
        self._plan = plan(systems, sizes, seed=settings.seed, n_ranks=ranks.n_ranks)
        self.curve = LearningCurve(self._output.curve, () if found is None else found.curve)
        if found is not None:
            self._go_on(found)
        self._module: torch.nn.Module = Evaluated(self.model)

    def _warn(self, messages: Sequence[str]) -> None:
        for message in messages if self.ranks.is_first else ():
            LOGGER.warning("%s", message)

    def _check_output(self) -> None:
        finetune = self._start.finetune
        self._output.check(
            restart=self.last_checkpoint,
            finetune=None if finetune is None else files.find(finetune),
            force=self._start.force,
        )

    def _loader(self, data: DataInput, systems: Sequence[TrainingSystem]) -> Batches:
        return Batches(
            systems, _batch_sizes(data, systems), self.definition.rcut,
            seed=self.settings.seed, rank=self.ranks.rank, n_ranks=self.ranks.n_ranks,
        )  # fmt: skip

    def _go_on(self, found: Checkpoint) -> None:
        self.step = found.step
        if self.step >= self.settings.n_steps:
            self._warn(
                [f"nothing is left to do: the checkpoint has {self.step} steps, "
                 f"training.numb_steps is {self.settings.n_steps}"]
            )  # fmt: skip
        assert self.last_checkpoint is not None
        changed = differences(found.plan, self._plan) + restore(
            self._stepper.optimiser, self.settings.optimiser, found.optimiser, self.last_checkpoint
        )
        self._warn([f"not the training that was begun, {one}" for one in changed])

    @property
    def epoch_length(self) -> int:
        """Steps in an epoch."""
        return len(self._batches)

    def checkpoint_path(self, step: int) -> Path:
        """The checkpoint of a step."""
        return self._output.path(step)

    def times(self) -> dict[str, float]:
        """See :func:`alchemi_bridge.training.timing.rank_times`; of this rank."""
        return rank_times(self._module)

    def steps(self) -> Iterator[int]:
        """Run the training; yields the number of steps that are done, after each of them."""
        with self._output.held() if self.ranks.is_first else nullcontext():
            if self.ranks.is_first:
                self._clear_output()
            first = self.step
            yield from self._steps()
            if self.ranks.is_first and self.step > first:
                self.curve.plot()
            self.ranks.wait()

    def _clear_output(self) -> None:
        """Files may have come since they were checked first, before the lock was held."""
        self._check_output()
        for path in self._output.in_the_way(self.last_checkpoint):
            path.unlink(missing_ok=True)

    def _steps(self) -> Iterator[int]:
        settings = self.settings
        if self.ranks.n_ranks > 1:
            # every parameter takes part on every rank: nets without atoms get empty slices
            self._module = DistributedDataParallel(
                self._module, forward_sync_buffers=False, gradient_as_bucket_view=True
            )
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
        if validation is not None and not all(map(math.isfinite, validation.values())):
            self._warn(
                [
                    f"validation errors at step {self.step} are NaN or infinite; "
                    "'alchemi-bridge test' with a checkpoint names system and frame"
                ]
            )
        if self.ranks.is_first:
            rate = self.settings.rate(max(self.step - 1, 0))
            filtered = self.settings.optimiser.name == "lkf"
            self.curve.add(self.step, None if filtered else rate, training, validation)

    def _validation_batches(self) -> Iterator[Batch]:
        """All, or as many as the input asks for, in an order that the step decides."""
        assert self._validation is not None
        assert self.settings.validation is not None
        n_batches = self.settings.validation.n_batches
        epoch = self._validation.epoch(0 if n_batches is None else self.step)
        return islice(epoch, n_batches)

    def _evaluate(self, batch: Batch) -> FrameResults:
        return evaluate(self.model, batch.coordinates, batch.cells, batch.types, batch.pairs)

    def _save(self) -> None:
        if not all(bool(torch.isfinite(p).all()) for p in self.model.parameters()):
            self._refuse_divergence()
        self.last_checkpoint = self.checkpoint_path(self.step)
        if not self.ranks.is_first:
            return
        files.save(
            self.last_checkpoint,
            Checkpoint(
                definition=self.definition,
                step=self.step,
                model=self.model.state_dict(),
                optimiser={
                    "name": self.settings.optimiser.name,
                    **self._stepper.optimiser.state_dict(),
                },
                plan=self._plan,
                curve=self.curve.rows,
            ),
        )
        files.remove_old(self._output.name, self.settings.checkpoints_kept, self.step)

    def _refuse_divergence(self) -> None:
        smaller = "a smaller learning_rate.start_lr"
        if self.settings.optimiser.name == "lkf":
            smaller = "smaller kf_start_pref_e and kf_start_pref_f"
        raise NonFiniteResultError(
            f"training at step {self.step}",
            expected="finite weights and errors",
            got="NaN or infinite ones",
            fix=f"restart from the last checkpoint with {smaller}",
        )


def _batch_sizes(data: DataInput, systems: Sequence[TrainingSystem]) -> list[int]:
    return [data.batch_size(k, system.n_atoms) for k, system in enumerate(systems)]
