// What happened, as it was told: the newest first, kept over a reload of this tab. And who wanted it.
import { useEffect, useState } from "preact/hooks";
import { clock, when } from "../format.js";
import { html } from "../html.js";
import { Badge, Empty, Section, Table } from "../parts.js";
import { audit, log, now, watch } from "../store.js";

const HIDDEN = ["id", "type", "at", "order", "modelId", "status", "state", "health", "parts"];

export function Events() {
  useEffect(() => watch(audit), []);
  return html`<${Lately} /><${Asked} />`;
}

function Lately() {
  const [text, setText] = useState("");
  const found = log.value.filter((event) => JSON.stringify(event).toLowerCase().includes(text.toLowerCase())).reverse();
  const search = html`<input type="search" aria-label="Search events" placeholder="Search" value=${text}
    onInput=${({ target }) => setText(target.value)} />`;
  return html`<${Section} title="Lately" actions=${search}>${found.length === 0
    ? html`<${Empty} command="curl -N ${location.origin}/api/v1/events">${text ? "No event has that." : "Nothing has happened since this page listens."} This follows them elsewhere:<//>`
    : html`<${Table} label="Events" heads=${["At", "Event", "Model", "State", "More"]}>
      ${found.map((event, number) => html`<tr key=${event.order ?? number}>
        <td class="num">${clock(event.at * 1000)}</td><th scope="row" class="mono">${event.type}</th><td>${event.modelId ?? ""}</td>
        <td><${State} of=${event} /></td><td class="quiet long">${rest(event)}</td></tr>`)}<//>`}<//>`;
}

/** The newest rows of the audit log. */
function Asked() {
  const rows = audit.data.value?.entries ?? [];
  return html`<${Section} title="Who changed what" of=${audit}>${rows.length === 0 ? html`<${Empty}>Nobody has changed anything yet.<//>`
    : html`<${Table} label="Audit log" heads=${["When", "What", "Of", "By", "From"]}>${rows.map((row) => html`<tr key=${row.seq}>
      <td class="num">${when(row.at, now.value)}</td><th scope="row" class="mono">${row.action}</th><td>${row.target ?? ""}</td>
      <td>${row.origin}, ${row.role}</td><td class="quiet">${row.address ?? ""}</td></tr>`)}<//>`}<//>`;
}

function State({ of }) {
  const state = of.status ?? of.state ?? of.health;
  return state && html`<${Badge} state=${state} />`;
}

const rest = (event) => Object.entries(event)
  .filter(([name, value]) => !HIDDEN.includes(name) && value !== null)
  .map(([name, value]) => `${name} ${typeof value === "object" ? (value.code ?? JSON.stringify(value)) : value}`).join(" · ");
