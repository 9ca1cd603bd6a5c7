/* gmx::AlchemiGpuForceProvider: metatomic models as an IGpuForceProvider.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * An implementation over the C interface (alchemi_bridge.h) for lists in the layout of GROMACS' GPU
 * kernels. Nothing is converted here: lists, coordinates and forces are described where they are.
 *
 * To be compiled with GROMACS in a CUDA build (GMX_GPU_CUDA), in mixed precision. The tests of
 * alchemi_bridge compile it against stand-ins for GROMACS' types whose device is the host.
 */
#ifndef GMX_ALCHEMI_GPUFORCEPROVIDER_H
#define GMX_ALCHEMI_GPUFORCEPROVIDER_H

#include "alchemi_bridge.h"
#include "igpuforceprovider.h"

#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

class DeviceContext;

namespace gmx
{

//! What the provider refuses: expected, what came, what to do
class AlchemiError : public std::runtime_error
{
public:
    //! \param[in] code  ab_status; \param[in] message  What \ref what returns
    AlchemiError(int code, const std::string& message) : std::runtime_error(message), code_(code) {}

    //! The ab_status: AB_ERROR_STALE for a list that is too old, and so on
    int code() const { return code_; }

private:
    int code_;
};

//! How to open the provider
struct AlchemiOptions
{
    //! Path of the library, from `alchemi-bridge plugin c`; empty: that in ALCHEMI_BRIDGE_LIBRARY
    std::string library;
    //! Path of a metatomic model
    std::string model;
    //! Names and values of keywords, as ab_options has them; not "device", which is \p deviceId
    std::vector<std::pair<std::string, std::string>> keywords;
    //! Atomic numbers of all atoms of the system, by global index
    std::vector<int> atomicNumbers;
    /*! \brief Global indices of the atoms that the model sees; empty: all
     *
     * It sees all of their pairs, excluded or not. Whoever prepares the run takes the force field's
     * interactions among them out, as grompp does for nnpot.
     */
    std::vector<int> modelAtoms;
    //! How far lists reach beyond what the model needs, nm: the larger, the longer they hold
    real pairlistBuffer = 0.1;
    //! CUDA device of this rank (DeviceInformation::id); not looked at in a build without GPU
    int deviceId = 0;
    //! Receives warnings, one at a time; empty, or if it throws: they go to standard error
    std::function<void(const std::string&)> warn;
};

/*! \brief Forces of a metatomic model, on the GPU
 *
 * A list that is too old is refused by launchForces(), with AB_ERROR_STALE: GROMACS' buffer is
 * statistical, and this one is certain. A result that is not finite is seen by the device only:
 * nothing is added then, and collectScalars() of this step throws, finish(), or the next launchForces().
 *
 * launchForces() waits for the device once, when the bridge reads how many pairs are within the
 * cutoff; reinitPairlist() does when the list is checked.
 *
 * Errors: AlchemiError.
 */
class AlchemiGpuForceProvider final : public IGpuForceProvider
{
public:
    /*! \brief Load the model; takes seconds
     *
     * \param[in] options        What to load.
     * \param[in] deviceContext  Where the ten scalars are kept.
     * \param[in] deviceStream   Stream for all work; both live longer than the provider.
     */
    AlchemiGpuForceProvider(const AlchemiOptions& options,
                            const DeviceContext&  deviceContext,
                            const DeviceStream&   deviceStream);
    ~AlchemiGpuForceProvider() override;

    AlchemiGpuForceProvider(const AlchemiGpuForceProvider&)            = delete;
    AlchemiGpuForceProvider& operator=(const AlchemiGpuForceProvider&) = delete;

    real     pairlistRange() const override;
    HaloNeed haloNeed() const override;
    void     reinitAtoms(const GpuForceProviderAtoms& atoms) override;
    void     reinitPairlist(const GpuForceProviderPairlists& pairlists) override;
    void launchForces(const GpuForceProviderInput& input, const GpuForceProviderOutput& output) override;
    GpuForceProviderScalars collectScalars() override;
    void                    finish() override;

private:
    class Impl;
    std::unique_ptr<Impl> impl_;
};

} // namespace gmx

#endif
