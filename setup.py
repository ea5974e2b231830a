"""Compiles the core. Everything else about the distribution is in setup.cfg.

A module is compiled when a .pxd of the same name lies beside it: its .py is ordinary Python, and the .pxd
gives Cython the C types. Both are shipped as well, for tracebacks, for readers and for FLOWER_PURE=1.
An error while compiling fails the build: nobody should run the slow version without having asked for it.
"""

import os
import sys
from pathlib import Path

import greenlet
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

JOBS = os.cpu_count() or 1
# greenlet.h lies inside the greenlet package and is included as <greenlet/greenlet.h>.
INCLUDE = os.path.dirname(os.path.dirname(greenlet.__file__))
# Without debug information the compiler needs half the time.
FLAGS = [] if sys.platform == "win32" else ["-O3", "-g0", "-Wno-unused-function"]


class ParallelBuildExt(build_ext):
    def finalize_options(self) -> None:
        super().finalize_options()
        if self.parallel is None:
            self.parallel = JOBS


def extensions() -> list[Extension]:
    sources = [pxd.with_suffix(".py") for pxd in Path("flower").rglob("*.pxd") if pxd.stem != "__init__"]
    return [
        Extension(
            ".".join(source.with_suffix("").parts),
            [source.as_posix()],
            include_dirs=[INCLUDE],
            extra_compile_args=FLAGS,
        )
        for source in sorted(sources)
        if source.exists()  # a .pxd alone declares somebody else's C API
    ]


setup(
    cmdclass={"build_ext": ParallelBuildExt},
    ext_modules=cythonize(
        extensions(),
        build_dir="build/cython",
        nthreads=JOBS if sys.platform == "linux" else 0,  # Cython needs fork for this
        compiler_directives={
            "language_level": "3",
            "nonecheck": True,
            "auto_pickle": False,
            # Methods as CPython's own types have them: called without a detour, and open to inspection.
            "binding": False,
            "embedsignature": True,
            "embedsignature.format": "clinic",
            # Annotations are for readers and for mypy; the C types are in the .pxd alone.
            "annotation_typing": False,
        },
    ),
)
