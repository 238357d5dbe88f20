"""Builds tracefleet_native._native: the C sources, their declarations, and the tracer's control library."""

from pathlib import Path

from cffi import FFI

# setuptools wants paths relative to the directory of setup.py, which is also where it runs.
HERE = Path(__file__).parent
SOURCES = sorted(path.relative_to(HERE).as_posix() for path in (HERE / "src").glob("*.c"))

ffi = FFI()
ffi.cdef((HERE / "python/tracefleet_native/native.cdef.txt").read_text())
ffi.set_source(
    "tracefleet_native._native",
    "".join(
        f"#include <tracefleet/{header}.h>\n" for header in ("channel", "fleet", "intake", "output", "pump", "relay")
    ),
    sources=SOURCES,
    include_dirs=["include", "src"],
    libraries=["lttng-ust-ctl", "urcu"],
    define_macros=[("_GNU_SOURCE", "1")],
    extra_compile_args=["-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-fvisibility=hidden"],
    # liblttng-ust-ctl uses symbols of liburcu without depending on it: the linker must not drop it.
    extra_link_args=["-pthread", "-Wl,--no-as-needed"],
)
