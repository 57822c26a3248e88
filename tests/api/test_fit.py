"""What models need and what devices have, over REST, on both kinds of database."""

from typing import Any

import pytest

from shared.db import catalog, devices, footprints
from shared.db.tables import Device, Footprint, Installation, Model
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
    assert codes == {"memory_too_small", "gpu_memory", "mode_unsupported"}
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
