/* How a C++ program gets the function table of alchemi_bridge.h, and describes its memory.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * A header alone, for programs that link libdl where that is a library of its own. No exceptions.
 */
#ifndef ALCHEMI_BRIDGE_LOADER_H
#define ALCHEMI_BRIDGE_LOADER_H

#include "alchemi_bridge.h"

#include <dlfcn.h>

#include <cstdlib>
#include <initializer_list>
#include <string>

namespace alchemi_bridge {

constexpr int MESSAGE_SIZE = 4096;

/** The library that ALCHEMI_BRIDGE_LIBRARY names, else the one given: for programs that know it from
 *  their build, unless who starts them knows better. */
inline std::string library_or(const char *built)
{
    const char *named = std::getenv("ALCHEMI_BRIDGE_LIBRARY");
    return named && *named ? named : built;
}

/** Open the library and get the functions; NULL with the reason in `problem`. Without a path it is that
 *  in ALCHEMI_BRIDGE_LIBRARY. The table lives as long as the process, and so does the library: it may
 *  have started an interpreter. */
inline const ab_functions *load(const std::string &library, std::string &problem)
{
    const std::string path = library.empty() ? library_or("") : library;
    const std::string what = "library of alchemi_bridge: expected ";
    const std::string take = "; take the one whose path 'alchemi-bridge plugin c' prints";
    if (path.empty()) {
        problem = what + "its path in ALCHEMI_BRIDGE_LIBRARY, got none" + take;
        return nullptr;
    }
    void *opened = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!opened) {
        const char *why = dlerror();
        problem = what + "one that can be opened, got " + path + " (" + (why ? why : "no reason") + ")" + take;
        return nullptr;
    }
    auto get = reinterpret_cast<ab_get_functions>(dlsym(opened, ALCHEMI_BRIDGE_SYMBOL));
    if (!get) {
        problem = what + "the symbol " ALCHEMI_BRIDGE_SYMBOL ", got none in " + path + take;
        return nullptr;
    }
    char message[MESSAGE_SIZE] = "";
    const ab_functions *functions = get(ALCHEMI_BRIDGE_VERSION, message, sizeof message);
    if (!functions) {
        problem = message;
    } else if (functions->struct_size < sizeof *functions) {
        problem = what + "one that is as new as this program, got an older one, " + path +
                  "; take both from the same installation";
        return nullptr;
    }
    return functions;
}

/** Describe memory: the address of its first element, extents along one to three axes, and the distance
 *  of neighbours along each in elements (none: without gaps). */
inline ab_array describe(const void *data, ab_dtype dtype, std::initializer_list<int64_t> extents,
                         std::initializer_list<int64_t> strides = {}, ab_memory memory = AB_HOST,
                         int32_t device = 0)
{
    ab_array array = {};
    array.data = const_cast<void *>(data);
    array.dtype = dtype;
    array.memory = memory;
    array.device = device;
    array.ndim = static_cast<int32_t>(extents.size());
    int axis = 0;
    for (const int64_t extent : extents) array.extent[axis++] = extent;
    int64_t width = 1;
    for (axis = array.ndim - 1; axis >= 0; --axis) {
        array.stride[axis] = width;
        width *= array.extent[axis];
    }
    axis = 0;
    for (const int64_t stride : strides) array.stride[axis++] = stride;
    return array;
}

} // namespace alchemi_bridge

#endif
