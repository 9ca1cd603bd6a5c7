/* gmx::IGpuForceProvider: forces from a model whose inputs and results stay on the GPU.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * A proposal for GROMACS, written against the names of GROMACS 2026 (tag v2026.3). Upstream has
 * gmx::IForceProvider (mdtypes/iforceprovider.h), which sees host memory only. This file uses
 * GROMACS' own types and nothing of alchemi_bridge; it would lie beside that one.
 *
 * Where do_force() (mdlib/sim_util.cpp) calls what
 * ------------------------------------------------
 *
 *  once, in Mdrunner::mdrunner(), where modules ask for a plain pairlist:
 *      pairlistRange()    must not exceed rlist; haloNeed() before the domains are set up
 *  doPairSearch(), after stateGpu->reinit() and before the lists are constructed:
 *      reinitAtoms()      natural order of the atoms is known, home atoms first
 *  do_force(), after the non-bonded kernels of both localities were launched, before
 *  gpu_launch_cpyback():
 *      reinitPairlist()   at search steps only: atomIndices, both lists and xq of both localities
 *                         are uploaded, or queued, by then; not earlier, since the halo part of
 *                         xq comes late
 *      launchForces()     every step in which non-bonded forces are computed
 *  do_force(), after fr->gpuForceReduction[Local]->execute() or, without GPU buffer operations,
 *  before postProcessForces():
 *      collectScalars()   steps with computeEnergy or computeVirial; adds nothing by itself
 *  LegacySimulator::do_md(), before a checkpoint is written and after the last step:
 *      finish()           says what is wrong with forces of a step that reported no energy
 *
 * What would have to change upstream
 * ----------------------------------
 *
 *  1. Coordinates. StatePropagatorDataGpu::getCoordinates() must hold the coordinates of every step,
 *     home and halo. Now the local ones are copied only if PME or X buffer operations want them, the
 *     non-local ones only with X buffer operations, and a search step has none
 *     (StepWorkload::useGpuXBufferOps is false there). Whoever counts how often an event is consumed
 *     (getExpectedLocalXReadyOnDeviceConsumptionCount()) counts one more.
 *  2. NbnxmGpu::atomIndices is uploaded by nbnxn_gpu_init_x_to_nbat_x(), with X buffer operations
 *     only. It has to be there without them, too, and needs an accessor beside gpuGetNBAtomData().
 *  3. Forces. GpuForceReduction has one slot for a force in natural order (registerRvecForce()),
 *     which PME takes in the local reduction. A list of slots is needed: `forces` of this interface
 *     is then registered in the local and in the non-local reduction, with forcesReadyOnDevice as a
 *     dependency of each. Each reduction that runs consumes the event once, and
 *     GpuEventSynchronizer counts: see there. The non-local reduction runs before communicateGpuHaloForces(), so that
 *     what belongs to halo atoms goes home with GROMACS' own exchange.
 *  4. Virial steps. StepWorkload::useGpuFBufferOps is false when the virial is computed. Then
 *     `forces` is copied to the host, after forcesReadyOnDevice, and added to
 *     ForceWithVirial::force_: before dd_move_f(), which now moves the forces with shift forces
 *     only, so that the halo part needs a dd_move_f() of its own. (It must not go through
 *     ForceWithShiftForces: the single-sum virial would count it again.)
 *  5. Range. GROMACS checks rlist against what modules ask for and does not raise it
 *     (PlainPairlistRanges); the same check serves pairlistRange(). Its Verlet buffer is
 *     statistical, so the range holds a buffer of the provider's own.
 *  6. Halo. See HaloNeed.
 *  7. Steps with a provider can not be captured as a graph (SimulationWorkload::useMdGpuGraph), nor is
 *     there multiple time stepping on the GPU.
 *
 * Errors are exceptions derived from std::exception. The caller turns them into GMX_THROW of an
 * InternalError, as PlumedForceProvider::calculateForces() does.
 */
#ifndef GMX_MDTYPES_IGPUFORCEPROVIDER_H
#define GMX_MDTYPES_IGPUFORCEPROVIDER_H

#include <cstdint>

#include "gromacs/gpu_utils/devicebuffer_datatype.h"
#include "gromacs/mdtypes/locality.h"
#include "gromacs/utility/arrayref.h"
#include "gromacs/utility/enumerationhelpers.h"
#include "gromacs/utility/vectypes.h"

class DeviceStream;
class GpuEventSynchronizer;
enum class PbcType : int;

namespace gmx
{

class GpuPairlist;
class StepWorkload;
struct NBAtomDataGpu;

//! Which neighbors of the home atoms a rank knows
enum class HaloShell : int
{
    None,        //!< One domain: there are no halo atoms
    EighthShell, //!< Atoms of the forward neighbors: every pair of atoms is on one rank
    FullShell,   //!< Atoms of all neighbors: every rank has all pairs of its home atoms
    Count
};

/*! \brief What a provider needs to know around the home atoms, or what there is
 *
 * GROMACS' eighth shell gives every pair of atoms to one rank, which need not be the home of either.
 * That is right for an energy that is a sum over pairs, since a pair can be evaluated anywhere. The
 * energy of an atom in a many-body model is a function of all its neighbors at once; evaluated with
 * some of its pairs on one rank and with the others on another, it is not a sum of the two results.
 * Nothing in a general model says that it is additive, so a provider of such models needs the full
 * shell: each rank then evaluates the energies of its home atoms, with all of their pairs, and no
 * other energies. Its derivatives with respect to halo atoms are forces on these, which go home in the
 * halo exchange. A pair between two domains is thus in the lists of both ranks, and each of them
 * counts a different part of its energy; energies and virials of the ranks add up as they are.
 *
 * With one layer (\p haloPairs false) the non-local list holds all pairs of a home with a halo atom.
 * Models that pass messages see farther than their pair list: \p range is then several cutoffs, and
 * the pairs of halo atoms among each other are needed, too: those between grids in the non-local list,
 * those within a grid in GpuForceProviderPairlists::plistWithinHalo.
 *
 * GROMACS 2026 has no full shell (domdec/haloexchange.h communicates with up to seven zones).
 */
struct HaloNeed
{
    //! Which neighbors
    HaloShell shell = HaloShell::None;
    //! Distance from the home atoms up to which atoms are there, nm; infinite: a model can not be divided
    real range = 0;
    //! Whether the lists hold pairs of halo atoms with each other
    bool haloPairs = false;
};

/*! \brief The atoms of this rank, in natural order: home atoms, then halo atoms
 *
 * All in host memory; read during the call.
 */
struct GpuForceProviderAtoms
{
    //! Number of home atoms: [0, numHomeAtoms)
    int numHomeAtoms = 0;
    //! Number of home and halo atoms
    int numAtoms = 0;
    /*! \brief Global index of each atom, -1 for filler particles; numAtoms of them
     *
     * Empty without domain decomposition, when natural order is global order.
     */
    ArrayRef<const int> globalAtomIndices;
};

/*! \brief Both pair lists of a search, where they are on the device
 *
 * Everything but radii, flags and box is a view of what nbnxm owns (NbnxmGpu), and is read in the
 * order of the provider's stream.
 */
struct GpuForceProviderPairlists
{
    //! NbnxmGpu::plist; nullptr for a locality without a list
    EnumerationArray<InteractionLocality, const GpuPairlist*> plist = { { nullptr } };
    /*! \brief Pairs of halo atoms of the same grid, if HaloNeed asks for pairs of halo atoms
     *
     * A list of its own, since of pairs within a grid those with the central shift are in a list in
     * both directions, and one is left out; in a non-local list none is. Uploaded in the non-local
     * stream.
     */
    const GpuPairlist* plistWithinHalo = nullptr;
    //! NbnxmGpu::deviceStreams, in which lists, indices and xq are uploaded and lists are pruned
    EnumerationArray<InteractionLocality, const DeviceStream*> deviceStreams = { { nullptr } };
    //! NbnxmGpu::atomIndices: atom in natural order of each slot, -1 for fillers
    DeviceBuffer<int> atomIndices = nullptr;
    //! NbnxmGpu::atomIndicesSize: slots of all grids
    int atomIndicesSize = 0;
    //! NbnxmGpu::atdat: its xq are the coordinates of the search
    const NBAtomDataGpu* atdat = nullptr;
    //! PairlistParams::rlistOuter, nm
    real rlistOuter = 0;
    /*! \brief PairlistParams::useDynamicPruning
     *
     * Once a list is not fresh, GpuPairlist::imask are then the masks at rlistOuter.
     */
    bool useDynamicPruning = false;
    //! Box of the search, nm
    const matrix* box = nullptr;
    //! Periodic directions
    PbcType pbcType{};
    //! What the halo atoms and lists of this search cover
    HaloNeed halo;
};

//! What changes in every step
struct GpuForceProviderInput
{
    //! Coordinates in natural order, home and halo, nm: StatePropagatorDataGpu::getCoordinates()
    DeviceBuffer<RVec> x = nullptr;
    /*! \brief Marked when home coordinates are there; consumed once
     *
     * StatePropagatorDataGpu::getCoordinatesReadyOnDeviceEvent(); nullptr if they are there in the
     * order of the provider's stream.
     */
    GpuEventSynchronizer* xLocalReadyOnDevice = nullptr;
    //! The same for halo coordinates; nullptr without a halo
    GpuEventSynchronizer* xNonLocalReadyOnDevice = nullptr;
    //! Box of this step, nm; it may differ from that of the search
    const matrix* box = nullptr;
    //! Periodic directions
    PbcType pbcType{};
    //! Time, ps
    double time = 0;
    //! Number of the step
    int64_t step = 0;
    //! computeForces, computeEnergy and computeVirial say what is wanted
    const StepWorkload* stepWork = nullptr;
};

//! Where results of a step go
struct GpuForceProviderOutput
{
    /*! \brief Forces on home and halo atoms in natural order, kJ/mol/nm
     *
     * Added to what is there. Clear it in the provider's stream, or before it.
     */
    DeviceBuffer<RVec> forces = nullptr;
    /*! \brief Marked in the provider's stream when forces are complete; nullptr if nobody waits for them
     *
     * Its consumption limits are the caller's: as many as there are reductions that depend on it. A
     * GpuEventSynchronizer is made for one consumer, (1, 1), and its second one throws; with domains the
     * local and the non-local reduction consume it, so that it is (2, 2). In a step without reductions
     * on the GPU what copies the forces to the host is the only consumer: setConsumptionLimits() right
     * after launchForces(), since marking looks at the limits of the step before.
     */
    GpuEventSynchronizer* forcesReadyOnDevice = nullptr;
};

/*! \brief Energy and virial of one rank
 *
 * The virial is GROMACS': -1/2 sum x (x) f, thus +1/2 dE/d(strain), as for
 * ForceWithVirial::addVirialContribution().
 */
struct GpuForceProviderScalars
{
    //! Potential energy, kJ/mol; zero if the step did not ask for it
    double energy = 0;
    //! Virial, kJ/mol, symmetric; zero if the step did not ask for it
    matrix virial = { { 0, 0, 0 }, { 0, 0, 0 }, { 0, 0, 0 } };
};

/*! \brief Interface for a component that computes forces on the GPU during MD
 *
 * Calls: reinitAtoms(), reinitPairlist(), launchForces() ... in this order after each search. All of
 * them are made by one thread, and queue work in the provider's stream. None waits for the device but
 * collectScalars() and finish(), and what an implementation says of itself.
 */
class IGpuForceProvider
{
public:
    virtual ~IGpuForceProvider() = default;

    //! Radius for which lists must be complete as long as they are used, nm; at most rlist
    virtual real pairlistRange() const = 0;

    //! What is needed around the home atoms, if there are several domains
    virtual HaloNeed haloNeed() const = 0;

    /*! \brief Take the atoms of this rank
     *
     * To be called after each (re)partitioning, and once without domain decomposition.
     */
    virtual void reinitAtoms(const GpuForceProviderAtoms& atoms) = 0;

    /*! \brief Take the lists of a search
     *
     * Lists may be fresh or pruned. When the call returns, the streams of the lists wait for what reads
     * them here: a kernel that prunes them afterwards, or the next upload, does no harm.
     */
    virtual void reinitPairlist(const GpuForceProviderPairlists& pairlists) = 0;

    /*! \brief Compute forces for the current coordinates and add them; queue energy and virial if wanted
     *
     * The events of the input are consumed also if this throws; then nothing was added, and
     * forcesReadyOnDevice is not marked.
     */
    virtual void launchForces(const GpuForceProviderInput& input, const GpuForceProviderOutput& output) = 0;

    /*! \brief Energy and virial of the last launchForces()
     *
     * The only copy from the device. Nothing is copied, and all is zero, if that step did ask for
     * neither. Throws what the device found wrong with the results of that step.
     */
    virtual GpuForceProviderScalars collectScalars() = 0;

    /*! \brief Wait for all results, and throw what the device found wrong with the last of them
     *
     * launchForces() can only say that of the step before. To be called at the end of the run, and before
     * anything is written that forces of the last step went into, a checkpoint above all.
     */
    virtual void finish() = 0;
};

} // namespace gmx

#endif
