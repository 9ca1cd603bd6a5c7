"""Every tolerance of the project, with its name and where it comes from.

Unit roundoff of float64 is 1.1e-16, of float32 6.0e-8. A force is a sum of some 50 to 100 pair
terms, each up to a few eV/Å; two correct programs that add them in different order differ by about
100 x roundoff x 10 eV/Å. The tolerances below stay two to three orders of magnitude above that, and
as many below the smallest error that a real mistake (a lost pair at the cutoff, a wrong image, a
missing contribution) makes.
"""

from __future__ import annotations

from dataclasses import dataclass

# --- float64 against float64 ----------------------------------------------------------------------

#: Total energy, relative. Summing N terms of one sign costs at most N x roundoff: 1e-12 for 10,000
#: atoms; two more orders for the cancellation between attraction and repulsion.
ENERGY_RELATIVE_F64 = 1e-10

#: Forces, largest absolute error of a component, eV/Å. Roundoff gives about 1e-13; a pair that
#: a list loses at the cutoff of truncated Lennard-Jones argon (8.5 Å) carries 1e-4 eV/Å.
FORCE_F64 = 1e-9

#: Forces, relative to the rms force; takes over from FORCE_F64 where forces exceed 10 eV/Å, since
#: roundoff grows with them.
FORCE_RELATIVE_F64 = 1e-10

#: Virial, largest error of a component per atom, eV. As forces: a force times a distance of Å.
VIRIAL_PER_ATOM_F64 = 1e-9

#: Per-atom energies, largest absolute error, eV. The same sums as the forces, without a derivative.
ENERGIES_F64 = 1e-9

# --- float32 against a float64 reference ----------------------------------------------------------

#: Total energy, relative. Positions of 30 Å rounded to float32 move pairs by 1e-6 Å, which is 3e-7
#: of a distance and some 12 times that in the energy of a steep pair.
ENERGY_RELATIVE_F32 = 1e-5

#: Forces, rms and largest error, relative to the rms force.
FORCE_RELATIVE_F32 = 1e-5

#: Smallest rms force that FORCE_RELATIVE_F32 is applied to, eV/Å. On a perfect lattice the rms
#: force is zero while the pair forces that cancel are about 1 eV/Å: the roundoff of some 50 of them
#: is 50^(1/2) x 6e-8 x 1 eV/Å, below 1e-5 x 0.1 eV/Å.
FORCE_FLOOR_F32 = 0.1

#: Virial, largest error of a component per atom, relative to the larger of the virial per atom and
#: the rms force times 1 Å (the virial of a system at rest cancels, its terms do not).
VIRIAL_RELATIVE_F32 = 1e-5

#: Smallest virial per atom that VIRIAL_RELATIVE_F32 is applied to, eV.
VIRIAL_FLOOR_F32 = 0.1

#: Per-atom energies, largest error, relative to the largest per-atom energy.
ENERGIES_RELATIVE_F32 = 1e-5

#: Coordinates up to which the limits above hold, Å. The roundoff of a distance in float32 is that
#: of the coordinates it is the difference of; beyond this the limits grow in proportion.
EXTENT_F32 = 30.0

#: Factor on the limits above where the reference computes in float32 itself: two errors, not one.
BOTH_F32 = 2.0

# --- verification of a model (alchemi_bridge.verify) ----------------------------------------------

#: Analytic force against finite differences, float64, relative to the rms force. Extrapolated
#: central differences are good to roundoff x |E| / step, some 1e-11 eV/Å.
DIFFERENCE_FORCE_F64 = 1e-6

#: The same in float32: the energies have seven digits, and the steps are about 0.1 Å.
DIFFERENCE_FORCE_F32 = 3e-3

#: Smallest rms force that the two above are applied to, eV/Å (float64, float32): where forces
#: cancel, the terms do not.
DIFFERENCE_FORCE_FLOOR_F64 = 1e-3
DIFFERENCE_FORCE_FLOOR_F32 = 0.1

#: Analytic virial against finite differences, relative to the largest component of the virial.
DIFFERENCE_VIRIAL_F64 = 1e-6
DIFFERENCE_VIRIAL_F32 = 3e-3

#: Smallest virial per atom that the two above are applied to, eV (float64, float32): at the
#: equilibrium volume the virial is zero, its terms are some eV per atom.
DIFFERENCE_VIRIAL_FLOOR_F64 = 1e-2
DIFFERENCE_VIRIAL_FLOOR_F32 = 0.3

#: Noise of a float32 energy, in units of its roundoff times |E|: the sum of a few hundred terms,
#: added in an order that is not ours.
ENERGY_NOISE_F32 = 4.0

#: Beyond this, relative, finite differences in float32 say nothing about a force.
DIFFERENCE_UNRESOLVED = 0.1

#: The same system in another place, orientation or order: energy per atom, relative to the larger
#: of |E|/N and 1 eV. In float32 the moved positions are rounded by 1e-6 Å.
SAME_ENERGY_F64 = 1e-10
SAME_ENERGY_F32 = 1e-5

#: Forces of the same system, relative to the larger of the largest force and 1 eV/Å. In float32 a
#: position rounded by 2e-6 Å at the end of a bond of 100 eV/Å^2 changes a force by 2e-4 eV/Å.
SAME_FORCE_F64 = 1e-9
SAME_FORCE_F32 = 5e-4

#: Virial per atom of the same system, relative to the larger of its largest component per atom and
#: 1 eV. As forces, times some Å.
SAME_VIRIAL_F64 = 1e-9
SAME_VIRIAL_F32 = 1e-3

#: Jump of a dimer's or trimer's energy (eV) and force (eV/Å) along a scan of the distance; relative
#: to |E| where that exceeds 1 eV. The interval of the jump is bisected down to 1e-9 Å (float64) or
#: 1e-4 Å (float32), over which a smooth energy or force changes by less than that.
JUMP_ENERGY_F64 = 1e-8
JUMP_ENERGY_F32 = 1e-4
JUMP_FORCE_F64 = 1e-6
JUMP_FORCE_F32 = 2e-2

#: Growth of the resident memory, bytes per evaluation, after warm-up. What allocators do by
#: themselves averages to less than 500 bytes; a leaked array of 100 positions is 2400.
GROWTH_RESIDENT = 1024.0

#: Growth of the heap that is in use, bytes per evaluation: below 100 bytes without a leak; the
#: smallest leaked tensor has some 400.
GROWTH_HEAP = 256.0

#: Growth of the allocated memory of a GPU, bytes per evaluation: its allocator is exact.
GROWTH_DEVICE = 0.0

#: Growth of the number of tensors that Python holds, per evaluation.
GROWTH_TENSORS = 0.1

# --- float64 and float32 --------------------------------------------------------------------------

#: Energy per atom below which the relative error of the energy is taken of this instead, eV: the
#: energy of atoms that do not interact is zero.
ENERGY_FLOOR = 1e-3


@dataclass(frozen=True)
class Tolerances:
    """Limits for one comparison, with the case's own scales already put in.

    Attributes
    ----------
    energy_relative
        Total energy, relative to ``max(|E|, N ENERGY_FLOOR)``.
    force_max, force_rms
        Forces, largest component and root of the mean square of the components, eV/Å.
    virial_per_atom
        Largest component of the virial's error over the number of atoms, eV.
    energies_max
        Largest error of a per-atom energy, eV.
    """

    energy_relative: float
    force_max: float
    force_rms: float
    virial_per_atom: float
    energies_max: float


def tolerances(
    dtype: str,
    *,
    rms_force: float,
    virial_per_atom: float,
    largest_energy: float,
    extent: float = 0.0,
    exact_reference: bool = True,
) -> Tolerances:
    """Limits for a model's precision and a reference's scales.

    Parameters
    ----------
    dtype
        ``"float64"`` or ``"float32"``: the precision that the model computes in.
    rms_force
        Root of the mean square of the reference's force components, eV/Å.
    virial_per_atom
        Largest component of the reference's virial over the number of atoms, eV.
    largest_energy
        Largest absolute per-atom energy of the reference, eV.
    extent
        Largest coordinate or length of a cell vector, Å.
    exact_reference
        Whether the reference computes in float64.
    """
    if dtype == "float64":
        force = max(FORCE_F64, FORCE_RELATIVE_F64 * rms_force)
        return Tolerances(
            energy_relative=ENERGY_RELATIVE_F64,
            force_max=force,
            force_rms=force,
            virial_per_atom=max(VIRIAL_PER_ATOM_F64, FORCE_RELATIVE_F64 * virial_per_atom),
            energies_max=max(ENERGIES_F64, ENERGY_RELATIVE_F64 * largest_energy),
        )
    factor = max(1.0, extent / EXTENT_F32) * (1.0 if exact_reference else BOTH_F32)
    force = factor * FORCE_RELATIVE_F32 * max(rms_force, FORCE_FLOOR_F32)
    virial_scale = max(virial_per_atom, rms_force, VIRIAL_FLOOR_F32)
    return Tolerances(
        energy_relative=factor * ENERGY_RELATIVE_F32,
        force_max=force,
        force_rms=force,
        virial_per_atom=factor * VIRIAL_RELATIVE_F32 * virial_scale,
        energies_max=factor * ENERGIES_RELATIVE_F32 * max(largest_energy, ENERGY_FLOOR),
    )
