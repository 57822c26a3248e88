"""What models need and what devices have, over REST, on both kinds of database."""

from typing import Any

import pytest

from shared import fit
from shared.db import catalog, devices, footprints
from shared.db.reports import Device, Footprint
from shared.db.tables import Installation, Model, Residency
from tests.api.conftest import Served

GIB = 1024**3
FACTS = {
    "format": "gguf", "weightBytes": 4 * GIB, "layers": 32, "kvHeads": 8, "keySize": 128, "valueSize": 128,
    "contextLength": 32768, "parameterCount": 8_000_000_000,
}  # fmt: skip
GPU = "gpu-1"


@pytest.fixture(autouse=True)
def yard(api: Served) -> None:
    """The model `one` is on disk, `two` is not; there is a GPU beside the CPU."""
    details = {
        "memoryFree": 20 * GIB, "healthy": True, "computeCapability": "9.0", "temperature": 41.0,
        "runtimes": {"llamacpp": {"version": "b1"}, "torch": {"missing": "No torch.", "hint": "Install it."}},
    }  # fmt: skip
    row = Installation(
        model_id="one", model_type="llm", revision="r", state="published", path="/x", size=4 * GIB, files=1,
        integrity=1.0, facts=FACTS, published_at=0.0, verified_at=0.0,
    )  # fmt: skip
    with api.front.database.session() as session:
        catalog.publish(session, row)
        devices.report(
            session,
            Device(id=GPU, kind="gpu", name="H1", node="n", memory_total=24 * GIB, details=details, seen_at=0.0),
        )
        session.add(
            Model(
                id="wide", type="video_gen", name="w", source="huggingface", source_url="a/w", file_size=60 * GIB,
                requirements={"gpu_memory": "80GB", "modes": ["t2v"]}, created_at=0.0, updated_at=0.0,
            )
        )  # fmt: skip


def get(api: Served, path: str) -> dict[str, Any]:
    answer = api.http.get(path)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def remember(api: Served, measured: int, **changes: Any) -> None:
    row = {
        "model_id": "one", "revision": "r", "runtime": "llamacpp", "device": GPU, "context_length": 4096,
        "memory_bytes": measured, "predicted_bytes": 5 * GIB, "load_seconds": 3.5, **changes,
    }  # fmt: skip
    with api.front.database.session() as session:
        footprints.record(session, Footprint(**row, measured_at=0.0))


@pytest.mark.parametrize("prefix", ["/api/v1", "/api"])
def test_requirements_of_a_model_on_disk(api: Served, prefix: str) -> None:
    told = get(api, f"{prefix}/models/one/requirements")
    assert (told["device"], told["runtime"], told["contextLength"], told["installed"]) == (GPU, "llamacpp", 4096, True)
    memory = told["memory"]
    assert (memory["weights"], memory["cache"], memory["basis"]) == (4 * GIB, GIB // 2, "estimated")
    totals = {each["contextLength"]: each["total"] for each in told["byContext"]}
    assert totals[4096] == memory["total"]
    assert totals[32768] - totals[4096] == GIB // 2 * 7
    assert next(each["weights"] for each in told["variants"] if each["quantization"] == "Q8_0") == 8_500_000_000


def test_what_was_measured_counts(api: Served) -> None:
    remember(api, 6 * GIB, model_id="another")
    told = get(api, "/api/v1/models/one/requirements")
    assert told["memory"]["basis"] == "corrected"
    assert "loadSeconds" not in told or told["loadSeconds"] is None
    remember(api, 7 * GIB)
    remember(api, 8 * GIB)
    told = get(api, "/api/v1/models/one/requirements")
    assert (told["memory"]["total"], told["memory"]["basis"], told["loadSeconds"]) == (8 * GIB, "measured", 3.5)
    assert get(api, "/api/v1/models/one/requirements?context_length=8192")["memory"]["basis"] == "corrected"
    assert get(api, "/api/v1/models/one/requirements?device=cpu")["memory"]["basis"] == "estimated"


def test_compatibility_tells_each_device_and_the_best(api: Served) -> None:
    told = get(api, "/api/v1/models/one/compatibility")
    assert told["level"] == "full"
    assert {each["device"]: each["level"] for each in told["devices"]} == {GPU: "full", "cpu": "none"}
    told = get(api, "/api/v1/models/wide/compatibility?mode=i2v&resolution=1024x1024")
    codes = {issue["code"] for issue in told["devices"][0]["issues"]}
    assert told["level"] == "none"
    assert codes == {"format_unknown", "memory_too_small", "gpu_memory", "mode_unsupported"}
    assert all(issue["recommendation"] for each in told["devices"] for issue in each["issues"])


def test_the_profile_and_what_suits_it(api: Served) -> None:
    told = get(api, "/api/v1/system/hardware/profile")
    gpu, cpu = told["devices"]
    assert (gpu["id"], gpu["memoryFree"], gpu["computeCapability"], gpu["alive"]) == (GPU, 20 * GIB, "9.0", True)
    assert (gpu["temperature"], gpu["power"], gpu["residents"]) == (41.0, None, [])
    assert (cpu["id"], cpu["memoryFree"], cpu["alive"]) == ("cpu", None, False)
    assert told["runtimes"]["torch"] == {"missing": "No torch.", "hint": "Install it."}
    status = get(api, "/api/v1/system/optimization/status")
    assert [each["recommended"]["precision"] for each in status["devices"]] == ["bfloat16", "float32 or a GGUF"]
    largest = status["devices"][0]["largestModel"]
    assert largest["F16"] < largest["Q8_0"] < largest["Q4_K_M"]


def resident(api: Served, model_id: str, gib: int, **changes: Any) -> None:
    row = {
        "id": model_id, "model_id": model_id, "model_type": "llm", "revision": "r", "device": GPU, "runtime": "any",
        "state": "ready", "active": True, "memory_bytes": gib * GIB, "started_at": 0.0, **changes,
    }  # fmt: skip
    with api.front.database.session() as session:
        session.add(Residency(**row))


def planned(api: Served, action: str, model_id: str, status: int = 200) -> dict[str, Any]:
    answer = api.http.post("/api/v1/plan", json={"action": action, "model_id": model_id})
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


def free(api: Served, count: int) -> None:
    with api.front.database.session() as session:
        row = session.get(Device, GPU)
        assert row is not None
        row.details = {**row.details, "memoryFree": count}


def test_a_plan_says_who_leaves_and_when_requests_wait(api: Served) -> None:
    remember(api, 5 * GIB)
    resident(api, "two", 16)
    beside = planned(api, "switch", "one")
    assert [(step["do"], step["modelId"]) for step in beside["steps"]] == [
        ("start", "one"), ("route", "one"), ("stop", "two"),
    ]  # fmt: skip
    assert (beside["need"], beside["freeBefore"], beside["freeAfter"]) == (5 * GIB, 20 * GIB, 31 * GIB)
    assert (beside["seconds"], beside["basis"]) == (3.5, "measured")
    free(api, 4 * GIB)
    instead = planned(api, "switch", "one")
    assert [(step["do"], step["modelId"], step["requestsWait"]) for step in instead["steps"]] == [
        ("stop", "two", True), ("start", "one", False), ("route", "one", False),
    ]  # fmt: skip
    assert instead["freeAfter"] == (4 + 16 - 5) * GIB
    assert instead["id"] != beside["id"]
    assert planned(api, "switch", "one")["id"] == instead["id"], "nothing has changed"


def test_what_sleeps_is_in_nobodys_way(api: Served) -> None:
    """Its process has some of the GPU, and ends for a load that needs it."""
    remember(api, 5 * GIB)
    free(api, 4 * GIB)
    planned(api, "load", "one", 409)
    for name in ("a", "b", "c"):
        resident(api, name, 16, state="asleep", active=False, runtime="torch")
    fits = planned(api, "load", "one")
    assert [step["do"] for step in fits["steps"]] == ["start"]
    assert fits["freeBefore"] == 4 * GIB + 3 * fit.RUNTIME_BYTES["torch", "gpu"]


def test_compatible_with_a_device_is_what_plans_find(api: Served) -> None:
    """What sleeps is free; what is in memory counts into what models may take together."""

    def told() -> tuple[str, list[str]]:
        found = get(api, "/api/v1/models/one/compatibility")["devices"][0]
        return found["level"], [issue["code"] for issue in found["issues"]]

    remember(api, 5 * GIB)
    free(api, 4 * GIB)
    assert told() == ("partial", ["memory_in_use"])
    for name in ("a", "b", "c"):
        resident(api, name, 16, state="asleep", active=False, runtime="torch")
    assert told() == ("full", [])
    free(api, 20 * GIB)
    with api.front.database.session() as session:
        row = session.get(Device, GPU)
        assert row is not None
        row.details = {**row.details, "memoryLimit": 18 * GIB}
    resident(api, "two", 16)
    assert told() == ("partial", ["memory_in_use"])


def test_a_plan_tells_what_a_model_has_less_of_and_what_the_machine_has(api: Served) -> None:
    free(api, 3 * GIB)
    with api.front.database.session() as session:
        row = session.get(Device, GPU)
        assert row is not None
        row.details = {**row.details, "hostFree": 40 * GIB}
        catalog.change_model(session, "one", fallback=[{"precision": "float16"}, {"gpuLayers": 12}])
    told = planned(api, "load", "one")
    assert [(way["code"], way["precision"]) for way in told["tried"]] == [
        ("will_not_fit", None), ("nothing_lower", "float16"),
    ]  # fmt: skip
    assert (told["lowered"], told["hostFree"], told["pieceByPiece"]) == ({"gpuLayers": 12}, 40 * GIB, False)
    assert told["need"] < 3 * GIB < told["need"] + told["hostNeed"]


def test_who_names_a_plan_joins_nobody_who_does_not(api: Served) -> None:
    def switch(query: str = "") -> str:
        answer = api.http.post(f"/api/v1/models/one/switch{query}")
        assert answer.status_code in (200, 202), answer.text
        job_id: str = answer.json()["job"]["id"]
        return job_id

    plain, planned_one = switch(), switch(f"?plan={'a' * 32}")
    assert plain != planned_one
    assert (switch(), switch(f"?plan={'a' * 32}")) == (plain, planned_one)


def test_a_plan_that_cannot_be_is_refused_with_its_numbers(api: Served) -> None:
    resident(api, "two", 16, model_type="other")
    free(api, 2 * GIB)
    refused = planned(api, "load", "one", 409)
    assert refused["code"] == "will_not_fit"
    assert refused["details"]["freeBytes"] == 2 * GIB
    assert "Unload two" in refused["hint"]
    assert planned(api, "switch", "two", 409)["code"] == "model_not_installed"
    assert planned(api, "unload", "one", 409)["code"] == "model_not_active"
    assert planned(api, "switch", "nobody", 404)["code"] == "model_not_found"


def test_what_is_in_memory_is_routed_and_what_leaves_gives_back(api: Served) -> None:
    resident(api, "one", 5, active=False)
    assert [step["do"] for step in planned(api, "switch", "one")["steps"]] == ["route"]
    resident(api, "two", 16)
    both = planned(api, "switch", "one")
    assert [(step["do"], step["modelId"]) for step in both["steps"]] == [("route", "one"), ("stop", "two")]
    assert (both["freeBefore"], both["freeAfter"], both["need"]) == (20 * GIB, 36 * GIB, None)
    told = planned(api, "unload", "one")
    assert (told["freeBefore"], told["freeAfter"], told["id"]) == (20 * GIB, 25 * GIB, None)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/v1/models/nobody/requirements", 404),
        ("/api/v1/models/nobody/compatibility", 404),
        ("/api/v1/models/one/requirements?device=gpu-9", 404),
        ("/api/v1/models/one/requirements?context_length=1", 422),
        ("/api/v1/models/one/compatibility?resolution=big", 422),
    ],
)
def test_bad_asks(api: Served, path: str, status: int) -> None:
    answer = api.http.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.json()["hint"]
