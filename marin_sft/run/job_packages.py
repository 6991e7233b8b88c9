"""Packages that a job needs besides those of the cluster: requirements, and extras of its pyproject.toml."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Sequence

from marin_sft.errors import UserError
from marin_sft.nearest import nearest_text

_REQUIREMENT = re.compile(r"(?:\[[^\]]*\]|[^,\[])+")  # up to a comma that is not in brackets
_BEGINNING = re.compile(r"\s*([A-Za-z0-9][\w.-]*)\s*(?:\[([^\]]*)\])?")


def requirements_in(text: str) -> list[str]:
    """`"a==1,b[x,y]>=2,<3"` as `["a==1", "b[x,y]>=2,<3"]`: a comma also separates the versions of one requirement."""
    found: list[str] = []
    for part in (part.strip() for part in _REQUIREMENT.findall(text)):
        if found and re.match(r"[<>=!~]", part):
            found[-1] += f",{part}"
        elif part:
            found.append(part)
    return found


def requirements_of_extras(working_dir: str, extras: Sequence[str]) -> list[str]:
    """The requirements that pyproject.toml lists for these extras, with those of the extras that they name.

    Raises:
        UserError: no pyproject.toml in the working directory, or no such extra.
    """
    if not extras:
        return []
    path = os.path.join(working_dir, "pyproject.toml")
    try:
        with open(path, "rb") as file:
            project = tomllib.load(file).get("project", {})
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"--extra {extras[0]}: expected it in {path}: {error}") from None
    listed = {_normal(name): requirements for name, requirements in project.get("optional-dependencies", {}).items()}
    found: dict[str, None] = {}
    open_extras, seen = list(map(_normal, extras)), set[str]()
    while open_extras:
        name = open_extras.pop(0)
        if name in seen:
            continue
        seen.add(name)
        if name not in listed:
            raise UserError(f"--extra {name}: {path} has no such extra{nearest_text(name, listed) if listed else ''}")
        for requirement in listed[name]:
            own = _extras_of(requirement, project.get("name", ""))
            open_extras += own
            if not own:
                found[requirement] = None
    return list(found)


def _extras_of(requirement: str, project: str) -> list[str]:
    """The extras that a requirement such as "marin_sft[gpu,eval]" asks of the project itself."""
    match = _BEGINNING.match(requirement)
    if match is None or not match[2] or _normal(match[1]) != _normal(project):
        return []
    return [_normal(name) for name in match[2].split(",")]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def words(values: Iterable[str]) -> list[str]:
    """`["a,b", "c"]` as `["a", "b", "c"]`."""
    return [word.strip() for value in values for word in value.split(",") if word.strip()]
