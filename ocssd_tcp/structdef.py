"""One declaration per binary layout, and every faster form derived from it.

A layout is declared once, as a `construct` Struct. From that declaration this module derives a `struct.Struct`
(the form the I/O path uses), a numpy dtype (bulk scans), byte offsets and a C struct (the compiled engine), so
that no two of them can disagree. What the derived forms cannot express (nested structs, variable lengths) is
refused at import.

This module knows no layout and does no I/O.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import construct
import numpy as np

u8 = construct.Int8ul
u16 = construct.Int16ul
u32 = construct.Int32ul
u64 = construct.Int64ul

_CODES = {  # size in bytes: struct, numpy and C names
    1: ("B", "u1", "uint8_t"),
    2: ("H", "<u2", "uint16_t"),
    4: ("I", "<u4", "uint32_t"),
    8: ("Q", "<u8", "uint64_t"),
}


def raw(n_bytes: int) -> construct.Construct[bytes, bytes]:
    """A field of `n_bytes` opaque bytes; shorter values are padded with zeros when packed."""
    return construct.Bytes(n_bytes)


def reserved(n_bytes: int) -> construct.Construct[Any, Any]:
    """`n_bytes` that are written as zero and ignored when read. Declared without a name: `None / reserved(4)`."""
    return construct.Padding(n_bytes)


class Field(NamedTuple):
    """A named field of a layout: byte offset, size in bytes, and its code in the `struct` module."""

    name: str
    offset: int
    size: int
    code: str


class LayoutError(Exception):
    """A declaration that cannot be derived from, or whose size is not the specification's."""


class Layout:
    """A fixed-size little-endian structure.

    `size`: bytes. `struct`: a `struct.Struct` over the named fields in order (padding skipped).
    `names`: their names. `fields`: name -> Field. `dtype`: a numpy structured dtype of the same size.
    """

    def __init__(self, name: str, size: int, *members: construct.Construct[Any, Any]) -> None:
        """Declare a layout of exactly `size` bytes. LayoutError if the members do not add up to it."""
        self.name = name
        self.declaration: construct.Construct[Any, Any] = construct.Struct(*members)
        self.fields: dict[str, Field] = {}
        self._format = "<"
        offset = 0
        for member in members:
            offset = self._derive(member, offset)
        if offset != size:
            raise LayoutError(f"{name}: {offset} bytes declared, the specification says {size}")
        self.size = size
        self.struct = struct.Struct(self._format)
        self.names = tuple(self.fields)
        self.dtype = np.dtype(
            cast(
                Any,
                {
                    "names": list(self.fields),
                    "formats": [self._numpy_format(field) for field in self.fields.values()],
                    "offsets": [field.offset for field in self.fields.values()],
                    "itemsize": size,
                },
            )
        )

    def _derive(self, member: construct.Construct[Any, Any], offset: int) -> int:
        inner = member.subcon if isinstance(member, construct.Renamed) else member
        field_name = getattr(member, "name", None)
        size: int = inner.sizeof()
        if isinstance(inner, construct.Padded):
            self._format += f"{size}x"
            return offset + size
        if not field_name:
            raise LayoutError(f"{self.name}: a field without a name at byte {offset}")
        if field_name in self.fields:
            raise LayoutError(f"{self.name}: {field_name} twice")
        if isinstance(inner, construct.FormatField):
            code = _CODES[size][0]
        elif isinstance(inner, construct.Bytes):
            code = f"{size}s"
        else:
            raise LayoutError(f"{self.name}.{field_name}: {type(inner).__name__} has no derived form")
        self._format += code
        self.fields[field_name] = Field(field_name, offset, size, code)
        return offset + size

    @staticmethod
    def _numpy_format(field: Field) -> str:
        return f"V{field.size}" if field.code.endswith("s") else _CODES[field.size][1]

    def offset(self, name: str) -> int:
        """Byte offset of a field."""
        return self.fields[name].offset

    def pack(self, **values: int | bytes) -> bytes:
        """The structure as bytes; fields not given are zero. KeyError for an unknown field."""
        unknown = values.keys() - self.fields.keys()
        if unknown:
            raise KeyError(f"{self.name} has no field {', '.join(sorted(unknown))}")
        return self.struct.pack(*(values.get(f.name, b"" if f.code.endswith("s") else 0) for f in self.fields.values()))

    def parse(self, data: bytes | bytearray | memoryview) -> construct.Container[Any]:
        """The structure at the head of `data`, by construct: for the control path. construct.StreamError if short."""
        return self.declaration.parse(bytes(data[: self.size]))

    def unpack_from(self, data: bytes | bytearray | memoryview, offset: int = 0) -> dict[str, Any]:
        """The same values by the derived `struct` form, as a dict."""
        return dict(zip(self.names, self.struct.unpack_from(data, offset), strict=True))

    def c_struct(self) -> str:
        """The layout as a packed C struct, for the compiled engine."""
        lines = [f"struct __attribute__((packed)) {self.name} {{"]
        position = 0
        for field in self.fields.values():
            if field.offset > position:
                lines.append(f"    uint8_t reserved_{position}[{field.offset - position}];")
            if field.code.endswith("s"):
                lines.append(f"    uint8_t {field.name}[{field.size}];")
            else:
                lines.append(f"    {_CODES[field.size][2]} {field.name};")
            position = field.offset + field.size
        if position < self.size:
            lines.append(f"    uint8_t reserved_{position}[{self.size - position}];")
        return "\n".join([*lines, "};"])


def struct_of(layout: Layout, names: Sequence[str]) -> struct.Struct:
    """A `struct.Struct` that reads only `names` (in layout order) of a layout and skips the rest."""
    wanted = set(names)
    text, position = "<", 0
    for field in layout.fields.values():
        if field.name in wanted:
            text += f"{field.offset - position}x" if field.offset > position else ""
            text += field.code
            position = field.offset + field.size
    return struct.Struct(text + (f"{layout.size - position}x" if layout.size > position else ""))
