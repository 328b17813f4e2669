"""The compiled engine, an optional part of the build: without a compiler or Cython the package is pure Python.

Everything else is in pyproject.toml.
"""

import importlib
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
GENERATED = Path("build") / "generated"


class BuildTwin(build_ext):
    """Writes the layouts, has Cython make C of the twin, compiles it. If any of that fails, the twin is left out."""

    def finalize_options(self) -> None:
        """As the class says; what Cython needs has to be there before the sources are looked at."""
        if self.distribution.ext_modules:
            try:
                self._translate()
            except Exception as error:
                self.warn(f"the compiled engine is left out: {error}")
                self.distribution.ext_modules = []
        super().finalize_options()

    def _translate(self) -> None:
        cythonize = importlib.import_module("Cython.Build").cythonize
        sys.path.insert(0, str(ROOT))
        try:
            importlib.import_module("ocssd_tcp.accel.generate").write(GENERATED)
        finally:
            sys.path.remove(str(ROOT))
        self.distribution.ext_modules = cythonize(
            self.distribution.ext_modules,
            include_path=[str(GENERATED), "ocssd_tcp/accel"],
            build_dir=str(GENERATED),
            quiet=True,
        )
        for extension in self.distribution.ext_modules:
            extension.optional = True


setup(
    ext_modules=[
        Extension(
            "ocssd_tcp.accel._twin",
            ["ocssd_tcp/accel/_twin.pyx"],
            include_dirs=[str(GENERATED), "ocssd_tcp/accel"],
            depends=[str(path) for path in (Path("ocssd_tcp") / "accel").glob("*.[hp]*")],
            extra_compile_args=["-O2"],
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildTwin},
)
