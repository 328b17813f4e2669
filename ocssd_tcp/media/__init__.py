"""The storage engine of a drive: extents in, status out. It knows neither NVMe nor the wire."""
