"""The ordinary user that jobs run as when the tests run as root, and an interpreter that this user can run."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

USER_VARIABLE = "HPCCLUSTER_TEST_USER"
DEFAULT_USER = "hpctest"

SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


class UserMissing(Exception):
    """There is no such user, or no interpreter for it; the message says what to do."""


def system_path() -> str:
    """PATH with the directories of daemons."""
    return f"{os.environ.get('PATH', '/usr/bin:/bin')}:{SBIN}"


def ordinary_user() -> str:
    """The name of $HPCCLUSTER_TEST_USER, else of a user that is made if it does not exist."""
    name = os.environ.get(USER_VARIABLE, DEFAULT_USER)
    try:
        pwd.getpwnam(name)
    except KeyError:
        made = subprocess.run(
            ["useradd", "--system", "--no-create-home", "--shell", "/bin/sh", name],
            capture_output=True,
            text=True,
            env=os.environ | {"PATH": system_path()},
        )
        if made.returncode != 0:
            raise UserMissing(f"no user {name!r} for jobs ({made.stderr.strip()}); set ${USER_VARIABLE}") from None
    return name


def as_user(user: str | None, argv: Sequence[str]) -> list[str]:
    """The command line that runs ``argv`` as that user; None: as whoever runs the tests."""
    if user is None:
        return list(argv)
    account = pwd.getpwnam(user)
    ids = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}"]
    # setpriv still has root's capabilities when it executes: `env` is executed with them, and executes without
    return ["setpriv", *ids, "--clear-groups", "--no-new-privs", "--", "/usr/bin/env", *argv]


def python_for(user: str | None, directory: Path) -> str:
    """An interpreter that the user can run and that imports hpccluster and all that it needs.

    That is the one that runs the tests, where the user may read it. Otherwise (it lies below /root, say) it is a virtual
    environment of the system's interpreter of the same minor version, made in ``directory``, which looks into the
    packages of this one.
    """
    if _can_import(sys.executable, user, directory):
        return sys.executable
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    tried = [sys.executable]
    for base in (f"/usr/bin/{version}", f"/usr/local/bin/{version}", f"/opt/{version}/bin/{version}"):
        if not Path(base).exists():
            continue
        target = directory / "python"
        shutil.rmtree(target, ignore_errors=True)
        subprocess.run([base, "-m", "venv", "--without-pip", str(target)], check=True, capture_output=True)
        inside = target / "lib" / version / "site-packages" / "hpccluster-tests.pth"
        packages = sysconfig.get_paths()["purelib"]
        inside.write_text(f"import site; site.addsitedir({packages!r})\n")
        python = str(target / "bin" / "python")
        tried.append(base)
        if _can_import(python, user, directory):
            return python
    raise UserMissing(
        f"user {user} can run none of {', '.join(tried)} with the packages of these tests: "
        "make the environment of the tests readable by others"
    )


def _can_import(python: str, user: str | None, directory: Path) -> bool:
    modules = "hpccluster, msgspec, cloudpickle, cryptography, jinja2, psutil, uvloop"
    try:
        done = subprocess.run(
            as_user(user, [python, "-c", f"import {modules}"]),
            capture_output=True,
            cwd=directory,
            env={"PATH": system_path(), "HOME": str(directory)},
            timeout=60,
        )
    except PermissionError:
        return False
    return done.returncode == 0
