// Small pieces that several views are made of.
import { useEffect, useRef, useState } from "preact/hooks";
import { bytes, percent } from "./format.js";
import { html } from "./html.js";
import { act, may, now } from "./store.js";

const TONES = {
  good: ["available", "healthy", "ready", "succeeded", "live", "full", "active"],
  busy: ["downloading", "updating", "running", "queued", "starting", "draining", "partial", "asleep", "idle", "connecting"],
  bad: ["corrupted", "failed", "rejected", "unhealthy", "lost", "crash_loop", "none", "away", "unavailable"],
};

/** A state in a word, with a colour that repeats what the word says. */
export function Badge({ state, text }) {
  const tone = Object.keys(TONES).find((each) => TONES[each].includes(state)) ?? "plain";
  return html`<span class="badge ${tone}">${text ?? String(state).replaceAll("_", " ")}</span>`;
}

/** A button that does one thing at a time; not there for those who may not do it. */
export function Button({ children, does, what, request, kind = "", label, disabled = false, needs = "operator" }) {
  const [busy, setBusy] = useState(false);
  if (!may(needs)) return null;
  const click = async () => {
    setBusy(true);
    try {
      await (request ? act(what, request) : does());
    } finally {
      setBusy(false);
    }
  };
  return html`<button type="button" class=${kind} aria-label=${label} title=${label} disabled=${disabled || busy}
    aria-busy=${busy} onClick=${click}>${children}</button>`;
}

/** How far something has come; without a value it only says that it is on its way. */
export function Progress({ value, label }) {
  const known = value !== null && value !== undefined;
  return html`<span class="progress">
    <progress aria-label=${label} max="1" value=${known ? value : undefined}></progress>
    <span class="num">${known ? percent(value) : "…"}</span>
  </span>`;
}

/** Parts of a whole, side by side; `parts` are {name, size, tone}. The legend says the same in words. */
export function StackBar({ parts, total, label }) {
  const shown = parts.filter((part) => part.size > 0);
  const told = shown.map((part) => `${part.name} ${bytes(part.size)}`).join(", ");
  return html`<div class="stack" role="img" aria-label=${`${label}: ${told || "empty"} of ${bytes(total)}`}>
      ${shown.map((part) => html`<i key=${part.name} class=${part.tone}
        style=${{ width: `${Math.min(100, (100 * part.size) / total)}%` }} title="${part.name} ${bytes(part.size)}"></i>`)}
    </div>
    <ul class="legend">${shown.map((part) => html`<li key=${part.name}><i class=${part.tone}></i>${part.name}
      <span class="num">${bytes(part.size)}</span></li>`)}</ul>`;
}

/** Colours of parts, in turn. */
export const tone = (number) => `c${number % 6}`;

/** Nothing is here; what to do to have something. */
export function Empty({ children, command }) {
  return html`<div class="empty"><p>${children}</p>${command && html`<code>${command}</code>`}</div>`;
}

/** What was refused, and what to do next. */
export function ProblemNote({ problem }) {
  return html`<div class="problem" role="alert"><strong>${problem.message ?? problem.detail}</strong>
    ${problem.hint && html`<p>${problem.hint}</p>`}</div>`;
}

/** A view's part: its heading, what it shows, and how old that is. */
export function Section({ title, of, actions, children }) {
  const problem = of?.problem.value;
  const id = `s-${title.toLowerCase().replaceAll(/[^a-z]+/g, "-")}`;
  return html`<section aria-labelledby=${id}>
    <header><h2 id=${id}>${title}</h2>${of && html`<${Age} of=${of} />`}<span class="grow"></span>${actions}</header>
    ${problem && html`<${ProblemNote} problem=${problem} />`}
    ${of && of.data.value === null ? !problem && html`<p class="quiet">Asking…</p>` : children}
  </section>`;
}

function Age({ of }) {
  const seconds = Math.round((now.value - of.at.value) / 1000);
  return of.at.value > 0 && seconds > 40 && html`<span class="stale">as of ${seconds} s ago</span>`;
}

/** A modal dialog: focus stays in it, Escape closes it, and focus goes back to where it was. */
export function Dialog({ title, close, children }) {
  const it = useRef();
  useEffect(() => {
    it.current.showModal();
    return () => it.current?.close();
  }, []);
  return html`<dialog ref=${it} aria-labelledby="dialog-title" onClose=${close}>
    <header><h2 id="dialog-title">${title}</h2><span class="grow"></span>
      <button type="button" class="plain" aria-label="Close" onClick=${() => it.current.close()}>✕</button></header>
    ${children}
  </dialog>`;
}

/** A table that scrolls sideways on its own; narrow screens show its rows one below another, with these names. */
export function Table({ label, heads, children }) {
  const body = useRef();
  useEffect(() => {
    for (const row of body.current.rows) {
      [...row.cells].forEach((cell, number) => { cell.dataset.label = heads[number]?.replace("#", "") ?? ""; });
    }
  });
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${label}><table>
    <thead><tr>${heads.map((head) => html`<th key=${head} scope="col" class=${head.startsWith("#") ? "right" : ""}>
      ${head.replace("#", "") || html`<span class="hidden">Actions</span>`}</th>`)}</tr></thead>
    <tbody ref=${body}>${children}</tbody>
  </table></div>`;
}
