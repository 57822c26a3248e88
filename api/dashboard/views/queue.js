// Work: what runs, what waits and in which order, what rests, and how the last ones ended.
import { useEffect } from "preact/hooks";
import { bytes, duration, speed, verb, when } from "../format.js";
import { html } from "../html.js";
import { ENDED, PRIORITIES, secondsLeft, waiting } from "../jobs.js";
import { Badge, Button, Empty, Progress, Section, Table } from "../parts.js";
import { jobs, ledger, now, watch } from "../store.js";
import { ask, post } from "../wire.js";

const ENDED_SHOWN = 40;
const MOST_PARTS = 6;

export function Queue() {
  useEffect(() => watch(ledger), []);
  const every = [...jobs.value.values()];
  const of = (state) => every.filter((job) => job.status === state);
  const [running, paused] = [of("running"), of("paused")];
  const ended = every.filter((job) => ENDED.includes(job.status)).sort((a, b) => ended_at(b) - ended_at(a)).slice(0, ENDED_SHOWN);
  return html`<${Section} title="Running" of=${ledger}>
      ${running.length === 0 ? html`<${Empty} command="modelyard pull hf:Qwen/Qwen3-0.6B">Nothing runs now.<//>`
      : html`<ul class="cards">${running.map((job) => html`<${Running} key=${job.id} job=${job} />`)}</ul>`}
    <//>
    <${Waiting} found=${waiting(jobs.value)} />
    ${paused.length > 0 && html`<${Section} title="Paused"><${Table} label="Paused jobs" heads=${["Job", "#Done", ""]}>
      ${paused.map((job) => html`<tr key=${job.id} data-job=${job.id}><th scope="row"><${Name} job=${job} /></th>
        <td class="right num">${bytes(job.bytesDone)}</td>
        <td class="actions"><${Resume} job=${job} /><${Cancel} job=${job} /></td></tr>`)}<//><//>`}
    <${Section} title="Ended">${ended.length === 0 ? html`<${Empty}>What has ended is listed here for a week.<//>`
      : html`<${Table} label="Ended jobs" heads=${["Job", "Outcome", "#Took", "#Ended", ""]}>
        ${ended.map((job) => html`<${Ended} key=${job.id} job=${job} />`)}<//>`}<//>`;
}

const ended_at = (job) => new Date(job.finishedAt ?? job.heardAt ?? job.createdAt).getTime();

/** What it is, for a person: the verb, the model, and the id that other tools know it by. */
export function Name({ job }) {
  return html`<strong>${verb(job.kind)}</strong> ${job.modelId ?? ""} <span class="quiet mono" title=${job.id}>${job.id.slice(0, 8)}</span>`;
}

function Running({ job }) {
  const left = secondsLeft(job);
  return html`<li class="card" data-job=${job.id}>
    <div class="line"><span><${Name} job=${job} /></span><span class="grow"></span>
      <span class="badge plain">${job.priority}</span><${Pause} job=${job} /><${Cancel} job=${job} /></div>
    <${Progress} value=${job.progress} label="${verb(job.kind)} ${job.modelId ?? ""}" />
    <div class="line quiet num"><span>${job.phase ?? "starting"}</span>
      ${job.bytesTotal > 0 && html`<span>${bytes(job.bytesDone ?? 0)} of ${bytes(job.bytesTotal)}</span>`}
      ${job.bytesPerSecond > 0 && html`<span>${speed(job.bytesPerSecond)}</span>`}
      ${left !== null && html`<span>${duration(left)} left</span>`}
      ${job.attempt > 1 && html`<span>attempt ${job.attempt}</span>`}</div>
    <${Parts} parts=${job.parts ?? []} />
  </li>`;
}

/** Files on their way; parts are {name, bytesDone, bytesTotal}, as far as the job tells them. */
function Parts({ parts }) {
  if (parts.length < 2) return null;
  const open = parts.filter((part) => part.bytesDone < part.bytesTotal);
  return html`<ul class="parts num quiet">${open.slice(0, MOST_PARTS).map((part) => html`<li key=${part.name}>
    <span class="long">${part.name}</span> ${bytes(part.bytesDone)} of ${bytes(part.bytesTotal)}</li>`)}
    <li>${parts.length - open.length} files whole</li></ul>`;
}

function Waiting({ found }) {
  return html`<${Section} title="Waiting">${found.length === 0 ? html`<${Empty}>Nothing waits.<//>`
    : html`<${Table} label="Waiting jobs" heads=${["#Place", "Job", "Priority", "Starts", ""]}>
      ${found.map((job) => html`<tr key=${job.id} data-job=${job.id}>
        <td class="right num">${job.queuePosition ?? "–"}</td>
        <th scope="row"><${Name} job=${job} />${job.error && html`<p class="quiet">${job.error.message}</p>`}</th>
        <td><${Priority} job=${job} /></td>
        <td class="num">${job.predictedStart ? when(job.predictedStart, now.value) : "–"}</td>
        <td class="actions"><${Pause} job=${job} /><${Cancel} job=${job} /></td></tr>`)}<//>`}<//>`;
}

/** One class up or down, or any of the four. */
function Priority({ job }) {
  const place = PRIORITIES.indexOf(job.priority);
  const set = (priority) => ask("PATCH", `/jobs/${job.id}`, { priority });
  const step = (by, sign, word) => html`<${Button} kind="plain" label="${word} ${job.modelId ?? job.id}"
    disabled=${!PRIORITIES[place + by]} what="Priority" request=${() => set(PRIORITIES[place + by])}>${sign}<//>`;
  return html`<span class="line">${step(-1, "▲", "Sooner:")}<span class="fixed">${job.priority}</span>${step(1, "▼", "Later:")}</span>`;
}

function Ended({ job }) {
  const took = job.startedAt && job.finishedAt ? (new Date(job.finishedAt) - new Date(job.startedAt)) / 1000 : null;
  return html`<tr data-job=${job.id}><th scope="row"><${Name} job=${job} /></th>
    <td><${Badge} state=${job.status} />${job.error && html`<p class="quiet">${job.error.message} ${job.error.hint}</p>`}</td>
    <td class="right num">${duration(took)}</td>
    <td class="right num">${when(job.finishedAt ?? job.heardAt, now.value)}</td>
    <td class="actions">${["failed", "cancelled"].includes(job.status) && html`<${Retry} job=${job} />`}</td></tr>`;
}

const control = (verb_, word) => ({ job }) => html`<${Button} what="${word} ${job.modelId ?? verb(job.kind)}"
  label="${word} ${verb(job.kind)} ${job.modelId ?? ""}" request=${() => post(`/jobs/${job.id}/${verb_}`)}>${word}<//>`;
const Pause = control("pause", "Pause");
const Resume = control("resume", "Resume");
const Cancel = control("cancel", "Cancel");
export const Retry = control("retry", "Retry");
