"""The one line that a head is told, and the one that it answers."""

from __future__ import annotations

import pytest

from hpccluster.errors import ClusterError, ConfigError, SubmitRefused
from hpccluster.head.spec import (
    HeadFailed,
    HeadReady,
    HeadSpec,
    ScaleRequest,
    decode_answer,
    decode_spec,
    encode_line,
)


def test_a_specification_survives_its_line() -> None:
    spec = HeadSpec(
        name="calm-otter",
        backend="local",
        options={"cores": 2, "job_script_prologue": ["module load x\ny"]},
        scale=ScaleRequest(workers=2),
        program=("python", "a b.py"),
        program_environment={"A": "1"},
    )
    line = encode_line(spec)
    assert line.count(b"\n") == 1
    assert decode_spec(line) == spec


@pytest.mark.parametrize("line", [b"", b"{}", b"[1]", b'{"name": 1, "backend": "x"}', b"\xff\n"])
def test_a_bad_specification_is_a_config_error(line: bytes) -> None:
    with pytest.raises(ConfigError, match="specification"):
        decode_spec(line)


def test_the_answer_is_read_back() -> None:
    ready = HeadReady(name="n", id="i", address="tls://h:1", pid=7, directory="/d", connection_file="/d/client.json")
    assert decode_answer(encode_line(ready)) == ready


def test_an_error_comes_out_as_itself() -> None:
    refused = SubmitRefused("no such partition", code="HPC-SUBMIT-PARTITION", details={"exit_code": 1})
    with pytest.raises(SubmitRefused, match="no such partition") as caught:
        decode_answer(encode_line(HeadFailed.from_error(refused)))
    assert caught.value.code == "HPC-SUBMIT-PARTITION"
    assert caught.value.details == {"exit_code": 1}


@pytest.mark.parametrize("line", [b"Traceback", b"{}", b"null"])
def test_what_is_not_an_answer_is_shown(line: bytes) -> None:
    with pytest.raises(ClusterError, match="cannot be read"):
        decode_answer(line)


def test_a_size_has_one_unit() -> None:
    assert ScaleRequest(jobs=3).arguments() == {"jobs": 3}
    assert ScaleRequest(workers=0).arguments() == {"workers": 0}
    for wrong in (ScaleRequest(), ScaleRequest(jobs=1, cores=1)):
        with pytest.raises(ConfigError, match="exactly one"):
            wrong.arguments()
    with pytest.raises(ConfigError, match="not negative"):
        ScaleRequest(workers=-1).arguments()
