"""The back ends of a team on loopback, started as docker/compose.yaml starts them.

PostgreSQL is Debian's and the S3 server moto's; MLflow, Prefect and the worker run the commands,
the environment and the entry point of their services, with the addresses of this machine in them.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import psycopg2
import yaml

from segops import pipeline
from tests.support import mlflow_server

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
BUCKET, DATA = "segops", "segops-data"
ABSENT = ("torch", "dvc", "cv2", "albumentations", "great_expectations")
"""Modules that the servers' image does not have."""
WITHOUT = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {ABSENT}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
"""


def services() -> dict[str, dict[str, Any]]:
    """The services of docker/compose.yaml, with the defaults of its variables."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (DOCKER / "compose.yaml").read_text())
    found: dict[str, dict[str, Any]] = yaml.safe_load(text)["services"]
    return found


@dataclass
class Team:
    """Back ends that run.

    Attributes:
        folder: Of logs and secrets.
        s3: Address of the S3 server.
        places: What stands in compose.yaml, and what stands for it here.
        mlflow: Address of MLflow's server.
    """

    folder: Path
    s3: str
    places: dict[str, str] = field(default_factory=dict)
    mlflow: str = ""

    def secret(self, name: str) -> str:
        return (self.folder / "secrets" / name).read_text().strip()

    def here(self, text: str, places: Mapping[str, str]) -> str:
        """The text with the places of this machine, in one pass."""
        known = {**self.places, **places}
        pattern = "|".join(re.escape(one) for one in sorted(known, key=len, reverse=True))
        return re.sub(pattern, lambda found: known[found[0]], text)

    def start(
        self, name: str, root: Path = ROOT, places: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a service as compose.yaml says, in a process group of its own."""
        service, own = services()[name], places or {}
        site = self.folder / f"site-{service['image'].partition(':')[0]}"
        site.mkdir(exist_ok=True)
        if service["image"] == "segops-servers":
            (site / "sitecustomize.py").write_text(WITHOUT)
        given = {key: self.here(str(one), own) for key, one in service["environment"].items()}
        command = [self.here(part, own) for part in service["command"]]
        return subprocess.Popen(
            [DOCKER / "entrypoint.sh", *command],
            cwd=root,
            env={
                **pipeline.environment(),
                "PYTHONPATH": f"{site}:{ROOT / 'src'}",
                "SEGOPS_SECRETS": str(self.folder / "secrets"),
                **given,
            },
            stdout=(self.folder / f"{name}.log").open("ab"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @contextmanager
    def running(
        self, name: str, root: Path = ROOT, places: Mapping[str, str] | None = None
    ) -> Iterator[Path]:
        """Run a service: its log. It ends with the block."""
        process = self.start(name, root, places)
        try:
            yield self.folder / f"{name}.log"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def client(self) -> dict[str, str]:
        """The environment of a person's or worker's clients."""
        return {
            "MLFLOW_TRACKING_URI": self.mlflow,
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": self.secret("mlflow_admin_password"),
            "AWS_ACCESS_KEY_ID": "segops",
            "AWS_SECRET_ACCESS_KEY": self.secret("s3_secret"),
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.s3,
        }

    def keys(self, prefix: str, bucket: str = BUCKET) -> list[str]:
        """The names of the objects in a bucket under a prefix."""
        client = self.client()
        found = boto3.resource(
            "s3",
            endpoint_url=self.s3,
            region_name="us-east-1",
            aws_access_key_id=client["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=client["AWS_SECRET_ACCESS_KEY"],
        ).Bucket(bucket)
        return [one.key for one in found.objects.filter(Prefix=prefix)]


@contextmanager
def team(folder: Path) -> Iterator[Team]:
    """PostgreSQL, the bucket and MLflow with logins.

    Args:
        folder: Of logs and secrets.
    """
    with ExitStack() as stack:
        postgresql = stack.enter_context(mlflow_server.postgresql())
        connection = psycopg2.connect(postgresql)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("CREATE DATABASE mlflow")  # by POSTGRES_DB in compose.yaml
            for statement in (DOCKER / "databases.sql").read_text().split(";")[:-1]:
                cursor.execute(statement)
        connection.close()
        subprocess.run([DOCKER / "prepare.sh", folder], check=True)
        address = postgresql.rpartition("/")[0].rpartition("@")[2]
        for path in (folder / "secrets").iterdir():
            path.write_text(path.read_text().replace("postgres:5432", address))
        s3 = stack.enter_context(_s3())
        port = str(mlflow_server.free_port())
        made = Team(folder, s3, mlflow=f"http://localhost:{port}")
        made.places.update(
            {
                "/run/secrets": str(folder / "secrets"),
                "http://storage:8333": s3,
                "http://mlflow:5000": made.mlflow,
                "0.0.0.0": "127.0.0.1",
                "5000": port,
            }
        )
        assert made.start("bucket").wait(120) == 0, (folder / "bucket.log").read_text()
        log = stack.enter_context(made.running("mlflow"))
        mlflow_server.await_answer(f"{made.mlflow}/health", log)
        yield made


@contextmanager
def _s3() -> Iterator[str]:
    """An S3 server: its address."""
    port = mlflow_server.free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        mlflow_server.await_answer(f"http://127.0.0.1:{port}/moto-api/data.json")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
