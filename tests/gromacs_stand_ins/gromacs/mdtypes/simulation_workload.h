/* Stand-in for GROMACS, see README.md of this folder: gromacs/mdtypes/simulation_workload.h.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef GMX_MDTYPES_SIMULATION_WORKLOAD_H
#define GMX_MDTYPES_SIMULATION_WORKLOAD_H

namespace gmx
{

class StepWorkload
{
public:
    bool doNeighborSearch = false;
    bool computeVirial    = false;
    bool computeEnergy    = false;
    bool computeForces    = false;
};

} // namespace gmx

#endif
