// The disk: what lies on it, what may leave it, and how that comes back.
import { useEffect, useState } from "preact/hooks";
import { bytes, duration, when } from "../format.js";
import { html } from "../html.js";
import { ENDED } from "../jobs.js";
import { Badge, Button, Empty, Section, StackBar, Table, tone } from "../parts.js";
import { act, cleanup, jobs, notify, now, storage, touch, trash, watch } from "../store.js";
import { get, post } from "../wire.js";

const LOOK_AGAIN = 1000;
const WHY = { unused: "nobody used it", storage: "the disk is too full" };

export function Storage() {
  useEffect(() => watch(storage, cleanup, trash), []);
  return html`<${Disk} /><${Cleanup} /><${Trash} />`;
}

function Disk() {
  const told = storage.data.value;
  return html`<${Section} title="Disk" of=${storage}>${told && html`<${ByType} told=${told} />`}<//>`;
}

function ByType({ told }) {
  const { byType, trashSize, partialsSize, diskUsed, diskFree, diskTotal, sharedBytes, stores } = told;
  const types = Object.entries(byType).map(([name, size], number) => ({ name, size, tone: tone(number) }));
  const ours = types.reduce((sum, part) => sum + part.size, trashSize + partialsSize);
  const rows = stores.flatMap((store) => store.models).sort((a, b) => b.size - a.size);
  return html`${stores.filter((store) => !store.there).map((store) => html`<p key=${store.store}>
      <${Badge} state="away" text="not mounted" /> ${store.store} on ${store.node}; this is as it was before.</p>`)}
    <${StackBar} label="Disk" total=${diskTotal} parts=${[...types, { name: "trash", size: trashSize, tone: "trash" },
      { name: "half-brought", size: partialsSize, tone: "partials" }, { name: "others", size: Math.max(0, diskUsed - ours), tone: "others" },
      { name: "free", size: diskFree, tone: "free" }]} />
    <p class="quiet num">${bytes(diskTotal)} in all${sharedBytes > 0 && `; ${bytes(sharedBytes)} saved because equal files are kept once`}</p>
    ${rows.length > 0 && html`<details><summary>${rows.length} models by size</summary>
      <${Table} label="Models by size" heads=${["Model", "Type", "#Size", "#Its own", "#Revisions"]}>
      ${rows.map((row) => html`<tr key=${row.modelId}><th scope="row">${row.modelId}</th><td>${row.modelType}</td>
        <td class="right num">${bytes(row.size)}</td><td class="right num">${bytes(row.ownBytes)}</td><td class="right num">${row.revisions}</td></tr>`)}<//></details>`}`;
}

function Cleanup() {
  const told = cleanup.data.value;
  const [left, setLeft] = useState([]);
  const wanted = (told?.recommendations ?? []).filter((each) => !left.includes(each.modelId));
  const frees = wanted.reduce((sum, each) => sum + each.frees, 0);
  const go = async () => {
    const answer = await act("Cleanup", () => post("/cleanup", { models: wanted.map((each) => each.modelId) }));
    if (answer?.job) offerUndo(answer.job.id);
  };
  const button = html`<${Button} kind="primary" disabled=${wanted.length === 0} does=${go}>
    ${wanted.length === 0 ? "Clean up" : `Clean up ${wanted.length}, free ${bytes(frees)}`}<//>`;
  return html`<${Section} title="May leave the disk" of=${cleanup} actions=${told && button}>${told && html`
    <p class="quiet">Unused for ${duration(told.policy.maxUnusedDays * 86_400)}, or used little while the disk is over ${told.policy.maxStorageUsagePercent} % full.
      What leaves goes to the trash first. <code>modelyard cleanup --help</code> says how to change that.</p>
    ${told.recommendations.length === 0 ? html`<${Empty}>Nothing may leave: all of it is used, new, or held.<//>`
      : html`<${Recommended} found=${told.recommendations} left=${left} setLeft=${setLeft} />`}
    ${told.kept.length > 0 && html`<details><summary>${told.kept.length} stay, though unused</summary><ul class="advice">
      ${told.kept.map((each) => html`<li key=${each.modelId}>${each.modelId}: ${each.holds.join(", ")}</li>`)}</ul></details>`}`}<//>`;
}

function Recommended({ found, left, setLeft }) {
  const choose = (id) => ({ target }) => setLeft(target.checked ? left.filter((each) => each !== id) : [...left, id]);
  return html`<${Table} label="Recommendations" heads=${["Leaves", "Model", "Why", "#Idle", "#Uses a day", "#Frees", "#To fetch again"]}>
    ${found.map((each) => html`<tr key=${each.modelId}>
      <td><input type="checkbox" aria-label="Let ${each.modelId} leave" checked=${!left.includes(each.modelId)} onChange=${choose(each.modelId)} /></td>
      <th scope="row">${each.modelId}</th><td>${WHY[each.reason] ?? each.reason}</td>
      <td class="right num">${duration(each.idleDays * 86_400)}</td><td class="right num">${each.usesPerDay.toFixed(2)}</td>
      <td class="right num">${bytes(each.frees)}</td><td class="right num">${duration(each.fetchSeconds)}</td></tr>`)}<//>`;
}

/** Once the cleanup has ended: bring back all that it took, while its trash is there. */
async function offerUndo(jobId) {
  let job = await get(`/jobs/${jobId}`).catch(() => null);
  while (!job || !ENDED.includes(job.status)) {
    await new Promise((resolve) => setTimeout(resolve, LOOK_AGAIN));
    const known = jobs.value.get(jobId);
    if (!known || ENDED.includes(known.status) || !job) job = await get(`/jobs/${jobId}`).catch(() => job);
  }
  touch(storage, trash, cleanup);
  const removed = job.result?.removed ?? [];
  if (removed.length === 0) return;
  const entries = removed.flatMap((each) => each.entries);
  const undo = () => act(`Restore of ${removed.length}`, () => Promise.all(entries.map(bring)).then((all) => all[0]));
  notify({ text: `${removed.length} went to the trash; ${bytes(job.result.frees)} are free once it is emptied.`, undo });
}

const bring = (entry) => post(`/models/trash/${encodeURIComponent(entry)}/restore`);

function Trash() {
  const told = trash.data.value;
  return html`<${Section} title="Trash" of=${trash}>${told && (told.entries.length === 0
    ? html`<${Empty}>The trash is empty. What is removed or cleaned up lies here for a while, and comes back from here.<//>`
    : html`<${Table} label="In the trash" heads=${["Model", "Revision", "#Size", "#Left", "#Goes for good", ""]}>
      ${told.entries.map((entry) => html`<tr key=${entry.id}><th scope="row">${entry.modelId}</th><td class="mono">${entry.revision.slice(0, 12)}</td>
        <td class="right num">${bytes(entry.size)}</td><td class="right num">${when(entry.trashedAt, now.value)}</td>
        <td class="right num">${when(entry.goesAt, now.value)}</td>
        <td class="actions">${entry.restorable && html`<${Button} what="Restore of ${entry.modelId}" label="Restore ${entry.modelId}"
          request=${() => bring(entry.id)}>Restore<//>`}</td></tr>`)}<//>`)}<//>`;
}
