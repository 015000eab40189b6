"""Makes the deployments of ``prefect.yaml``, and compares them with what the server has."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from flows import server
from segops import pipeline
from segops.operate import crashes, deployed
from segops.runtime.errors import SegopsError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

FILE = "prefect.yaml"
COMPARED = ("entrypoint", "parameters", "work_pool_name", "job_variables", "tags", "pull_steps")
"""Fields of a deployment that are compared as they stand; limit and schedules are compared too."""


def deploy(root: Path, pool_type: str, template: Path | None) -> list[str]:
    """Make the work pools and deployments of ``prefect.yaml``, and read them back.

    Args:
        root: The checkout that holds the file.
        pool_type: Type of a work pool that is made: `process` or `kubernetes`.
        template: JSON file of a work pool's base job template; None: that of the type.

    Returns:
        The names of the deployments, `FLOW/NAME`.

    Raises:
        SegopsError: A variable is missing, the server refuses, or holds something else afterwards.
    """
    with _prepared(root) as (client, wanted):
        for pool in dict.fromkeys(one["work_pool_name"] for one in wanted.values()):
            _make_pool(client, pool, pool_type, template)
        crashes.install(client)
        command = ["prefect", "--no-prompt", "deploy", "--all", "--prefect-file", FILE]
        status, lines = pipeline.run_tied(root, command, lambda _line: None)
        if status != 0:
            raise SegopsError(f"{FILE}: Prefect does not take it: {_cause(lines)}")
        if differences := list(_differences(client, wanted)):
            raise SegopsError(
                f"{FILE}: the server holds something else than was deployed: "
                f"{'; '.join(differences)}."
            )
        return list(wanted)


def differences(root: Path) -> list[str]:
    """Return what differs between ``prefect.yaml`` and the server, one sentence each.

    Raises:
        SegopsError: A variable is missing, the file is not usable, or the server refuses.
    """
    with _prepared(root) as (client, wanted):
        return list(_differences(client, wanted))


@contextmanager
def _prepared(root: Path) -> Iterator[tuple[SyncPrefectClient, dict[str, dict[str, Any]]]]:
    """Check the variables; yield a client and what the server should hold."""
    workspace = deployed.workspace()
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY, PREFECT_API_URL

    url = PREFECT_API_URL.value()
    if not url:
        raise SegopsError(
            "PREFECT_API_URL is not set. It names the server of the deployments: "
            "`PREFECT_API_URL=http://127.0.0.1:4200/api` for that of `segops ui prefect`."
        )
    with server.for_schedules():
        secret = PREFECT_API_AUTH_STRING.value()
        if not (secret or PREFECT_API_KEY.value()):
            raise SegopsError(
                f"PREFECT_API_AUTH_STRING is not set, and {url} is no server of yours on this "
                "machine. Set it to the server's credentials, NAME:PASSWORD."
            )
        # Prefect's command line, a child process, is another client of the same server.
        os.environ["PREFECT_API_URL"] = url
        if secret:
            os.environ["PREFECT_API_AUTH_STRING"] = secret
        with get_client(sync_client=True) as client:
            yield client, _wanted(root, workspace)


def _wanted(root: Path, workspace: Path) -> dict[str, dict[str, Any]]:
    """Return what the server should hold for each deployment, by `FLOW/NAME`."""
    from prefect.flows import load_flow_arguments_from_entrypoint

    try:
        tree = yaml.safe_load((root / FILE).read_text(encoding="utf-8"))
        steps = json.loads(
            json.dumps(tree["pull"]).replace("{{ workspace }}", json.dumps(str(workspace))[1:-1])
        )
        found = {}
        for one in tree["deployments"]:
            entrypoint = one["entrypoint"]
            flow = load_flow_arguments_from_entrypoint(str(root / entrypoint))["name"]
            found[f"{flow}/{one['name']}"] = {
                "entrypoint": entrypoint,
                "parameters": one.get("parameters") or {},
                "concurrency_limit": one.get("concurrency_limit"),
                "work_pool_name": one["work_pool"]["name"],
                "job_variables": one["work_pool"].get("job_variables") or {},
                "tags": one.get("tags") or [],
                "pull_steps": one.get("pull", steps),
                "schedules": sorted(_schedule(line) for line in one.get("schedules") or []),
            }
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise SegopsError(
            f"{root / FILE}: not usable: {type(error).__name__}: {error}. Compare it with the file "
            "of a new checkout."
        ) from None
    return found


def _schedule(line: dict[str, Any]) -> str:
    timezone = line.get("timezone") or "UTC"
    active = "active" if line.get("active", True) else "paused"
    return f"{line['cron']} {timezone} {active}"


def _differences(client: SyncPrefectClient, wanted: dict[str, dict[str, Any]]) -> Iterator[str]:
    from prefect.exceptions import ObjectNotFound

    for name, expected in wanted.items():
        try:
            held = client.read_deployment_by_name(name)
        except ObjectNotFound:
            yield f"{name}: the server has no such deployment"
            continue
        there = {field: getattr(held, field, None) for field in COMPARED}
        limit = held.global_concurrency_limit
        there["concurrency_limit"] = limit.limit if limit else None
        there["schedules"] = sorted(
            _schedule({**one.schedule.model_dump(), "active": one.active}) for one in held.schedules
        )
        for field, value in expected.items():
            if there[field] != value:
                yield f"{name}: {field} is {there[field]!r}, {FILE} says {value!r}"


def _make_pool(client: SyncPrefectClient, name: str, kind: str, template: Path | None) -> None:
    """Make a work pool unless it is there; bring its template up to date where one is given."""
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectNotFound
    from prefect.workers.process import ProcessWorker

    given = None if template is None else template_of(template)
    try:
        held = client.read_work_pool(name)
    except ObjectNotFound:
        if given is None and kind != "process":
            raise SegopsError(
                f"--pool-type {kind}: needs --pool-template, a JSON file with the base job "
                "template; docker/kubernetes/ holds one."
            ) from None
        job = given or ProcessWorker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name=name, type=kind, base_job_template=job))
        return
    if held.type != kind:
        raise SegopsError(
            f"work pool {name}: the server has it with type {held.type}, not {kind}. Name that "
            "with --pool-type, or another pool in prefect.yaml."
        )
    if given is not None and held.base_job_template != given:
        client.update_work_pool(name, WorkPoolUpdate(base_job_template=given))


def template_of(path: Path) -> dict[str, Any]:
    """Return the base job template of a work pool.

    Raises:
        SegopsError: The file holds none.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SegopsError(f"--pool-template {path}: not readable as JSON: {error}.") from None
    if not isinstance(tree, dict) or not {"job_configuration", "variables"} <= tree.keys():
        raise SegopsError(
            f"--pool-template {path}: expected an object with job_configuration and variables."
        )
    return tree


def _cause(lines: list[str]) -> str:
    """Return the last line that is no frame of a table or traceback."""
    spoken = [line.strip(" │╭╮╰╯─") for line in lines]
    return next((line for line in reversed(spoken) if line), "it said nothing")
