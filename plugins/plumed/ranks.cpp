/* The ranks of the engine, through the MPI that it was linked with.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#include "ranks.h"
#include "values.h"

#include <dlfcn.h>

#include <algorithm>
#include <climits>
#include <cstdint>
#include <cstring>

namespace alchemi_plumed {

namespace {

/* A handle of MPI: an int in MPICH and its relatives, an address in Open MPI. Both fit, and calls of
 * the x86-64 and AArch64 ABIs pass them in the same registers. */
using Handle = std::intptr_t;

/* Constants of MPICH's ABI, which Intel MPI, MVAPICH and Cray MPICH share (mpi.h of MPICH 3 and 4). */
constexpr Handle MPICH_BYTE = 0x4c00010d, MPICH_DOUBLE = 0x4c00080b, MPICH_SUM = 0x58000003;

/* Bytes in one broadcast: MPI counts with int. */
constexpr size_t LARGEST = size_t(1) << 30;

/* The MPI of the process: among its symbols, or (Python hosts load it for themselves) by name. */
void *library()
{
    if (dlsym(RTLD_DEFAULT, "MPI_Comm_rank")) return RTLD_DEFAULT;
    for (const char *name : {"libmpi.so.12", "libmpi.so.40", "libmpi.so", "libmpi_cray.so.12"})
        if (void *found = dlopen(name, RTLD_NOW | RTLD_NOLOAD)) return found;
    return RTLD_DEFAULT;
}

template <typename F> void find(const char *name, F &function)
{
    function = reinterpret_cast<F>(dlsym(library(), name));
    if (!function)
        throw Failure(std::string("MPI: expected the engine's MPI library among the symbols of the "
                                  "process, got no ") +
                      name + "; run the engine on one rank, or with a program that is linked with MPI");
}

} // namespace

struct Mpi {
    int (*comm_rank)(Handle, int *);
    int (*comm_size)(Handle, int *);
    int (*comm_dup)(Handle, void *);
    int (*comm_free)(void *);
    int (*reduce)(const void *, void *, int, Handle, Handle, int, Handle);
    int (*bcast)(void *, int, Handle, int, Handle);
    int (*finalized)(int *);
    int (*library_version)(char *, int *);
    Handle byte = 0, real = 0, sum = 0;
    bool is_open_mpi = false;
    Handle world = 0;
    bool owned = false;

    Mpi()
    {
        find("MPI_Comm_rank", comm_rank);
        find("MPI_Comm_size", comm_size);
        find("MPI_Comm_dup", comm_dup);
        find("MPI_Comm_free", comm_free);
        find("MPI_Reduce", reduce);
        find("MPI_Bcast", bcast);
        find("MPI_Finalized", finalized);
        find("MPI_Get_library_version", library_version);
        if (void *there = dlsym(library(), "ompi_mpi_double")) {
            is_open_mpi = true;
            real = reinterpret_cast<Handle>(there);
            byte = reinterpret_cast<Handle>(dlsym(library(), "ompi_mpi_byte"));
            sum = reinterpret_cast<Handle>(dlsym(library(), "ompi_mpi_op_sum"));
            return;
        }
        char text[8192] = ""; /* MPI_MAX_LIBRARY_VERSION_STRING of MPICH */
        int length = 0;
        library_version(text, &length);
        if (!std::strstr(text, "MPICH") && !std::strstr(text, "Intel") && !std::strstr(text, "MVAPICH"))
            throw Failure(std::string("MPI: expected MPICH or one of its relatives, or Open MPI, got ") +
                          text + "; run the engine on one rank");
        byte = MPICH_BYTE;
        real = MPICH_DOUBLE;
        sum = MPICH_SUM;
    }

    Handle from(const void *communicator, bool fortran) const
    {
        int number = 0;
        if (fortran || !is_open_mpi) std::memcpy(&number, communicator, sizeof number);
        if (!is_open_mpi) return number; /* Fortran's handles are the same */
        if (!fortran) {
            Handle handle = 0;
            std::memcpy(&handle, communicator, sizeof handle);
            return handle;
        }
        Handle (*convert)(int) = nullptr;
        find("MPI_Comm_f2c", convert);
        return convert(number);
    }

    /* A communicator of our own: the engine's messages and ours must not meet. */
    void duplicate(Handle handle)
    {
        world = 0;
        check(comm_dup(handle, &world));
        if (!is_open_mpi) world = static_cast<int>(world); /* an int was written */
        owned = true;
    }

    ~Mpi()
    {
        int over = 0;
        if (owned && finalized(&over) == 0 && !over) comm_free(&world);
    }

    static void check(int code)
    {
        if (code)
            throw Failure("MPI: expected success, got code " + std::to_string(code) +
                          "; see what MPI has written");
    }
};

Ranks::Ranks() = default;
Ranks::~Ranks() = default;

void Ranks::take(const void *communicator, bool fortran)
{
    if (!communicator) throw Failure("MPI communicator: expected its address, got none");
    auto found = std::make_unique<Mpi>();
    found->duplicate(found->from(communicator, fortran));
    Mpi::check(found->comm_rank(found->world, &rank));
    Mpi::check(found->comm_size(found->world, &size));
    mpi = std::move(found);
}

void Ranks::sum(std::vector<double> &values)
{
    if (!several()) return;
    if (values.size() > INT_MAX) throw Failure("MPI: more atoms than it can count");
    std::vector<double> total(first() ? values.size() : 0);
    Mpi::check(mpi->reduce(values.data(), total.data(), static_cast<int>(values.size()), mpi->real,
                           mpi->sum, 0, mpi->world));
    if (first()) values.swap(total);
}

void Ranks::broadcast(void *data, size_t bytes)
{
    for (size_t begin = 0; several() && begin < bytes; begin += LARGEST)
        Mpi::check(mpi->bcast(static_cast<char *>(data) + begin,
                              static_cast<int>(std::min(LARGEST, bytes - begin)), mpi->byte, 0,
                              mpi->world));
}

void Ranks::spread(double &value) { broadcast(&value, sizeof value); }

void Ranks::spread(std::vector<double> &values)
{
    size_t count = values.size();
    broadcast(&count, sizeof count);
    values.resize(count);
    broadcast(values.data(), count * sizeof(double));
}

void Ranks::spread(std::vector<long long> &values)
{
    size_t count = values.size();
    broadcast(&count, sizeof count);
    values.resize(count);
    broadcast(values.data(), count * sizeof(long long));
}

void Ranks::spread(std::string &text)
{
    size_t count = text.size();
    broadcast(&count, sizeof count);
    text.resize(count);
    broadcast(text.data(), count);
}

} // namespace alchemi_plumed
