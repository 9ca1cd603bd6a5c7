/* Stand-in for GROMACS, see README.md of this folder: the CUDA driver, where the device is one.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef STAND_IN_CUDA_H
#define STAND_IN_CUDA_H

#include <cstddef>
#include <stdexcept>
#include <string>

#include <dlfcn.h>

using cudaStream_t = struct CUstream_st*;

namespace stand_in
{

// Looked up by name, so that neither its headers nor its library are needed to compile this.
template<typename... Arguments>
void cuda(const char* name, Arguments... arguments)
{
    static void* library = dlopen("libcuda.so.1", RTLD_NOW);
    auto function = reinterpret_cast<int (*)(Arguments...)>(library ? dlsym(library, name) : nullptr);
    const int code = function ? function(arguments...) : -1;
    if (code != 0)
    {
        throw std::runtime_error(std::string(name) + ": error " + std::to_string(code));
    }
}

} // namespace stand_in

#endif
