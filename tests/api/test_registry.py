"""The registry over REST: filters, status, summary, tiers, names, configuration, import and export."""

import json
from pathlib import Path
from typing import Any

import pytest

from api import summary
from api.catalogue import enter_catalogue, read_catalogue
from api.entries import RegistryBody
from shared.contracts import Download, Repair, Update
from shared.db import catalog, listing
from shared.db.reports import StoreReport
from shared.db.session import Database
from shared.db.tables import Installation, Job, Model
from shared.errors import Corrupt, Invalid
from shared.settings import Settings
from shared.states import Availability, Holder, InstallationState
from tests.api.conftest import BEFORE_THE_DATABASE, Served
from tests.api.test_problems import checked

MODELS = "/api/v1/models"
LLM = {"format": "gguf", "parameterCount": 8_000_000_000, "thinking": True}


def get(api: Served, path: str, **query: Any) -> Any:
    answer = api.http.get(f"{MODELS}{path}", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture(autouse=True)
def _counted_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "FRESH_SECONDS", 0.0)


def put(api: Served, path: str, **body: Any) -> Any:
    answer = api.http.put(f"{MODELS}/{path}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def enter(api: Served, model_id: str, **more: Any) -> None:
    body = {
        "model_id": model_id, "model_type": "llm", "name": model_id, "source": "huggingface",
        "source_url": f"tiny/{model_id}", **more,
    }  # fmt: skip
    answer = api.http.post(f"{MODELS}/add", json=body)
    assert answer.status_code == 201, answer.text


def install(api: Served, model_id: str, state: str = InstallationState.PUBLISHED, **more: Any) -> None:
    values = {
        "model_id": model_id, "model_type": "llm", "revision": "r1", "state": state, "path": f"/x/{model_id}",
        "size": 1000, "files": 1, "integrity": 1.0, "facts": {}, "published_at": 0.0, "verified_at": 0.0, **more,
    }  # fmt: skip
    with api.front.database.session() as session:
        catalog.publish(session, Installation(**values))


def ids(page: dict[str, Any]) -> list[str]:
    return [model["modelId"] for model in page["models"]]


def every_status(api: Served) -> dict[str, Availability]:
    """One model in each state that there is, and some whose newest job says nothing."""
    ledger = api.front.ledger
    enter(api, "whole")
    install(api, "whole")
    enter(api, "broken")
    install(api, "broken", InstallationState.CORRUPT)
    enter(api, "away")
    install(api, "away", InstallationState.AWAY, holder=Holder.FOLDER)
    enter(api, "gone")
    install(api, "gone", InstallationState.GONE, holder=Holder.FOLDER)
    for model_id in ("waits", "comes", "rests", "failed", "mending", "renewed", "renewing", "again", "stopped"):
        enter(api, model_id)
    for model_id in ("mending", "renewed", "renewing", "again"):
        install(api, model_id, InstallationState.CORRUPT if model_id == "mending" else InstallationState.PUBLISHED)

    def running(job: Job) -> Job:
        claimed = ledger.claim(job.id, job.ticket, "test", job.lane)
        assert claimed is not None
        return claimed

    def submit(contract: Any) -> Job:
        return ledger.submit(contract, origin="rest").job

    submit(Download(model_id="waits"))
    running(submit(Download(model_id="comes")))
    ledger.pause(submit(Download(model_id="rests")).id)
    for model_id in ("failed", "again"):
        job = running(submit(Download(model_id=model_id)))
        ledger.fail(job.id, job.attempt, Corrupt("broken", "It broke.", "Mend it."))
    running(submit(Repair(model_id="mending")))
    submit(Update(model_id="renewed"))
    running(submit(Update(model_id="renewing")))
    ledger.cancel(submit(Download(model_id="stopped")).id)
    return {
        "whole": Availability.AVAILABLE, "broken": Availability.CORRUPTED, "away": Availability.UNAVAILABLE,
        "gone": Availability.MISSING, "waits": Availability.QUEUED, "comes": Availability.DOWNLOADING,
        "rests": Availability.PAUSED, "failed": Availability.FAILED, "mending": Availability.DOWNLOADING,
        "renewed": Availability.AVAILABLE, "renewing": Availability.UPDATING, "again": Availability.AVAILABLE,
        "stopped": Availability.MISSING,
    }  # fmt: skip


def test_filter_status_and_summary_agree_with_what_is_shown(api: Served) -> None:
    expected = every_status(api)
    shown = {model["modelId"]: model["availability"] for model in get(api, "/status", limit=500)["models"]}
    assert {name: shown[name] for name in expected} == expected
    for away in (False, True):
        if away:
            with api.front.database.session() as session:
                session.add(StoreReport(store="s", node="n", there=False, report={}, measured_at=0.0))
            shown = {model["modelId"]: model["availability"] for model in get(api, "/status", limit=500)["models"]}
            assert shown["whole"] == Availability.UNAVAILABLE
        for status in Availability:
            wanted = sorted(name for name, its in shown.items() if its == status)
            assert sorted(ids(get(api, "", status=status, limit=500))) == wanted, (status, away)
        counted = get(api, "/summary")
        assert {name: count for name, count in counted["byStatus"].items() if count} == {
            status: count for status in Availability if (count := list(shown.values()).count(status))
        }, away
    assert counted["totalModels"] == len(shown)


def test_a_summary_is_counted_once_for_all_who_ask_within_a_second(
    api: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summary, "FRESH_SECONDS", 3600.0)
    first = get(api, "/summary")
    enter(api, "late")
    assert get(api, "/summary") == first
    monkeypatch.setattr(summary, "FRESH_SECONDS", 0.0)
    assert get(api, "/summary")["totalModels"] == first["totalModels"] + 1


def test_a_page_that_is_filtered_is_full_and_goes_on(api: Served) -> None:
    for number in range(7):
        enter(api, f"m{number}")
        if number % 2:
            install(api, f"m{number}")
    first = get(api, "", status="available", limit=2)
    assert ids(first) == ["m1", "m3"]
    assert ids(get(api, "", status="available", limit=2, cursor=first["nextCursor"])) == ["m5"]
    assert ids(get(api, "/status", status="available", limit=2, cursor=first["nextCursor"])) == ["m5"]


def test_a_model_does_what_its_modes_say(api: Served) -> None:
    for mode, does in (("t2v", True), ("i2v", False)):
        told = get(api, "/t2v-A14B/compatibility", mode=mode)
        assert ("mode_unsupported" not in str(told)) is does


def test_lists_are_narrowed_down(api: Served) -> None:
    enter(api, "paint", model_type="image_gen", tags=["x"], modes=["t2i"], tier="fast", enabled=False, thinking=True)
    enter(api, "far", source="url", source_url="https://example.com/far.gguf")
    for query in (
        {"type": "image_gen", "text": "pai"}, {"tier": "fast"}, {"enabled": "false"}, {"mode": "t2i"},
        {"thinking": "true", "text": "PAINT"},
    ):  # fmt: skip
        assert ids(get(api, "", **query)) == ["paint"], query
    assert ids(get(api, "", source="url")) == ["far"]
    for query in ({"tier": "huge"}, {"status": "fine"}, {"source": "cd"}, {"enabled": "perhaps"}):
        assert checked(api.http.get(MODELS, params=query)) == 422


def test_a_status_tells_all_that_is_known(api: Served) -> None:
    enter(api, "oak")
    install(
        api, "oak", InstallationState.CORRUPT, integrity=0.5, facts=LLM,
        problems=[{"code": "file_missing", "name": "a.gguf"}, {"code": "file_corrupted", "name": "b.gguf"}],
    )  # fmt: skip
    with api.front.database.session() as session:
        row = session.get(Installation, "oak")
        assert row is not None
        row.latest_revision = "r2"
        session.add(row)
    for seconds in (1.0, 3.0):
        api.http.post(f"{MODELS}/oak/usage", json={"seconds": seconds})
    told = get(api, "/status/oak")
    expected = {
        "availability": "corrupted", "available": False, "corruptionDetected": True, "missingFiles": ["a.gguf"],
        "damagedFiles": ["b.gguf"], "integrityScore": 0.5, "currentVersion": "r1", "latestVersion": "r2",
        "updateAvailable": True, "averageGenerationSeconds": 2.0, "usageFrequency": 2.0, "priority": "HIGH",
        "tier": "balanced", "thinking": True, "loaded": False, "canPause": False, "source": None, "health": "corrupted",
        "performanceScore": None,
    }  # fmt: skip
    assert {name: told[name] for name in expected} == expected
    job = api.front.ledger.submit(Repair(model_id="oak"), origin="rest").job
    told = get(api, "/status/oak")
    assert (told["availability"], told["canPause"], told["fetch"]["jobId"]) == ("queued", True, job.id)
    assert get(api, "/summary")["updatesAvailable"] == 1


def test_a_status_is_found_by_id_alias_mode_and_type(api: Served) -> None:
    enter(api, "slow", aliases=["big"], modes=["t2t", "chat"])
    enter(api, "quick", modes=["t2t"])
    for name, model_id in (("slow", "slow"), ("big", "slow"), ("t2t", "quick"), ("chat", "slow")):
        assert get(api, f"/status/{name}")["modelId"] == model_id
    assert ids(get(api, "/status/llm")) == ["llama3-8b", "one", "quick", "slow", "two"]
    assert ids(get(api, "/status/embedding")) == [], "a type of the catalogue, of which there is no model"
    install(api, "slow")
    assert get(api, "/status/t2t")["modelId"] == "slow", "the one that is on disk"
    put(api, "slow/enabled", enabled=False)
    assert get(api, "/status/t2t")["modelId"] == "quick"
    assert {mode["mode"]: mode["standsFor"] for mode in get(api, "/modes")["modes"]}["chat"] is None
    assert checked(api.http.get(f"{MODELS}/status/nonsense")) == 404


def test_tier_and_thinking_follow_the_files_unless_somebody_says(api: Served) -> None:
    enter(api, "oak")
    assert get(api, "/oak")["tier"] is None
    assert put(api, "oak/tier", tier="powerful")["tierSet"]
    install(api, "oak", facts=LLM)
    model = get(api, "/oak")
    assert (model["tier"], model["tierSet"], model["thinking"], model["thinkingSet"]) == ("powerful", True, True, False)
    assert ids(get(api, "/tiers/powerful")) == ["oak"]
    model = put(api, "oak/tier", tier=None)
    assert (model["tier"], model["tierSet"]) == ("balanced", False)
    assert put(api, "oak/thinking", thinking=False)["thinking"] is False
    assert put(api, "oak/thinking", thinking=None)["thinking"] is True
    assert ids(get(api, "/tiers/balanced")) == ["oak"]


@pytest.mark.parametrize(
    ("parameters", "tier"),
    [(None, None), (0, None), (1, "fast"), (4_999_999_999, "fast"), (5e9, "balanced"), (2e10, "powerful")],
)
@BEFORE_THE_DATABASE
def test_tiers_by_size(api: Served, parameters: float | None, tier: str | None) -> None:
    install(api, "one", facts={"parameterCount": parameters} if parameters is not None else {})
    assert get(api, "/one")["tier"] == tier


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("tier", {"tier": "huge"}), ("tier", {}), ("thinking", {"thinking": "yes"}), ("enabled", {"enabled": None}),
        ("config", {"config": []}), ("config", {}), ("names", {"aliases": ["a/b"]}), ("names", {"modes": ["T2V"]}),
        ("names", {"aliases": ["status"]}), ("base", {"base_model": "../x"}), ("base", {}), ("tier", []),
        ("enabled", {"enabled": True, "more": 1}),
    ],
)  # fmt: skip
@BEFORE_THE_DATABASE
def test_what_cannot_be_said_of_a_model_is_refused(api: Served, path: str, body: Any) -> None:
    before = get(api, "/one")
    assert checked(api.http.put(f"{MODELS}/one/{path}", json=body)) == 422
    assert get(api, "/one") == before


@BEFORE_THE_DATABASE
def test_a_configuration_is_checked_by_its_type(api: Served) -> None:
    config = {"contextLength": 8192, "temperature": 0.2, "precision": "bfloat16"}
    assert put(api, "one/config", config=config)["config"] == {
        "context_length": 8192, "temperature": 0.2, "precision": "bfloat16"
    }  # fmt: skip
    for wrong, told in (
        ({"contxt_length": 1}, "did you mean 'context_length'"), ({"temperature": 9}, "at most 5"),
        ({"temperature": "hot"}, "number"), ({"context_length": 128.5}, "integer"), ({"precision": "int9"}, "one of"),
        ({"context_length": True}, "integer"), ({"system_prompt": "x" * 10_001}, "characters"),
    ):  # fmt: skip
        answer = api.http.put(f"{MODELS}/one/config", json={"config": wrong})
        assert checked(answer) == 422
        assert told in answer.json()["detail"], answer.text
    enter(api, "odd", model_type="weather", config={"whatever": [1]})
    assert put(api, "odd/config", config={"another": {"a": 1}})["config"] == {"another": {"a": 1}}
    answer = api.http.post(f"{MODELS}/add", json={
        "model_id": "bad", "model_type": "llm", "name": "b", "source": "url", "source_url": "https://e.com/b.gguf",
        "config": {"temprature": 1},
    })  # fmt: skip
    assert checked(answer) == 422
    assert api.http.get(f"{MODELS}/bad").status_code == 404


def test_aliases_name_models_everywhere_but_where_they_are_deleted(api: Served) -> None:
    put(api, "one/names", aliases=["uno", "llama3:8b"], modes=["t2t"])
    assert get(api, "/uno")["modelId"] == get(api, "/llama3:8b")["modelId"] == get(api, "/t2t")["modelId"] == "one"
    assert put(api, "uno/enabled", enabled=False)["modelId"] == "one"
    answer = api.http.post(f"{MODELS}/download", json={"model_id": "llama3:8b"})
    assert answer.json()["job"]["modelId"] == "one"
    assert checked(api.http.delete(f"{MODELS}/uno")) == 404
    assert get(api, "/aliases") == {"llama3:8b": "one", "uno": "one"}
    for taken in ("TWO", "uno", "llm", "one"):
        answer = api.http.put(f"{MODELS}/two/names", json={"aliases": ["free", taken]})
        assert (checked(answer), answer.json()["code"]) == (409, "name_taken")
    assert get(api, "/two")["aliases"] == []
    assert put(api, "one/names", aliases=[])["modes"] == ["t2t"], "what is left out stays"
    assert put(api, "two/names", aliases=["uno"])["aliases"] == ["uno"]


def test_the_gateway_takes_an_alias(api: Served) -> None:
    put(api, "one/names", aliases=["uno"])
    ask = {"model": "uno", "messages": [{"role": "user", "content": "Hello"}]}
    answer = api.http.post("/v1/chat/completions", json=ask)
    assert (checked(answer), answer.json()["code"]) == (409, "model_not_installed")
    assert "'one'" in answer.json()["detail"]
    answer = api.http.post("/v1/chat/completions", json={**ask, "model": "uni"})
    assert (checked(answer), answer.json()["code"]) == (404, "model_not_found")
    assert "Did you mean 'uno'?" in answer.json()["hint"]


def test_who_mistypes_is_told_what_was_meant(api: Served) -> None:
    enter(api, "qwen3-0.6b")
    for typed, meant in (("qwen3-06b", "qwen3-0.6b"), ("Qwen3-0.6B", "qwen3-0.6b"), ("ones", "one")):
        assert f"Did you mean '{meant}'?" in api.http.get(f"{MODELS}/{typed}").json()["hint"]
    assert "Did you mean" not in api.http.get(f"{MODELS}/zzzzzz").json()["hint"]


def test_an_adapter_names_a_base_that_fits(api: Served) -> None:
    enter(api, "lora", model_type="adapter", base_model="one")
    assert get(api, "/status/lora")["adapter"] == {
        "baseModel": "one", "matches": None,
        "why": "Its files do not say what it is for; that it fits is what people say.",
    }  # fmt: skip
    install(api, "lora", model_type="adapter", facts={"format": "adapter", "baseModel": "tiny/two"})
    assert get(api, "/status/lora")["adapter"]["matches"] is False
    answer = api.http.put(f"{MODELS}/lora/base", json={"base_model": "one"})
    assert (checked(answer), answer.json()["code"]) == (409, "base_mismatch")
    compatibility = get(api, "/lora/compatibility")
    assert (compatibility["level"], compatibility["devices"][0]["issues"][0]["code"]) == ("none", "base_mismatch")
    put(api, "lora/base", base_model="two")
    codes = {issue["code"] for issue in get(api, "/lora/compatibility")["devices"][0]["issues"]}
    assert "base_mismatch" not in codes
    assert get(api, "/status/lora")["adapter"]["matches"] is True
    put(api, "lora/base", base_model=None)
    assert get(api, "/status/lora")["adapter"]["baseModel"] == "two", "found by what its files say"
    for wrong, code in (("onee", "base_not_found"), ("lora", "base_unfit")):
        answer = api.http.put(f"{MODELS}/lora/base", json={"base_model": wrong})
        assert (checked(answer), answer.json()["code"]) == (422, code)
    assert get(api, "/status/one")["adapter"] is None


SEED: dict[str, Any] = {
    "model_id": "sdxl-turbo", "model_type": "image_gen", "name": "SDXL Turbo", "description": "Fast images",
    "source": "huggingface", "source_url": "stabilityai/sdxl-turbo", "file_size": 6900000000,
    "checksum": "d41d8cd98f00b204e9800998ecf8427e", "requirements": {"gpu_memory": "8GB", "torch": ">=2.0.0"},
    "status": "installed", "local_path": "/models/image_gen/sdxl-turbo",
}  # fmt: skip


def test_a_registry_comes_in_and_goes_out_in_the_documented_shape(api: Served) -> None:
    path = f"{MODELS}/registry/import"
    answer = api.http.post(path, json={"models": [SEED]}, params={"dryRun": "true"})
    assert answer.json() == {"added": ["sdxl-turbo"], "changed": [], "kept": [], "dryRun": True}
    assert api.http.get(f"{MODELS}/sdxl-turbo").status_code == 404
    assert api.http.post(path, json={"models": [SEED]}).json()["added"] == ["sdxl-turbo"]
    model = get(api, "/sdxl-turbo")
    assert (model["status"], model["checksum"]) == ("missing", f"md5:{SEED['checksum']}")
    out = get(api, "/registry/export")["models"]
    mine = next(entry for entry in out if entry["model_id"] == "sdxl-turbo")
    assert mine == {
        **SEED, "checksum": f"md5:{SEED['checksum']}", "status": "not_installed", "local_path": None, "aliases": [],
        "modes": [],
    }  # fmt: skip
    assert api.http.post(path, json={"models": out}).json()["kept"] == sorted(entry["model_id"] for entry in out)
    changed = {**SEED, "name": "Turbo"}
    assert api.http.post(path, json={"models": [changed]}).json()["kept"] == ["sdxl-turbo"]
    assert api.http.post(path, json={"models": [changed]}, params={"replace": "true"}).json()["changed"] == [
        "sdxl-turbo"
    ]
    assert get(api, "/sdxl-turbo")["name"] == "Turbo"
    install(api, "one")
    whole = get(api, "/registry")
    assert {entry["modelId"]: entry["status"] for entry in whole["models"]}["one"] == "installed"
    assert (whole["totalModels"], whole["nextCursor"]) == (len(whole["models"]), None)
    first = get(api, "/registry", limit=2)
    rest = get(api, "/registry", cursor=first["nextCursor"])
    assert [*first["models"], *rest["models"]] == whole["models"]
    assert (len(first["models"]), first["totalModels"], rest["nextCursor"]) == (2, whole["totalModels"], None)


@BEFORE_THE_DATABASE
def test_a_registry_comes_in_whole_or_not_at_all(api: Served) -> None:
    path = f"{MODELS}/registry/import"
    for second in (
        {**SEED, "model_id": "a/b"}, {**SEED, "model_id": "x", "source": "cd"}, {**SEED, "model_id": "SDXL-Turbo"},
        {**SEED, "model_id": "x", "config": {"steps": "many"}}, {**SEED, "model_id": "x", "more": 1},
    ):  # fmt: skip
        answer = api.http.post(path, json={"models": [SEED, second]})
        assert checked(answer) == 422, second
    assert checked(api.http.post(path, json={"models": [SEED, {**SEED, "model_id": "ONE"}]})) == 409
    assert api.http.get(f"{MODELS}/sdxl-turbo").status_code == 404


def test_a_file_of_ones_own_extends_and_overrides_the_catalogue(
    settings: Settings, database: Database, tmp_path: Path
) -> None:
    file, older = tmp_path / "mine.yaml", tmp_path / "registry.json"
    file.write_text(
        "models:\n- {model_id: wav2lip, model_type: lip_sync, name: Mine, source: url, source_url: 'https://e.com/w'}\n"
        "- {model_id: own, model_type: weather, name: Own, source: huggingface, source_url: a/own, aliases: [rain]}\n"
        "types:\n- {model_type: weather, config: {days: {type: integer, maximum: 9}}}\n"
    )
    older.write_text(json.dumps({"models": [SEED]}))
    mine = settings.model_copy(update={"catalogue": file, "registry": older})

    def started(settings: Settings) -> dict[str, str]:
        enter_catalogue(database, settings)
        with database.reading() as session:
            return {model.id: model.name for model in listing.page(session, listing.Wanted(), limit=500)}

    assert started(settings)["wav2lip"] == "Wav2Lip"
    names = started(mine)
    assert (names["wav2lip"], names["own"], names["sdxl-turbo"]) == ("Mine", "Own", "SDXL Turbo")
    assert started(settings)["wav2lip"] == "Wav2Lip", "and back again"
    assert read_catalogue(mine).types.fields("weather") is not None
    with pytest.raises(Invalid, match="at most 9"):
        read_catalogue(mine).types.checked("weather", {"days": 10})
    for wrong, told in (
        ("models: [{model_id: x}]", "models.0.modelType"), ("modles: []", "modles"), ("- 1", "CatalogueFile"),
        ("types: [{model_type: X}]", "types.0.model_type"), ("common: {a: {type: odd}}", "common.0.type"),
        ("a: [", "cannot be read"),
    ):  # fmt: skip
        file.write_text(wrong)
        with pytest.raises(Invalid, match=told):
            read_catalogue(mine)


def test_what_people_removed_or_changed_the_catalogue_leaves_alone(api: Served) -> None:
    with api.front.database.session() as session:
        catalog.forget_model(session, "wav2lip")
        catalog.change_model(session, "sdxl-base-1.0", name="Mine", revision="main")
    enter_catalogue(api.front.database, api.front.settings)
    assert api.http.get(f"{MODELS}/wav2lip").status_code == 404
    model = get(api, "/sdxl-base-1.0")
    assert (model["name"], model["revision"], model["wanted"]) == ("Mine", "main", False)
    with api.front.database.session() as session:
        assert session.get(Model, "sdxl-base-1.0").from_catalogue  # type: ignore[union-attr] # it was just seen
    api.front.ledger.submit(Download(model_id="sdxl-base-1.0"), origin="rest")
    assert get(api, "/sdxl-base-1.0")["wanted"]


def test_the_example_of_the_page_is_a_registry() -> None:
    example = RegistryBody.model_config["json_schema_extra"]["examples"][0]  # type: ignore[index] # ours
    assert (
        RegistryBody.model_validate(example).models[0].entry(read_catalogue(Settings()).types).model.file_size == 6.9e9
    )
