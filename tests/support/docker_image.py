"""The image of the dockerised Slurm, built from this checkout and kept under the hash of what went into it.

Where no registry answers, the base image is made of Debian's packages; what the package needs is fetched here, and
installed in the image from those wheels alone.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import docker
from docker.errors import APIError, BuildError, DockerException, ImageNotFound

ROOT = Path(__file__).parents[2]
INPUTS = (
    ".dockerignore",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "hpccluster",
    "backends",
    "templates",
    "ci/slurm-docker",
)
"""What the build may see. The same as `.dockerignore` lets through."""

REPOSITORY = "hpccluster-slurm-e2e"
BASE = "debian:bookworm-slim"
OWN_BASE = "hpccluster-slurm-base:bookworm"
PYTHON = "3.11"
"""Debian 12's."""
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
KEPT = 3600.0
"""Seconds for which an older image is left alone: another run may be about to use it."""


class DockerMissing(Exception):
    """This machine cannot run the dockerised Slurm; the message says why."""


def image_for(client: docker.DockerClient) -> str:
    """The name of the image of this checkout; built where it does not exist yet."""
    name = f"{REPOSITORY}:{_content()}"
    try:
        client.images.get(name)
    except ImageNotFound:
        _build(client, name)
        _remove_older(client, name)
    return name


def _files() -> Iterator[Path]:
    for name in INPUTS:
        path = ROOT / name
        found = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
        yield from (file for file in found if "__pycache__" not in file.parts and file.suffix != ".whl")


def _content() -> str:
    digest = hashlib.sha256()
    for file in _files():
        text = file.read_bytes()
        digest.update(f"{file.relative_to(ROOT)} {os.access(file, os.X_OK)} {len(text)}\n".encode() + text)
    return digest.hexdigest()[:16]


def _build(client: docker.DockerClient, name: str) -> None:
    base = _base(client)
    with tempfile.TemporaryDirectory(prefix="hpccluster-image-") as directory:
        context = Path(directory)
        for file in _files():
            target = context / file.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
        _fetch_wheels(context, MACHINES.get(client.version()["Arch"], "x86_64"))
        try:
            client.images.build(
                path=str(context),
                dockerfile="ci/slurm-docker/Dockerfile",
                tag=name,
                buildargs={"BASE": base},
                rm=True,
                forcerm=True,
                timeout=600,
            )
        except BuildError as error:
            said = "".join(str(part.get("stream", part.get("error", ""))) for part in error.build_log)
            raise AssertionError(f"the image cannot be built: {error}\n{said[-4000:]}") from error


def _base(client: docker.DockerClient) -> str:
    for name in (BASE, OWN_BASE):
        try:
            client.images.get(name)
        except ImageNotFound:
            continue
        return name
    try:
        client.images.pull(BASE)
    except DockerException as refused:
        made = subprocess.run(
            [str(ROOT / "ci/slurm-docker/base-image"), OWN_BASE], capture_output=True, text=True, timeout=300
        )
        if made.returncode != 0:
            raise DockerMissing(
                f"no base image: {BASE} cannot be pulled ({refused}), nor made here ({made.stderr.strip()[-300:]})"
            ) from refused
        return OWN_BASE
    return BASE


def _fetch_wheels(context: Path, machine: str) -> None:
    """Wheels of all that the package and its build need, for the Python of the image."""
    described = tomllib.loads((context / "pyproject.toml").read_text())
    project = described["project"]
    needed = [
        *project["dependencies"],
        *project["optional-dependencies"]["dask"],
        *described["build-system"]["requires"],
    ]
    platforms = [f"--platform={name}_{machine}" for name in ("manylinux2014", "manylinux_2_28")]
    target = ["--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp", *platforms]
    _pip("download", *target, f"--dest={context / 'ci' / 'slurm-docker' / 'wheelhouse'}", *needed)


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        raise DockerMissing(f"pip {arguments[0]} failed: {done.stderr.strip()[-500:]}")


def _remove_older(client: docker.DockerClient, name: str) -> None:
    """Images of former contents would fill the disk."""
    for image in client.images.list(REPOSITORY):
        built = datetime.fromisoformat(f"{str(image.attrs['Created'])[:19]}+00:00")
        age = (datetime.now(UTC) - built).total_seconds()
        if name in image.tags or age < KEPT:
            continue
        try:
            client.images.remove(image.id or "")
        except APIError:
            continue  # in use
