// The registry: what there is, how it is, and what can be done with it.
import { signal } from "@preact/signals";
import { useEffect, useState } from "preact/hooks";
import { bytes, duration, speed } from "../format.js";
import { html } from "../html.js";
import { secondsLeft } from "../jobs.js";
import { Badge, Empty, Progress, Section, Table } from "../parts.js";
import { jobs, may, models, watch } from "../store.js";
import { byPresence, Download, Repair } from "./bring.js";
import { ModelSheet } from "./model.js";
import { Pull } from "./pull.js";
import { Swap } from "./swap.js";

const FETCHES = ["model.download", "model.update", "model.repair"];
const HEADS = ["Model", "Type", "Status", "#Size", "Tier", "Health", "#Uses a day", "Priority", ""];

/** The model whose sheet is open, and the one whose plan is shown; by id. */
export const opened = signal(null);
export const planned = signal(null);

export function Models() {
  const [text, setText] = useState("");
  useEffect(() => watch(models), []);
  const found = (models.data.value ?? []).filter(({ modelId, name, modelType }) =>
    `${modelId} ${name} ${modelType}`.toLowerCase().includes(text.toLowerCase())).sort(byPresence);
  const search = html`<input type="search" aria-label="Search models" placeholder="Search" value=${text}
    onInput=${({ target }) => setText(target.value)} />`;
  return html`<${Pull} />
    <${Section} title="Registry" of=${models} actions=${search}>
      ${found.length === 0 ? html`<${NothingThere} text=${text} />` : html`
      <${Table} label="Models" heads=${HEADS}>${found.map((model) => html`<${Row} key=${model.modelId} model=${model} />`)}<//>`}
    <//>
    ${opened.value && html`<${ModelSheet} id=${opened.value} close=${() => { opened.value = null; }}
      swap=${(id) => { planned.value = id; }} />`}
    ${planned.value && html`<${Swap} id=${planned.value} close=${() => { planned.value = null; }} />`}`;
}

function NothingThere({ text }) {
  if (text) return html`<${Empty}>No model has “${text}” in its id, name or type.<//>`;
  return html`<${Empty} command="modelyard pull hf:Qwen/Qwen3-0.6B">
    There is no model yet. Pull one above, or type this; <code>modelyard scan</code> finds what you have already.<//>`;
}

function Row({ model }) {
  const { modelId, name, modelType, size, active } = model;
  const fetch = [...jobs.value.values()].find((job) =>
    job.modelId === modelId && job.status === "running" && FETCHES.includes(job.kind));
  return html`<tr data-model=${modelId}>
    <th scope="row"><button type="button" class="name" onClick=${() => { opened.value = modelId; }}>${modelId}</button>
      ${name !== modelId && html`<span class="quiet">${name}</span>`}</th>
    <td>${modelType}${active && html` <${Badge} state="active" text="● active" />`}</td>
    <td>${fetch ? html`<${Fetch} job=${fetch} />` : html`<${Badge} state=${model.status} />`}
      ${model.loadState && html` <${Badge} state=${model.loadState} text=${inMemory(model.loadState)} />`}
      ${model.pinned && html` <span class="badge plain">pinned</span>`}</td>
    <td class="right num">${bytes(size)}</td>
    <td>${model.tier ?? "–"}</td>
    <td>${model.health === "unknown" ? html`<span class="quiet">not checked</span>` : html`<${Badge} state=${model.health} />`}</td>
    <td class="right num">${model.usesPerDay.toFixed(1)}</td>
    <td>${model.priority}${model.prioritySet && html` <span class="quiet">set</span>`}</td>
    <td class="actions"><${Main} model=${model} />
      <button type="button" aria-label="More about ${modelId}" onClick=${() => { opened.value = modelId; }}>More</button></td>
  </tr>`;
}

const inMemory = (state) => (state === "ready" ? "in memory" : state.replaceAll("_", " "));

function Fetch({ job }) {
  return html`<${Progress} value=${job.progress} label="${job.modelId}: ${job.phase ?? "running"}" />
    <span class="quiet num">${speed(job.bytesPerSecond)} · ${duration(secondsLeft(job))} left</span>`;
}

/** What one most likely wants to do with a model in this state. */
function Main({ model }) {
  const { modelId, status, active } = model;
  if (["missing", "failed"].includes(status)) return html`<${Download} id=${modelId} />`;
  if (status === "corrupted") return html`<${Repair} id=${modelId} />`;
  if (status !== "available" || active || !may("operator")) return null;
  return html`<button type="button" aria-label="Activate ${modelId}…"
    onClick=${() => { planned.value = modelId; }}>Activate…</button>`;
}
