// One model: what is known of it, and everything that can be done with it.
import { useEffect, useState } from "preact/hooks";
import { bytes, duration, many, percent, when } from "../format.js";
import { html } from "../html.js";
import { Badge, Button, Dialog, ProblemNote } from "../parts.js";
import { act, may, models } from "../store.js";
import { ask, get, post } from "../wire.js";
import { Download, Repair } from "./bring.js";

export function ModelSheet({ id, close, swap }) {
  const model = models.data.value?.find((each) => each.modelId === id);
  const [removing, setRemoving] = useState(false);
  if (!model) return html`<${Dialog} title=${id} close=${close}><p>It is in the registry no more.</p><//>`;
  return html`<${Dialog} title=${id} close=${close}>
    ${(model.description || model.name) !== id && html`<p>${model.description || model.name}</p>`}
    <${Facts} model=${model} />
    <${Health} model=${model} />
    <${Fits} model=${model} />
    ${removing ? html`<${Removal} model=${model} done=${close} back=${() => setRemoving(false)} />`
    : may("operator") && html`<footer><${Actions} model=${model} swap=${() => { close(); swap(id); }} />
      <span class="grow"></span><button type="button" class="danger" onClick=${() => setRemoving(true)}>Remove…</button></footer>`}
  <//>`;
}

function Facts({ model }) {
  const { format, architecture, quantization, parameterCount } = model.facts;
  return html`<dl class="facts">
    <dt>Status</dt><dd><${Badge} state=${model.status} />${model.active && html` <${Badge} state="active" text="serves ${model.modelType}" />`}
      ${model.loadState && html` <${Badge} state=${model.loadState} />`}</dd>
    <dt>Source</dt><dd class="long">${model.source}: ${model.sourceUrl}${model.revision && ` @ ${model.revision}`}</dd>
    <dt>Revision</dt><dd class="long">${model.installedRevision ?? "not on disk"}</dd>
    <dt>Size</dt><dd class="num">${bytes(model.size ?? model.fileSize)}</dd>
    <dt>Files</dt><dd>${[format, architecture, quantization, parameterCount && `${many(parameterCount)} parameters`].filter(Boolean).join(", ") || "–"}</dd>
    ${model.localPath && html`<dt>Lies in</dt><dd class="long">${model.localPath}</dd>`}
    <dt>Proven</dt><dd>${when(model.verifiedAt)}${model.integrity !== null && html`, ${percent(model.integrity)} of its bytes`}</dd>
    <dt>Last used</dt><dd>${when(model.lastUsedAt)}</dd>
  </dl>`;
}

function Health({ model }) {
  const [health, setHealth] = useState(null);
  useEffect(() => { get(`/models/${model.modelId}/health`).then(setHealth, () => setHealth(null)); }, [model.modelId, model.health]);
  if (!health) return null;
  return html`<h3>Health <${Badge} state=${health.health} /></h3>
    ${health.reasons.map((reason) => html`<${ProblemNote} key=${reason.code} problem=${reason} />`)}
    <ul class="advice">${health.recommendations.map((advice) => html`<li key=${advice.code}>${advice.message} <code>${advice.command}</code></li>`)}</ul>
    ${health.usualAnswerSeconds && html`<p class="quiet num">Usually answers in ${duration(health.usualAnswerSeconds)}.</p>`}`;
}

/** Where it can run, by device. */
function Fits({ model }) {
  const [told, setTold] = useState(null);
  useEffect(() => { get(`/models/${model.modelId}/compatibility`).then(setTold, () => setTold(null)); }, [model.modelId, model.status]);
  if (!told) return null;
  return html`<h3>Where it can run</h3>
    <ul class="advice">${told.devices.map(({ device, name, level, issues }) => html`<li key=${device}>
      <${Badge} state=${level} text=${{ full: "fits", partial: "in part", none: "no" }[level]} /> ${name || device}
      ${issues.map((issue) => html`<p key=${issue.code} class="quiet">${issue.message} ${issue.recommendation}</p>`)}</li>`)}</ul>`;
}

function Actions({ model, swap }) {
  const { modelId: id, status, loadState, pinned, active } = model;
  const there = ["available", "updating"].includes(status);
  const button = (text, what, path) => html`<${Button} what="${what} ${id}" request=${() => post(path)}>${text}<//>`;
  return html`
    ${["missing", "failed"].includes(status) && html`<${Download} id=${id} />`}
    ${there && !active && html`<button type="button" class="primary" onClick=${swap}>Activate…</button>`}
    ${there && !loadState && button("Load", "Load of", `/models/${id}/load`)}
    ${loadState && button("Unload", "Unload of", `/models/deactivate/${id}`)}
    ${model.size !== null && button("Verify", "Verification of", `/models/${id}/verify`)}
    ${model.size !== null && html`<${Repair} id=${id} />`}
    ${model.size !== null && button("Check health", "Health check of", `/models/${id}/health`)}
    ${there && model.heldBy === "store" && button("Update", "Update of", `/models/${id}/update`)}
    ${there && (pinned ? button("Unpin", "Unpin", `/models/${id}/unpin`) : button("Pin", "Pin", `/models/${id}/pin`))}`;
}

/** What a removal would touch, said before it is done. */
function Removal({ model, done, back }) {
  const { modelId: id, heldBy, size, pinned, active, loadState } = model;
  const needing = (models.data.value ?? []).filter(({ fallback }) => fallback.some((step) => step.model === id)).map((each) => each.modelId);
  const guarded = pinned || needing.length > 0;
  const [force, setForce] = useState(false);
  const remove = async () => {
    if (await act(`Removal of ${id}`, () => ask("DELETE", `/models/${id}${force ? "?force=true" : ""}`))) done();
  };
  return html`<div class="problem"><strong>Removing ${id} touches this:</strong><ul>
      <li>Its entry leaves the registry.</li>
      ${size !== null && heldBy === "store" && html`<li>${bytes(size)} go to the trash, from where they come back until it is emptied (Storage).</li>`}
      ${size !== null && heldBy !== "store" && html`<li>Its files stay where they are: they are not Modelyard's.</li>`}
      ${loadState && html`<li>It is in memory${active && ` and serves ${model.modelType}`}: unload it first, or this is refused.</li>`}
      ${pinned && html`<li>It is pinned.</li>`}
      ${needing.map((other) => html`<li key=${other}>${other} falls back to it.</li>`)}
    </ul>
    ${guarded && html`<label><input type="checkbox" checked=${force} onChange=${({ target }) => setForce(target.checked)} /> All the same</label>`}
    </div>
    <footer><button type="button" onClick=${back}>Keep it</button>
      <${Button} kind="danger" disabled=${guarded && !force} does=${remove}>Remove ${id}<//></footer>`;
}
