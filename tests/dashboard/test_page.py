"""The page without a worker: its headers, names that are markup, events out of order, a key."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, expect
from pydantic import SecretStr

from shared.db.session import Database
from shared.db.tables import Model
from shared.settings import Settings
from tests.api.conftest import Serve, Served, api, database_of, serve  # noqa: F401 - fixtures
from tests.dashboard.conftest import Tab, tab

pytestmark = pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
KEY = "k" * 40
MARKUP = (
    "<script>document.title='owned'</script>", "<img src=x onerror=alert(1)>", '"><svg onload=alert(1)>',
    "javascript:alert(1)", "{{constructor.constructor('alert(1)')()}}", "${alert(1)}", "<b>bold</b>",
    "<iframe srcdoc='<script>alert(1)</script>'>", "</textarea><script>alert(1)</script>", "&lt;script&gt;",
)  # fmt: skip


def test_html_is_framed_by_nobody_and_runs_only_what_is_its_own(api: Served) -> None:  # noqa: F811 - a fixture
    for path in ("/", "/dashboard/main.js", "/dashboard/index.html", "/docs"):
        answer = api.http.get(path)
        policy = answer.headers["content-security-policy"]
        assert answer.status_code == 200
        assert (answer.headers["x-frame-options"], answer.headers["x-content-type-options"]) == ("DENY", "nosniff")
        assert "frame-ancestors 'none'" in policy
        assert "default-src 'none'" in policy
        scripts = next(part for part in policy.split("; ") if part.startswith("script-src"))
        assert "unsafe" not in scripts
    assert "http" not in api.http.get("/").headers["content-security-policy"]
    assert api.http.get("/dashboard/../app.py").status_code == 404
    assert api.http.get("/dashboard/%2e%2e/app.py").status_code == 404


def test_a_link_on_another_page_may_lead_here(api: Served) -> None:  # noqa: F811 - a fixture
    """To the page and nothing else, and not into a frame."""
    from_elsewhere = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert api.http.get("/", headers=from_elsewhere).status_code == 200
    for path, changed in (
        ("/api/v1/models", {}), ("/", {"Sec-Fetch-Dest": "iframe"}), ("/", {"Sec-Fetch-Mode": "no-cors"}),
        ("/", {"Origin": "http://evil.com"}),
    ):  # fmt: skip
        assert api.http.get(path, headers={**from_elsewhere, **changed}).status_code == 403, (path, changed)


@pytest.mark.fault("A-107")
def test_names_that_are_markup_are_text(browser: Browser, api: Served, database_of: Database) -> None:  # noqa: F811
    with database_of.session() as session:
        for number, name in enumerate(MARKUP):
            session.add(Model(
                id=f"m{number}", type="llm", name=name, description=name, source="url", source_url=f"https://x/{number}",
                tags=[name], created_at=1.0, updated_at=1.0,
            ))  # fmt: skip
    with tab(browser, api.url) as open_:
        page = open_.page
        for number, name in enumerate(MARKUP):
            expect(page.locator(f'[data-model="m{number}"]')).to_contain_text(name)
        page.locator('[data-model="m0"]').get_by_role("button", name="m0", exact=True).click()
        expect(page.get_by_role("dialog")).to_contain_text(MARKUP[0])
        assert page.title() == "Models – Modelyard"
        assert page.locator("main img, main iframe, main script, main svg, main b").count() == 0


STORY: list[dict[str, Any]] = [
    {"type": "job.progress", "attempt": 1, "progress": 0.5, "bytesDone": 5, "bytesTotal": 10},
    {"type": "job.progress", "attempt": 1, "progress": 0.2, "bytesDone": 2, "bytesTotal": 10},
    {"type": "job.progress", "attempt": 0, "progress": 0.9},
    {"type": "job.progress", "attempt": 1, "progress": None},
    {"type": "job.state", "attempt": 1, "status": "succeeded"},
    {"type": "job.progress", "attempt": 1, "progress": 0.6},
    {"type": "job.state", "attempt": 1, "status": "running"},
]
PLAY = """async (story) => {
  const { told, after, learned } = await import("/dashboard/jobs.js");
  const job = { id: "j", status: "running", attempt: 1, progress: 0.1, createdAt: "2026-01-01T00:00:00Z" };
  let jobs = new Map([["j", job]]);
  const seen = [];
  for (const event of story) {
    jobs = told(jobs, { jobId: "j", at: 1, ...event });
    const { status, progress } = jobs.get("j");
    seen.push([status, progress]);
  }
  const late = learned(jobs, [{ ...job }], 0).get("j").status;
  const again = learned(jobs, [{ ...job, status: "queued", progress: null }], Date.now() + 1).get("j").status;
  const gone = told(new Map([["j", job]]), { type: "resync", jobs: [] }).size;
  const order = [after("2-1", "2-0"), after("2-0", "2-0"), after("1-9", "2-0"), after("10-0", "9-5")];
  return { seen, late, again, gone, order };
}"""


@pytest.mark.fault("F-19", "F-20")
def test_what_comes_late_or_twice_changes_nothing(browser: Browser, api: Served) -> None:  # noqa: F811 - a fixture
    """Progress never goes back, an end stays an end until the ledger says otherwise, a resync forgets what is over."""
    with tab(browser, api.url) as open_:
        told = open_.page.evaluate(PLAY, STORY)
    assert told["seen"] == [
        ["running", 0.5], ["running", 0.5], ["running", 0.5], ["running", 0.5],
        ["succeeded", 0.5], ["succeeded", 0.5], ["succeeded", 0.5],
    ]  # fmt: skip
    assert (told["late"], told["again"], told["gone"]) == ("succeeded", "queued", 0)
    assert told["order"] == [True, False, False, True]


@pytest.fixture
def keyed(serve: Serve, settings: Settings, ledger: Any) -> Iterator[Served]:  # noqa: F811 - a fixture
    settings.api_key = SecretStr(KEY)
    return serve()


def test_a_key_is_asked_for_and_stays_in_the_tab(browser: Browser, keyed: Served) -> None:
    with tab(browser, keyed.url) as open_:
        _give(open_, "wrong")
        _give(open_, KEY)
        page = open_.page
        expect(page.get_by_text("Live", exact=True)).to_be_visible()
        expect(page.locator('[data-model="one"]')).to_be_visible()
        assert page.evaluate("[JSON.stringify(localStorage), document.cookie]") == ["{}", ""]
        assert not [asked for asked in open_.requests if KEY in asked], "in no address"
        page.reload()
        expect(page.locator('[data-model="one"]')).to_be_visible()
        page.get_by_role("button", name="Forget key").click()
        expect(page.get_by_role("textbox", name="Key")).to_be_visible()


@pytest.mark.fault("A-99")
def test_a_viewer_sees_all_and_no_button_that_would_be_refused(browser: Browser, keyed: Served) -> None:
    made = {}
    for role in ("viewer", "operator"):
        body = {"name": f"a-{role}", "role": role}
        answer = keyed.http.post("/api/v1/keys", json=body, headers={"Authorization": f"Bearer {KEY}"})
        made[role] = answer.json()["key"]
    with tab(browser, keyed.url) as open_:
        page = open_.page
        for role, seen in (("viewer", 0), ("operator", 1)):
            _give(open_, made[role])
            expect(page.get_by_text(f"a-{role}, {role}")).to_be_visible()
            expect(page.get_by_text("Live", exact=True)).to_be_visible()
            row = page.locator('[data-model="one"]')
            expect(row).to_be_visible()
            expect(row.get_by_role("button", name="Download one")).to_have_count(seen)
            expect(page.get_by_role("form", name="Pull a model")).to_have_count(seen)
            row.get_by_role("button", name="More about one").click()
            expect(page.get_by_role("dialog").get_by_role("button", name="Remove…")).to_have_count(seen)
            page.keyboard.press("Escape")
            open_.view("Schedules")
            switch = page.get_by_role("checkbox").first
            expect(switch).to_be_disabled()
            expect(page.get_by_role("button", name="Run cleanup now")).to_have_count(seen)
            open_.view("Events")
            expect(page.get_by_role("heading", name="Who changed what")).to_be_visible()
            open_.view("Models")
            page.get_by_role("button", name="Forget key").click()
        _give(open_, "wrong")
        expect(page.get_by_role("alert")).to_contain_text("not known here")


def _give(open_: Tab, key: str) -> None:
    field = open_.page.get_by_role("textbox", name="Key")
    expect(field).to_be_visible()
    with open_.page.expect_response(lambda answer: "/api/v1/models" in answer.url):
        field.fill(key)
        field.press("Enter")
