"""Models for GROMACS' nnpot module: TorchScript files that GROMACS loads without Python.

Nothing of this runs with GROMACS itself: :func:`~alchemi_bridge.engines.nnpot.export.export` writes
a file once. What GROMACS does with it was read in its sources, releases 2025.0 to 2025.4, 2026.0 to
2026.3 and main of August 2026 (``src/gromacs/applied_forces/nnpot``):

- ``torchmodel.cpp`` reads the record ``extra/extension_libs`` of the file, splits it at colons, and
  calls ``dlopen`` with each part as it is: paths, or names that the dynamic loader finds. One that
  fails is a warning. Then comes ``torch::jit::load``. From 2026.2 on TorchScript's optimisation of
  graphs is switched off.
- Inputs are positional, in the order of ``nnpot-model-input1`` to ``9`` (4 in 2025); those that are
  not set are skipped, so optional arguments at the end may be left out. Floats are single
  precision, in double precision builds, too, but for ``pair-shifts``. Atoms are those of
  ``nnpot-input-group`` alone, in the order of the topology; link atoms stand in for the classical
  atoms of cut bonds (2026).
- 2025 runs on the CPU, 2026 on the GPU that mdrun uses, unless ``GMX_NN_DEVICE`` says otherwise.
- ``pbc`` is only known for full periodicity and for ``xy``; for others the run stops.
- An output that is no tuple is an energy, whose gradient is taken with respect to the *first*
  input; without such a gradient the run ends in an error of torch. Of a tuple the second is the
  forces. They are rounded to GROMACS' precision after they came back.
- Only the main rank evaluates the model. There is no virial: no constant pressure.
- ``grompp`` calls the model with trial inputs (:mod:`alchemi_bridge.engines.nnpot.trial`). If it
  fails that is a warning up to 2026.3 (``-maxwarn 1``), and an error in main. In a run, 2026
  reports ``std::runtime_error``, which TorchScript's errors are.
- Pairs (2026) are those of the group, closer than ``nnpot-pair-cutoff`` at the last pair search,
  that are excluded from the classical interactions. Without link atoms these are all. A link atom
  takes the row of a classical atom, which excludes only atoms of the group up to ``nrexcl`` bonds
  away: pairs with the others are missing, whatever the cutoff is. Take the contract of 2025 then.
  ``nnpot-pair-cutoff`` may not exceed ``rlist``. Not with domain decomposition.
- Link atoms (2026) are placed between two atoms as their coordinates are, without periodicity
  (``LinkFrontierAtom::setPositions``). If the bond crosses a face of the box, the link atom comes
  to lie on the wrong side. A file can not see that, of either contract: keep bonds that are cut
  away from the faces.
"""
