// What is wrong, each with its next step: parts that are missing, sick models and devices, work that failed.
import { computed } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { when } from "../format.js";
import { html } from "../html.js";
import { Badge, Empty, Section } from "../parts.js";
import { hardware, jobs, link, models, now, readiness, storage, watch } from "../store.js";
import { Repair } from "./bring.js";
import { Name, Retry } from "./queue.js";

const SHOWN = 50;

/** A failure that a later job of the same kind and model made good is none any more. */
const failed = computed(() => {
  const every = [...jobs.value.values()];
  const good = (job) => every.some((other) => other.status === "succeeded" && other.kind === job.kind
    && other.modelId === job.modelId && other.createdAt > job.createdAt);
  return every.filter((job) => ["failed", "rejected"].includes(job.status) && !good(job))
    .sort((a, b) => (b.createdAt ?? "").localeCompare(a.createdAt ?? "")).slice(0, SHOWN);
});
const sick = computed(() => (models.data.value ?? []).filter((model) =>
  ["corrupted", "unhealthy"].includes(model.health) || ["corrupted", "unavailable"].includes(model.status)));
const parts = computed(() => Object.entries(readiness.data.value?.parts ?? {}).filter(([, part]) => !part.ok));
const devices = computed(() => (hardware.data.value?.devices ?? []).filter((device) => !device.healthy || !device.alive));
const disks = computed(() => (storage.data.value?.stores ?? []).filter((store) => !store.there));

export const problemCount = computed(() =>
  [failed, sick, parts, devices, disks].reduce((sum, each) => sum + each.value.length, link.value.state === "away" ? 1 : 0));

export function Problems() {
  useEffect(() => watch(readiness, hardware, models, storage), []);
  return html`<${Section} title="To do">${problemCount.value === 0
    ? html`<${Empty} command="modelyard doctor">Nothing is wrong as far as this page knows. This looks more closely:<//>`
    : html`<ul class="cards">
      ${link.value.state === "away" && html`<${Problem} state="away" what="The service does not answer"
        next="The page tries again by itself. On its machine: modelyard doctor." />`}
      ${parts.value.map(([name, part]) => html`<${Problem} key=${name} state="failed" what=${name} next=${part.detail} />`)}
      ${disks.value.map((store) => html`<${Problem} key=${store.store} state="away" what="The disk of ${store.node} is not mounted"
        next="Mount it: its models come back by themselves, nothing was forgotten." />`)}
      ${devices.value.map((device) => html`<${Problem} key=${device.id} state="unhealthy" what="Device ${device.id}"
        next=${device.reason ?? "Its worker gives no sign of life: python -m workers device starts one."} />`)}
      ${sick.value.map((model) => html`<${Sick} key=${model.modelId} model=${model} />`)}
      ${failed.value.map((job) => html`<${Failed} key=${job.id} job=${job} />`)}
    </ul>`}<//>`;
}

function Problem({ state, what, next, children }) {
  return html`<li class="card"><div class="line"><${Badge} state=${state} /><strong>${what}</strong><span class="grow"></span>${children}</div>
    <p>${next}</p></li>`;
}

function Sick({ model }) {
  const corrupted = model.health === "corrupted" || model.status === "corrupted";
  const next = corrupted ? "Repair it: only what is damaged is fetched again." : "Look at More in Models: it says what its checks found.";
  return html`<${Problem} state=${corrupted ? "corrupted" : model.health === "unhealthy" ? "unhealthy" : model.status} what=${model.modelId} next=${next}>
    ${corrupted && html`<${Repair} id=${model.modelId} />`}<//>`;
}

function Failed({ job }) {
  const { message = "It failed.", hint = "", code = "" } = job.error ?? {};
  return html`<li class="card"><div class="line"><${Badge} state=${job.status} /><span><${Name} job=${job} /></span>
      <span class="quiet">${when(job.finishedAt, now.value)}</span><span class="grow"></span>${job.status === "failed" && html`<${Retry} job=${job} />`}</div>
    <p>${message} <span class="quiet mono">${code}</span></p>${hint && html`<p><strong>Next:</strong> ${hint}</p>`}</li>`;
}
