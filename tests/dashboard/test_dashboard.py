"""What people do, done through the page, on the real service; and how the page looks, weighs and reads."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect

from deploy.demo.models import make_transformers_llm
from tests.conftest import until
from tests.dashboard.conftest import NARROW, WIDE, Tab, tab
from tests.system.conftest import MIB, Yard, hub_root, opened  # noqa: F401 - a fixture

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

VIEWS = ("Models", "Jobs", "Devices", "Storage", "Schedules", "Events", "Problems")
SLOW = 300_000
UNUSED_AT_ONCE = {"maxUnusedDays": 0.000001, "preserveRecentlyDownloaded": False}
HEAVIEST_BYTES = 200_000


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory, hub_root: Path) -> Iterator[Yard]:  # noqa: F811 - a fixture
    """One service for all tests, of which none needs what another one left there."""
    for seed, name in enumerate(("broad", "wide"), 7):  # of other bytes: the store has no use for the same ones twice
        make_transformers_llm(hub_root / "tiny" / name, seed, 24 * MIB, name)
    with opened(tmp_path_factory.mktemp("yard"), hub_root) as yard:
        for name in ("acorn", "birch", "broad"):
            yard.pull(name, f"tiny/{name}")
        yield yard


@pytest.fixture
def open_(yard: Yard, browser: Browser) -> Iterator[Tab]:
    with tab(browser, yard.instance.url) as opened_:
        expect(opened_.page.get_by_text("Live", exact=True)).to_be_visible()
        yield opened_


@contextmanager
def slowly(yard: Yard, **limit: Any) -> Iterator[None]:
    """Downloads take long enough to be looked at."""
    assert yard.http.put("/api/v1/limits/test", json={"bytesPerSecond": SLOW, **limit}).status_code == 200
    yield
    assert yard.http.delete("/api/v1/limits/test").status_code == 200


def fetched_again(yard: Yard, model_id: str) -> str:
    return yard.submitted("/api/v1/models/download", {"model_id": model_id, "force_redownload": True})


def pull(page: Page, reference: str) -> None:
    page.get_by_role("textbox", name="Pull").fill(reference)
    page.get_by_role("button", name="Pull", exact=True).click()
    expect(page.get_by_text(f"Pull of {reference}").first).to_be_visible()


def share(job: Locator) -> float:
    return float(job.get_by_role("progressbar").get_attribute("value") or 0)


def served_by_birch(yard: Yard) -> None:
    yard.done("/api/v1/models/activate", {"model_id": "birch"})


def status(yard: Yard, model_id: str) -> str:
    return str(yard.http.get(f"/api/v1/models/{model_id}").json()["status"])


def test_a_download_is_pulled_watched_paused_resumed_cancelled_and_retried(yard: Yard, open_: Tab) -> None:
    with slowly(yard):
        pull(open_.page, "hf:tiny/wide")
        page = open_.view("Jobs")
        job = page.locator(".card[data-job]").filter(has_text="wide")
        expect(job).to_contain_text("kB/s")
        expect(job).to_contain_text("left")
        before = share(job)
        until(lambda: share(job) > before, 90, "progress on the page")

        job.get_by_role("button", name="Pause").click()
        paused = page.get_by_role("region", name="Paused jobs").locator("tr").filter(has_text="wide")
        paused.get_by_role("button", name="Resume").click()
        expect(job.get_by_role("progressbar")).to_be_visible()
        assert share(job) >= before, "what came is not fetched again"
        job.get_by_role("button", name="Cancel").click()
        ended = page.get_by_role("region", name="Ended jobs").locator("tr").filter(has_text="wide").first
        expect(ended).to_contain_text("cancelled")
    ended.get_by_role("button", name="Retry").click()
    expect(ended).to_contain_text("succeeded")
    open_.view("Models")
    expect(page.locator('[data-model="wide"]')).to_contain_text("available")


def test_what_waits_is_put_first(yard: Yard, open_: Tab) -> None:
    page = open_.view("Jobs")
    rows = page.get_by_role("region", name="Waiting jobs").locator("tbody tr")
    with slowly(yard, jobs=1):
        running = fetched_again(yard, "broad")
        until(lambda: yard.job(running)["status"] == "running", 60, "the download that others wait for")
        jobs = [fetched_again(yard, name) for name in ("acorn", "birch")]
        for place, name in (("1", "acorn"), ("2", "birch")):
            expect(rows.filter(has_text=name).locator("td").first).to_have_text(place)
        page.get_by_role("button", name="Later: acorn").click()  # to put birch at HIGH would have it start at once
        expect(rows.nth(0)).to_contain_text("birch")
        expect(rows.nth(0).locator("td").first).to_have_text("1")
        expect(rows.nth(1)).to_contain_text("LOW")
    for job in (running, *jobs):
        assert yard.ended(job)["status"] == "succeeded"
    expect(page.get_by_text("Nothing waits.")).to_be_visible()


def test_a_swap_shows_its_plan_and_does_exactly_that(yard: Yard, open_: Tab) -> None:
    yard.done("/api/v1/models/activate", {"model_id": "acorn"})
    page = open_.page
    page.get_by_role("button", name="Activate birch…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Start and prove birch")
    expect(dialog).to_contain_text("Stop acorn")
    with page.expect_request(lambda asked: "/models/birch/switch?plan=" in asked.url):
        dialog.get_by_role("button", name="Do exactly this").click()
    expect(page.locator('[data-model="birch"]')).to_contain_text("active")
    expect(page.locator('[data-model="acorn"]')).not_to_contain_text("active")
    open_.view("Devices")
    expect(page.get_by_role("region", name="Models in memory")).to_contain_text("birch")


def test_what_is_refused_says_what_to_do(yard: Yard, open_: Tab) -> None:
    served_by_birch(yard)
    page = open_.page
    pull(page, "hf:tiny/nobody")
    page.locator('[data-model="birch"]').get_by_role("button", name="birch", exact=True).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Remove…").click()
    expect(dialog).to_contain_text("It is in memory and serves llm")
    dialog.get_by_role("button", name="Remove birch").click()
    expect(page.get_by_role("alert").filter(has_text="Unload it first")).to_have_count(1)
    page.keyboard.press("Escape")
    open_.view("Problems")
    expect(page.locator("main")).to_contain_text("There is no repository tiny/nobody.")
    assert status(yard, "birch") == "available"


def test_a_cleanup_is_undone(yard: Yard, open_: Tab) -> None:
    served_by_birch(yard)
    assert yard.http.put("/api/v1/retention", json=UNUSED_AT_ONCE).status_code == 200
    found = [each["modelId"] for each in yard.http.get("/api/v1/cleanup").json()["recommendations"]]
    page = open_.view("Storage")
    recommended = page.get_by_role("region", name="Recommendations").locator("tbody tr")
    expect(recommended.filter(has_text="acorn")).to_have_count(1)
    expect(recommended.filter(has_text="birch")).to_have_count(0)
    for name in found:
        if name != "acorn":
            recommended.filter(has_text=name).get_by_role("checkbox").uncheck()
    page.get_by_role("button", name="Clean up 1, free").click()
    undo = page.get_by_role("button", name="Undo")
    expect(undo).to_be_visible()
    assert [status(yard, name) for name in ("acorn", "broad")] == ["missing", "available"]
    expect(page.get_by_role("region", name="In the trash")).to_contain_text("acorn")
    undo.click()
    open_.view("Models")
    expect(page.locator('[data-model="acorn"]')).to_contain_text("available")
    assert yard.http.put("/api/v1/retention", json={}).status_code == 200


def test_it_outlives_a_reload_and_the_end_of_the_api(yard: Yard, open_: Tab) -> None:
    with slowly(yard):
        job_id = fetched_again(yard, "broad")
        page = open_.view("Jobs")
        job = page.locator(f'.card[data-job="{job_id}"]')
        expect(job).to_contain_text("kB/s")
        open_.view("Events")
        told = page.get_by_role("region", name="Events").locator("tbody tr")
        expect(told.first).to_be_visible()
        count = told.count()
        page.reload()
        expect(page.get_by_role("heading", level=1)).to_have_text("Events")
        expect(page.get_by_text("Live", exact=True)).to_be_visible()
        assert told.count() >= count, "what happened before is there still"

        os.kill(yard.pid("api"), signal.SIGKILL)
        expect(page.get_by_text("Not connected")).to_be_visible()
        expect(page.get_by_text("Live", exact=True)).to_be_visible()
        open_.view("Jobs")
        before = share(job)
        until(lambda: share(job) > before, 90, "further progress on the page")
    yard.ended(job_id)
    expect(page.locator(f'tr[data-job="{job_id}"]')).to_contain_text("succeeded")


def look(open_: Tab, name: str, folder: Path | None, kind: str) -> list[str]:
    """Go to a view; what axe finds there that is serious, and a picture where a folder was named."""
    page = open_.view(name)
    expect(page.get_by_text("Asking…")).to_have_count(0)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=folder / f"{name.lower()}-{kind}.png", full_page=True)
    found = Axe().run(page).response["violations"]
    return [
        f"{name} {kind}: {one['id']} {node['target']}"
        for one in found for node in one["nodes"] if one["impact"] in ("serious", "critical")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "size", "colours"),
    [("light", WIDE, "light"), ("dark", WIDE, "dark"), ("narrow", NARROW, "light"), ("narrow-dark", NARROW, "dark")],
)
def test_every_view_can_be_read(
    yard: Yard, browser: Browser, pytestconfig: pytest.Config, kind: str, size: tuple[int, int], colours: str
) -> None:
    """By those who see little, by machines, on a telephone. `--screenshots DIR` keeps pictures."""
    folder = pytestconfig.getoption("--screenshots")
    where, found = Path(folder) if folder else None, []
    with slowly(yard), tab(browser, yard.instance.url, size, colours) as opened_:
        fetched_again(yard, "broad")
        expect(opened_.page.get_by_text("Live", exact=True)).to_be_visible()
        for name in VIEWS:
            found += look(opened_, name, where, kind)
            assert opened_.fits(), f"{name} scrolls sideways"
        opened_.view("Models").get_by_role("button", name="Activate acorn…").click()
        expect(opened_.page.get_by_role("dialog")).to_contain_text("Start and prove")
        if where is not None:
            opened_.page.screenshot(path=where / f"plan-{kind}.png")
    assert found == []


def test_all_of_it_is_reached_by_keyboard(open_: Tab) -> None:
    page = open_.page
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="To the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    more = page.get_by_role("button", name="More about acorn")
    more.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="acorn")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(more).to_be_focused()


def test_colours_are_chosen_and_kept(open_: Tab) -> None:
    page = open_.page
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.get_by_role("combobox", name="Colours").select_option("dark")
    dark = page.evaluate(background)
    page.reload()
    assert light != dark == page.evaluate(background)


def test_it_weighs_little_and_is_there_at_once(yard: Yard, browser: Browser) -> None:
    with tab(browser, yard.instance.url) as opened_:
        page = opened_.page
        expect(page.locator('[data-model="acorn"]')).to_be_visible()
        files = [asked for asked in dict.fromkeys(opened_.requests) if "/api/" not in asked and "/health/" not in asked]
        weight = sum(len(yard.http.get(asked).content) for asked in files)
        paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        print(f"\ndashboard: {len(files)} files, {weight / 1000:.0f} kB; first paint after {paint:.0f} ms")
        assert weight < HEAVIEST_BYTES
