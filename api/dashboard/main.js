// The frame of the page: where one is, whether what is shown is fresh, and what was refused.
import { render } from "preact";
import { computed, signal } from "@preact/signals";
import { duration } from "./format.js";
import { html } from "./html.js";
import { live } from "./jobs.js";
import { ProblemNote } from "./parts.js";
import { begin, dismiss, jobs, link, me, notices, now } from "./store.js";
import { Devices } from "./views/devices.js";
import { Events } from "./views/events.js";
import { AskKey } from "./views/key.js";
import { Models } from "./views/models.js";
import { Problems, problemCount } from "./views/problems.js";
import { Queue } from "./views/queue.js";
import { Schedules } from "./views/schedules.js";
import { Storage } from "./views/storage.js";
import { keyed, locked, useKey } from "./wire.js";

const VIEWS = {
  models: ["Models", Models], jobs: ["Jobs", Queue], devices: ["Devices", Devices], storage: ["Storage", Storage],
  schedules: ["Schedules", Schedules], events: ["Events", Events], problems: ["Problems", Problems],
};
const THEMES = { "": "As the system", light: "Light", dark: "Dark" };
const place = signal(location.hash.slice(1));
const theme = signal(document.documentElement.dataset.theme ?? "");
const liveCount = computed(() => [...jobs.value.values()].filter(live).length);
const counts = { jobs: liveCount, problems: problemCount };

addEventListener("hashchange", () => {
  place.value = location.hash.slice(1);
  document.querySelector("main").focus({ preventScroll: true });
  scrollTo(0, 0);
});

function Page() {
  const name = place.value in VIEWS ? place.value : "models";
  const [title, View] = VIEWS[name];
  document.title = `${title} – Modelyard`;
  return html`<a class="skip" href="#main" onClick=${skip}>To the content</a>
    <header class="top">
      <span class="brand"><img src="/dashboard/icon.svg" alt="" width="20" height="20" />Modelyard</span>
      <${Nav} name=${name} />
      <span class="grow"></span><${Link} /><${Theme} />
      ${keyed.value && html`<${Who} /><button type="button" class="plain" onClick=${() => useKey(null)}>Forget key</button>`}
    </header>
    <main id="main" tabindex="-1" class=${link.value.state === "away" ? "away" : ""}>
      ${locked.value ? html`<${AskKey} />` : html`<h1>${title}</h1><${View} />`}</main>
    <${Notices} />`;
}

function skip(event) {
  event.preventDefault();
  document.querySelector("main").focus();
}

function Nav({ name }) {
  return html`<nav aria-label="Views"><ul>${Object.entries(VIEWS).map(([key, [title]]) => html`<li key=${key}>
    <a href="#${key}" aria-current=${key === name ? "page" : undefined}>${title}<${Count} of=${counts[key]} /></a>
  </li>`)}</ul></nav>`;
}

function Count({ of }) {
  return of?.value > 0 && html` <span class="count">${of.value}</span>`;
}

/** Is what is shown what there is? */
function Link() {
  const { state, heardAt } = link.value;
  const text = state === "live" ? "Live" : state === "connecting" ? "Connecting…" : "Not connected";
  const old = state === "away" && heardAt > 0 && `, as of ${duration(Math.max(10, (now.value - heardAt) / 1000))} ago`;
  return html`<span class="link ${state}"><span role="status">${text}</span>${old}</span>`;
}

/** What is hidden from whoever has no more than that. */
const HIDDEN = { viewer: "It looks; what changes something is not shown.", operator: "Settings are an admin's." };

function Who() {
  const { name, role } = me.data.value ?? {};
  return role && html`<span class="quiet" title=${HIDDEN[role]}>${name}${role !== name && `, ${role}`}</span>`;
}

function Theme() {
  const choose = ({ target }) => {
    theme.value = target.value;
    if (target.value) localStorage.setItem("modelyard.theme", target.value);
    else localStorage.removeItem("modelyard.theme");
    if (target.value) document.documentElement.dataset.theme = target.value;
    else delete document.documentElement.dataset.theme;
  };
  return html`<select aria-label="Colours" value=${theme.value} onChange=${choose}>
    ${Object.entries(THEMES).map(([key, text]) => html`<option key=${key} value=${key}>${text}</option>`)}</select>`;
}

function Notices() {
  return html`<div class="notices" aria-live="polite">${notices.value.map(({ id, text, problem, undo }) => html`
    <div key=${id} class="notice ${problem ? "bad" : ""}">
      <span>${text}</span>${undo && html`<button type="button" onClick=${() => { dismiss(id); undo(); }}>Undo</button>`}
      <button type="button" class="plain" aria-label="Dismiss" onClick=${() => dismiss(id)}>✕</button>
      ${problem && html`<${ProblemNote} problem=${problem} />`}
    </div>`)}</div>`;
}

begin();
render(html`<${Page} />`, document.getElementById("page"));
