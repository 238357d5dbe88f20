"""The extension that build_native.py makes of native.cdef.txt; its functions are checked by cffi at run time."""

from typing import Any

ffi: Any
lib: Any
