"""Renders job scripts from templates: whole shell files with Jinja2 for values and for the few optional lines.

The rules that keep a hostile value from becoming a command or a directive:

1. A value never holds a newline, carriage return, NUL or half a character, whatever the template does with it (the
   ``finalize`` hook).
2. In a template, shell words are put in as ``{{ value | q }}``; directive lines take values that were checked against a
   safe pattern before they came here.
3. Templates are rendered in Jinja's sandbox, and an unknown name is an error.

It must not know any batch system: what is asked for (rounding, units, defaults) is decided by the dialect.
"""

from __future__ import annotations

import difflib
import functools
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from hpccluster.errors import ConfigError

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.sandbox import SandboxedEnvironment

    from hpccluster.backend.options import JobOptions
    from hpccluster.job import JobSpec

_PACKAGE = "hpccluster_templates"
_FORBIDDEN = re.compile("[\n\r\0\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateContext:
    """The names that every template may use. A batch system's dialect adds its own (see its context class)."""

    shebang: str
    """The first line."""
    name: str
    """The job's name."""
    cluster: str
    """The name of the job's cluster."""
    name_prefix: str
    """What the names of all jobs of the cluster begin with; what follows are hexadecimal digits."""
    comment: str
    """For people and for finding the cluster's jobs: the same for all jobs of a cluster."""
    command: tuple[str, ...]
    """The words of the command that starts the workers."""
    environment: tuple[tuple[str, str], ...]
    """Variables to export: pairs of name and value."""
    prologue: tuple[str, ...]
    """The user's lines of shell that run before the command."""
    epilogue: tuple[str, ...]
    """The user's lines of shell that run after it."""
    cores: int
    processes: int
    """Workers of the job."""
    threads: int
    """Threads of each worker."""
    gpus: int
    memory_bytes: int | None
    """Memory that the workers may use; None is no limit."""
    walltime_seconds: float | None
    log_path: str
    """Where the job's output goes; empty where the batch system decides."""
    working_directory: str
    """Where the job starts; empty for where it is submitted from."""

    @classmethod
    def of(cls, spec: JobSpec, options: JobOptions, **more: Any) -> Self:
        """What is the same for every batch system, with ``more``: a dialect's own names, or other values for these."""
        values: dict[str, Any] = {
            "shebang": options.shebang,
            "name": spec.name,
            "cluster": spec.cluster,
            "name_prefix": f"hpc-{spec.cluster}-",
            "comment": spec.comment,
            "command": spec.command,
            "environment": spec.environment,
            "prologue": script_lines(options.job_script_prologue),
            "epilogue": script_lines(options.job_script_epilogue),
            "cores": spec.resources.cores,
            "processes": spec.resources.processes,
            "threads": spec.resources.threads,
            "gpus": spec.resources.gpus,
            "memory_bytes": spec.resources.memory,
            "walltime_seconds": spec.walltime,
            "log_path": spec.log_path,
            "working_directory": spec.working_directory,
        }
        return cls(**values | more)


def load_template(name: str, path: str | None = None) -> Template:
    """The shipped template of that name (``package:file`` for one of another distribution), or the user's own file.

    Raises `ConfigError` for a file that cannot be read and for a syntax error, with its line.
    """
    import jinja2

    try:
        if path is None:
            return _environment().get_template(name)
        text = Path(path).expanduser().read_text(encoding="utf-8")
        return _environment().from_string(_keep_lengths(text))
    except (jinja2.TemplateNotFound, ModuleNotFoundError) as error:
        raise ConfigError(
            f"there is no template {name!r}: a backend names its own as package:file ({error})",
            code="HPC-CONFIG-TEMPLATE",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"template={path!r} cannot be read: {error}", code="HPC-CONFIG-TEMPLATE", details={"option": "template"}
        ) from None
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(
            f"template {path or name}, line {error.lineno}: {error.message}",
            code="HPC-CONFIG-TEMPLATE",
            details={"option": "template"},
        ) from None


def render_template(template: Template, context: TemplateContext, *, source: str) -> str:
    """The text of this template for these values. Pure. ``source`` names the template in errors.

    Raises `ConfigError` for a name that the context does not have, and for a value that would break out of its line.
    """
    import jinja2

    names = {item.name: getattr(context, item.name) for item in fields(context)}
    try:
        return template.render(names)
    except jinja2.UndefinedError as error:
        unknown = re.match(r"'([^']+)' is undefined", error.message or "")
        known = ", ".join(sorted(names))
        close = difflib.get_close_matches(unknown[1], names, n=1) if unknown else []
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise _template_error(f"template {source}: {error.message}; {hint}the names are {known}") from None
    except jinja2.exceptions.SecurityError as error:
        raise _template_error(f"template {source}: not allowed in a template: {error}") from None
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        raise _template_error(f"template {source}: {error}") from None


def script_lines(texts: Sequence[str]) -> tuple[str, ...]:
    """The user's shell for a context, a line each: one entry may hold several."""
    return tuple(line for text in texts for line in text.split("\n"))


def quote(value: object) -> str:
    """The value as one word of shell: the filter ``q`` of templates."""
    return shlex.quote(str(value))


def _template_error(message: str) -> ConfigError:
    return ConfigError(message, code="HPC-CONFIG-TEMPLATE", details={"option": "template"})


def _one_line(value: object) -> object:
    """Refuse a value that would start a new line: jinja2 calls this for each value that is put in."""
    if isinstance(value, str) and _FORBIDDEN.search(value):
        raise ConfigError(
            f"{value!r} cannot be put into a job script: it holds a newline, carriage return or NUL, or is no text",
            code="HPC-CONFIG-VALUE",
            details={"value": repr(value)},
        )
    if value is None:
        raise ConfigError("a job-script template put in a value that is not set: guard it with '{% if ... %}'")
    return value


@functools.cache
def _environment() -> SandboxedEnvironment:
    import jinja2
    from jinja2.sandbox import SandboxedEnvironment

    environment = SandboxedEnvironment(
        loader=jinja2.FunctionLoader(_shipped),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # shell, not HTML: see the rules above
        finalize=_one_line,
    )
    environment.filters["q"] = quote
    return environment


def _shipped(name: str) -> str | None:
    package, colon, file_name = name.rpartition(":")
    file = files(package if colon else _PACKAGE) / file_name
    return _keep_lengths(file.read_text(encoding="utf-8")) if file.is_file() else None


def _keep_lengths(text: str) -> str:
    """The shell's ``${#name}`` would begin a comment of Jinja2, as ``{# ... #}`` does: keep it as text."""
    return text.replace("${#", "${{ '{#' }}")
