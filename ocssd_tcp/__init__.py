"""ocssd_tcp: an Open-Channel SSD 2.0 drive as an NVMe/TCP target, with a host library and tools."""

__version__ = "0.1.0"
