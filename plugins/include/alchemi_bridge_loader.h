/* alchemi_bridge: how a C++ program gets the function table of alchemi_bridge.h, and describes its memory.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * A header alone, for programs that link libdl where that is a library of its own.
 */
#ifndef ALCHEMI_BRIDGE_LOADER_H
#define ALCHEMI_BRIDGE_LOADER_H

#include "alchemi_bridge.h"

#include <dlfcn.h>

#include <cstdlib>
#include <initializer_list>
#include <string>

namespace alchemi_bridge
{

/** Environment variable that names the library; what `alchemi-bridge plugin c` prints. */
constexpr const char* c_libraryVariable = "ALCHEMI_BRIDGE_LIBRARY";

/** Open the library and get the functions.
 *
 * \param[in]  library  Path; empty: that in ALCHEMI_BRIDGE_LIBRARY.
 * \param[out] problem  What was expected and what came, if there are no functions.
 * \returns    The table, which lives as long as the process, or nullptr.
 */
inline const ab_functions* load(const std::string& library, std::string* problem)
{
    const char*       variable = std::getenv(c_libraryVariable);
    const std::string path     = !library.empty() ? library : variable ? variable : "";
    if (path.empty())
    {
        *problem = std::string("library of alchemi_bridge: expected its path, got none; set ") + c_libraryVariable
                   + " to what 'alchemi-bridge plugin c' prints";
        return nullptr;
    }
    // never closed: there is an interpreter behind it
    void* opened = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (opened == nullptr)
    {
        const char* why = dlerror();
        *problem = "library of alchemi_bridge: expected one that can be opened, got " + path + " ("
                   + (why ? why : "no reason") + "); take what 'alchemi-bridge plugin c' prints";
        return nullptr;
    }
    auto get = reinterpret_cast<ab_get_functions>(dlsym(opened, ALCHEMI_BRIDGE_SYMBOL));
    if (get == nullptr)
    {
        *problem = "library of alchemi_bridge: expected the symbol " ALCHEMI_BRIDGE_SYMBOL ", got none in " + path
                   + "; take what 'alchemi-bridge plugin c' prints";
        return nullptr;
    }
    char                message[4096] = "";
    const ab_functions* functions     = get(ALCHEMI_BRIDGE_VERSION, message, sizeof message);
    if (functions == nullptr)
    {
        *problem = message;
    }
    return functions;
}

/** Describe memory.
 *
 * \param[in] data     Address of the first element.
 * \param[in] dtype    Type of the elements.
 * \param[in] extents  Elements along each axis, one to three.
 * \param[in] strides  Distance of neighbours along each axis, in elements; none: without gaps.
 * \param[in] memory   Where it is.
 * \param[in] device   Index of the CUDA device, if it is there.
 */
inline ab_array describe(const void*                    data,
                         ab_dtype                       dtype,
                         std::initializer_list<int64_t> extents,
                         std::initializer_list<int64_t> strides = {},
                         ab_memory                      memory  = AB_HOST,
                         int32_t                        device  = 0)
{
    ab_array array = {};
    array.data     = const_cast<void*>(data);
    array.dtype    = dtype;
    array.memory   = memory;
    array.device   = device;
    array.ndim     = static_cast<int32_t>(extents.size());
    int axis       = 0;
    for (const int64_t extent : extents)
    {
        array.extent[axis++] = extent;
    }
    if (strides.size() == extents.size())
    {
        axis = 0;
        for (const int64_t stride : strides)
        {
            array.stride[axis++] = stride;
        }
        return array;
    }
    int64_t width = 1;
    for (axis = array.ndim - 1; axis >= 0; --axis)
    {
        array.stride[axis] = width;
        width *= array.extent[axis];
    }
    return array;
}

} // namespace alchemi_bridge

#endif
