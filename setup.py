"""Compile `native/` into one shared library that links nothing but the C library.

It has a plain C interface, so one wheel serves every Python and every torch. Each instruction set
is compiled on its own, and the library chooses among them when it is loaded. Where it can't be
compiled the package installs without it and computes through torch and NumPy.
"""

from __future__ import annotations

import os
import platform
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

FLAGS = [
    "-O3",
    "-g0",
    "-std=c++17",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-Wall",
    "-Wextra",
    "-Wno-psabi",  # no vector leaves the library
]
LINK_FLAGS = ["-static-libstdc++", "-static-libgcc"]
if platform.system() == "Linux":
    LINK_FLAGS.append("-Wl,--exclude-libs,ALL")  # keep the C++ runtime's names to ourselves
# For `build_ext --sanitize`: errors in the use of memory and of the language end the process.
SANITIZER_FLAGS = [
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
    "-fno-wrapv",
    "-O1",
    "-g",
    "-D_GLIBCXX_ASSERTIONS",
    "-D_GLIBCXX_SANITIZE_VECTOR",
]
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma"]
# What multiplies bytes, compiled for each instruction set and for each kind of tiles.
BYTE_SOURCES = [
    "native/int8.cpp",
    "native/maxsim.cpp",
    "native/plaid.cpp",
    "native/plaid_build.cpp",
]
# Compiled for each instruction set.
KERNEL_SOURCES = [*BYTE_SOURCES, "native/modernbert.cpp"]
INSTRUCTION_SETS = {"portable": []}
# Kinds of AMX tiles and their flags.
EMULATED_TILES = {"portable_emulated_tile": ["-DEMULATE_TILES"]}
AMX = ["-mamx-tile", "-mamx-bf16", "-mamx-int8"]
if platform.machine() in ("x86_64", "AMD64"):
    INSTRUCTION_SETS |= {
        "avx2": ["-mavx2", "-mfma"],
        "avx512": [*AVX512, "-mprefer-vector-width=512"],
        "avx512_bf16": [*AVX512, "-mavx512bf16", "-mavx512vnni", "-mprefer-vector-width=512"],
    }
    EMULATED_TILES |= {"emulated_tile": [*INSTRUCTION_SETS["avx512_bf16"], "-DEMULATE_TILES"]}


class BuildLibrary(build_ext):
    """Compiles the kernels once for each instruction set and links them into one library."""

    user_options: ClassVar = [
        *build_ext.user_options,
        ("sanitize", None, "with AddressSanitizer and UndefinedBehaviorSanitizer"),
    ]
    boolean_options: ClassVar = [*build_ext.boolean_options, "sanitize"]

    def initialize_options(self) -> None:
        """As without options of our own."""
        super().initialize_options()
        self.sanitize = False

    def get_ext_filename(self, fullname: str) -> str:
        """Leave Python's version out of the name: the library has no Python interface."""
        return f"{fullname.replace('.', '/')}.so"

    def build_extension(self, ext: Extension) -> None:
        """Compile and link."""
        self._flags = [*FLAGS, *SANITIZER_FLAGS] if self.sanitize else FLAGS
        # A core compiles one instruction set while another compiles the next.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            amx = pool.submit(self._compile_amx)
            tiles = [pool.submit(self._compile_tiles, *each) for each in EMULATED_TILES.items()]
            kernels = [
                pool.submit(self._compile_kernels, *each) for each in INSTRUCTION_SETS.items()
            ]
        objects = [path for each in (*tiles, amx, *kernels) for path in each.result()]
        objects += self.compiler.compile(
            ["native/interface.cpp", "native/amx.cpp"],
            output_dir=self.build_temp,
            macros=[("HAS_AMX", "1")] if amx.result() else [],
            extra_postargs=self._flags,
        )
        self.compiler.link_shared_object(
            objects,
            self.get_ext_fullpath(ext.name),
            # Sanitizers come with libraries of their own, beside a C++ runtime that is shared.
            extra_postargs=SANITIZER_FLAGS if self.sanitize else LINK_FLAGS,
            target_lang="c++",
        )

    def _compile_kernels(self, name: str, flags: list[str]) -> list[str]:
        objects: list[str] = self.compiler.compile(
            KERNEL_SOURCES,
            output_dir=str(Path(self.build_temp) / name),
            macros=[
                ("KERNELS", f"{name}_kernels"),
                *_byte_kernels(name),
            ],
            extra_postargs=[*self._flags, *flags],
        )
        return objects

    def _compile_amx(self) -> list[str]:
        """Nothing where there are no AMX tiles, or the compiler does not know them."""
        if platform.system() != "Linux" or "avx512_bf16" not in INSTRUCTION_SETS:
            return []
        try:
            return self._compile_tiles("amx", [*INSTRUCTION_SETS["avx512_bf16"], *AMX])
        except CompileError as error:
            self.warn(f"this compiler lacks AMX, so the library will not use it: {error}")
            return []

    def _compile_tiles(self, name: str, flags: list[str]) -> list[str]:
        objects: list[str] = self.compiler.compile(
            ["native/attention_tiles.cpp", *BYTE_SOURCES],
            output_dir=str(Path(self.build_temp) / name),
            macros=[
                ("ATTENTION", f"{name}_attention"),
                ("ATTENTION_GRADIENT", f"{name}_attention_gradient"),
                ("BYTE_TILES", "1"),
                *_byte_kernels(name),
            ],
            extra_postargs=[*self._flags, *flags],
        )
        return objects


def _byte_kernels(name: str) -> list[tuple[str, str | None]]:
    """What the tables of functions of `BYTE_SOURCES` are called."""
    return [
        ("INT8_KERNELS", f"{name}_int8_kernels"),
        ("LATE_INTERACTION_KERNELS", f"{name}_late_interaction"),
        ("PLAID_BUILD_KERNELS", f"{name}_plaid_build"),
        ("MAXSIM_KERNELS", f"{name}_maxsim"),
    ]


class PlatformWheel(bdist_wheel):
    """A wheel for this platform and any Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        """Python and ABI do not matter."""
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[
        Extension(
            "retrieval._kernels",
            sources=[str(path) for path in sorted(Path("native").glob("*.cpp"))],
            depends=[str(path) for path in sorted(Path("native").glob("*.h"))],
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": PlatformWheel},
)
