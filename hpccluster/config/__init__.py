"""Layered YAML, checked against the options' own types. The only place that imports yaml.

`load_config` reads all layers, `Config.resolve` gives one checked description of a cluster, with the origin of each value.
"""

from __future__ import annotations

from hpccluster.config.build import Config as Config
from hpccluster.config.build import load_config as load_config
from hpccluster.config.build import load_file as load_file
from hpccluster.config.check import suggest as suggest
from hpccluster.config.schema import Origin as Origin
from hpccluster.config.schema import ResolvedCluster as ResolvedCluster

__all__ = ["Config", "Origin", "ResolvedCluster", "load_config", "load_file", "suggest"]
