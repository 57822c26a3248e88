"""Events: nothing true is lost, nothing false is believed, and a client that does not read harms nobody."""

import contextlib
import json
import math
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import redis
from sqlalchemy import update
from sqlmodel import col
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect as connect_socket

from api.events import hub as hub_module
from api.events.judge import LARGEST_BYTES, parse_order
from api.events.subscriber import QUEUE_LENGTH
from shared import queues
from shared.contracts import Download
from shared.db.tables import Job
from shared.jobs import Ledger
from shared.progress import Events, connect
from shared.settings import Settings
from shared.states import JobState
from tests.api.conftest import Frame, Serve, Served, up_to
from tests.conftest import RealRedis, until

KEY = "k" * 32

pytestmark = pytest.mark.parametrize("settings", ["sqlite"], indirect=True)  # the ledger is asked for jobs, no more


def running(ledger: Ledger, model_id: str = "one") -> Job:
    job = ledger.submit(Download(model_id=model_id), origin="test").job
    claimed = ledger.claim(job.id, job.ticket, "worker")
    assert claimed is not None
    return claimed


def progress(ledger: Ledger, job: Job, share: float, **more: Any) -> None:
    fields = {"jobId": job.id, "kind": job.kind, "modelId": job.model_id, "attempt": job.attempt, **more}
    ledger.events.publish("job.progress", progress=share, **fields)


def set_state(ledger: Ledger, job: Job, state: JobState) -> None:
    """Change a job as a lost event would have it: in the ledger alone."""
    with ledger.database.session() as session:
        session.exec(update(Job).where(col(Job.id) == job.id).values(state=state))


def settled(api: Served, ledger: Ledger) -> None:
    """Everything that was published has been read."""

    def read() -> bool:
        ((key, _),) = ledger.events.client.xrevrange(queues.EVENTS_STREAM, count=1)
        return api.front.hub._last >= parse_order(key)

    until(read, what="reading the stream")


def path_of(job: Job) -> str:
    return f"/api/v1/jobs/{job.id}/events"


def is_end(frame: Frame) -> bool:
    return frame.get("status") in ("succeeded", "failed", "cancelled")


# -- a stream and its end -----------------------------------------------------------------------------------


def test_a_snapshot_then_each_change_then_the_end(api: Served, ledger: Ledger) -> None:
    job, other = running(ledger), running(ledger, "two")
    settled(api, ledger)
    with api.follow(path_of(job)) as frames:
        first = next(frames)
        assert (first["event"], first["job"]["id"], first["job"]["status"]) == ("snapshot", job.id, "running")
        progress(ledger, other, 0.9)
        progress(ledger, job, 0.25)
        ledger.succeed(job.id, job.attempt, {"ok": True})
        rest = list(frames)
    assert [(frame["event"], frame["jobId"]) for frame in rest] == [("job.progress", job.id), ("job.state", job.id)]
    assert rest[0]["progress"] == 0.25
    assert rest[1]["status"] == "succeeded"
    assert all(frame["id"] == frame["lastId"] for frame in rest)


def test_a_job_that_has_ended_tells_so_and_ends(api: Served, ledger: Ledger) -> None:
    job = running(ledger)
    ledger.succeed(job.id, job.attempt, None)
    with api.follow(path_of(job)) as frames:
        assert [frame["job"]["status"] for frame in frames] == ["succeeded"]
    assert api.http.get("/api/v1/jobs/none/events").status_code == 404


def test_everything_by_type(api: Served, ledger: Ledger) -> None:
    job = running(ledger)
    with api.follow("/api/v1/events?types=model.,%20residency.,") as frames:
        assert [view["id"] for view in next(frames)["jobs"]] == [job.id]
        progress(ledger, job, 0.5)
        ledger.events.publish("model.added", modelId="three")
        assert next(frames)["event"] == "model.added"


@pytest.mark.fault("F-6")
def test_an_end_that_nobody_told_is_told_in_silence(
    serve: Serve, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "SILENCE_SECONDS", 0.2)
    job = running(ledger)
    api = serve()
    settled(api, ledger)
    with api.follow(path_of(job)) as frames:
        next(frames)
        set_state(ledger, job, JobState.SUCCEEDED)
        assert [frame["job"]["status"] for frame in frames] == ["succeeded"]


# -- coming back --------------------------------------------------------------------------------------------


@pytest.mark.fault("F-20")
def test_who_comes_back_gets_what_was_missed_and_nothing_twice(api: Served, ledger: Ledger) -> None:
    job, other = running(ledger), running(ledger, "two")
    with api.follow(path_of(job)) as frames:
        progress(ledger, job, 0.1)
        seen = up_to(frames, lambda frame: frame.get("progress") == 0.1)
    for share in (0.2, 0.3, 0.4):
        progress(ledger, job, share)
        progress(ledger, other, share)
    settled(api, ledger)
    with api.follow(path_of(job), seen[-1]["lastId"]) as frames:
        progress(ledger, job, 0.5)
        ledger.succeed(job.id, job.attempt, None)
        missed = list(frames)
    assert [frame.get("progress") for frame in missed[:-1]] == [0.2, 0.3, 0.4, 0.5]
    assert missed[-1]["status"] == "succeeded"
    ids = [frame["id"] for frame in missed]
    assert len(set(ids)) == len(ids)
    with api.follow(path_of(job), missed[-1]["lastId"]) as frames:
        assert [frame["job"]["status"] for frame in frames] == ["succeeded"], (
            "the last word, for one who has it already"
        )


def test_a_snapshot_can_be_come_back_to(api: Served, ledger: Ledger) -> None:
    job = running(ledger)
    settled(api, ledger)
    with api.follow() as frames:
        snapshot = next(frames)
    progress(ledger, job, 0.5)
    settled(api, ledger)
    with api.follow(last_id=snapshot["lastId"]) as frames:
        assert next(frames)["progress"] == 0.5


def test_a_gap_that_is_too_old_is_a_resync(serve: Serve, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "KEPT", 20)
    api, job = serve(), running(ledger)
    with api.follow() as frames:
        progress(ledger, job, 0.001)
        first = up_to(frames, lambda frame: frame["event"] == "job.progress")[-1]
    for number in range(2, 60):
        progress(ledger, job, number / 1000)
    settled(api, ledger)
    for last_id in (first["lastId"], "0-0", "99999999999999-0", "what", "1-2-3", "-", "1" * 60):
        with api.follow(last_id=last_id) as frames:
            told = next(frames)
            assert (told["event"], [view["id"] for view in told["jobs"]]) == ("resync", [job.id]), last_id
    assert api.http.get("/api/v1/events", headers={"Last-Event-ID": "1" * 65}).status_code == 422


@pytest.mark.fault("F-6", "F-56")
def test_another_process_goes_on_where_the_first_one_was_killed(serve: Serve, ledger: Ledger) -> None:
    first, job = serve(), running(ledger)
    with first.follow() as frames:
        progress(ledger, job, 0.1)
        seen = up_to(frames, lambda frame: frame["event"] == "job.progress")[-1]
    progress(ledger, job, 0.2)
    ledger.fail(job.id, job.attempt, _error())
    second = serve()
    with second.follow(last_id=seen["lastId"]) as frames:
        missed = up_to(frames, is_end)
    assert [frame.get("status") for frame in missed if frame["event"] == "job.state"] == ["failed"]


def _error() -> Any:
    from shared.errors import Failed

    return Failed("broken", "It broke.", "Mend it.")


@pytest.mark.fault("F-56")
def test_two_processes_tell_the_same(serve: Serve, ledger: Ledger) -> None:
    one, two, job = serve(), serve(), running(ledger)
    settled(one, ledger)
    settled(two, ledger)
    with one.follow() as left, two.follow() as right:
        next(left), next(right)
        for share in (0.1, 0.2, 0.3):
            progress(ledger, job, share)
        ledger.succeed(job.id, job.attempt, None)
        told = [[(frame["id"], frame.get("progress")) for frame in up_to(each, is_end)] for each in (left, right)]
    assert told[0] == told[1]


# -- Redis comes and goes -----------------------------------------------------------------------------------


@pytest.fixture
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRedis]:
    server = RealRedis(tmp_path_factory.mktemp("own"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def moved(ledger: Ledger, own_redis: RealRedis, settings: Settings, serve: Serve) -> Iterator[tuple[Served, Ledger]]:
    """An API and a ledger on a Redis that the test may stop."""
    settings.redis.url = type(settings.redis.url)(own_redis.url)
    client = connect(settings.redis)
    ledger.events = Events(client, settings.redis)
    yield serve(), ledger
    client.close()


@pytest.mark.fault("F-14", "F-19")
def test_redis_restarts_under_a_stream(moved: tuple[Served, Ledger], own_redis: RealRedis) -> None:
    api, ledger = moved
    job, other = running(ledger), running(ledger, "two")
    with api.follow() as frames, api.follow(path_of(other)) as job_frames:
        progress(ledger, job, 0.1)
        seen = up_to(frames, lambda frame: frame.get("progress") == 0.1)[-1]
        own_redis.stop()
        set_state(ledger, other, JobState.SUCCEEDED)
        own_redis.start()
        assert up_to(frames, lambda frame: frame["event"] == "resync")[-1]["jobs"][0]["id"] == job.id
        ended = list(job_frames)
        assert (ended[-1]["event"], ended[-1]["job"]["status"]) == ("resync", "succeeded")
        until(lambda: _published(ledger, job, 0.2), what="publishing again")
        up_to(frames, lambda frame: frame.get("progress") == 0.2)
    with api.follow(last_id=seen["lastId"]) as frames:
        assert next(frames)["event"] == "resync", "Redis may have lost what came between"


def _published(ledger: Ledger, job: Job, share: float) -> bool:
    before = ledger.events.client.xlen(queues.EVENTS_STREAM)
    progress(ledger, job, share)
    return bool(ledger.events.client.xlen(queues.EVENTS_STREAM) > before)


@pytest.mark.fault("F-15", "F-21")
def test_an_emptied_or_older_redis(
    moved: tuple[Served, Ledger], own_redis: RealRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FLUSHALL, and a stream whose ids begin anew, as a replica that was behind has them."""
    api, ledger = moved
    monkeypatch.setattr(hub_module, "SILENCE_SECONDS", 0.3)
    job = running(ledger)
    with api.follow() as frames, redis.Redis(port=own_redis.port) as client:
        next(frames)
        client.flushall()
        progress(ledger, job, 0.1)
        up_to(frames, lambda frame: frame.get("progress") == 0.1)
        client.flushall()
        body = json.dumps({"type": "model.added", "modelId": "three"})
        client.xadd(queues.EVENTS_STREAM, {"event": body}, id="5-1")
        up_to(frames, lambda frame: frame["event"] == "resync")
        client.xadd(queues.EVENTS_STREAM, {"event": body}, id="5-2")
        assert up_to(frames, lambda frame: frame["event"] == "model.added")[-1]["id"] == "5-2"


@pytest.mark.fault("F-19")
def test_a_connection_that_redis_cuts(moved: tuple[Served, Ledger], own_redis: RealRedis) -> None:
    api, ledger = moved
    job = running(ledger)
    with api.follow() as frames, redis.Redis(port=own_redis.port) as client:
        next(frames)
        for kind in ("pubsub", "normal"):
            client.client_kill_filter(_type=kind, skipme=True)
        progress(ledger, job, 0.1)
        told = up_to(frames, lambda frame: frame["event"] == "resync" or frame.get("progress") == 0.1)
        until(lambda: _published(ledger, job, 0.2), what="publishing again")
        told += up_to(frames, lambda frame: frame.get("progress") == 0.2)
    assert "resync" in {frame["event"] for frame in told}


# -- what is not believed -----------------------------------------------------------------------------------


def forge(ledger: Ledger, raw: bytes | str) -> None:
    """On both ways that events take."""
    client = ledger.events.client
    entry = client.xadd(queues.EVENTS_STREAM, {"event": raw})
    client.publish(queues.EVENTS_CHANNEL, f"{entry} ".encode() + (raw if isinstance(raw, bytes) else raw.encode()))


def forgeries(job: Job, queued: Job) -> list[bytes | str]:
    state: dict[str, Any] = {"type": "job.state", "jobId": job.id, "attempt": job.attempt, "status": "running"}
    share: dict[str, Any] = {"type": "job.progress", "jobId": job.id, "attempt": job.attempt, "progress": 0.6}
    lies = [
        {**state, "status": "succeeded"}, {**state, "status": "failed"}, {**state, "status": "cancelled"},
        {**state, "status": "rejected"}, {**state, "status": "finished"}, {**state, "status": None},
        {**state, "status": ["succeeded"]}, {**state, "jobId": "nobody"}, {**state, "jobId": "x" * 500},
        {**state, "jobId": 7}, {**state, "jobId": None}, {**state, "attempt": 99}, {**state, "attempt": "1"},
        {**state, "jobId": queued.id, "attempt": 1},
        {**share, "jobId": "nobody"}, {**share, "jobId": queued.id}, {**share, "attempt": 99}, {**share, "attempt": 0},
        {**share, "attempt": None}, {**share, "progress": 1.5}, {**share, "progress": -1}, {**share, "progress": "0.9"},
        {**share, "progress": True}, {**share, "progress": 10**400}, {**share, "jobId": {}},
        {"type": "job.made-up"}, {"type": "model.added", "jobId": job.id}, {"type": 7}, {"type": "model"}, {},
        {"type": "model.added\nevent: job.state\ndata: {}"}, {"type": "model.added\n"}, {"type": "MODEL.ADDED"},
    ]  # fmt: skip
    raw: list[bytes | str] = [json.dumps(lie) for lie in lies]
    return [
        *raw, "", "{", "[]", "null", '"x"', "7", "[" * 30_000, b"\xff\xfe\x00", b"\x00", "x" * (10 * 1024 * 1024),
        json.dumps(share | {"progress": math.nan}), json.dumps(share | {"at": math.inf}),
        json.dumps({"type": "model.added", "modelId": "x" * LARGEST_BYTES}),
        f'{{"type": "job.progress", "jobId": "{job.id}", "attempt": 1{"0" * 6000}}}',
    ]  # fmt: skip


@pytest.mark.fault("A-89")
def test_forged_events_are_not_told(api: Served, ledger: Ledger) -> None:
    job = running(ledger)
    queued = ledger.submit(Download(model_id="two"), origin="test").job
    settled(api, ledger)
    with api.follow() as everything, api.follow(path_of(job)) as of_job:
        first, _ = next(everything), next(of_job)
        assert len(first["jobs"]) == 2
        progress(ledger, job, 0.5)
        for lie in forgeries(job, queued):
            forge(ledger, lie)
        ledger.events.client.xadd(queues.EVENTS_STREAM, {"no": "event"})
        ledger.succeed(job.id, job.attempt, None)
        for frames in (everything, of_job):
            told = up_to(frames, is_end)
            assert [(frame["event"], frame.get("progress")) for frame in told] == [
                ("job.progress", 0.5), ("job.state", None)
            ], told  # fmt: skip


@pytest.mark.fault("A-89")
def test_a_forged_id_neither_replaces_ours_nor_hides_what_comes_after(api: Served, ledger: Ledger) -> None:
    job = running(ledger)
    with api.follow(path_of(job)) as frames:
        next(frames)
        ledger.events.client.publish(queues.EVENTS_CHANNEL, '99999999999999-0 {"type": "model.added"}')
        progress(ledger, job, 0.1, id="99999999999999-0")
        progress(ledger, job, 0.2)
        told = up_to(frames, lambda frame: frame.get("progress") == 0.2)
        assert all(frame["id"] == frame["lastId"] != "99999999999999-0" for frame in told)


@pytest.mark.fault("F-20", "F-24")
def test_progress_never_goes_back(api: Served, ledger: Ledger) -> None:
    first = running(ledger)
    with api.follow() as frames, api.follow(path_of(first)) as of_job:
        next(frames), next(of_job)
        for share in (0.3, 0.3, 0.1, 0.4, 0.2):
            progress(ledger, first, share)
        ledger.again(first.id, first.attempt, 0)
        queued = api.http.get(f"/api/v1/jobs/{first.id}").json()
        assert queued["status"] == "queued"
        with ledger.database.reading() as session:
            row = session.get(Job, first.id)
        assert row is not None
        second = ledger.claim(first.id, row.ticket, "another")
        assert second is not None
        progress(ledger, second, 0.05)
        progress(ledger, first, 0.9)  # a zombie's
        progress(ledger, second, 0.6)
        for stream in (frames, of_job):
            shares = [frame["progress"] for frame in up_to(stream, _is(0.6)) if frame["event"] == "job.progress"]
            assert shares == sorted(shares)
            assert 0.9 not in shares
        with api.follow(path_of(first)) as late:
            assert next(late)["job"]["progress"] in (None, 0.6), "no snapshot says less than what was told"


def _is(share: float) -> Any:
    return lambda frame: frame.get("progress") == share


def test_a_retry_begins_from_nothing(api: Served, ledger: Ledger) -> None:
    job = running(ledger)
    with api.follow() as frames:
        next(frames)
        progress(ledger, job, 0.8)
        ledger.fail(job.id, job.attempt, _error())
        up_to(frames, is_end)
        again = ledger.retry(job.id)
        up_to(frames, lambda frame: frame.get("status") == "queued")
        claimed = ledger.claim(job.id, again.ticket, "worker")
        assert claimed is not None
        progress(ledger, claimed, 0.1)
        assert up_to(frames, lambda frame: frame["event"] == "job.progress")[-1]["progress"] == 0.1


# -- many, slow and hostile clients -------------------------------------------------------------------------


def asks(api: Served) -> socket.socket:
    """A client that asks for everything, and has read nothing yet."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    client.connect(("127.0.0.1", api.port))
    client.sendall(f"GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1:{api.port}\r\n\r\n".encode())
    return client


def blocked(api: Served) -> list[Any]:
    return [client for client in api.front.hub._clients() if client.writing_since is not None]


class Reader(threading.Thread):
    """A client that reads as fast as it can, and counts."""

    def __init__(self, client: socket.socket) -> None:
        super().__init__(daemon=True)
        self._client = client
        self.counts: Counter[bytes] = Counter()
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError), self._client.makefile("rb") as file:
            for line in file:
                if line.startswith(b"event: "):
                    self.counts[line.strip()] += 1


@pytest.mark.fault("A-110")
def test_who_does_not_read_costs_a_bounded_queue_and_is_dropped(
    serve: Serve, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    api, job, count = serve(), running(ledger), 0
    monkeypatch.setattr(hub_module, "SILENCE_SECONDS", 0.3)
    with asks(api) as reads, asks(api), asks(api) as wakes_up:
        reader = Reader(reads)
        until(lambda: reader.counts[b"event: snapshot"] == 1, what="the snapshot")
        until(lambda: len(api.front.hub._clients()) == 3, what="three streams")
        while len(blocked(api)) < 2:  # the system's own buffers take some megabytes
            count += 1
            progress(ledger, job, count / 1e6, phase="x" * 60_000)
        for _ in range(QUEUE_LENGTH + 1):
            ledger.events.publish("model.added", modelId="three")
        settled(api, ledger)
        until(lambda: sum(client.lost for client in blocked(api)) == 2, what="overflow")
        assert all(len(client._waiting) <= QUEUE_LENGTH for client in api.front.hub._clients())
        until(lambda: reader.counts[b"event: model.added"] == QUEUE_LENGTH + 1, what="all of it")
        assert reader.counts[b"event: job.progress"] == count, "who reads loses nothing"
        late = Reader(wakes_up)
        until(lambda: late.counts[b"event: resync"] == 1, what="the resync of one who reads again")
        monkeypatch.setattr(hub_module, "STALLED_SECONDS", 0.5)
        until(lambda: len(api.front.hub._clients()) == 2, what="the end of the one who never reads")


@pytest.mark.fault("A-110")
def test_streams_are_counted(serve: Serve, ledger: Ledger) -> None:
    api, job = serve(max_streams=2), running(ledger)
    with api.follow(path_of(job)):
        with api.follow():
            refused = api.http.get("/api/v1/events")
            assert (refused.status_code, refused.json()["code"]) == (503, "too_many_streams")
            assert "MODELYARD_API__MAX_STREAMS" in refused.json()["hint"]
            assert int(refused.headers["Retry-After"]) > 0
            assert api.http.get("/health/live").status_code == 200
        until(lambda: _opens(api), what="room for another one")
    until(lambda: not api.front.hub._clients(), what="the end of them all")
    for _ in range(5):
        assert api.http.get("/api/v1/jobs/none/events").status_code == 404, "a refused stream takes no room"


def _opens(api: Served) -> bool:
    with api.http.stream("GET", "/api/v1/events") as answer:
        return answer.status_code == 200


@pytest.mark.fault("A-110")
def test_three_hundred_clients_lose_nothing(serve: Serve, ledger: Ledger) -> None:
    api, job, count = serve(), running(ledger), 300
    readers = [asks(api) for _ in range(count)]
    for reader in readers:
        while b"event: snapshot" not in reader.recv(65536):
            pass
    for number in range(40):
        progress(ledger, job, number / 100)
    ledger.succeed(job.id, job.attempt, None)
    for reader in readers:
        told = b""
        while b'"status":"succeeded"' not in told:
            told += reader.recv(65536)
        assert told.count(b"event: job.progress") == 40
        reader.close()
    until(lambda: not api.front.hub._clients(), what="everybody's leave")


# -- over a WebSocket ---------------------------------------------------------------------------------------


def test_the_same_over_a_websocket(api: Served, ledger: Ledger) -> None:
    job = running(ledger)
    url = f"ws://127.0.0.1:{api.port}/api/v1/ws?jobId={job.id}"
    settled(api, ledger)
    with connect_socket(url, proxy=None) as client:
        first = json.loads(client.recv(10))
        assert (first["type"], first["job"]["id"]) == ("snapshot", job.id)
        progress(ledger, job, 0.5)
        seen = json.loads(client.recv(10))
        assert seen["progress"] == 0.5
    ledger.succeed(job.id, job.attempt, None)
    settled(api, ledger)
    with connect_socket(f"{url}&lastEventId={seen['id']}", proxy=None) as client:
        assert [json.loads(message)["status"] for message in client] == ["succeeded"]


@pytest.mark.fault("A-98", "A-102", "A-104", "A-110")
def test_a_websocket_is_guarded_like_the_rest(serve: Serve, ledger: Ledger, settings: Settings) -> None:
    settings.api_key = type(settings.redis.url)(KEY)
    api = serve(max_streams=1)
    url = f"ws://127.0.0.1:{api.port}/api/v1/ws"
    bearer = {"Authorization": f"Bearer {KEY}"}
    foreign = {**bearer, "Origin": "http://elsewhere.example.com"}
    refusals = [
        (url, {}, 401), (f"{url}?key={KEY}", {}, 401), (url, foreign, 403), (f"{url}?jobId=none", bearer, 404)
    ]  # fmt: skip
    for address, headers, status in refusals:
        with pytest.raises(InvalidStatus) as refused:
            connect_socket(address, additional_headers=headers, proxy=None)
        assert refused.value.response.status_code == status, address
    assert httpx.get(f"{api.url}/api/v1/events", trust_env=False).status_code == 401
    with connect_socket(url, additional_headers=bearer, proxy=None) as client:
        client.recv(10)
        with pytest.raises(InvalidStatus) as full:
            connect_socket(url, additional_headers=bearer, proxy=None)
        assert full.value.response.status_code == 503
        client.send("hello?")
        with pytest.raises(ConnectionClosedError) as closed:
            client.recv(10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008
