"""The manifests, merged by kustomize and held to Kubernetes' own schemas; what they name must exist in the code."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import psycopg
import pytest
import yaml
from pydantic import SecretStr

from deploy.environment import variables
from shared.db.schema import migrate
from shared.queues import IO
from shared.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
THEIRS = {"ScaledObject", "TriggerAuthentication"}
"""Of KEDA, whose schemas are not among Kubernetes' own."""
NOT_OURS = {"REDIS_PASSWORD", "KEDA_DATABASE_URL"}
VERSION = "1.34"


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What `kubectl apply -k` would send, by overlay."""
    command = ["kubectl", "kustomize"] if shutil.which("kubectl") else ["kustomize", "build"]
    if shutil.which(command[0]) is None:
        pytest.skip("NEITHER KUBECTL NOR KUSTOMIZE IS HERE: the manifests are not merged")
    folder = tmp_path_factory.mktemp("kubernetes") / "kubernetes"
    shutil.copytree(FOLDER, folder)
    shutil.copy(folder / "base" / "secret.env.example", folder / "base" / "secret.env")
    made = {}
    for overlay in ("cpu", "gpu"):
        told = subprocess.run([*command, folder / overlay], check=False, capture_output=True, text=True, timeout=60)
        assert told.returncode == 0, told.stderr
        made[overlay] = list(yaml.safe_load_all(told.stdout))
    return made


@pytest.fixture(params=["cpu", "gpu"])
def objects(merged: dict[str, list[dict[str, Any]]], request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return merged[request.param]


def pods(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        each["metadata"]["name"]: each["spec"]["template"]["spec"] for each in objects if "template" in each["spec"]
    }


@pytest.fixture
def workloads(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return pods([each for each in objects if each["kind"] in ("Deployment", "StatefulSet")])


def test_kubernetes_would_take_them(objects: list[dict[str, Any]]) -> None:
    for each in objects:
        if each["kind"] not in THEIRS:
            kubernetes_validate.validate(each, VERSION, strict=True)
    assert {each["kind"] for each in objects} >= THEIRS | {
        "Deployment",
        "StatefulSet",
        "Secret",
        "ConfigMap",
        "Service",
    }


def test_every_process_is_there_and_starts_with_code_that_exists(workloads: dict[str, dict[str, Any]]) -> None:
    assert set(workloads) == {"redis", "api", "io", "io-urgent", "beat", "device"}
    for name, pod in workloads.items():
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            if name == "redis":
                continue
            command = container["command"]
            assert command[:2] == ["python", "-m"]
            assert ("worker" in container["image"]) == (command[2] == "workers"), "each image runs what it contains"
            asked = [sys.executable, *command[1:], "--help"]
            told = subprocess.run(asked, check=False, cwd=ROOT, capture_output=True, text=True, timeout=60)
            assert told.returncode == 0, told.stderr


def test_every_variable_is_a_setting(objects: list[dict[str, Any]], workloads: dict[str, dict[str, Any]]) -> None:
    known = {each.name for each in variables()} | NOT_OURS
    for each in objects:
        if each["kind"] in ("Secret", "ConfigMap"):
            assert set(each["data"]) <= known
    for pod in workloads.values():
        assert {each["name"] for container in pod["containers"] for each in container.get("env", [])} <= known


def test_every_name_that_is_referred_to_is_there(objects: list[dict[str, Any]]) -> None:
    names = {(each["kind"], each["metadata"]["name"]) for each in objects}
    for pod in pods([each for each in objects if each["kind"] in ("Deployment", "StatefulSet")]).values():
        for container in pod["containers"]:
            for each in container.get("envFrom", []):
                (kind, reference), *_ = each.items()
                assert ({"secretRef": "Secret", "configMapRef": "ConfigMap"}[kind], reference["name"]) in names
        for volume in pod["volumes"]:
            if claim := volume.get("persistentVolumeClaim"):
                assert ("PersistentVolumeClaim", claim["claimName"]) in names
    (login,) = [each for each in objects if each["kind"] == "TriggerAuthentication"]
    assert ("Secret", login["spec"]["secretTargetRef"][0]["name"]) in names


def test_every_pod_is_confined(workloads: dict[str, dict[str, Any]]) -> None:
    for pod in workloads.values():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            confined = container["securityContext"]
            assert confined["readOnlyRootFilesystem"] is True
            assert confined["allowPrivilegeEscalation"] is False
            assert confined["capabilities"] == {"drop": ["ALL"]}
            mounted = {each["name"] for each in container["volumeMounts"]}
            assert mounted <= {each["name"] for each in pod["volumes"]} | {"data"}


def test_gpus_are_asked_for_by_one_overlay(merged: dict[str, list[dict[str, Any]]]) -> None:
    asked = {}
    for overlay, objects in merged.items():
        (device,) = [each for each in objects if (each["kind"], each["metadata"]["name"]) == ("StatefulSet", "device")]
        (container,) = device["spec"]["template"]["spec"]["containers"]
        asked[overlay] = container["resources"]["limits"].get("nvidia.com/gpu")
        if overlay == "cpu":
            assert device["spec"]["replicas"] == 1, "all CPUs have one name"
    assert asked == {"cpu": None, "gpu": 1}, "one worker owns one GPU"


def test_io_workers_come_with_the_queue(objects: list[dict[str, Any]], postgres_url: str) -> None:
    """The query is asked of the real schema: what counts is what an io worker would have to do now."""
    (scaled,) = [each for each in objects if each["kind"] == "ScaledObject"]
    assert scaled["spec"]["scaleTargetRef"] == {"name": "io"}
    (trigger,) = scaled["spec"]["triggers"]
    assert int(trigger["metadata"]["targetQueryValue"]) == Settings().jobs.io_slots
    migrate(Settings(database_url=SecretStr(postgres_url)))
    with psycopg.connect(postgres_url.replace("+psycopg", "")) as connection:
        connection.execute("DELETE FROM jobs")
        for number, (lane, state, wait) in enumerate(
            [
                (IO, "queued", -5),
                (IO, "running", -5),
                (IO, "queued", 900),
                (IO, "failed", -5),
                ("device.cpu", "queued", 0),
            ]
        ):
            connection.execute(
                "INSERT INTO jobs (id, kind, lane, priority, urgency, aged, args, origin, state, desired, attempt, "
                "lost, retries, ticket, not_before, parts, created_at) VALUES (%s, 'x', %s, 2, 2, false, "
                "'{}', 'rest', %s, 'run', 0, 0, 0, 1, extract(epoch from now()) + %s, '[]', 0)",
                (str(number), lane, state, wait),
            )
        assert connection.execute(trigger["metadata"]["query"]).fetchone() == (2,)
        connection.rollback()
