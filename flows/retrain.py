"""The retraining flow: the stages of ``dvc.yaml``, then record, register, gate and promote.

Each stage and each step is a Prefect task that calls a function of segops. The order of the stages
is read from ``dvc.yaml``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import deployment, flow_run
from prefect.states import Completed

from flows import cause
from flows.failures import CLIENT_ERRORS, failed, told_by_caller
from flows.telling import tell
from segops import faults, files, logs, paths, pipeline
from segops.operate import deployed, surroundings
from segops.operate.place import Wanted, chosen
from segops.params.file import load_params
from segops.pipeline import tracked
from segops.report.figures import sentence
from segops.report.markdown import escaped
from segops.runtime.errors import SegopsError, TransientError

if TYPE_CHECKING:
    from segops.record.update import Recorded
    from segops.release.gate import Decision
    from segops.release.register import Registered
    from segops.release.smoke import Smoke

Result = TypeVar("Result")
MARKS = {"passed": "passed", "failed": "**failed**", "undecided": "**undecided**"}


@dataclass(frozen=True)
class Summary:
    """The result of a run of the flow.

    Attributes:
        outcomes: Per stage: `ran`, `restored` or `unchanged`.
        model: Name of the registered model.
        version: Its version that holds this workspace's weights.
        created: Whether this run registered that version.
        decision: The gate's decision.
        evaluation: The content of ``metrics/evaluation.json``.
        tracking_uri: The address of MLflow's record.
        smoke: The result of the smoke test; None where none was due.
        run: Name of a run in a worktree of its own.
    """

    outcomes: dict[str, str]
    model: str
    version: str
    created: bool
    decision: Decision
    evaluation: dict[str, Any]
    tracking_uri: str
    smoke: Smoke | None = None
    run: str | None = None

    @property
    def unchanged(self) -> bool:
        """Whether no version was registered and no stage ran but the one that always runs."""
        ran = {name for name, outcome in self.outcomes.items() if outcome == "ran"}
        return not self.created and ran <= {pipeline.CODE}


def is_transient(_task: object, _run: TaskRun, state: State[Any]) -> bool:
    """Whether to retry a failed task: only after a lost connection or a busy lock."""
    return isinstance(state.data, TransientError)


def guarded(function: Callable[[], Result]) -> Result | State[Any]:
    """Call `function`; a user's mistake becomes a failed state with a message, no traceback.

    So does what the machine refuses, such as space or rights.
    """
    try:
        with faults.named():
            return function()
    except SegopsError as error:
        return failed(error)


# Prefect's result cache knows nothing of file contents; DVC and the record are the caches here.
step = partial(
    task,
    cache_policy=NO_CACHE,
    retries=3,
    retry_delay_seconds=[2, 10, 30],
    retry_condition_fn=is_transient,
    persist_result=False,
)


@step(task_run_name="{name}")
def stage(root: Path, name: str, force: bool, is_due: bool) -> pipeline.StageOutcome | State[Any]:
    """Bring a stage of ``dvc.yaml`` up to date if it is due, and forward its log lines."""
    logger = get_run_logger()

    def bring_up_to_date() -> pipeline.StageOutcome:
        outcome: pipeline.StageOutcome = "unchanged"
        if is_due:
            outcome = pipeline.run_stage(root, name, logs.forwarding(logger), force)
        if outcome == "unchanged":
            logger.info("Nothing changed: %s is not run again.", name)
        return outcome

    return guarded(bring_up_to_date)


@step(task_run_name="surroundings")
def ready(root: Path) -> State[Any] | None:
    """Check what the run needs of the machine, the user and the environment."""
    return guarded(lambda: surroundings.require(root))


@step(task_run_name="data")
def data(root: Path, path: Path) -> State[Any] | None:
    """Make the data and their ``.dvc`` file agree: pull missing data, track new data."""
    return guarded(lambda: tracked.sync_data(root, path, get_run_logger().info))


@step(task_run_name="record")
def record(root: Path) -> Recorded | State[Any]:
    """Bring MLflow up to date with the workspace."""
    from segops.record.update import record as record_run

    return guarded(lambda: record_run(root))


@step(task_run_name="register")
def register(root: Path, recorded: Recorded) -> Registered | State[Any]:
    """Register the workspace's model, unless it is registered."""
    from segops.release.register import register as register_model

    return guarded(lambda: register_model(root, recorded))


@step(task_run_name="gate")
def gate(root: Path) -> Decision | State[Any]:
    """Let the gate decide on the challenger."""
    from segops.release import promotion

    return guarded(lambda: promotion.gate(root))


@step(task_run_name="promote")
def promote(root: Path, decision: Decision) -> Decision | State[Any]:
    """Carry out the gate's decision on the registry's aliases; return the one carried out."""
    from segops.release import promotion

    return guarded(lambda: promotion.promote(root, decision))


@step(task_run_name="smoke test")
def smoke(root: Path) -> Smoke | State[Any] | None:
    """Test a champion that was just promoted, and take it back if it fails."""
    from segops.release.smoke import smoke as test_champion

    return guarded(lambda: test_champion(root))


@flow(
    name="retrain",
    persist_result=False,
    on_completion=[tell],
    on_failure=[tell],
    on_crashed=[tell],
)
def retrain(
    force: bool = False,
    isolated: bool | None = None,
    revision: str | None = None,
    overrides: dict[str, Any] | None = None,
    wait: bool = True,
) -> State[Any]:
    """Run all stages of a workspace, record the model, and let the gate decide on it.

    The workspace is that of the process's working directory. It is no parameter, because a person
    who may start runs remotely must not choose which ``dvc.yaml`` is run.

    Args:
        force: Run every stage again, changed or not.
        isolated: Run in a worktree of its own; without it, a run of a deployment does.
        revision: The commit to run in a worktree, as git takes it; without it, that of the
            workspace.
        overrides: Parameters to change in a worktree, by dotted key: `{"train.lr": 0.01}`.
        wait: Wait while another run is under way in the workspace; else the run fails then.
    """
    try:
        workspace = deployed.of_run(deployment.id is not None)
        cause.declare()
        wanted = Wanted(isolated, revision, overrides or {}, wait, deployment.id is not None)
        say = get_run_logger().info
        with faults.named(), chosen(workspace, flow_run.name, wanted, say) as place:
            summary = replace(_retrain(place.root, force), run=place.name)
            verdict, is_unchanged = summary.decision.verdict, summary.unchanged
            place.keep(summary.model, summary.version, verdict, unchanged=is_unchanged)
    except SegopsError as error:
        return failed(error)
    _show(summary)
    name = "Unchanged" if summary.unchanged else summary.decision.verdict.capitalize()
    if summary.smoke is not None and not summary.smoke.passed:
        name = "Withdrawn"
    return Completed(name=name, message=_verdict(summary), data=summary)


def _retrain(root: Path, force: bool) -> Summary:
    from segops.record.tracking import tracking_uri
    from segops.release import champion_evaluation

    parameters = load_params(root)
    if deployment.id is not None:  # `segops run` has checked it before it started a server
        call(ready, root)
    call(data, root, Path(parameters.data.path))
    stages = pipeline.states(root)
    due = {state.name for state in stages if force or state.state != "up to date"}
    if "train" in due:
        surroundings.shared_memory(root)
    if due:  # the evaluation page compares the new model with the present champion
        champion_evaluation.refresh(root)
        champion_evaluation.warn_of_other_classes(root, parameters.data.class_names)
    states: dict[str, State[Any]] = {}
    for planned in stages:
        upstream = [states[name] for name in planned.upstream]
        arguments = (root, planned.name, force, planned.name in due)
        run_stage: Any = stage
        states[planned.name] = run_stage(*arguments, wait_for=upstream, return_state=True)
        states[planned.name].result()
    recorded = call(record, root)
    registered = call(register, root, recorded)
    decision = call(promote, root, call(gate, root))
    tested = call(smoke, root)
    champion_evaluation.refresh(root)
    return Summary(
        outcomes={name: state.result() for name, state in states.items()},
        model=parameters.registry.model,
        version=str(registered.version),
        created=registered.created,
        decision=decision,
        evaluation=files.read_json(root / paths.EVALUATION),
        tracking_uri=tracking_uri(root),
        smoke=tested,
    )


def call(function: Any, *arguments: Any) -> Any:
    """Run a task and return its result.

    Raises:
        SegopsError: The task failed by a user's mistake.
    """
    return function(*arguments, return_state=True).result()


def _verdict(summary: Summary) -> str:
    if summary.unchanged:
        return f"Nothing changed; version {summary.version} stays as it was."
    verdict = f"Version {summary.version}: {summary.decision.verdict}."
    return verdict if summary.smoke is None else f"{verdict} {summary.smoke.sentence}"


def verdict_page(summary: Summary) -> str:
    """Return the verdict, the score and every check, in Markdown."""
    lines = [
        f"# {escaped(summary.model)} version {summary.version}: {summary.decision.verdict}",
        f"**{sentence(summary.evaluation)}**. {escaped(_verdict(summary))}",
        "| check | outcome | what was found |",
        "| --- | --- | --- |",
        *(
            f"| {escaped(check.name)} | {MARKS[check.outcome]} | {escaped(check.sentence)} |"
            for check in summary.decision.checks
        ),
    ]
    return "\n\n".join(lines[:2]) + "\n\n" + "\n".join(lines[2:])


def _show(summary: Summary) -> None:
    """Put the verdict and the metrics on the flow run's page."""
    pages = (
        ("verdict", verdict_page(summary), "The gate's verdict"),
        ("class-iou", class_page(summary), "Per-class metrics on val"),
    )
    try:
        for key, page, words in pages:
            create_markdown_artifact(key=key, markdown=page, description=words)
    except CLIENT_ERRORS as error:  # the gate has decided, whether or not its server answers
        get_run_logger().warning("The verdict is not on the run's page: %s", error)


def class_page(summary: Summary) -> str:
    """Return a Markdown table of the classes that val holds.

    It is no table artifact: the two pages of Prefect read such cells differently, one as Markdown.
    """
    figures = ("iou", "precision", "recall")
    lines = ["| class | iou | precision | recall |", "| --- | --- | --- | --- |"]
    for name, values in summary.evaluation["classes"].items():
        if values["truth_pixels"]:
            cells = (escaped(name), *(_shown(values[key]) for key in figures))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _shown(value: float | None) -> str:
    return "absent" if value is None else f"{value:.3f}"


def run(root: Path, force: bool = False, *, name: str | None = None, **parameters: Any) -> Summary:
    """Run the flow once in this process, on the configured Prefect server.

    Args:
        root: The workspace.
        force: Run every stage again, changed or not.
        name: Name of the flow run and, in a worktree, of the run; None: Prefect chooses one.
        parameters: Further parameters of the flow :func:`retrain`.

    Raises:
        SegopsError: A stage or a step failed.
    """
    named: Any = retrain if name is None else retrain.with_options(flow_run_name=name)
    with chdir(root), told_by_caller():
        state = named(force, return_state=True, **parameters)
    summary: Summary = state.result()
    return summary
