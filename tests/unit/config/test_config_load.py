"""YAML that is safe to read, and files that are not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hpccluster.config.load import FILE_LIMIT, parse_yaml, read_file
from hpccluster.errors import ConfigError


def problem(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "f.yaml")
    return str(caught.value)


def test_values_keep_their_lines() -> None:
    root = parse_yaml("a: 1\nb:\n  c: [x, 2.5]\n", "f.yaml")
    assert root.plain() == {"a": 1, "b": {"c": ["x", 2.5]}}
    assert str(root.value["b"].origin) == "f.yaml line 2"
    assert str(root.value["b"].value["c"].origin) == "f.yaml line 3"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("true", True),
        ("~", None),
        ("", None),
        ("10:00:00", "10:00:00"),
        ("2026-11-24", "2026-11-24"),
        ("1_000", "1_000"),
        ("012", 12),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("'1'", "1"),
        ("!!str 1", "1"),
        ("32GB", "32GB"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_scalars_are_read_by_the_core_schema(text: str, value: object) -> None:
    assert parse_yaml(text, "f.yaml").value == value


def test_an_alias_is_what_it_stands_for() -> None:
    assert parse_yaml("a: &x [1]\nb: *x", "f.yaml").plain() == {"a": [1], "b": [1]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\na: 2", "f.yaml line 2: 'a' is said twice (first in line 1)"),
        ("a: !!python/object/apply:os.system [id]", "f.yaml line 1: the tag 'tag:yaml.org,2002:python/object/apply:os"),
        ("a: !!python/name:os.system", "is not allowed; only plain values are"),
        ("a: !own x", "the tag '!own' is not allowed"),
        ("a: !!binary aGk=", "is not allowed"),
        ("a: &x [*x]", "*x stands for nothing yet, or for itself"),
        ("[1]: 2", "a key is plain text"),
        ("a: &x b\n*x : 1", "a key is plain text"),
        ("<<: {a: 1}", "'<<' is not read"),
        ("a: 1\n---\nb: 1", "a second document in one file"),
        ("a: [1", "f.yaml line 2: not YAML: "),
        ("a: b: c", "f.yaml line 1: not YAML: "),
        ("\x00", "f.yaml: not YAML: "),
        ("[" * 100_000, "nest"),  # said by PyYAML itself since 6.0.4
        ("{a: " * 1000, "nested deeper than 20 levels"),
        ("- 1\n" * 30_000, "more than 20,000 values"),
    ],
)
def test_what_is_not_plain_and_small_is_refused(text: str, expected: str) -> None:
    assert expected in problem(text)


def test_a_billion_laughs_are_refused() -> None:
    lines = ["l0: &l0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert "aliases counted" in problem("\n".join(lines))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "f.yaml"
    path.write_text("a: 1")
    path.chmod(0o644)
    return path


def refused(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_file(path)
    return str(caught.value)


def test_an_ordinary_file_is_read(file: Path) -> None:
    assert read_file(file).plain() == {"a": 1}
    file.write_text("")
    assert read_file(file).plain() == {}


def test_a_file_that_others_can_change_is_refused(file: Path) -> None:
    file.chmod(0o664)
    assert "can be changed by its group" in refused(file)
    file.chmod(0o646)
    assert "can be changed by everybody" in refused(file)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_a_foreign_file_is_refused(file: Path) -> None:
    os.chown(file, 12345, -1)
    assert "belongs to another user (uid 12345)" in refused(file)


def test_a_large_file_is_refused(file: Path) -> None:
    with file.open("w") as opened:
        opened.write("a: " + "x" * FILE_LIMIT)
    assert "larger than 1 MiB" in refused(file)


def test_what_is_no_file_is_refused(tmp_path: Path, file: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "not a regular file" in refused(pipe)
    assert "not a regular file" in refused(tmp_path)
    assert "cannot be read: No such file" in refused(tmp_path / "none")
    file.write_bytes(b"a: 1\nb: \xff")
    assert "line 2: not UTF-8" in refused(file)
    file.write_text("- 1")
    assert "expected 'key: value' lines" in refused(file)
