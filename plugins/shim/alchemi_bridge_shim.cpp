/* The library that gives a foreign process the function table of alchemi_bridge.h.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * The provider is written in Python. Where the process has an interpreter (a Python program that
 * hosts the engine) that one is used; else the interpreter of the environment that this library was
 * built in is started. All of CPython's interface is looked up at run time: neither its headers nor
 * its library are needed to compile this file, and a Python host is never given a second libpython.
 *
 * AB_PYTHON and AB_LIBPYTHON, both string literals, name the environment's interpreter and its shared
 * library (empty where there is none).
 */
#include "../include/alchemi_bridge.h"

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>

#ifndef AB_PYTHON
#error "define AB_PYTHON and AB_LIBPYTHON"
#endif

namespace {

/* The part of CPython's interface that is needed, as in its documentation (versions 3.11 to 3.13). */
struct Python {
    int (*is_initialized)();
    void (*set_program_name)(const wchar_t *);
    void (*initialize)(int);
    void *(*save_thread)();
    int (*ensure)();
    void (*release)(int);
    wchar_t *(*decode_locale)(const char *, size_t *);
    void *(*import_module)(const char *);
    void *(*call_method)(void *, const char *, const char *, ...);
    void *(*as_void_ptr)(void *);
    void *(*occurred)();
    void (*fetch)(void **, void **, void **);
    void (*normalize)(void **, void **, void **);
    void *(*str)(void *);
    const char *(*as_utf8)(void *);
    void (*clear)();
    void (*dec_ref)(void *);
};

template <typename F> bool find(void *library, const char *name, F &function, std::string &missing)
{
    function = reinterpret_cast<F>(dlsym(library, name));
    if (!function) missing = name;
    return function != nullptr;
}

bool resolve(void *library, Python &python, std::string &missing)
{
    return find(library, "Py_IsInitialized", python.is_initialized, missing) &&
           find(library, "Py_SetProgramName", python.set_program_name, missing) &&
           find(library, "Py_InitializeEx", python.initialize, missing) &&
           find(library, "PyEval_SaveThread", python.save_thread, missing) &&
           find(library, "PyGILState_Ensure", python.ensure, missing) &&
           find(library, "PyGILState_Release", python.release, missing) &&
           find(library, "Py_DecodeLocale", python.decode_locale, missing) &&
           find(library, "PyImport_ImportModule", python.import_module, missing) &&
           find(library, "PyObject_CallMethod", python.call_method, missing) &&
           find(library, "PyLong_AsVoidPtr", python.as_void_ptr, missing) &&
           find(library, "PyErr_Occurred", python.occurred, missing) &&
           find(library, "PyErr_Fetch", python.fetch, missing) &&
           find(library, "PyErr_NormalizeException", python.normalize, missing) &&
           find(library, "PyObject_Str", python.str, missing) &&
           find(library, "PyUnicode_AsUTF8", python.as_utf8, missing) &&
           find(library, "PyErr_Clear", python.clear, missing) &&
           find(library, "Py_DecRef", python.dec_ref, missing);
}

/* What the exception that is set says; clears it. */
std::string exception_text(const Python &python)
{
    void *type = nullptr, *value = nullptr, *traceback = nullptr;
    python.fetch(&type, &value, &traceback);
    python.normalize(&type, &value, &traceback);
    std::string text = "an error without a message";
    if (void *said = value ? python.str(value) : nullptr) {
        if (const char *utf8 = python.as_utf8(said)) text = utf8;
        python.dec_ref(said);
    }
    for (void *object : {type, value, traceback})
        if (object) python.dec_ref(object);
    python.clear();
    return text;
}

/* Start the environment's interpreter in this process, and let go of its lock. */
bool start(Python &python, std::string &message)
{
    const std::string path = AB_LIBPYTHON;
    if (path.empty()) {
        message = std::string("the Python of the environment (") + AB_PYTHON +
                  ") has no shared library, so that it can not run inside another program: install "
                  "it (Debian, Ubuntu: apt-get install libpython3-dev), or start the engine from Python";
        return false;
    }
    /* Globally: extension modules of Python expect to find its symbols there. */
    void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
    if (!library) {
        message = std::string("the environment's Python can not be loaded: ") + dlerror();
        return false;
    }
    std::string missing;
    if (!resolve(library, python, missing)) {
        message = path + " has no " + missing + ": expected Python 3.11 to 3.13";
        return false;
    }
    /* File names are UTF-8 whatever the locale: a program that embeds Python has that of C unless it
     * says otherwise. The variable is deprecated since 3.12, and read by all that are supported. */
    if (auto utf8 = static_cast<int *>(dlsym(library, "Py_UTF8Mode"))) *utf8 = 1;
    /* By its program's name the interpreter finds the environment, as it does from a shell. */
    python.set_program_name(python.decode_locale(AB_PYTHON, nullptr));
    python.initialize(0); /* 0: signals stay the engine's */
    python.save_thread(); /* every call takes the lock by itself, from whatever thread it comes */
    return true;
}

const ab_functions *obtain(std::string &message)
{
    static Python python; /* never taken down: torch's threads may outlive main */
    static bool started = false; /* the interpreter, by an earlier call that failed after that */
    std::string missing;
    bool hosted = false;
    if (!started && dlsym(RTLD_DEFAULT, "Py_IsInitialized") != nullptr) {
        if (!resolve(RTLD_DEFAULT, python, missing)) {
            message = "the Python of this process has no " + missing + ": expected 3.11 to 3.13";
            return nullptr;
        }
        hosted = python.is_initialized() != 0;
    }
    if (!hosted && !started && !start(python, message)) return nullptr;
    started = !hosted;

    const int state = python.ensure();
    const void *table = nullptr;
    if (void *module = python.import_module("alchemi_bridge.engines.interface.table")) {
        if (void *number = python.call_method(module, hosted ? "address" : "started_by_shim", nullptr)) {
            table = python.as_void_ptr(number);
            python.dec_ref(number);
        }
        python.dec_ref(module);
    }
    if (python.occurred())
        message = "alchemi_bridge can not be used in the Python of " +
                  std::string(hosted ? "this process" : AB_PYTHON) + ": " + exception_text(python);
    python.release(state);
    return static_cast<const ab_functions *>(table);
}

} // namespace

extern "C" __attribute__((visibility("default"))) const ab_functions *
alchemi_bridge_functions(uint32_t version, char *message, size_t size)
{
    static std::mutex once;
    static const ab_functions *table = nullptr;
    const std::lock_guard<std::mutex> guard(once);
    std::string problem;
    if (version != ALCHEMI_BRIDGE_VERSION)
        problem = "the engine was built for version " + std::to_string(version) +
                  " of the interface, the library is version " +
                  std::to_string(ALCHEMI_BRIDGE_VERSION) + ": build the engine with its header";
    else if (!table)
        table = obtain(problem);
    if (!problem.empty() || !table) {
        if (message && size) std::snprintf(message, size, "%s", problem.c_str());
        return nullptr;
    }
    return table;
}
