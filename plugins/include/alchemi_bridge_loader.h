/* How a plugin finds the function table of alchemi_bridge.h.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef ALCHEMI_BRIDGE_LOADER_H
#define ALCHEMI_BRIDGE_LOADER_H

#include "alchemi_bridge.h"

#include <dlfcn.h>

#include <cstdlib>
#include <string>

namespace alchemi_bridge {

constexpr int MESSAGE_SIZE = 4096;

/* The table of the library that ALCHEMI_BRIDGE_LIBRARY names, or else of that at `path`; NULL with the
 * reason in `problem`. The library stays for as long as the process lives: it has started Python. */
inline const ab_functions *load(const char *path, std::string &problem)
{
    if (const char *named = std::getenv("ALCHEMI_BRIDGE_LIBRARY"); named && *named) path = named;
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!library) {
        problem = dlerror();
        return nullptr;
    }
    auto get = reinterpret_cast<ab_get_functions>(dlsym(library, ALCHEMI_BRIDGE_SYMBOL));
    if (!get) {
        problem = std::string(path) + " has no " + ALCHEMI_BRIDGE_SYMBOL;
        return nullptr;
    }
    char message[MESSAGE_SIZE] = "";
    const ab_functions *functions = get(ALCHEMI_BRIDGE_VERSION, message, sizeof message);
    problem = message;
    return functions;
}

} // namespace alchemi_bridge

#endif
