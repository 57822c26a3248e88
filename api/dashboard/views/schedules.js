// What is done by the clock: how often, what came of it, and doing it now.
import { useEffect, useState } from "preact/hooks";
import { duration, when } from "../format.js";
import { html } from "../html.js";
import { Badge, Button, Section, Table } from "../parts.js";
import { act, may, now, schedules, watch } from "../store.js";
import { ask, post } from "../wire.js";

export function Schedules() {
  useEffect(() => watch(schedules), []);
  const found = schedules.data.value?.schedules ?? [];
  return html`<${Section} title="By the clock" of=${schedules}>
    <${Table} label="Schedules" heads=${["Schedule", "On", "Every", "Last", "Next", ""]}>
      ${found.map((one) => html`<${Row} key=${one.name} one=${one} />`)}<//><//>`;
}

function Row({ one }) {
  const mine = one.changeable && may("admin");
  const change = (changes) => act(`Change of ${one.name}`, () => ask("PATCH", `/schedules/${one.name}`, changes));
  return html`<tr><th scope="row">${one.name}<p class="quiet">${one.does}</p></th>
    <td><input type="checkbox" aria-label="${one.name} is on" checked=${one.enabled} disabled=${!mine}
      onChange=${({ target }) => change({ enabled: target.checked })} /></td>
    <td>${mine ? html`<${Every} one=${one} change=${change} />` : html`<span class="num">${duration(one.every)}</span>`}</td>
    <td><${Last} run=${one.lastRun} /></td>
    <td class="num">${one.enabled ? when(one.nextRun, now.value) : "off"}</td>
    <td class="actions">${one.changed && html`<${Button} needs="admin" label="${one.name} as the settings say" does=${() => change({ every: null, enabled: null })}>As set<//>`}
      <${Button} what=${one.name} label="Run ${one.name} now" request=${() => post(`/schedules/${one.name}/run`)}>Run now<//></td></tr>`;
}

/** Shown as people say it; sent when the field is left or Enter is pressed. */
function Every({ one, change }) {
  const [typed, setTyped] = useState(null);
  const send = async () => {
    if (typed) await change({ every: typed });
    setTyped(null);
  };
  return html`<form class="line" onSubmit=${(event) => { event.preventDefault(); send(); }}>
    <input class="short" aria-label="How often ${one.name}" value=${typed ?? short(one.every)} onInput=${({ target }) => setTyped(target.value)} />
    ${typed !== null && html`<button class="primary">Save</button>`}</form>`;
}

/** 43200 → "12h", as the API takes it. */
function short(seconds) {
  const units = [[604_800, "w"], [86_400, "d"], [3600, "h"], [60, "m"]];
  const [size, name] = units.find(([each]) => seconds >= each && seconds % each === 0) ?? [1, "s"];
  return `${seconds / size}${name}`;
}

function Last({ run }) {
  if (!run) return html`<span class="quiet">not yet</span>`;
  const asked = run.jobs.length === 1 ? "1 job" : `${run.jobs.length} jobs`;
  return html`<span class="num">${when(run.at, now.value)}</span>${run.asked && html` <span class="quiet">asked for</span>`}
    ${run.error ? html` <${Badge} state="failed" /><p class="quiet">${run.error.message} ${run.error.hint}</p>`
    : html` <span class="quiet">${run.jobs.length > 0 ? asked : run.finishedAt ? "done" : "under way"}</span>`}`;
}
