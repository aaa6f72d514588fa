"""What a configuration is made of: values that know where they came from, and the keys that belong to no backend.

It must not know YAML, files, or any backend: a backend's options type is handed in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was said."""

    source: str
    """A file as people write it, the name of an environment variable, ``keyword``, or ``default``."""
    line: int = 0
    """The line in a file, from 1; 0 where there are no lines."""

    def __str__(self) -> str:
        return f"{self.source} line {self.line}" if self.line else self.source


KEYWORD = Origin("keyword")


@dataclass(frozen=True, slots=True)
class Node:
    """A value and its origin. ``value`` is a scalar, a list of nodes, or a dict of nodes."""

    value: Any
    origin: Origin
    text: str | None = None
    """The raw text, where the value came from a place without types (an environment variable, ``--set``): it is used
    as it is where the typed reading does not fit."""

    def plain(self) -> Any:
        """The value without origins."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


Count = Annotated[int, Meta(ge=0)]
Port = Annotated[int, Meta(ge=0, le=65535)]
Duration = str | float
"""``"20min"``, ``"01:00:00"`` or seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleOptions:
    """``scale:`` the size at the start. One of the keys."""

    workers: Annotated[Count | None, Meta(description="Worker processes, rounded up to whole jobs.")] = None
    jobs: Annotated[Count | None, Meta(description="Jobs.")] = None
    cores: Annotated[Count | None, Meta(description="Cores of all jobs together, rounded up.")] = None
    memory: Annotated[str | Count | None, Meta(description="Memory of all jobs together, as 512GB or in bytes.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptOptions:
    """``adapt:`` bounds between which the size follows the work."""

    minimum: Annotated[Count | None, Meta(description="Workers that are always there.")] = None
    maximum: Annotated[Count | None, Meta(description="Workers, at most.")] = None
    minimum_jobs: Annotated[Count | None, Meta(description="Jobs that are always there.")] = None
    maximum_jobs: Annotated[Count | None, Meta(description="Jobs, at most.")] = None
    minimum_cores: Annotated[Count | None, Meta(description="Cores that are always there.")] = None
    maximum_cores: Annotated[Count | None, Meta(description="Cores, at most.")] = None
    minimum_memory: Annotated[str | Count | None, Meta(description="Memory that is always there.")] = None
    maximum_memory: Annotated[str | Count | None, Meta(description="Memory, at most.")] = None
    target_duration: Annotated[Duration | None, Meta(description="How long the queued work should take.")] = None
    interval: Annotated[Duration | None, Meta(description="Time between decisions.")] = None
    wait_count: Annotated[Count | None, Meta(description="Decisions in a row before workers are let go.")] = None
    idle_timeout: Annotated[Duration | None, Meta(description="Idle time after which a job is let go.")] = None
    max_pending: Annotated[Count | None, Meta(description="Jobs that may wait in the queue at once.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """The keys of a cluster's description that do not belong to its backend."""

    backend: Annotated[str | None, Meta(description="The backend, such as slurm or local.")] = None
    extends: Annotated[str | None, Meta(description="The cluster or backend whose values apply first.")] = None
    scale: Annotated[ScaleOptions | None, Meta(description="The size at the start.")] = None
    adapt: Annotated[AdaptOptions | None, Meta(description="Let the size follow the work, between bounds.")] = None
    name: Annotated[str | None, Meta(description="What the cluster is called while it runs.")] = None
    host: Annotated[str | None, Meta(description="The address on which the head listens.")] = None
    contact_host: Annotated[
        str | None, Meta(description="What workers and clients connect to, where it differs from host.")
    ] = None
    port: Annotated[Port | None, Meta(description="The port of the head; 0 is any.")] = None
    protocol: Annotated[
        Literal["tls", "tcp"] | None, Meta(description="tls, or tcp for a network without secrets.")
    ] = None
    engine: Annotated[
        Literal["native", "dask"] | None,
        Meta(description="What runs tasks on the workers: native, or dask (needs hpccluster[dask])."),
    ] = None
    state_directory: Annotated[str | None, Meta(description="The parent of the cluster's directory.")] = None
    linger: Annotated[Duration | None, Meta(description="How long the cluster outlives its owner.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedCluster:
    """A cluster's description after all layers, checked."""

    name: str
    """The variant or backend that was asked for; for a file, the file."""
    backend: str
    options: dict[str, Any] = field(default_factory=dict)
    """The backend's options as plain values; what nobody said is not in it."""
    scale: dict[str, Any] | None = None
    adapt: dict[str, Any] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    """The other keys of `ClusterOptions` that were said: ``name``, ``host``, ``port``, ``protocol``, ``linger``, ..."""
    origins: dict[str, Origin] = field(default_factory=dict)
    """Where each key was said."""


def json_schema(options_types: Mapping[str, type[Any]]) -> dict[str, Any]:
    """The JSON Schema of a configuration file, for editors. ``options_types``: per backend its options type."""
    types = [*options_types.values(), ClusterOptions]
    references, components = msgspec.json.schema_components(types, ref_template="#/$defs/{name}")
    for component in components.values():
        if "properties" in component:
            component["additionalProperties"] = False
    properties = [_properties(reference, components) for reference in references]
    common = properties.pop()
    sections = {
        name: {"type": ["object", "null"], "properties": own | common, "additionalProperties": False}
        for name, own in zip(options_types, properties, strict=True)
    }
    any_backend = {key: value for own in properties for key, value in own.items()} | common
    cluster = {"type": "object", "properties": any_backend, "additionalProperties": False}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hpccluster.yaml",
        "oneOf": [
            {
                "type": "object",
                "properties": sections | {"clusters": {"type": ["object", "null"], "additionalProperties": cluster}},
                "additionalProperties": False,
            },
            cluster | {"anyOf": [{"required": ["backend"]}, {"required": ["extends"]}]},
        ],
        "$defs": components,
    }


def _properties(reference: Mapping[str, Any], components: Mapping[str, Any]) -> dict[str, Any]:
    body = components[reference["$ref"].rsplit("/", 1)[1]]
    return dict(body["properties"])
