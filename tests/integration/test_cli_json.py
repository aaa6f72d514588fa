"""The keys of ``--json`` are those that the documentation promises."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from support.command import Commands
from support.deadline import wait_until

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
PROMISED = {
    verb: (kind, re.findall(r"`(\w+)`", keys))
    for verb, kind, keys in re.findall(r"^\| `([a-z ]+)` \| (object|list) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
}


def test_every_verb_says_what_is_promised(commands: Commands) -> None:
    seen = set()

    def ask(verb: str, *arguments: str) -> Any:
        value = json.loads(commands.out(*verb.split(), "--json", *arguments))
        kind, keys = PROMISED[verb]
        seen.add(verb)
        if verb in ("logs", "down"):
            assert isinstance(value, dict)
            if verb == "down":
                assert [sorted(it) for it in value.values()] == [sorted(keys)]
            return value
        assert isinstance(value, list if kind == "list" else dict)
        rows = value if isinstance(value, list) else [value]
        assert rows
        for row in rows:
            assert sorted(row) == sorted(keys), verb
        return value

    ask("up", "--name", "mine", "--workers", "1")
    wait_until(lambda: json.loads(commands.out("workers", "mine", "--json")), "a worker")
    for verb in ("jobs", "workers"):
        ask(verb, "mine")
    ask("scale", "mine", "1")
    ask("adapt", "mine", "--maximum", "1")
    assert list(ask("logs", "mine")) == ["head"]
    ask("submit", "--name", "sweep", "--workers", "0", "--", sys.executable, "-c", "print('hi')")
    assert ask("wait", "sweep")["exit_code"] == 0
    assert ask("logs", "sweep") == {"program": "hi\n"}
    assert {it["name"] for it in ask("status")} == {"mine", "sweep"}
    ask("down", "mine")
    assert len(ask("cleanup", "--older-than", "0", "--yes")["found"]) == 2
    (commands.directory / "jobqueue.yaml").write_text("jobqueue: {slurm: {cores: 1}}\n")
    (commands.directory / "jobqueue.yaml").chmod(0o600)
    ask("config import", "jobqueue.yaml")
    for verb, *arguments in (
        ("backends",),
        ("script",),
        ("config show",),
        ("config get", "slurm.cores"),
        ("config which",),
        ("config init",),
        ("config validate",),
    ):
        ask(verb, *arguments)
    assert seen == PROMISED.keys()
