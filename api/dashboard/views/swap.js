// A swap, with its plan shown first. What is carried out is that plan, or nothing.
import { useEffect, useState } from "preact/hooks";
import { bytes, duration } from "../format.js";
import { html } from "../html.js";
import { Button, Dialog, ProblemNote } from "../parts.js";
import { act } from "../store.js";
import { post } from "../wire.js";

const ACTION = { stop: "Stop", start: "Start and prove", route: "Send requests to" };

export function Swap({ id, close }) {
  const [plan, setPlan] = useState(null);
  const [problem, setProblem] = useState(null);
  const look = () => {
    setProblem(null);
    return post("/plan", { action: "switch", modelId: id }).then(setPlan, setProblem);
  };
  useEffect(() => { look(); }, [id]);
  const carryOut = async () => {
    const query = plan.id ? `?plan=${plan.id}` : "";
    const done = await act(`Activation of ${id}`, () => post(`/models/${id}/switch${query}`));
    if (done) close();
    else await look();
  };
  return html`<${Dialog} title="Activate ${id}" close=${close}>
    ${problem && html`<${ProblemNote} problem=${problem} />`}
    ${!plan && !problem && html`<p class="quiet">Planning…</p>`}
    ${plan && html`<${Plan} plan=${plan} />`}
    <footer><${Button} needs="viewer" does=${look}>Plan again<//>
      <${Button} kind="primary" disabled=${!plan || problem} does=${carryOut}>Do exactly this<//></footer>
  <//>`;
}

function Plan({ plan }) {
  const waits = plan.steps.some((step) => step.requestsWait);
  return html`<ol class="steps">${plan.steps.map((step, number) => html`<li key=${number}>
      ${ACTION[step.do]} <strong>${step.modelId}</strong>
      ${step.bytes && html` <span class="quiet num">${step.do === "stop" ? "gives back" : "takes about"} ${bytes(step.bytes)}</span>`}
      ${step.requestsWait && html` <span class="badge busy">requests wait from here</span>`}</li>`)}</ol>
    ${plan.steps.length === 0 && html`<p>Nothing changes: it is as you want it.</p>`}
    <dl class="facts">
      <dt>Device</dt><dd>${plan.device}</dd>
      <dt>Needs</dt><dd class="num">${bytes(plan.need)}${plan.basis && html` <span class="quiet">${plan.basis}, ± ${bytes(plan.spread)}</span>`}</dd>
      <dt>Free</dt><dd class="num">${bytes(plan.freeBefore)} before, ${bytes(plan.freeAfter)} after</dd>
      <dt>Takes</dt><dd class="num">${plan.seconds === null ? "not known: never loaded yet" : `about ${duration(plan.seconds)}`}</dd>
      <dt>Requests</dt><dd>${waits ? "wait until the new one is proven" : "are served throughout"}</dd>
    </dl>
    ${plan.servedBy !== plan.modelId && plan.servedBy && html`<p><strong>${plan.servedBy}</strong> will answer for it.</p>`}
    ${plan.tried?.length > 0 && html`<p>These ways do not work now:</p>
      <ul>${plan.tried.map((way) => html`<li key=${way.modelId + way.contextLength}>${way.modelId}, ${way.contextLength} tokens: ${way.message}</li>`)}</ul>`}`;
}
