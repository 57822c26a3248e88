// Devices: who has which memory, how the machines are, and what would fit.
import { signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { bytes, duration, many, percent, when } from "../format.js";
import { html } from "../html.js";
import { Badge, Button, Empty, Section, StackBar, Table, tone } from "../parts.js";
import { hardware, models, now, optimization, servers, watch } from "../store.js";
import { get, post } from "../wire.js";
import { byPresence } from "./bring.js";

const MOST_ASKED = 40;
const LEVELS = { full: "fits", partial: "in part", none: "no" };
/** By model id: where it can run. Asked for when somebody looks. */
const fits = signal({});

export function Devices() {
  useEffect(() => watch(hardware, servers, optimization, models), []);
  const there = hardware.data.value?.devices ?? [];
  return html`<${Section} title="Memory" of=${hardware}>
      ${there.length === 0 && html`<${Empty} command="python -m workers device">No worker has reported a device.<//>`}
      <ul class="cards">${there.map((device) => html`<${Device} key=${device.id} device=${device} />`)}</ul>
      ${hardware.data.value?.noGpu && html`<p class="quiet">No GPU: ${hardware.data.value.noGpu}</p>`}
    <//>
    <${Servers} />
    <${WouldFit} devices=${there} />
    <${Largest} />`;
}

function Device({ device }) {
  const held = device.residents.filter((each) => each.memoryBytes > 0 && each.state !== "asleep");
  const parts = held.map((each, number) => ({ name: each.modelId, size: each.memoryBytes, tone: tone(number) }));
  const mine = parts.reduce((sum, part) => sum + part.size, 0);
  const free = device.memoryFree ?? 0;
  const others = Math.max(0, device.memoryTotal - free - mine);
  return html`<li class="card">
    <div class="line"><strong>${device.name || device.id}</strong><span class="quiet">${device.id} on ${device.node}</span><span class="grow"></span>
      ${!device.alive && html`<${Badge} state="away" text="no sign of life since ${when(device.seenAt, now.value)}" />`}
      <${Badge} state=${device.healthy ? "healthy" : "unhealthy"} /></div>
    ${device.reason && html`<p>${device.reason}</p>`}
    <${StackBar} label="Memory of ${device.id}" total=${device.memoryTotal}
      parts=${[...parts, { name: "others", size: others, tone: "others" }, { name: "free", size: free, tone: "free" }]} />
    <div class="line quiet num"><span>${bytes(device.memoryTotal)} in all</span>
      ${device.memoryLimit && html`<span>models may take ${bytes(device.memoryLimit)}</span>`}
      ${device.utilisation !== null && html`<span>${percent(device.utilisation)} busy</span>`}
      ${device.temperature !== null && html`<span>${device.temperature} °C</span>`}
      ${device.power !== null && html`<span>${device.power.toFixed(0)} W</span>`}</div>
  </li>`;
}

function Servers() {
  const found = servers.data.value?.servers ?? [];
  return html`<${Section} title="In memory" of=${servers}>${found.length === 0
    ? html`<${Empty} command="modelyard activate MODEL">No model is in memory. Activate one in Models, or type this.<//>`
    : html`<${Table} label="Models in memory" heads=${["Model", "State", "Runtime", "Device", "#Memory", "#Context", "#Loaded in", "#Up", ""]}>
      ${found.map((one) => html`<tr key=${one.modelId + one.device}>
        <th scope="row">${one.modelId} ${one.active && html`<${Badge} state="active" text="● ${one.modelType}" />`}</th>
        <td><${Badge} state=${one.state} />${one.fallbackFor.length > 0 && html` for ${one.fallbackFor.join(", ")}`}</td>
        <td>${one.runtime}</td><td>${one.device}</td>
        <td class="right num">${bytes(one.memoryBytes)}${one.offloadedBytes > 0 && html`<p>${bytes(one.offloadedBytes)} on the CPU</p>`}</td>
        <td class="right num">${one.contextLength ?? "–"}</td><td class="right num">${duration(one.loadSeconds)}</td>
        <td class="right num">${duration(one.uptimeSeconds)}</td>
        <td class="actions"><${Button} what="Unload of ${one.modelId}" label="Unload ${one.modelId}"
          request=${() => post(`/models/deactivate/${one.modelId}`)}>Unload<//></td></tr>`)}<//>`}<//>`;
}

/** Asks one after another: each answer reads what was measured of a model on every device. */
async function look(ids) {
  for (const id of ids) {
    const told = await get(`/models/${id}/compatibility`).catch((problem) => ({ problem }));
    fits.value = { ...fits.value, [id]: told };
  }
}

function WouldFit({ devices }) {
  const asked = [...(models.data.value ?? [])].sort(byPresence).slice(0, MOST_ASKED).map((model) => model.modelId);
  useEffect(() => { look(asked); }, [asked.join(), hardware.at.value > 0]);
  if (asked.length === 0 || devices.length === 0) return null;
  const cell = (id, device) => fits.value[id]?.devices?.find((each) => each.device === device);
  return html`<${Section} title="What would fit"><${Table} label="What would fit" heads=${["Model", ...devices.map((device) => device.name || device.id)]}>
    ${asked.map((id) => html`<tr key=${id}><th scope="row">${id}</th>${devices.map((device) => html`
      <td key=${device.id}><${Fit} told=${cell(id, device.id)} problem=${fits.value[id]?.problem} /></td>`)}</tr>`)}<//><//>`;
}

function Fit({ told, problem }) {
  if (problem) return html`<span class="quiet">${problem.message}</span>`;
  if (!told) return html`<span class="quiet">…</span>`;
  return html`<${Badge} state=${told.level} text=${LEVELS[told.level]} />
    ${told.issues.map((issue) => html`<p key=${issue.code} class="quiet">${issue.message} ${issue.recommendation}</p>`)}`;
}

function Largest() {
  const found = optimization.data.value?.devices ?? [];
  const kinds = [...new Set(found.flatMap((each) => Object.keys(each.largestModel)))];
  return html`<${Section} title="Largest model" of=${optimization}>
    <p class="quiet">The most parameters that fit beside a short context, by how they are quantized.</p>
    <${Table} label="Largest model by quantization" heads=${["Device", ...kinds.map((kind) => `#${kind}`)]}>
      ${found.map((each) => html`<tr key=${each.device}><th scope="row">${each.device}</th>
        ${kinds.map((kind) => html`<td key=${kind} class="right num">${many(each.largestModel[kind])}</td>`)}</tr>`)}<//><//>`;
}
