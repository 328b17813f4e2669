"""The daemon's configuration: TOML in, frozen dataclasses out. Imported by the composition root and the daemon's CLI.

`schema` declares the keys, `values` what a key can hold, `rules` what must hold between keys; `load` reads, and
`sample` writes.
"""

from ocssd_tcp.config.errors import ConfigError, Problem
from ocssd_tcp.config.load import load
from ocssd_tcp.config.schema import Config, DriveConfig, NamespaceConfig, ObserveConfig, TargetConfig
from ocssd_tcp.config.values import Address

__all__ = [
    "Address",
    "Config",
    "ConfigError",
    "DriveConfig",
    "NamespaceConfig",
    "ObserveConfig",
    "Problem",
    "TargetConfig",
    "load",
]
