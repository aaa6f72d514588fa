"""Options of the SSH backend: hosts in all their forms, and what a job on one of them adds to its command."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

import msgspec
import pytest

from hpccluster.backend.options import build_options
from hpccluster.config.schema import ClusterOptions, json_schema
from hpccluster.errors import ConfigError
from hpccluster.resources import JobResources
from hpccluster_ssh.cluster import SSHCluster
from hpccluster_ssh.options import SSHOptions, worker_arguments_on


def options(*hosts: Any, **keywords: Any) -> SSHOptions:
    return build_options(SSHOptions, {"hosts": list(hosts), **keywords})


def test_every_option_is_a_keyword_of_the_cluster() -> None:
    known = {item.name for item in fields(SSHOptions)}
    common = {item.name for item in fields(ClusterOptions)} - {"backend", "extends"}
    keywords = set(inspect.signature(SSHCluster.__init__).parameters) - {"self", "n_workers", "start_timeout"}
    assert keywords == known | common


def test_options_survive_json() -> None:
    given = options("a", {"host": "b", "env": {"X": 1}}, connect_options={"identity_file": "k", "keepalive": 1})
    assert msgspec.json.decode(msgspec.json.encode(given), type=SSHOptions) == given
    schema = json_schema({"ssh": SSHOptions})
    assert schema["oneOf"][0]["properties"]["ssh"]["properties"]["hosts"]["description"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n1", ("n1", None, None)),
        ("n1.example.org:2222", ("n1.example.org", None, 2222)),
        ("ana@n1", ("n1", "ana", None)),
        ("ana@site@n1:22", ("n1", "ana@site", 22)),
        ("10.0.0.7", ("10.0.0.7", None, None)),
        ("fe80::1%eth0", ("fe80::1%eth0", None, None)),
        ("ana@[2001:db8::1]:2222", ("2001:db8::1", "ana", 2222)),
    ],
)
def test_hosts_as_text(text: str, expected: tuple[str, str | None, int | None]) -> None:
    (host,) = options(text).host_options()
    assert (host.host, host.user, host.port) == expected
    assert host.name == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-oProxyCommand=touch x",
        "ana@-x",
        "-l@n1",
        "a b",
        "n1:0",
        "n1:70000",
        "n1;id",
        "n1\nn2",
        "$(id)",
        "n1:x",
        "@n1",
    ],
)
def test_hostile_names_are_no_hosts(text: str) -> None:
    with pytest.raises(ConfigError, match="hosts"):
        options(text)


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ({"host": "a", "corse": 4}, "unknown field `corse`"),
        ({"cores": 4}, "missing required field `host`"),
        ({"host": "a", "cores": 0}, ">= 1"),
        ({"host": "a", "jobs": 0}, ">= 1"),
        ({"host": "a", "memory": "lots"}, "'a'.*memory='lots'"),
        ({"host": "a", "cores": 4, "processes": 3}, "'a'.*shared evenly"),
        ({"host": "a", "env": {"A-B": 1}}, "'a'.*environment variable"),
        ({"host": "a", "python": "'"}, "'a'.*quotation"),
        (7, "hosts"),
    ],
)
def test_a_wrong_host_is_named(host: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        options("n1", host)


def test_a_host_is_listed_once() -> None:
    with pytest.raises(ConfigError, match=r"listed twice; for two jobs there, write \{host: a, jobs: 2\}"):
        options("a", "b", "a")
    assert len(options("a", "b@a", "a:2222").host_options()) == 3


def test_hosts_are_needed() -> None:
    with pytest.raises(ConfigError, match="missing: hosts"):
        build_options(SSHOptions, {}).resources()
    with pytest.raises(ConfigError, match='write it as a list: \\["n1"\\]'):
        build_options(SSHOptions, {"hosts": "n1"})


def test_a_job_is_its_host_unless_something_else_is_said() -> None:
    assert options("a").resources() == JobResources(1, None, 1, whole_host=True)
    assert options("a", processes=2).resources() == JobResources(2, None, 2, whole_host=True)
    assert options("a", cores=8, memory="4GB").resources() == JobResources(8, 4_000_000_000, 1)
    assert options("a", {"host": "b", "jobs": 3}).first_jobs() == 4


def test_a_host_says_what_differs() -> None:
    given = options(
        "plain",
        {"host": "big", "cores": 8, "processes": 4, "memory": "8GB", "local_directory": "/scratch"},
        {"host": "shared", "jobs": 2},
        {"host": "free", "cores": 2, "memory": 0},
        cores=2,
        memory="1GB",
    )
    told = [" ".join(worker_arguments_on(given, host)) for host in given.host_options()]
    assert told == [
        "--nworkers 1 --nthreads 2 --memory-limit 1000000000",
        "--nworkers 4 --nthreads 2 --memory-limit 8000000000 --local-directory /scratch",
        "--nworkers 1 --nthreads 2 --memory-limit 1000000000",
        "--nworkers 1 --nthreads 2 --memory-limit 0",
    ]
    unsaid = options("a", {"host": "b", "jobs": 2})
    assert [" ".join(worker_arguments_on(unsaid, host)) for host in unsaid.host_options()] == [
        "--nworkers 1 --nthreads auto --memory-limit auto",
        "--nworkers 1 --nthreads auto --memory-limit auto --share 2",
    ]
    assert given.on(given.host_options()[1]).cores == 8
    tunnelled = options("a", {"host": "b", "tunnel": False}, {"host": "c", "interface": "ib0"}, tunnel=True)
    more = [worker_arguments_on(tunnelled, host)[6:] for host in tunnelled.host_options()]
    assert more == [("--host", "auto"), (), ("--interface", "ib0")]


def test_targets_carry_the_connect_options() -> None:
    given = options("ana@n1:2222", "n2", connect_options={"user": "eve", "identity_file": ["k1"], "proxy_jump": "gate"})
    first, second = (host.target(given.connect_options) for host in given.host_options())
    assert (first.user, first.port, first.identity_files, first.proxy_jump) == ("ana", 2222, ("k1",), "gate")
    assert (second.user, second.port) == ("eve", None)
