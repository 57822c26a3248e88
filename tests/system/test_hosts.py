"""Several machines on one Redis and one PostgreSQL: each a group of processes with a data folder of its own (SPEC J8).

hut   API and io worker, with a store          barn  io and device worker, with a store of its own
shed, loft   device workers beside hut's store, so that either can do what the other did
"""

import gzip
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import httpx
import psutil
import psycopg
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from pydantic import SecretStr
from sqlalchemy import text

from deploy.addresses import free_port
from deploy.demo.hub import Hub
from shared.db.schema import migrate
from shared.db.session import Database
from shared.settings import Settings
from tests.conftest import RealRedis, until
from tests.system.conftest import Yard

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]
PROJECT = Path(__file__).parents[2]
LONG_AGO = 3600
SLOW = 256 * 1024


class Span(NamedTuple):
    service: str
    name: str
    trace: bytes
    id: bytes
    parent: bytes


class Collector(BaseHTTPRequestHandler):
    """Takes spans by OTLP over HTTP, as any collector does."""

    spans: ClassVar[list[Span]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        body = gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            (name,) = [each.value.string_value for each in resource.resource.attributes if each.key == "service.name"]
            self.spans.extend(
                Span(name, one.name, one.trace_id, one.span_id, one.parent_span_id)
                for scope in resource.scope_spans for one in scope.spans
            )  # fmt: skip
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing to say."""


class Machine:
    """A process group with its own data folder; a SIGKILL of it is a machine whose plug was pulled."""

    def __init__(self, name: str, folder: Path, environment: dict[str, str]) -> None:
        self.name = name
        self.folder = folder / name
        self.folder.mkdir(mode=0o700)
        own = {"MODELYARD_NODE": name, "MODELYARD_DATA_DIR": str(self.folder)}
        self._environment = {**os.environ, **environment, **own}
        self._processes: list[subprocess.Popen[bytes]] = []

    def run(self, *argv: str) -> None:
        group = self._processes[0].pid if self._processes else 0
        with (self.folder / f"{'-'.join(argv)}.log").open("ab") as log:
            command, places = [sys.executable, "-m", *argv], {"stdout": log, "stderr": log}
            one = subprocess.Popen(command, env=self._environment, process_group=group, cwd=PROJECT, **places)
        self._processes.append(one)

    def family(self) -> set[int]:
        """Every process of it, runners too."""
        mine = [psutil.Process(one.pid) for one in self._processes if one.poll() is None]
        return {one.pid for one in mine} | {child.pid for one in mine for child in one.children(recursive=True)}

    def kill(self) -> None:
        if not self._processes:
            return
        os.killpg(self._processes[0].pid, signal.SIGKILL)
        for one in self._processes:
            one.wait()
        self._processes.clear()

    def holds(self, model_id: str) -> bool:
        return any((self.folder / "store" / "models").glob(f"*/{model_id}"))


class Farm(Yard):
    """The machines, and the API of one of them."""

    def __init__(self, folder: Path, environment: dict[str, str], hub: Hub, url: str) -> None:
        self.url = url
        super().__init__(self, hub)  # type: ignore[arg-type] # of an instance it needs the address only
        shared = {**environment, "MODELYARD_STORE__ROOT": str(folder / "hut" / "store")}
        self.hut, self.barn = (Machine(name, folder, environment) for name in ("hut", "barn"))
        self.shed, self.loft = (Machine(name, folder, shared) for name in ("shed", "loft"))
        self.database = Database(environment["MODELYARD_DATABASE_URL"])

    def nodes(self) -> dict[str, dict[str, Any]]:
        return {node["node"]: node for node in self.http.get("/api/v1/system/nodes").json()["nodes"]}

    def joined(self, name: str, *, device: bool) -> None:
        until(lambda: (node := self.nodes().get(name)) and bool(node["devices"]) is device, 90, f"{name} to join")

    def silent(self, machine: Machine) -> None:
        """As if a minute had gone by since it was killed."""
        machine.kill()
        with self.database.session() as session:
            for table, column in (("devices", "node"), ("nodes", "name")):
                session.execute(
                    text(f"UPDATE {table} SET seen_at = seen_at - {LONG_AGO} WHERE {column} = :name"),
                    {"name": machine.name},
                )
            session.execute(
                text(f"UPDATE nodes SET io_seen_at = io_seen_at - {LONG_AGO} WHERE name = :name"),
                {"name": machine.name},
            )

    def device_of(self, model_id: str) -> str:
        servers = self.http.get("/api/v1/models/servers").json()["servers"]
        return next((one["device"] for one in servers if one["modelId"] == model_id and one["state"] == "ready"), "")

    def lane(self, job_id: str) -> str:
        with self.database.reading() as session:
            return str(session.execute(text("SELECT lane FROM jobs WHERE id = :id"), {"id": job_id}).scalar_one())

    def waits(self, job_id: str, code: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            job = self.job(job_id)
            return job if job["status"] == "queued" and (job["error"] or {}).get("code") == code else None

        job: dict[str, Any] = until(look, 60, f"job {job_id} to say what it waits for")
        return job


@pytest.fixture(scope="module")
def farm(
    tmp_path_factory: pytest.TempPathFactory, postgres_url: str, redis_server: RealRedis, hub_root: Path
) -> Iterator[Farm]:
    folder, port = tmp_path_factory.mktemp("farm"), free_port()
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("CREATE DATABASE farm")
    url = postgres_url.rpartition("/")[0] + "/farm"
    migrate(Settings(data_dir=folder, database_url=SecretStr(url)))
    collector = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, args=(0.05,), daemon=True).start()
    with Hub(hub_root) as hub:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
            "OTEL_BSP_SCHEDULE_DELAY": "200", "MODELYARD_API__PORT": str(port),
            "MODELYARD_DATABASE_URL": url, "MODELYARD_REDIS__URL": redis_server.url.replace("/0", "/7"),
            "MODELYARD_SECRET": "of-the-farm", "HF_ENDPOINT": hub.url, "MODELYARD_STORE__RESERVE_BYTES": "0",
            "MODELYARD_SOURCES__ALLOWED_HOSTS": hub.url.removeprefix("http://"), "MODELYARD_JOBS__LEASE_SECONDS": "4",
            "MODELYARD_JOBS__RESCUE_SECONDS": "1", "MODELYARD_JOBS__HEARTBEAT_SECONDS": "0.5",
        }  # fmt: skip
        farm = Farm(folder, environment, hub, f"http://127.0.0.1:{port}")
        try:
            farm.hut.run("api")
            farm.hut.run("workers", "io")
            farm.barn.run("workers", "io")
            farm.barn.run("workers", "device")
            until(lambda: _answers(farm), 90, "the API")
            farm.joined("hut", device=False)
            farm.joined("barn", device=True)
            farm.shed.run("workers", "device")
            farm.joined("shed", device=True)
            yield farm
        finally:
            for machine in (farm.loft, farm.shed, farm.barn, farm.hut):
                machine.kill()
            farm.http.close()
            farm.database.close()
            collector.shutdown()
            collector.server_close()
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("DROP DATABASE farm WITH (FORCE)")


def _answers(farm: Farm) -> bool:
    try:
        return farm.http.get("/health/live").is_success
    except httpx.HTTPError:
        return False


def test_each_store_gets_its_own_downloads_and_each_device_its_own_loads(farm: Farm) -> None:
    for model_id, node in (("acorn", "barn"), ("birch", "hut")):
        farm.add(model_id, f"tiny/{model_id}")
        farm.done("/api/v1/models/download", {"model_id": model_id, "node": node})
    assert farm.barn.holds("acorn")
    assert not farm.hut.holds("acorn")
    assert farm.hut.holds("birch")
    assert not farm.barn.holds("birch")
    stores = {name: node["store"] for name, node in farm.nodes().items()}
    assert stores["hut"] == stores["shed"] != stores["barn"]

    for model_id in ("acorn", "birch"):
        assert farm.done(f"/api/v1/models/{model_id}/verify")["result"]["ok"]
        farm.done(f"/api/v1/models/{model_id}/load")
        assert farm.say(model_id).status_code == 200
    assert (farm.device_of("acorn"), farm.device_of("birch")) == ("cpu-barn", "cpu-shed")
    pids = {one["modelId"]: one["pid"] for one in farm.http.get("/api/v1/models/servers").json()["servers"]}
    assert pids["acorn"] in farm.barn.family()
    assert pids["birch"] in farm.shed.family()

    refused = farm.post("/api/v1/models/download", {"model_id": "acorn", "node": "hut"})
    assert (refused.status_code, refused.json()["code"]) == (409, "model_elsewhere")
    refused = farm.post("/api/v1/models/download", {"model_id": "birch", "node": "attic"})
    assert (refused.status_code, refused.json()["code"]) == (404, "unknown_node")


def test_one_trace_leads_from_the_request_over_the_job_to_what_a_runner_is_asked(farm: Farm) -> None:
    def spans(service: str, name: str) -> list[Span]:
        return [one for one in Collector.spans if one.service == service and one.name == name]

    (fetch,) = until(lambda: [one for one in spans("modelyard-io", "model.download") if one.parent][:1], 30, "spans")
    (asked,) = [one for one in Collector.spans if one.id == fetch.parent]
    assert (asked.service, asked.name) == ("modelyard-api", "POST /api/v1/models/download")
    steps = {one.name for one in Collector.spans if one.parent == fetch.id}
    assert {"resolving", "downloading", "publishing"} <= steps

    farm.done("/api/v1/models/acorn/run", {"path": "completions", "request": {"prompt": "Once", "max_tokens": 2}})
    (run,) = until(lambda: spans("modelyard-io", "model.run"), 30, "the job's span")
    told = until(
        lambda: [one for one in Collector.spans if one.parent == run.id and one.name == "POST"], 30, "its call"
    )
    (request,) = spans("modelyard-api", "POST /api/v1/models/{model_id}/run")
    assert {request.trace, told[0].trace} == {run.trace}
    assert run.parent == request.id
    loads = spans("modelyard-device-cpu-barn", "model.load")
    assert loads, "device workers tell of theirs, too"


def test_a_machine_that_vanishes_is_shown_and_its_jobs_wait_for_it_or_go_elsewhere(farm: Farm) -> None:
    farm.add("larch", "tiny/larch")
    farm.add("willow", "tiny/larch")
    farm.hub.throttle(SLOW)
    bound = farm.submitted("/api/v1/models/download", {"model_id": "larch", "node": "barn"})
    until(lambda: farm.job(bound)["status"] == "running" and farm.hub.sent("larch") > 0, 60, "the download")
    farm.barn.kill()
    farm.hub.throttle(None)
    with farm.database.session() as session:
        session.execute(text("UPDATE devices SET memory_total = 2 * memory_total WHERE node = 'barn'"))
    free = farm.submitted("/api/v1/models/download", {"model_id": "willow"})
    assert farm.lane(free) == farm.lane(bound) != "io", "beside the best device, as nobody knows yet that it is gone"
    farm.silent(farm.barn)
    assert farm.ended(free)["status"] == "succeeded"
    assert farm.hut.holds("willow")

    load = farm.submitted("/api/v1/models/acorn/load")
    for job_id in (bound, load, farm.submitted("/api/v1/models/acorn/verify")):
        error = farm.waits(job_id, "node_away")["error"]
        assert "barn" in error["message"]
        assert "barn" in error["hint"]
    barn, hut = farm.nodes()["barn"], farm.nodes()["hut"]
    assert (barn["alive"], barn["waitingJobs"], hut["alive"], hut["waitingJobs"]) == (False, 3, True, 0)
    devices = farm.http.get("/api/v1/system/hardware/profile").json()["devices"]
    assert {one["node"]: one["alive"] for one in devices} == {"barn": False, "shed": True}
    assert farm.http.get("/api/v1/models/acorn").json()["status"] == "unavailable"
    told = subprocess.run(
        [sys.executable, "-c", "from api.cli.main import main; main()", "nodes"], capture_output=True, text=True,
        env={**os.environ, "MODELYARD_URL": farm.url, "COLUMNS": "160"}, check=True,
    )  # fmt: skip
    shown = next(line for line in told.stdout.splitlines() if "barn" in line)
    assert "away since" in shown
    assert farm.say("birch").status_code == 200, "what the others have goes on"

    farm.barn.run("workers", "io")
    farm.barn.run("workers", "device")
    assert farm.ended(bound)["status"] == "succeeded", "it goes on where it was, once its machine is back"
    assert farm.barn.holds("larch")
    assert farm.ended(load)["status"] == "succeeded"
    assert farm.say("acorn").status_code == 200
    farm.barn.kill()


def test_what_a_vanished_machine_served_is_loaded_by_another_one_beside_the_same_store(farm: Farm) -> None:
    farm.done("/api/v1/models/activate", {"model_id": "birch"})
    farm.loft.run("workers", "device")
    farm.joined("loft", device=True)
    farm.silent(farm.shed)
    until(lambda: farm.device_of("birch") == "cpu-loft", 90, "birch on the other machine")
    assert farm.say("llm").status_code == 200
    shutil.rmtree(farm.shed.folder)
