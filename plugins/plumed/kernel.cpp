/* The symbols that engines look for in the file that PLUMED_KERNEL names.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * PLUMED (https://www.plumed.org) has an interface of a few C functions, through which engines hand over
 * atoms in every step and get forces; its library is found at run time. This is another library behind
 * the same interface: it evaluates a metatomic model. The layout of the table is that of PLUMED 2.5 and
 * later, version 3.
 */
#include "session.h"

#include <exception>
#include <new>

using namespace alchemi_plumed;

extern "C" {

/* Where an engine wants to hear of an error, instead of an exception. */
typedef struct {
    void *user;
    void (*handler)(void *user, int code, const char *message, const void *optional);
} plumed_nothrow_handler;

typedef struct {
    const void *data;
    size_t n_elements;
    const size_t *shape;
    size_t flags;
    const void *optional;
} plumed_safeptr;

typedef struct {
    int version;
    struct {
        void *(*create)();
        void (*cmd)(void *, const char *, const void *);
        void (*finalize)(void *);
    } functions;
    void (*cmd_nothrow)(void *, const char *, const void *, plumed_nothrow_handler);
    void (*cmd_safe)(void *, const char *, plumed_safeptr);
    void (*cmd_safe_nothrow)(void *, const char *, plumed_safeptr, plumed_nothrow_handler);
} plumed_symbol_table_type;

} // extern "C"

namespace {

/* Codes that PLUMED's wrapper turns into PLUMED's exception, and into std::bad_alloc. */
constexpr int FAILURE = 20000, NO_MEMORY = 11400;

void *create() { return new Session; }

void finalize(void *session) { delete static_cast<Session *>(session); }

void run(void *session, const char *name, const Value &value)
{
    static_cast<Session *>(session)->command(name, value);
}

void run_guarded(void *session, const char *name, const Value &value, plumed_nothrow_handler to)
{
    if (!to.handler) return run(session, name, value); /* the engine wants exceptions */
    try {
        run(session, name, value);
    } catch (const std::bad_alloc &error) {
        to.handler(to.user, NO_MEMORY, error.what(), nullptr);
    } catch (const std::exception &error) {
        to.handler(to.user, FAILURE, error.what(), nullptr);
    }
}

void cmd(void *session, const char *name, const void *data) { run(session, name, {data, 0}); }

void cmd_safe(void *session, const char *name, plumed_safeptr value)
{
    run(session, name, {value.data, value.flags});
}

void cmd_nothrow(void *session, const char *name, const void *data, plumed_nothrow_handler to)
{
    run_guarded(session, name, {data, 0}, to);
}

void cmd_safe_nothrow(void *session, const char *name, plumed_safeptr value, plumed_nothrow_handler to)
{
    run_guarded(session, name, {value.data, value.flags}, to);
}

} // namespace

#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED plumed_symbol_table_type plumed_symbol_table;
plumed_symbol_table_type plumed_symbol_table = {
    3, {create, cmd, finalize}, cmd_nothrow, cmd_safe, cmd_safe_nothrow};

/* For wrappers that are older than the table. */
EXPORTED void *plumed_plumedmain_create() { return create(); }
EXPORTED void plumed_plumedmain_cmd(void *session, const char *name, const void *data)
{
    cmd(session, name, data);
}
EXPORTED void plumed_plumedmain_finalize(void *session) { finalize(session); }
