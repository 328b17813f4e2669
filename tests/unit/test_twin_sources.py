"""What the compiled engine is made of, compiled alone: generated layouts, and CRC-32C on every kind of machine."""

from __future__ import annotations

import ctypes
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from crc32c import crc32c

from ocssd_tcp.accel import generate

ACCEL = Path(generate.__file__).parent
COMPILER = shutil.which("cc")

CRC_LIBRARY = """
#include "crc32c.h"
void prepare(int use_instruction) { crc32c_prepare(); crc32c_has_instruction &= use_instruction; }
uint32_t checksum(uint32_t before, const void *bytes, size_t length) { return crc32c(before, bytes, length); }
"""

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler")


def compiled(folder: Path, source: str, *options: str) -> Path:
    """A shared library made of `source`."""
    (folder / "source.c").write_text(source)
    library = folder / "library.so"
    command = [COMPILER or "cc", "-shared", "-fPIC", "-Wall", "-Werror", "-O1", f"-I{ACCEL}", f"-I{folder}", *options]
    subprocess.run([*command, "-o", str(library), str(folder / "source.c")], check=True)
    return library


@needs_compiler
def test_c_sees_every_field_where_the_declaration_has_it(tmp_path: Path) -> None:
    generate.write(tmp_path)
    claims = [
        f'_Static_assert(offsetof(struct {layout.name}, {field.name}) == {field.offset}, "{layout.name}.{field.name}");'
        for layout in generate.LAYOUTS
        for field in layout.fields.values()
    ]
    claims += [
        f'_Static_assert(sizeof(struct {layout.name}) == {layout.size}, "{layout.name}");'
        for layout in generate.LAYOUTS
    ]
    claims += [f'_Static_assert({name} == {value}, "{name}");' for name, value in generate.constants().items()]
    compiled(tmp_path, "\n".join(["#include <stddef.h>", '#include "layouts.h"', *claims]))


def test_cython_is_told_of_all_that_the_header_has() -> None:
    header, declarations = generate.header(), generate.declarations()
    for layout in generate.LAYOUTS:
        assert f"struct __attribute__((packed)) {layout.name} {{" in header
        assert f"    struct {layout.name}:\n" in declarations
        for name in layout.fields:
            assert f" {name}\n" in declarations
    for name in generate.constants():
        assert f"        {name}\n" in declarations


@needs_compiler
@pytest.mark.parametrize("use_instruction", [1, 0], ids=["by the instruction", "by tables"])
def test_crc_is_that_of_the_package(tmp_path: Path, use_instruction: int) -> None:
    library = ctypes.CDLL(str(compiled(tmp_path, CRC_LIBRARY)))
    library.checksum.restype = ctypes.c_uint32
    library.checksum.argtypes = (ctypes.c_uint32, ctypes.c_char_p, ctypes.c_size_t)
    library.prepare(use_instruction)
    chance = random.Random(7)
    lengths = [
        *range(40),
        72,
        4079,
        4080,
        4081,
        4096,
        8159,
        8160,
        8168,
        131072,
        *(chance.randrange(20000) for _ in range(40)),
    ]
    for length in lengths:
        data = chance.randbytes(length)
        assert library.checksum(0, data, length) == crc32c(data), length
        cut = chance.randrange(length + 1)
        begun = library.checksum(0, data[:cut], cut)
        assert library.checksum(begun, data[cut:], length - cut) == crc32c(data), (length, cut)
