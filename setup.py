"""The native engine is built where Cython and a C compiler are; without them the Python engine
runs, and says so. Everything else stands in pyproject.toml.

RELAY_SANITIZE=1 builds it with the address and undefined-behaviour sanitizers, for the tests.
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup

ENGINE = Path("service/udpproxy/proxy/engine")
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g", "-O1"]
# A datagram's way leads through many small files: what one calls of another is inlined as well.
OPTIMIZE = ["-O2", "-flto"]


def extensions():
    try:
        from Cython.Build import cythonize
    except ImportError:
        print("no Cython: only the Python engine is installed", file=sys.stderr)
        return []
    how = SANITIZE if os.environ.get("RELAY_SANITIZE") else OPTIMIZE
    native = Extension(
        "udpproxy.proxy.engine.native",
        sources=[str(ENGINE / "native.pyx"), *map(str, sorted((ENGINE / "relay").glob("*.c")))],
        depends=[*map(str, sorted([*(ENGINE / "relay").glob("*.h"), *ENGINE.glob("*.pxi")]))],
        include_dirs=[str(ENGINE)],
        extra_compile_args=["-std=gnu11", "-Wall", "-Wextra", "-fvisibility=hidden", *how],
        libraries=["m"],
        extra_link_args=["-pthread", *how],
        optional=True,
    )
    return cythonize([native], language_level=3)


setup(ext_modules=extensions())
