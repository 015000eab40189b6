"""Makes the deployments of ``prefect.yaml``, and compares them with what the server has."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from flows import server
from segops import pipeline
from segops.operate import automations, crashes, deployed
from segops.params import yaml_guard
from segops.params.file import load_params
from segops.runtime.errors import SegopsError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import WorkPool
    from prefect.client.schemas.responses import DeploymentResponse

FILE = "prefect.yaml"
PROCESS = "process"
COMPARED = ("entrypoint", "parameters", "work_pool_name", "job_variables", "tags", "pull_steps")
"""Fields of a deployment that are compared as they stand; limit and schedules are compared too."""
KINDS = ("cron", "interval", "rrule")
"""Schedules of Prefect; the key names the value."""
log = logging.getLogger("segops")


def deploy(
    root: Path, pool_type: str | None, template: Path | None, *, resume: bool = False
) -> list[str]:
    """Make the work pools and deployments of ``prefect.yaml``, and read them back.

    What was paused or resumed on the server stays so; the log names all else that is overwritten.

    Args:
        root: The checkout that holds the file.
        pool_type: Type of the work pools: `process` or `kubernetes`; None: `process` for one that
            is made, its own for one that is there.
        template: JSON file of a work pool's base job template; None: that of the type.
        resume: Whether deployments and schedules become active or paused as the file says.

    Returns:
        The names of the deployments, `FLOW/NAME`.

    Raises:
        SegopsError: A variable is missing, the server refuses, or holds something else afterwards.
    """
    given = None if template is None else template_of(template)
    with _prepared(root) as (client, wanted):
        for pool in _pools(wanted):
            _make_pool(client, pool, pool_type, given)
        crashes.install(client)
        held = _held(client, wanted)
        for difference in _differences(client, wanted):
            log.info("%s; this is brought up to date.", difference)
        command = ["prefect", "--no-prompt", "deploy", "--all", "--prefect-file", FILE]
        status, lines = pipeline.run_tied(root, command, lambda _line: None)
        if status != 0:
            raise SegopsError(f"{FILE}: Prefect does not take it: {_cause(lines)}")
        if not resume:
            _keep_paused(client, held, _held(client, wanted))
        if differences := list(_differences(client, wanted)):
            raise SegopsError(
                f"{FILE}: the server holds something else than was deployed: "
                f"{'; '.join(differences)}."
            )
        automations.put_drift(client, load_params(root))
        return list(wanted)


def differences(root: Path, pool_type: str | None, template: Path | None) -> list[str]:
    """Return what differs between ``prefect.yaml`` and the server, one sentence each.

    What is paused on the server is no difference; the log names it.

    Args:
        root: The checkout that holds the file.
        pool_type: Type that the work pools should have; None: it is not compared.
        template: JSON file that a work pool's base job template is compared with; None: it is not
            compared, and the log says so.

    Raises:
        SegopsError: A variable is missing, a file is not usable, or the server refuses.
    """
    given = None if template is None else template_of(template)
    with _prepared(root) as (client, wanted):
        found = [
            difference
            for pool in _pools(wanted)
            if (difference := _pool_difference(_pool(client, pool), pool, pool_type, given))
        ]
        if given is None:
            log.info("The work pools' job templates are not compared: --pool-template names one.")
        for name, one in _held(client, wanted).items():
            if one.paused or not all(schedule.active for schedule in one.schedules):
                log.info("%s: it, or a schedule of it, is paused on the server.", name)
        return [*found, *_differences(client, wanted)]


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
        tree = yaml_guard.load((root / FILE).read_text(encoding="utf-8"))
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
                "concurrency_limit": _limit(one.get("concurrency_limit")),
                "work_pool_name": one["work_pool"]["name"],
                "job_variables": one["work_pool"].get("job_variables") or {},
                "tags": one.get("tags") or [],
                "pull_steps": one.get("pull", steps),
                "schedules": sorted(map(_schedule, one.get("schedules") or [])),
            }
    except (OSError, yaml.YAMLError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise SegopsError(
            f"{root / FILE}: not usable: {type(error).__name__}: {error}. Compare it with the file "
            "of a new checkout."
        ) from None
    return found


def _limit(value: Any) -> tuple[int, str] | None:
    """Return how many runs go on at once, and what becomes of one more."""
    if value is None:
        return None
    options = value if isinstance(value, dict) else {"limit": value}
    return options["limit"], options.get("collision_strategy", "ENQUEUE")


def _schedule(line: dict[str, Any]) -> str:
    kind = next((kind for kind in KINDS if line.get(kind) is not None), None)
    if kind is None:
        raise ValueError(f"a schedule has none of {', '.join(KINDS)}")
    value = line[kind]
    if kind == "rrule":  # the server writes a start into it
        from prefect.client.schemas.schedules import RRuleSchedule

        value = str(RRuleSchedule(rrule=value).to_rrule())
    elif kind == "interval":
        value = timedelta(seconds=value) if isinstance(value, int | float) else value
    return f"{kind} {value} {line.get('timezone') or 'UTC'}"


def _held(
    client: SyncPrefectClient, wanted: dict[str, dict[str, Any]]
) -> dict[str, DeploymentResponse]:
    """Return those of the deployments that the server has."""
    from prefect.exceptions import ObjectNotFound

    found = {}
    for name in wanted:
        with suppress(ObjectNotFound):
            found[name] = client.read_deployment_by_name(name)
    return found


def _keep_paused(
    client: SyncPrefectClient,
    before: dict[str, DeploymentResponse],
    after: dict[str, DeploymentResponse],
) -> None:
    """Pause and resume deployments and schedules as they were, where Prefect made them anew."""
    for name, old in before.items():
        new = after[name]
        states = {_schedule(one.schedule.model_dump()): bool(one.active) for one in old.schedules}
        for one in new.schedules:
            # A schedule that is new stays paused where all others were.
            is_active = bool(one.active) and (not states or any(states.values()))
            is_active = states.get(_schedule(one.schedule.model_dump()), is_active)
            if is_active is not one.active:
                client.update_deployment_schedule(new.id, one.id, active=is_active)
        if old.paused is not new.paused:
            (client.pause_deployment if old.paused else client.resume_deployment)(new.id)


def _differences(client: SyncPrefectClient, wanted: dict[str, dict[str, Any]]) -> Iterator[str]:
    found = _held(client, wanted)
    for name, expected in wanted.items():
        held = found.get(name)
        if held is None:
            yield f"{name}: the server has no such deployment"
            continue
        there = {field: getattr(held, field, None) for field in COMPARED}
        limit, options = held.global_concurrency_limit, held.concurrency_options
        strategy = options.collision_strategy.value if options else "ENQUEUE"
        there["concurrency_limit"] = (limit.limit, strategy) if limit else None
        there["schedules"] = sorted(_schedule(one.schedule.model_dump()) for one in held.schedules)
        for field, value in expected.items():
            if there[field] != value:
                yield f"{name}: {field} is {there[field]!r}, {FILE} says {value!r}"
    if not client.read_automations_by_name(crashes.NAME):
        yield f"the server has no automation {crashes.NAME!r}, which marks crashed runs"


def _pools(wanted: dict[str, dict[str, Any]]) -> list[str]:
    """Return the work pools that the deployments name, each once."""
    return list(dict.fromkeys(one["work_pool_name"] for one in wanted.values()))


def _pool(client: SyncPrefectClient, name: str) -> WorkPool | None:
    """Return a work pool; None where the server has none of this name."""
    from prefect.exceptions import ObjectNotFound

    try:
        return client.read_work_pool(name)
    except ObjectNotFound:
        return None


def _pool_difference(
    held: WorkPool | None, name: str, kind: str | None, given: dict[str, Any] | None
) -> str:
    """Return in what a work pool differs from what was asked for; empty: in nothing."""
    if held is None:
        return f"work pool {name}: the server has none of this name"
    if kind is not None and held.type != kind:
        return f"work pool {name}: the server has it with type {held.type}, not {kind}"
    if given is not None and held.base_job_template != given:
        fields = sorted(_leaves(held.base_job_template) ^ _leaves(given))
        places = ", ".join(dict.fromkeys(place for place, _ in fields))
        return f"work pool {name}: its job template differs from the given one in {places}"
    return ""


def _leaves(tree: Any, place: str = "") -> set[tuple[str, str]]:
    """Return every value of a tree of JSON with the place where it stands."""
    if isinstance(tree, dict) and tree:
        inner = ((f"{place}.{key}" if place else key, value) for key, value in tree.items())
    elif isinstance(tree, list) and tree:
        inner = ((f"{place}[{number}]", value) for number, value in enumerate(tree))
    else:
        return {(place, json.dumps(tree))}
    return {leaf for key, value in inner for leaf in _leaves(value, key)}


def _make_pool(
    client: SyncPrefectClient, name: str, kind: str | None, given: dict[str, Any] | None
) -> None:
    """Make a work pool unless it is there; bring its template up to date where one is given."""
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.workers.process import ProcessWorker

    held = _pool(client, name)
    difference = _pool_difference(held, name, kind, given)
    if held is None:
        kind = kind or PROCESS
        if given is None and kind != PROCESS:
            raise SegopsError(
                f"--pool-type {kind}: needs --pool-template, a JSON file with the base job "
                "template; docker/kubernetes/ holds one."
            )
        job = given or ProcessWorker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name=name, type=kind, base_job_template=job))
    elif kind is not None and held.type != kind:
        raise SegopsError(
            f"{difference}. Name that with --pool-type, or another pool in prefect.yaml."
        )
    elif difference:
        log.info("%s; this is brought up to date.", difference)
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
    if not (isinstance(tree, dict) and tree.get("job_configuration") and tree.get("variables")):
        raise SegopsError(
            f"--pool-template {path}: expected an object with job_configuration and variables, "
            "neither of them empty."
        )
    return tree


def _cause(lines: list[str]) -> str:
    """Return the last line that is no frame of a table or traceback."""
    spoken = [line.strip(" │╭╮╰╯─") for line in lines]
    return next((line for line in reversed(spoken) if line), "it said nothing")
