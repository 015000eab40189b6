"""The files of docker/ against the schemas of their formats, and their scripts run for real."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from inspect import signature
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml
from compose_spec import PyCompose

from flows import deploy
from segops.cli import serve
from segops.runtime.exported.build import IMAGES, LOGITS
from segops.serve.metrics import Metrics
from segops.serve.pool import Limits, Pool
from tests.support.mlflow_server import postgresql, program

DOCKER = Path(__file__).parents[3] / "docker"
COMPOSE = ("compose.yaml", "compose.gpu.yaml")
MANIFESTS = sorted(DOCKER.glob("kubernetes/[!k]*.yaml"))
TEMPLATES = sorted(DOCKER.glob("kubernetes/*.json"))
KUBERNETES = "1.30"
SECRET = re.compile(
    "PASSWORD|SECRET_(ACCESS_)?KEY(_FILE)?$|AUTH_STRING(_FILE)?$|STORE_URI|CONNECTION"
)
"""Names of variables that hold a secret."""


def interpolated(path: Path) -> Any:
    """A compose file with the defaults of its variables, as `docker compose config` shows it."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", path.read_text())
    assert "${" not in text, "a variable without a default"
    return yaml.safe_load(text)


def objects() -> list[dict[str, Any]]:
    """The Kubernetes objects of all manifests, and the Jobs that the work pools make."""
    found = [one for path in MANIFESTS for one in yaml.safe_load_all(path.read_text())]
    return [*found, *(job(json.loads(path.read_text())) for path in TEMPLATES)]


def job(template: dict[str, Any]) -> dict[str, Any]:
    """The Job of a base job template, with the defaults of its variables."""
    given = {"name": "run", "labels": {"a": "b"}, "annotations": {}, "command": ["true"]}
    variables = template["variables"]["properties"]
    values = {name: one.get("default") for name, one in variables.items()} | given

    def filled(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: filled(value) for key, value in node.items()}
        if isinstance(node, list):
            return [filled(value) for value in node]
        if not isinstance(node, str):
            return node
        whole = re.fullmatch(r"\{\{ (\w+) \}\}", node)
        return (
            values[whole[1]]
            if whole
            else re.sub(r"\{\{ (\w+) \}\}", lambda name: str(values[name[1]]), node)
        )

    manifest: dict[str, Any] = filled(template["job_configuration"]["job_manifest"])
    return manifest


def pods() -> list[tuple[str, dict[str, Any]]]:
    found = [
        (str(one["metadata"]), one["spec"].get("jobTemplate", one)["spec"]["template"]["spec"])
        for one in objects()
        if one["kind"] in ("Deployment", "Job", "CronJob")
    ]
    assert len(found) == 9
    return found


@pytest.mark.parametrize("name", COMPOSE)
def test_compose_files_are_what_the_specification_says(name: str) -> None:
    tree = interpolated(DOCKER / name)
    PyCompose.from_json(json.dumps(tree)).validate()


def test_a_misspelt_key_of_a_service_is_found() -> None:
    tree = interpolated(DOCKER / COMPOSE[0])
    tree["services"]["mlflow"]["mem_limt"] = "1g"
    with pytest.raises(ValueError, match="mem_limt"):
        PyCompose.from_json(json.dumps(tree))


def test_every_service_is_confined_and_waits_for_what_it_needs() -> None:
    tree = interpolated(DOCKER / "compose.yaml")
    for name, service in tree["services"].items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"], name
        assert service["pids_limit"], name
        assert service["user"] == "1000:1000", name
        assert set(service.get("depends_on", {})) <= set(tree["services"]), name
        for needed in service.get("depends_on", {}).values():
            assert needed["condition"] != "service_started", name
        assert set(service.get("secrets", [])) <= set(tree["secrets"]), name
        for key, value in service.get("environment", {}).items():
            if SECRET.search(key):
                assert key.endswith("_FILE"), f"{name}: {key} holds a secret"
                assert value.removeprefix("/run/secrets/") in service["secrets"], name
    published = {name for name, one in tree["services"].items() if "ports" in one}
    assert published == {"tls"}
    assert tree["services"]["tls"]["ports"] == ["127.0.0.1:443:8443"]


def test_tls_leads_to_every_server_that_people_use() -> None:
    """By Caddy and by the ingress, over a network or policy that lets it through."""
    names = {
        "mlflow": "mlflow:5000",
        "prefect": "prefect:4200",
        "s3": "storage:8333",
        "serve": "serve:8080",
    }
    places = re.findall(
        r"^(\w+)\.\{\$SEGOPS_DOMAIN\} \{\n\ttls internal\n\treverse_proxy \{\$\w+:(\S+)\}",
        (DOCKER / "Caddyfile").read_text(),
        re.MULTILINE,
    )
    assert dict(places) == names
    services = interpolated(DOCKER / "compose.yaml")["services"]
    assert services["tls"]["networks"] == ["front"]
    (ingress,) = [one["spec"] for one in objects() if one["kind"] == "Ingress"]
    backends = {
        rule["host"].split(".")[0]: rule["http"]["paths"][0]["backend"]["service"]
        for rule in ingress["rules"]
    }
    told = {name: f"{one['name']}:{one['port']['number']}" for name, one in backends.items()}
    assert told == names
    assert ingress["tls"][0]["hosts"] == [rule["host"] for rule in ingress["rules"]]
    policies = [one["spec"] for one in objects() if one["kind"] == "NetworkPolicy"]
    open_ports = {
        port["port"]
        for policy in policies
        for rule in policy.get("ingress", [])
        if any("namespaceSelector" in one for one in rule["from"])
        for port in rule["ports"]
    }
    for place in names.values():
        service, port = place.split(":")
        assert "front" in services[service]["networks"], service
        assert int(port) in open_ports, service


def test_a_backup_reads_nothing_that_still_changes() -> None:
    """The page stops whatever writes into what the backup reads."""
    services = interpolated(DOCKER / "compose.yaml")["services"]
    (line,) = re.findall(
        r"compose.yaml stop (.*)", (DOCKER.parent / "docs/how-to/team.md").read_text()
    )
    read = {one["source"] for one in services["backup"]["volumes"] if one.get("read_only")}
    writers = {
        name
        for name, service in services.items()
        for one in service.get("volumes", [])
        if isinstance(one, dict) and one["source"] in read and not one.get("read_only")
    }
    assert writers == {"storage"}
    assert writers <= set(line.split())


def backup_script() -> str:
    """The script of the service `backup`, as its container gets it."""
    (script,) = interpolated(DOCKER / "compose.yaml")["services"]["backup"]["command"]
    return str(script).replace("$$", "$")


def test_the_backup_of_a_cluster_is_that_of_compose() -> None:
    (pod,) = [pod for name, pod in pods() if "'backup'" in name]
    assert pod["containers"][0]["args"] == [backup_script()]


@pytest.mark.slow
def test_what_the_backup_writes_can_be_restored(tmp_path: Path) -> None:
    backups, bucket, password = (tmp_path / name for name in ("backups", "bucket", "password"))
    (bucket / "models").mkdir(parents=True)
    (bucket / "models/weights").write_text("weights")
    backups.mkdir()
    password.write_text("secret\n")
    script = backup_script().replace("/backups", str(backups)).replace("/data", str(bucket))
    with postgresql() as address:
        place = urlsplit(address)
        environment = os.environ | {
            "PGHOST": str(place.hostname), "PGPORT": str(place.port), "PGUSER": "segops",
            "PASSWORD_FILE": str(password),
            "PATH": f"{Path(program('pg_dump')).parent}:{os.environ['PATH']}",
        }  # fmt: skip

        def run(*command: str) -> str:
            return subprocess.run(
                command, env=environment, check=True, capture_output=True, text=True
            ).stdout.strip()

        for name in ("mlflow", "mlflow_auth", "prefect"):
            run("createdb", name)
            run("psql", "-c", f"CREATE TABLE kept AS SELECT '{name}' AS name", name)
        run("bash", "-euc", script)
        for name in ("mlflow", "mlflow_auth", "prefect"):
            run("psql", "-c", "UPDATE kept SET name = 'lost'", name)
            run("pg_restore", "--clean", f"--dbname={name}", str(backups / f"{name}.dump"))
            assert run("psql", "-Atc", "SELECT name FROM kept", name) == name
    run("tar", "--extract", f"--file={backups / 'bucket.tar'}", f"--directory={backups}")
    assert (backups / "models/weights").read_text() == "weights"
    assert sorted(one.name for one in backups.glob("*.new")) == []


@pytest.mark.parametrize("path", sorted(DOCKER.glob("*Dockerfile")), ids=lambda path: path.name)
def test_dockerfiles_have_no_finding(path: Path) -> None:
    done = subprocess.run(["hadolint", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_kubernetes_takes_every_object() -> None:
    for one in objects():
        kubernetes_validate.validate(one, KUBERNETES, strict=True)
    named = yaml.safe_load((DOCKER / "kubernetes/kustomization.yaml").read_text())
    assert sorted(named["resources"]) == sorted(path.name for path in MANIFESTS)
    assert not [one for one in objects() if one["kind"] == "Secret"]


def test_every_pod_is_confined() -> None:
    for name, pod in pods():
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"], name
            assert not context["allowPrivilegeEscalation"], name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["limits"]["memory"], name
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted <= {volume["name"] for volume in pod["volumes"]}, name
            for variable in container.get("env", []):
                if re.search(
                    "PASSWORD|SECRET_ACCESS|AUTH_STRING(_FILE)?$|STORE_URI|CONNECTION",
                    variable["name"],
                ):
                    assert variable["value"].startswith("/run/secrets/"), (name, variable)


def test_the_serving_image_gets_options_that_the_server_has() -> None:
    dockerfile = (DOCKER / "serve.Dockerfile").read_text()
    entry, command = (
        json.loads(found)
        for found in re.findall(r"^(?:ENTRYPOINT|CMD) (\[.*\])$", dockerfile, re.M)
    )
    assert entry[:4] == ["python", "-m", "segops", "serve"]
    (pod,) = [pod for name, pod in pods() if "'serve'" in name]
    service = interpolated(DOCKER / "compose.yaml")["services"]["serve"]
    known = {f"--{name.replace('_', '-')}" for name in signature(serve.serve).parameters}
    for options in (entry[4:], command, service["command"], pod["containers"][0]["args"]):
        assert {one.partition("=")[0] for one in options} <= known, options


def test_the_autoscaler_reads_a_metric_that_the_server_has() -> None:
    (scaler,) = [one["spec"] for one in objects() if one["kind"] == "HorizontalPodAutoscaler"]
    deployments = {
        one["metadata"]["name"]: one["spec"] for one in objects() if one["kind"] == "Deployment"
    }
    deployment = deployments[scaler["scaleTargetRef"]["name"]]
    assert "replicas" not in deployment  # each `kubectl apply` would set it back
    pool = Pool("torch", ("cpu",), Limits(), None)
    names = {line.split()[0] for line in Metrics(pool).text().decode().splitlines()}
    assert scaler["metrics"][0]["pods"]["metric"]["name"] in names


def test_the_page_for_other_servers_fits_the_exports_and_kubernetes() -> None:
    page = (DOCKER.parent / "docs/how-to/serve-elsewhere.md").read_text()
    (text,) = re.findall(r"^```pbtxt$(.*?)^```$", page, re.M | re.S)
    names = re.findall(r'(\w+) \[ \{ name: "(\w+)" data_type: TYPE_FP32 dims', text)
    assert names == [("input", IMAGES), ("output", LOGITS)]
    found = [yaml.safe_load(one) for one in re.findall(r"^```yml$(.*?)^```$", page, re.M | re.S)]
    prometheus, adapter, kserve, deployment = found
    series = adapter["rules"][0]["seriesQuery"].partition("{")[0]
    (scaler,) = [one["spec"] for one in objects() if one["kind"] == "HorizontalPodAutoscaler"]
    assert scaler["metrics"][0]["pods"]["metric"]["name"] == series
    labels = {one.get("target_label") for one in prometheus["scrape_configs"][0]["relabel_configs"]}
    assert labels >= set(adapter["rules"][0]["resources"]["overrides"])
    kubernetes_validate.validate(deployment, KUBERNETES, strict=True)
    # The specification of KServe's predictor is a pod's, with keys of its own.
    pod = {key: kserve["spec"]["predictor"][key] for key in ("containers", "volumes")}
    made = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "segops"}, "spec": pod}
    kubernetes_validate.validate(made, KUBERNETES, strict=True)


def test_only_the_worker_may_talk_to_the_cluster() -> None:
    for one in objects():
        if one["kind"] in ("Deployment", "Job"):
            pod = one["spec"]["template"]["spec"]
            is_worker = one["metadata"].get("name") == "worker"
            assert pod["automountServiceAccountToken"] is is_worker


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_a_job_asks_for_gpus_and_its_ranks_find_one_another(path: Path) -> None:
    template = deploy.template_of(path)
    made = job(template)
    (container,) = made["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    is_several = "nodes" in template["variables"]["properties"]
    assert (made["spec"].get("completionMode") == "Indexed") is is_several
    if is_several:
        assert made["spec"]["completions"] == made["spec"]["parallelism"] == 2
        names = [one["name"] for one in container["env"]]
        # Kubernetes puts a variable into those after it.
        assert names.index("JOB_NAME") < names.index("SEGOPS_MAIN")
        assert container["command"] == ["entrypoint.sh", "rank.sh"]


def test_prepare_makes_what_compose_mounts_and_keeps_it(tmp_path: Path) -> None:
    made: dict[str, str] = {}
    for _ in range(2):
        before = made
        subprocess.run([DOCKER / "prepare.sh", tmp_path], check=True)
        made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
        tree = interpolated(DOCKER / "compose.yaml")
        assert set(made) == set(tree["secrets"])
        for path in (tmp_path / "secrets").iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert made == before
    own, people = json.loads(made["s3.json"])["identities"]
    (ours,), (theirs,) = own["credentials"], people["credentials"]
    assert ours["secretKey"] != theirs["secretKey"]
    # People write no artifacts past MLflow's logins.
    assert {action.partition(":")[2] for action in people["actions"]} == {"segops-data"}
    assert re.fullmatch(r"segops:[0-9a-f]{64}", made["prefect_auth"])
    sources = {
        mount["source"].removeprefix("./")
        for service in tree["services"].values()
        for mount in service.get("volumes", [])
        if isinstance(mount, dict)
    }
    assert {source for source in sources if not (tmp_path / source).is_dir()} == set()


def test_the_entry_point_hands_secrets_over(tmp_path: Path) -> None:
    """No secret in the arguments of a process, nor in what the container was told."""
    (tmp_path / "word").write_text('it\'s a $secret "word"\n')
    environment = {
        "PATH": os.environ["PATH"],
        "SEGOPS_SECRETS": str(tmp_path),
        "WORD_FILE": str(tmp_path / "word"),
        "OTHER_FILE": "/etc/hostname",
    }
    command = [DOCKER / "entrypoint.sh", "sh", "-c", 'printf %s "$WORD|${WORD_FILE-}|$OTHER_FILE"']
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == 'it\'s a $secret "word"||/etc/hostname'
    (tmp_path / "word").unlink()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "word: not readable" in done.stderr
    assert "docker/prepare.sh" in done.stderr


def ranked(tmp_path: Path, node: int, *command: str, **given: str) -> subprocess.Popen[str]:
    """Start docker/rank.sh as one pod of a Job."""
    commands = tmp_path / "bin"
    commands.mkdir(exist_ok=True)
    tool = commands / "segops"  # it tells what a rank would be started with
    tool.write_text('#!/bin/sh\necho "$* in $PWD with $SEGOPS_NODE $SEGOPS_MAIN $PYTHONPATH"\n')
    tool.chmod(0o755)
    environment = {
        "PATH": f"{commands}:{os.environ['PATH']}",
        "SEGOPS_WORKSPACE": str(tmp_path),
        "JOB_NAME": "run-x",
        "JOB_COMPLETION_INDEX": str(node),
        "SEGOPS_MAIN": "run-x-0.ranks:29400",
    }
    given = environment | given
    return subprocess.Popen(
        [DOCKER / "rank.sh", *command],
        env={name: value for name, value in given.items() if value},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def begin(root: Path) -> str:
    """The command of a flow run whose stage train begins in a directory."""
    return (
        "import sys; from pathlib import Path; from segops.operate import ranks; "
        f"ranks.announce(Path({str(root)!r})); print('trained'); sys.exit(3)"
    )


def test_the_pods_of_a_training_run_in_the_directory_of_the_first(tmp_path: Path) -> None:
    root = tmp_path / "worktree"
    (root / "src/segops").mkdir(parents=True)
    (root / "params.yaml").write_text("train: {nodes: 2}\n")
    other = ranked(tmp_path, 1)
    path = os.pathsep.join(sys.path)
    first = ranked(tmp_path, 0, sys.executable, "-c", begin(root), PYTHONPATH=path)
    said, _ = first.communicate(timeout=60)
    assert (first.returncode, said) == (3, "trained\n")
    # It may look only after the end of so short a training, and then has nothing to do.
    said, _ = other.communicate(timeout=60)
    assert other.returncode == 0
    place = tmp_path / ".segops/ranks/run-x"
    assert sorted(path.name for path in place.iterdir()) == ["ended", "train"]
    (place / "ended").unlink()
    said, _ = ranked(tmp_path, 1, PYTHONPATH="more").communicate(timeout=60)
    told = f"stage train in {root} with 1 run-x-0.ranks:29400 {root}/src:more"
    assert said.strip() == told


def test_pods_end_with_a_run_that_trains_nothing_on_several_machines(tmp_path: Path) -> None:
    root = tmp_path / "alone"
    root.mkdir()
    (root / "params.yaml").write_text("train: {nodes: 1}\n")
    other = ranked(tmp_path, 1)
    path = os.pathsep.join(sys.path)
    ranked(tmp_path, 0, sys.executable, "-c", begin(root), PYTHONPATH=path).communicate(timeout=60)
    said, _ = other.communicate(timeout=60)
    assert (other.returncode, said) == (
        0,
        "The run of the first pod ended without a training on several machines.\n",
    )


def test_the_first_pod_hands_signals_to_the_flow_and_its_status_on(tmp_path: Path) -> None:
    waits = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(5)); "
        "print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN, flush=True)\n"
        "while True: time.sleep(0.1)"
    )
    for _ in range(20):  # the command may end before the shell looks at it again, or after
        first = ranked(tmp_path, 0, sys.executable, "-IS", "-c", waits)
        assert first.stdout is not None
        assert first.stdout.readline() == "False\n"
        first.terminate()
        assert first.wait(30) == 5
    assert (tmp_path / ".segops/ranks/run-x/ended").is_file()


@pytest.mark.parametrize(
    ("command", "status"), [("exit 0", 0), ("exit 127", 127), ("exit 143", 143)]
)
def test_the_first_pod_ends_as_its_command(tmp_path: Path, command: str, status: int) -> None:
    assert ranked(tmp_path, 0, "sh", "-c", command).wait(30) == status


@pytest.mark.parametrize(
    "missing", ["JOB_COMPLETION_INDEX", "SEGOPS_MAIN", "SEGOPS_WORKSPACE", "JOB_NAME"]
)
def test_a_pod_without_its_place_among_several_says_so(tmp_path: Path, missing: str) -> None:
    one = ranked(tmp_path, 0, "true", **{missing: ""})
    said, _ = one.communicate(timeout=30)
    assert one.returncode != 0
    assert missing in said


def test_no_service_sees_what_another_keeps(tmp_path: Path) -> None:
    """A directory that is mounted shows no password and no data directory of another service."""
    tree = interpolated(DOCKER / "compose.yaml")
    base = PurePosixPath("/checkout/docker")

    def at(source: str) -> PurePosixPath:
        return PurePosixPath(os.path.normpath(base / source))

    def mounts(service: dict[str, Any]) -> list[tuple[PurePosixPath, PurePosixPath]]:
        found = []
        for one in service.get("volumes", []):
            source, target = (
                one.split(":")[:2] if isinstance(one, str) else (one["source"], one["target"])
            )
            found.append((at(source), PurePosixPath(target)))
        return found

    kept = {at(one["file"]) for one in tree["secrets"].values()} | {
        source
        for service in tree["services"].values()
        for source, _ in mounts(service)
        if source.is_relative_to(base / "state") and source.name != "empty"
    }
    assert len(kept) == len(tree["secrets"]) + 5
    shown = {
        (name, str(one))
        for name, service in tree["services"].items()
        for source, target in mounts(service)
        for one in kept
        if one.is_relative_to(source) and one != source
        if not any(
            (target / one.relative_to(source)).is_relative_to(other)
            for _, other in mounts(service)
            if other != target and other.is_relative_to(target)
        )
    }
    assert shown == set()
