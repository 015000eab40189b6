"""Write the pages of ``docs/reference`` from the code: parameters, commands and the Python API.

``python -m tools.reference`` writes them; a test compares the committed pages with the code.
"""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
import yaml
from pydantic import BaseModel
from typer.cli import get_docs_for_click

import segops
from segops.cli import app
from segops.files import write_text
from segops.models.losses import LOSSES, MaskClassification
from segops.params.file import Params
from segops.params.loss import LOSS_OPTIONS, LossParams
from segops.params.messages import problems

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "reference"
COMMAND = "python -m tools.reference"
HEAD = f"<!-- Written by `{COMMAND}` from the code. Change the code, then run it again. -->\n\n"
PARAMETERS = """# Parameters

`params.yaml` is the only configuration. Unknown keys and bad values are refused by name. The
default holds where `params.yaml` leaves a key out; the file of this repository sets values for the
sample.

A stage runs again when a parameter that it reads changes. The stages after it run again where its
output differs. `segops status` lists the stages that would run, and why.
"""
COMMANDS = """# Commands

The exit status is 0 on success, 1 on an error, 2 for a wrong argument, and 130 after Ctrl-C.
`segops run` and `segops promote` end with 3 when the gate does not promote.

`--log-format json` before the command, or `SEGOPS_LOG_FORMAT=json`, writes the log of the command
and of the stages that it runs to standard error, a JSON object a line. Results stay on standard
output.
"""
API = """# Python API

`import segops` loads nothing heavy; every name is loaded at its first use.
"""


def pages() -> dict[str, str]:
    """Every page's text by its name within ``docs/reference``."""
    return {"parameters.md": parameters(), "commands.md": commands(), "api.md": api()}


def parameters() -> str:
    """The page of the parameters, section by section in the order of ``params.yaml``."""
    defaults = Params().flat()
    readers = _readers()
    parts = [PARAMETERS]
    for name, field in Params.model_fields.items():
        section, kind = field.alias or name, field.annotation
        alone = section not in readers and any(key.startswith(f"{section}.") for key in readers)
        runs = "" if alone else f" {_runs(readers.get(section, []))}"
        parts.append(f"## {section}\n\n{_summary(kind)}{runs}\n")
        parts.append("\n".join(_keys(section, kind, defaults, readers)) + "\n")
        if section == "train":
            parts.append(_losses())
    return HEAD + "\n".join(parts)


def _readers() -> dict[str, list[str]]:
    """Parameter or section -> the stages that ``dvc.yaml`` runs again when it changes."""
    readers: dict[str, list[str]] = {}
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    for stage, entry in graph["stages"].items():
        for key in entry.get("params", ()):
            readers.setdefault(key, []).append(stage)
    return readers


def _runs(stages: list[str]) -> str:
    names = _and([f"`{stage}`" for stage in stages])
    return f"A change runs {names} again." if stages else "A change runs no stage again."


def _keys(
    prefix: str, section: Any, defaults: dict[str, Any], readers: dict[str, list[str]]
) -> Iterator[str]:
    for name, field in section.model_fields.items():
        key = f"{prefix}.{field.alias or name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _keys(key, field.annotation, defaults, readers)
            continue
        parents = [key.rsplit(".", depth)[0] for depth in range(key.count("."))]
        further = [stage for one in parents if "." in one for stage in readers.get(one, ())]
        also = f" {_runs(further)}" if further else ""
        yield (
            f"- **`{key}`**: {_values(Params, key)}. Default `{json.dumps(defaults[key])}`.\n"
            f"  {field.description}{also}"
        )


def _values(model: type[BaseModel], key: str) -> str:
    """The values that a parameter takes, in the words of the message that refuses others."""
    missing = {"type": "missing", "loc": tuple(key.split(".")), "input": None}
    return problems(model, [missing])[0].partition("expected ")[2]


def _losses() -> str:
    lines = ["### Losses", "", "Names for `train.loss`, with their options:", ""]
    for name, options in LOSS_OPTIONS.items():
        loss = LOSSES.get(name, MaskClassification)
        lines.append(f"- **`{name}`**: {_summary(loss)}")
        arguments = inspect.signature(loss).parameters
        lines += [
            f"  - `{one}`: {_values(LossParams, one).removesuffix(' or null')}. "
            f"Default `{json.dumps(arguments[one].default)}`."
            for one in options
        ]
    return "\n".join(lines) + "\n"


def commands() -> str:
    """The page of the commands, in the order of the command line's own help."""
    command = typer.main.get_command(app)
    page = get_docs_for_click(obj=command, ctx=typer.Context(command), name="segops", title=" ")
    # The first part describes the program, and the lists of commands are cut short.
    listed = re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+\n", "", page.partition("\n## ")[2])
    return f"{HEAD}{COMMANDS}\n## {listed.rstrip()}\n"


def api() -> str:
    """The page of the public names of ``segops``, in the order of ``segops.__all__``."""
    parts = [API]
    for name in segops.__all__:
        thing = getattr(segops, name)
        parts.append(f"## segops.{name}\n\n{_described(f'segops.{name}', thing)}")
        members = vars(thing).items() if inspect.isclass(thing) else ()
        parts += [
            f"### {name}.{inner}\n\n{_described(f'{name}.{inner}', member)}"
            for inner, member in members
            if (inspect.isfunction(member) or isinstance(member, property))
            and (not inner.startswith("_") or inner == "__iter__")
        ]
    return HEAD + "\n".join(parts)


def _described(path: str, thing: Any) -> str:
    text = _text(inspect.getdoc(thing) or "") + "\n"
    if not inspect.isfunction(thing):
        return text
    return f"```python\n{path}{_signature(thing)}\n```\n\n{text}"


def _signature(function: Any) -> str:
    """A function's signature without quotes around types, and with no long default."""
    whole = inspect.signature(function)
    parameters = [
        one.replace(default=...) if len(repr(one.default)) > 40 else one
        for one in whole.parameters.values()
        if one.name != "self"
    ]
    text = str(whole.replace(parameters=parameters)).replace("= Ellipsis", "= ...")
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)


def _summary(thing: Any) -> str:
    """The first paragraph of a docstring, in one line."""
    return " ".join(_text(inspect.getdoc(thing) or "").partition("\n\n")[0].split())


def _text(doc: str) -> str:
    """A docstring as Markdown: its sections are lists, its roles and literals are code."""
    doc = re.sub(r":\w+:`[~.]?([^`]+)`", r"`\1`", doc).replace("``", "`")
    parts = []
    for paragraph in doc.split("\n\n"):
        title, _, body = paragraph.partition("\n")
        if title in ("Args:", "Attributes:", "Raises:"):
            entries = re.split(r"\n(?=\S)", textwrap.dedent(body))
            lines = [entry.partition(":") for entry in entries]
            heading = {"Args:": "Arguments:"}.get(title, title)
            listed = [f"- `{name}`: {' '.join(text.split())}" for name, _, text in lines]
            parts.append("\n".join([heading, "", *listed]))
        elif title in ("Returns:", "Yields:"):
            parts.append(f"{title}\n\n{' '.join(body.split())}")
        else:
            parts.append(paragraph)
    return "\n\n".join(parts)


def _and(texts: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(texts[:-1]), *texts[-1:]]))


if __name__ == "__main__":
    for name, text in pages().items():
        write_text(PAGES / name, text)
