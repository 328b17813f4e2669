"""What the compiled engine needs to know of the wire and of the chunk table, written from their declarations.

`python -m ocssd_tcp.accel.generate FOLDER` writes `layouts.h`, packed C structs and constants, and `layouts.pxi`, the
same for Cython. The build runs it before it compiles the twin, so that no offset or code point stands there twice.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from enum import IntEnum, IntFlag
from pathlib import Path

from ocssd_tcp.media.chunk import KIND_MASK, OPEN_SEQUENTIAL
from ocssd_tcp.ocssd.layouts import CHUNK_DESCRIPTOR
from ocssd_tcp.ocssd.trace_format import SEQ_LIMIT, TRACE_RECORD, TraceFlag
from ocssd_tcp.structdef import Layout
from ocssd_tcp.wire.digest import DIGEST_BYTES
from ocssd_tcp.wire.layouts import C2H_DATA, CAPSULE_CMD, CAPSULE_RESP, COMMON_HEADER, H2C_DATA, R2T, SQE
from ocssd_tcp.wire.opcodes import MAX_VECTOR_LBAS, Io, ListForm, SglType
from ocssd_tcp.wire.pdu import PduFlag, PduType

LAYOUTS: tuple[Layout, ...] = (
    COMMON_HEADER, SQE, CAPSULE_CMD, CAPSULE_RESP, H2C_DATA, C2H_DATA, R2T, CHUNK_DESCRIPTOR, TRACE_RECORD,
)  # fmt: skip
ENUMS: Mapping[str, type[IntEnum | IntFlag]] = {
    "PDU": PduType, "FLAG": PduFlag, "IO": Io, "SGL": SglType, "LIST": ListForm, "TRACE": TraceFlag,
}  # fmt: skip
CONSTANTS: Mapping[str, int] = {
    "KIND_MASK": KIND_MASK,
    "OPEN_SEQUENTIAL": OPEN_SEQUENTIAL,
    "MAX_VECTOR_LBAS": MAX_VECTOR_LBAS,
    "DIGEST_BYTES": DIGEST_BYTES,
    "SEQ_LIMIT": SEQ_LIMIT,
}
_WRITTEN = "from the declarations by ocssd_tcp.accel.generate"
_C_TYPES = {"B": "uint8_t", "H": "uint16_t", "I": "uint32_t", "Q": "uint64_t"}


def constants() -> dict[str, int]:
    """Every constant by its name in C."""
    named = {f"{prefix}_{member.name}": int(member) for prefix, enum in ENUMS.items() for member in enum}
    return named | dict(CONSTANTS)


def header() -> str:
    """The C header."""
    lines = [
        f"/* Written {_WRITTEN}. */",
        "#include <stdint.h>",
        "#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__",
        '#error "the structures are read where they lie, and they are little-endian"',
        "#endif",
    ]
    lines += [layout.c_struct() for layout in LAYOUTS]
    lines += ["enum {", *(f"    {name} = {value:#x}," for name, value in constants().items()), "};"]
    return "\n".join(lines) + "\n"


def declarations() -> str:
    """The same for Cython: what the C header defines."""
    lines = [f"# Written {_WRITTEN}.", "from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t", ""]
    lines.append('cdef extern from "layouts.h" nogil:')
    for layout in LAYOUTS:
        lines.append(f"    struct {layout.name}:")
        lines += [f"        {_C_TYPES[field.code]} {field.name}" for field in layout.fields.values()]
    lines += ["    enum:", *(f"        {name}" for name in constants())]
    return "\n".join(lines) + "\n"


def write(folder: Path) -> None:
    """Write both files into `folder`, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "layouts.h").write_text(header())
    (folder / "layouts.pxi").write_text(declarations())


if __name__ == "__main__":
    write(Path(sys.argv[1]))
