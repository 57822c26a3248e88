"""Redis or the database is gone, stuck, full or wrong: the API answers, running jobs go on, and all comes back."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from api.fitness import ACL, examine
from deploy.demo.hub import Hub
from shared.db import residency
from shared.db.schema import migrate
from shared.db.session import Database
from shared.db.tables import Residency
from shared.progress import LEASE_SECONDS, Leases, connect
from shared.settings import RedisSettings, Settings
from shared.states import ENDED, ResidencyState
from tests.conftest import RealRedis, free_port, until
from tests.fakes.link import Link
from tests.faults.databases import Losable, Postgresql, Sqlite
from tests.system.conftest import MIB

OUTAGE_SECONDS = float(os.environ.get("MODELYARD_TEST_OUTAGE_SECONDS", "12"))
pytestmark = [pytest.mark.system, pytest.mark.timeout(180 + OUTAGE_SECONDS)]
ANSWER_SECONDS = 5.0
"""Two are promised; a machine that is busy with tests gets some more."""
BACK_SECONDS = 30.0
HTTP = ("--http", "api.connections:Connection")
LEASE = 6
MODEL_BYTES = 6 * MIB
ROOT = Path(__file__).parents[2]


class Service:
    """An API and an io worker behind a link to Redis, without a supervisor that would bring them back."""

    def __init__(self, folder: Path, hub: Hub, server: RealRedis, database: Losable) -> None:
        self.hub, self.server, self.database = hub, server, database
        self.link = Link(server.port)
        self.port = free_port()
        self.log = folder / "log"
        environment = {
            **os.environ, "HF_ENDPOINT": hub.url, "MODELYARD_DATA_DIR": str(folder / "data"),
            "MODELYARD_DATABASE_URL": database.url, "MODELYARD_REDIS__URL": self.redis_url,
            "MODELYARD_SOURCES__ALLOWED_HOSTS": hub.url.removeprefix("http://"),
            "MODELYARD_STORE__RESERVE_BYTES": "0", "MODELYARD_STORE__SHARE_FILES": "false",
            "MODELYARD_JOBS__RESCUE_SECONDS": "2",
            "MODELYARD_JOBS__LEASE_SECONDS": str(LEASE), "MODELYARD_JOBS__BACKOFF_CAP_SECONDS": "4",
        }  # fmt: skip
        api = ("uvicorn", "api.app:create_app", "--factory", "--port", str(self.port), "--no-access-log", *HTTP)
        with self.log.open("wb") as log:
            self.processes = [
                subprocess.Popen([sys.executable, "-m", *command], env=environment, stdout=log, stderr=log, cwd=ROOT)
                for command in (api, ("workers", "io"))
            ]
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", timeout=ANSWER_SECONDS, trust_env=False, transport=_retrying()
        )
        self._models = 0

    @property
    def redis_url(self) -> str:
        return f"redis://127.0.0.1:{self.link.port}/0"

    def close(self) -> None:
        self.http.close()
        for process in self.processes:
            process.terminate()
        codes = [process.wait(30) for process in self.processes]
        self.link.close()
        assert codes[1] == 0, self.log.read_text()[-5000:]
        crashed = [line for line in self.log.read_text().splitlines() if "crashed" in line or "Unrecoverable" in line]
        assert not crashed

    def part(self, name: str) -> dict[str, Any]:
        try:
            parts: dict[str, dict[str, Any]] = self.http.get("/health/ready").json()["parts"]
        except httpx.ConnectError:
            return {"ok": False, "detail": "no API yet"}
        return parts[name]

    def add(self) -> str:
        """A model of its own, so that no job joins another."""
        self._models += 1
        model_id = f"model-{self._models}"
        body = {
            "model_id": model_id, "model_type": "llm", "name": model_id, "source": "huggingface",
            "source_url": "tiny/acorn",
        }  # fmt: skip
        answer = self.http.post("/api/v1/models/add", json=body)
        assert answer.status_code == 201, answer.text
        return model_id

    def download(self, model_id: str | None = None) -> str:
        answer = self.http.post("/api/v1/models/download", json={"model_id": model_id or self.add()})
        assert answer.status_code == 202, answer.text
        job_id: str = answer.json()["job"]["id"]
        return job_id

    def running(self, seconds: float) -> str:
        """A download that is on its way, and takes about so long."""
        self.hub.throttle(MODEL_BYTES / seconds)
        job_id = self.download()
        until(lambda: self.job(job_id)["bytesDone"], what="the first bytes")
        return job_id

    def job(self, job_id: str) -> dict[str, Any]:
        answer = self.http.get(f"/api/v1/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def succeeded(self, job_id: str, seconds: float = 60) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            job = self.job(job_id)
            return job if job["status"] in ENDED else None

        job: dict[str, Any] = until(look, seconds, f"the end of {job_id}")
        assert job["status"] == "succeeded", job["error"]
        return job


def _retrying() -> httpx.HTTPTransport:
    return httpx.HTTPTransport(retries=2)


@pytest.fixture(scope="module")
def slow_hub(hub_root: Path) -> Iterator[Hub]:
    with Hub(hub_root) as hub:
        yield hub


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRedis]:
    server = RealRedis(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def on_sqlite(tmp_path_factory: pytest.TempPathFactory, slow_hub: Hub, server: RealRedis) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("outages")
    (folder / "data").mkdir()
    with _service(folder, slow_hub, server, Sqlite(folder / "data")) as service:
        yield service


@contextlib.contextmanager
def _service(folder: Path, hub: Hub, server: RealRedis, database: Losable) -> Iterator[Service]:
    migrate(Settings().model_copy(update={"database_url": _secret(database.url)}))
    service = Service(folder, hub, server, database)
    try:
        until(lambda: service.part("ioWorker")["ok"], 60, "the worker")
        yield service
    finally:
        service.close()


def _secret(url: str) -> Any:
    from pydantic import SecretStr

    return SecretStr(url)


@pytest.fixture
def service(on_sqlite: Service) -> Iterator[Service]:
    on_sqlite.hub.throttle(None)
    yield on_sqlite
    until(lambda: on_sqlite.part("redis")["ok"], what="Redis")


# -- Redis ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trouble:
    begin: Callable[[Service], object]
    end: Callable[[Service], object]
    told: str


def admin(*commands: str) -> Callable[[Service], None]:
    """Commands for the server itself, past the link; then its clients have to come again."""

    def send(service: Service) -> None:
        for password in ("secret", None):
            with redis.Redis(port=service.server.port, password=password) as client:
                try:
                    for command in commands:
                        client.execute_command(*command.split(" "))
                    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                except redis.AuthenticationError:
                    continue
                return

    return send


def pause(service: Service) -> None:
    assert service.server.process is not None
    service.server.process.send_signal(signal.SIGSTOP)


def go_on(service: Service) -> None:
    assert service.server.process is not None
    service.server.process.send_signal(signal.SIGCONT)


def slow(service: Service) -> None:
    service.link.delay = 2.5


TROUBLES = {
    "killed": Trouble(lambda s: s.server.stop(), lambda s: s.server.start(), "does not answer"),
    "stopped": Trouble(pause, go_on, "does not answer"),
    "slow": Trouble(slow, lambda s: s.link.heal(), "does not answer"),
    "password": Trouble(
        admin("CONFIG SET requirepass secret"), admin("CONFIG SET requirepass "), "refuses our password"
    ),
    "replica": Trouble(admin("REPLICAOF 127.0.0.1 1"), admin("REPLICAOF NO ONE"), "read-only replica"),
    "full": Trouble(admin("CONFIG SET maxmemory 1"), admin("CONFIG SET maxmemory 0"), "is full"),
}


@pytest.mark.fault("F-16", "F-17", "F-18", "F-21")
@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES.keys())
def test_the_api_answers_and_jobs_are_kept(service: Service, trouble: Trouble) -> None:
    model_id = service.add()
    trouble.begin(service)
    try:
        until(lambda: trouble.told in service.part("redis")["detail"], 10, "the finding")
        assert service.http.get("/api/v1/models").status_code == 200
        job_id = service.download(model_id)
        assert service.job(job_id)["status"] == "queued"
        assert service.http.post(f"/api/v1/jobs/{job_id}/pause").json()["status"] == "paused"
        assert service.http.post(f"/api/v1/jobs/{job_id}/resume").json()["status"] == "queued"
        assert service.http.get("/health/ready").status_code == 503
    finally:
        trouble.end(service)
    until(lambda: service.part("redis")["ok"], 10, "Redis")
    assert service.succeeded(job_id, BACK_SECONDS)["attempt"] == 1
    assert [process.poll() for process in service.processes] == [None, None], "nothing died of it"


@pytest.mark.fault("F-16", "F-17")
def test_a_running_job_outlives_a_stopped_redis(service: Service) -> None:
    """With MODELYARD_TEST_OUTAGE_SECONDS=600 the drill of ten minutes."""
    running = service.running(8)
    pause(service)
    began = time.monotonic()
    try:
        waiting = service.download()
        job = service.succeeded(running, 60)
        while time.monotonic() - began < OUTAGE_SECONDS:
            assert service.http.get("/api/v1/models").status_code == 200
            assert not service.part("redis")["ok"]
            time.sleep(1)
    finally:
        go_on(service)
    back = time.monotonic()
    assert (job["attempt"], service.succeeded(waiting, BACK_SECONDS)["attempt"]) == (1, 1)
    print(f"stopped for {back - began:.0f} s, consuming again after {time.monotonic() - back:.1f} s")


@pytest.mark.fault("F-17")
def test_no_consumer_stays_deaf(service: Service) -> None:
    """Every connection is half open for ever, as after a failover; new ones work."""
    service.link.swallow()
    service.link.heal()
    began = time.monotonic()
    assert service.succeeded(service.download(), BACK_SECONDS)["attempt"] == 1
    print(f"heard again after {time.monotonic() - began:.1f} s")


@pytest.mark.fault("F-15")
def test_nothing_is_lost_with_all_of_redis(service: Service) -> None:
    """Running jobs finish, queued ones come back, and none runs twice."""
    job_ids = [service.running(6), *(service.download() for _ in range(9))]
    with redis.Redis(port=service.server.port) as client:
        client.flushall()
    service.hub.throttle(None)
    began = time.monotonic()
    assert [service.succeeded(job_id)["attempt"] for job_id in job_ids] == [1] * len(job_ids)
    print(f"all of them {time.monotonic() - began:.1f} s after FLUSHALL")


@pytest.mark.fault("F-18")
def test_an_evicting_policy_is_refused(service: Service) -> None:
    policy = ("CONFIG SET maxmemory-policy allkeys-lru", "CONFIG SET maxmemory 1gb")
    mended = ("CONFIG SET maxmemory 0", "CONFIG SET maxmemory-policy noeviction")
    try:
        admin(*policy)(service)
        until(lambda: "CONFIG SET maxmemory-policy noeviction" in service.part("redis")["detail"], what="the fix")
        assert service.http.get("/health/ready").status_code == 503
    finally:
        admin(*mended)(service)


@pytest.mark.fault("F-18", "F-21")
def test_what_doctor_says(server: RealRedis) -> None:
    def look(credentials: str = "") -> Any:
        with connect(RedisSettings(url=_secret(f"redis://{credentials}127.0.0.1:{server.port}/0"))) as client:
            return examine(client)

    with redis.Redis(port=server.port) as client:
        client.execute_command(*ACL.replace("PASSWORD", "secret").split(" "))
        client.execute_command("ACL", "SETUSER", "less", "on", ">secret", "~*", "+ping")
    assert look() == look("modelyard:secret@") == (True, "answers", "")
    assert look("modelyard:wrong@").detail == "Redis refuses our password."
    assert (look("less:secret@").ok, ACL in look("less:secret@").detail) == (True, True)

    class Old:
        def info(self) -> dict[str, Any]:
            return {"redis_version": "6.0.16"}

    assert examine(Old()).detail == "Redis 6.0.16 is too old."  # type: ignore[arg-type] # all that it asks


# -- requests to a model ----------------------------------------------------------------------------------------


class Holding(BaseHTTPRequestHandler):
    """A runner that answers when it is told to."""

    answer = threading.Event()
    received = threading.Event()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.received.set()
        self.answer.wait(60)
        body = b'{"choices": []}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def runner(service: Service) -> Iterator[Residency]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Holding) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        model_id = service.add()
        service.succeeded(service.download(model_id))
        row = Residency(
            id="held", model_id=model_id, model_type="llm", revision="1", device="cpu", runtime="fake",
            state=ResidencyState.READY, active=True, url=f"http://127.0.0.1:{http.server_port}", started_at=0.0,
        )  # fmt: skip
        database = Database(service.database.url)
        with database.session() as session:
            residency.start(session, row)
            residency.update_row(session, "held", active=True)
        yield row
        with database.session() as session:
            residency.update_row(session, "held", active=False, state=ResidencyState.STOPPED)
        database.close()
        http.shutdown()


@pytest.mark.fault("F-16")
def test_requests_to_a_model_are_served_without_redis(service: Service, runner: Residency) -> None:
    """And a drain that begins when Redis is back counts them."""
    body = {"model": "llm", "messages": [{"role": "user", "content": "Hello"}]}
    Holding.received.clear()
    Holding.answer.clear()
    pause(service)
    try:
        with ThreadPoolExecutor(1) as client:
            asking = client.submit(service.http.post, "/v1/chat/completions", json=body, timeout=60)
            assert Holding.received.wait(ANSWER_SECONDS), "without a lease"
            go_on(service)
            with connect(RedisSettings(url=_secret(service.redis_url))) as direct:
                leases = Leases(direct)
                until(lambda: leases.count(runner.id) == 1, LEASE_SECONDS / 2, "the lease")
                Holding.answer.set()
                assert asking.result().status_code == 200
                until(lambda: leases.count(runner.id) == 0, what="the lease's end")
    finally:
        Holding.answer.set()
        go_on(service)


# -- the database -----------------------------------------------------------------------------------------------


def ask_on(service: Service, stop: threading.Event) -> list[int]:
    """Requests of all sorts, until told to stop. Answers their statuses."""
    statuses = []
    while not stop.wait(0.2):
        for ask in (
            lambda: service.http.get("/api/v1/models", timeout=10),
            lambda: service.http.post("/api/v1/models/download", json={"model_id": "model-1"}, timeout=10),
            lambda: service.http.get("/v1/models", timeout=10),
        ):
            answer = ask()
            statuses.append(answer.status_code)
            if answer.status_code == 503:
                assert "Retry-After" in answer.headers, answer.text
    return statuses


@pytest.mark.fault("F-30")
def test_a_locked_database(service: Service) -> None:
    """Locked for longer than a lease: reads answer, writes say when to come again, the running job waits for it."""
    running = service.running(LEASE + 4)
    service.database.lose()
    began = time.monotonic()
    try:
        while time.monotonic() - began < LEASE + 2:
            assert service.http.get("/api/v1/models").status_code == 200
            answer = service.http.post("/api/v1/models/download", json={"model_id": "model-1"}, timeout=10)
            assert (answer.status_code, answer.json()["code"]) == (503, "database_busy")
            assert "Retry-After" in answer.headers
    finally:
        service.database.bring_back()
    assert service.succeeded(running)["attempt"] == 1, "its lease had run out, and nobody had taken it"


@pytest.mark.fault("F-32")
def test_a_postgresql_that_crashes(tmp_path: Path, slow_hub: Hub) -> None:
    for part in ("data", "redis"):
        (tmp_path / part).mkdir()
    database, server = Postgresql(), RealRedis(tmp_path / "redis")
    server.start()
    try:
        with _service(tmp_path, slow_hub, server, database) as service, ThreadPoolExecutor(1) as others:
            service.succeeded(service.download())
            running = service.running(10)
            stop = threading.Event()
            asking = others.submit(ask_on, service, stop)
            database.lose()
            until(lambda: not service.part("database")["ok"], what="the finding")
            database.bring_back()
            until(lambda: service.part("database")["ok"], what="the database")
            job = service.succeeded(running)
            stop.set()
            assert set(asking.result()) <= {200, 202, 503}
            assert job["attempt"] == 1
    finally:
        server.stop()
        database.close()
