/* Stand-in for GROMACS, see README.md of this folder: a record of what was queued, in order.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef STAND_IN_TRACE_H
#define STAND_IN_TRACE_H

#include <map>
#include <string>

namespace stand_in
{

inline std::string& trace()
{
    static std::string lines;
    return lines;
}

inline std::map<const void*, std::string>& names()
{
    static std::map<const void*, std::string> known;
    return known;
}

inline std::string nameOf(const void* thing)
{
    const auto found = names().find(thing);
    return found == names().end() ? "its own" : found->second;
}

inline void say(const std::string& line)
{
    trace() += line + "\n";
}

} // namespace stand_in

#endif
