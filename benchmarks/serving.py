"""`segops serve` beside `mlflow models serve` and the bare predictor, in one run on this machine.

Run it in a checkout that has a champion: ``python -m benchmarks.serving``. All predict the
same version and the same JPEG of 500 x 375 pixels over loopback. The bare predictor is one process
a core with one thread that decodes, predicts and encodes in a loop, without HTTP. The clients run
on the same cores. Each figure is the median of the rounds, in which the servers take turns.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from segops import paths
from segops.children import child_environment
from segops.params.file import load_params
from segops.record.tracking import tracking_uri
from segops.release.resolve import resolved
from segops.threads import cores
from tools.sample import generate

SIZE = 500, 375
START_SECONDS = 300.0
OURS, ALL_CORES = "segops serve", "segops serve, an image on all cores"
BARE = """
import sys, time
from pathlib import Path
import cv2, torch
from segops.predict.bundle import load_bundle
cv2.setNumThreads(1)
torch.set_num_threads(1)
predictor = load_bundle(Path(sys.argv[1]))
content, seconds = Path(sys.argv[2]).read_bytes(), float(sys.argv[3])
predictor.predict_bytes(content)
print("ready", flush=True)
sys.stdin.readline()
count, end = 0, time.monotonic() + seconds
while time.monotonic() < end:
    predictor.predict_bytes(content)
    count += 1
print(count / (time.monotonic() - end + seconds), flush=True)
"""
BAD = (b"not an image", b"\xff\xd8\xff" + bytes(1000), b"%PDF-1.7", b"")
Ask = Callable[[http.client.HTTPConnection], int]


@dataclass
class Server:
    """A server under test.

    Attributes:
        name: Its name in the table.
        port: Its port.
        process: It.
        ask: Sends one request and returns the status.
        first: Seconds from its start to its first answer.
        rates: By number of clients: requests a second of each round.
        latencies: By number of clients: seconds of all requests.
    """

    name: str
    port: int
    process: subprocess.Popen[bytes]
    ask: Ask
    first: float = 0.0
    rates: dict[int, list[float]] = field(default_factory=dict)
    latencies: dict[int, list[float]] = field(default_factory=dict)

    def connection(self) -> http.client.HTTPConnection:
        """A connection to it."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)

    def memory(self) -> float:
        """MiB of it and its children."""
        own = psutil.Process(self.process.pid)
        total: int = sum(one.memory_info().rss for one in (own, *own.children(recursive=True)))
        return total / (1 << 20)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="Of each measurement.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--starts", type=int, default=3, help="Starts of each server.")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    parser.add_argument(
        "--requests", type=int, default=10_000, help="Of the memory's part; 0: none."
    )
    parser.add_argument("--bad", type=int, default=1_000, help="Bad requests of that part.")
    parser.add_argument("--json", type=Path, help="Write the figures there too.")
    options = parser.parse_args()
    root = paths.workspace()
    uri = f"models:/{load_params(root).registry.model}@champion"
    with tempfile.TemporaryDirectory() as name, resolved(uri, root) as bundle:
        image = photograph(Path(name))
        starts = {
            OURS: lambda: segops_server(root, image),
            ALL_CORES: lambda: segops_server(root, image, "--threads", str(cores())),
            "mlflow models serve": lambda: mlflow_server(root, uri, image),
        }
        figures = measure(starts, bundle, image, options)
    report(figures, options.clients)
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def photograph(directory: Path) -> Path:
    """A generated JPEG of 500 x 375 pixels."""
    generate(directory / "voc", train=1, val=1, seed=0, size=SIZE)
    return next((directory / "voc" / "JPEGImages").glob("*.jpg"))


def measure(
    starts: dict[str, Callable[[], Server]],
    bundle: Path,
    image: Path,
    options: argparse.Namespace,
) -> dict[str, dict[str, float]]:
    """The figures of each server and of the bare predictor."""
    figures: dict[str, dict[str, float]] = {name: {} for name in (*starts, "bare predictor")}
    firsts: dict[str, list[float]] = {name: [] for name in starts}
    for _ in range(options.starts):  # in turn, since a machine's speed changes by the minute
        for name, start in starts.items():
            with running(start) as server:
                firsts[name].append(server.first)
            say(f"{name}: start to first answer {server.first:.1f} s")
    for name, seconds in firsts.items():
        figures[name]["start to first answer, s"] = statistics.median(seconds)
    bare: list[float] = []
    with ExitStack() as stack:
        servers = [stack.enter_context(running(start)) for start in starts.values()]
        for number in range(options.rounds):
            for clients in options.clients:
                for server in servers:
                    load(server, clients, options.seconds)
            bare.append(bare_rate(bundle, image, options.seconds))
            say(f"round {number + 1} of {options.rounds} done")
        for server in servers:
            for clients in options.clients:
                latencies = sorted(server.latencies[clients])
                own = figures[server.name]
                own[f"requests/s at {clients}"] = statistics.median(server.rates[clients])
                own[f"p50 at {clients}, ms"] = 1000 * latencies[len(latencies) // 2]
                own[f"p95 at {clients}, ms"] = 1000 * latencies[int(0.95 * len(latencies))]
    figures["bare predictor"]["images/s"] = statistics.median(bare)
    if options.requests:
        with running(starts[OURS]) as server:
            figures[OURS] |= memory(server, options.requests, options.bad)
    return figures


def segops_server(root: Path, image: Path, *options: str) -> Server:
    """Start ours, as it is shipped but for some options."""
    content = image.read_bytes()

    def ask(connection: http.client.HTTPConnection) -> int:
        connection.request("POST", "/predict", content, {"Content-Type": "image/jpeg"})
        answer = connection.getresponse()
        answer.read()
        return answer.status

    port = free_port()
    command = [
        sys.executable, "-m", "segops", "serve", "--port", str(port), "--device", "cpu",
        "--runtime", "torch",
    ]  # fmt: skip
    name = ALL_CORES if options else OURS
    return Server(name, port, started([*command, *options], root), ask)


def mlflow_server(root: Path, uri: str, image: Path) -> Server:
    """Start MLflow's, with its own choices."""
    row = base64.b64encode(image.read_bytes()).decode()
    text = json.dumps({"dataframe_split": {"columns": ["image"], "data": [[row]]}})

    def ask(connection: http.client.HTTPConnection) -> int:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/invocations", text, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status

    port = free_port()
    command = [
        sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", uri, "--port", str(port),
        "--env-manager", "local",
    ]  # fmt: skip
    return Server("mlflow models serve", port, started(command, root), ask)


def started(command: list[str], root: Path) -> subprocess.Popen[bytes]:
    """Start a server in a group of its own, which a signal ends with all its processes."""
    environment = {**child_environment(), "MLFLOW_TRACKING_URI": tracking_uri(root)}
    # MLflow's server starts uvicorn by its name.
    environment["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), environment["PATH"]))
    log = tempfile.TemporaryFile()  # noqa: SIM115
    return subprocess.Popen(
        command, cwd=root, env=environment, stdout=log, stderr=log, start_new_session=True
    )


@contextmanager
def running(start: Callable[[], Server]) -> Iterator[Server]:
    """Start a server, wait for its first answer, and stop it at the end."""
    began = time.monotonic()
    server = start()
    try:
        while True:
            try:
                if server.ask(server.connection()) == 200:
                    break
            except OSError:
                pass
            lives = server.process.poll() is None and time.monotonic() - began < START_SECONDS
            require(lives, f"{server.name} does not start")
            time.sleep(0.02)
        server.first = time.monotonic() - began
        yield server
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.process.pid, signal.SIGTERM)
        try:
            server.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.process.pid, signal.SIGKILL)
            server.process.wait()


def load(server: Server, clients: int, seconds: float) -> None:
    """Let clients ask without a pause; keep the rate and the latencies."""
    found: list[float] = []
    barrier = threading.Barrier(clients + 1, timeout=START_SECONDS)

    def client() -> None:
        connection = server.connection()
        server.ask(connection)
        connection.close()  # a server may close it while this client waits for the others
        barrier.wait()
        end = time.monotonic() + seconds
        while (began := time.monotonic()) < end:
            require(server.ask(connection) == 200, f"{server.name} refuses a good request")
            found.append(time.monotonic() - began)

    with ThreadPoolExecutor(clients) as pool:
        asking = [pool.submit(client) for _ in range(clients)]
        barrier.wait()
        began = time.monotonic()
        for one in asking:
            one.result()
    server.rates.setdefault(clients, []).append(len(found) / (time.monotonic() - began))
    server.latencies.setdefault(clients, []).extend(found)


def bare_rate(bundle: Path, image: Path, seconds: float) -> float:
    """Images a second of the predictor in a loop, one process a core."""
    command = [sys.executable, "-c", BARE, str(bundle), str(image), str(seconds)]
    children = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**child_environment(), "OMP_NUM_THREADS": "1"},
        )
        for _ in range(cores())
    ]  # fmt: skip
    for child in children:
        assert child.stdout is not None
        child.stdout.readline()
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    return sum(float(child.communicate()[0]) for child in children)


def memory(server: Server, requests: int, bad: int) -> dict[str, float]:
    """Memory of the server after 100 requests, and after all good and bad ones."""
    ask(server, 100)
    before = server.memory()
    with ThreadPoolExecutor() as pool:
        asking = [pool.submit(ask, server, requests // 4) for _ in range(4)]
        for one in [pool.submit(send_bad, server, bad), *asking]:
            one.result()
    text = status_text(server)
    answered = sum(
        float(one) for one in re.findall(r'path="/predict",status="(?:200|4\d\d)"} (\S+)', text)
    )
    return {
        "MiB after 100": before,
        "MiB at the end": server.memory(),
        "requests answered": answered,
    }


def ask(server: Server, count: int) -> None:
    """Ask for so many masks, one after another."""
    connection = server.connection()
    for _ in range(count):
        require(server.ask(connection) == 200, f"{server.name} refuses a good request")


def require(condition: bool, otherwise: str) -> None:
    """End the benchmark where a condition does not hold."""
    if not condition:
        raise SystemExit(otherwise)


def send_bad(server: Server, count: int) -> None:
    """Send bodies that are no images."""
    for number in range(count):
        connection = server.connection()
        connection.request("POST", "/predict", BAD[number % len(BAD)])
        answer = connection.getresponse()
        answer.read()
        require(answer.status in (400, 415, 422, 429), f"a bad one got status {answer.status}")
        connection.close()


def status_text(server: Server) -> str:
    """What `GET /metrics` tells."""
    connection = server.connection()
    connection.request("GET", "/metrics")
    return connection.getresponse().read().decode()


def report(figures: dict[str, dict[str, float]], clients: list[int]) -> None:
    """Print all figures, and each aim with what was reached."""
    for name, own in figures.items():
        for what, value in own.items():
            say(f"{name:36} {what:28} {value:10.2f}")
    ours, theirs = figures[OURS], figures["mlflow models serve"]
    bare = figures["bare predictor"]["images/s"]
    most, least = max(clients), min(clients)
    rate, other = ours[f"requests/s at {most}"], theirs[f"requests/s at {most}"]
    say(f"at {most} clients: {rate / other:.2f} of mlflow (aim 3), {rate / bare:.2f} of the bare "
        "predictor (aim 0.85)")  # fmt: skip
    for name in (OURS, ALL_CORES):
        p95, other = figures[name][f"p95 at {least}, ms"], theirs[f"p95 at {least}, ms"]
        say(f"{name}, p95 at {least}: {p95:.0f} ms against {other:.0f} ms of mlflow (aim: lower)")
    first = "start to first answer, s"
    say(f"start to first answer: {ours[first] / theirs[first]:.2f} of mlflow (aim 0.5)")
    if "MiB at the end" in ours:
        grown = ours["MiB at the end"] - ours["MiB after 100"]
        say(f"memory grew by {grown:.0f} MiB (aim: flat)")


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


if __name__ == "__main__":
    main()
