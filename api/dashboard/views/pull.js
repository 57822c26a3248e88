// A new model: where it comes from, and what it is for.
import { useState } from "preact/hooks";
import { html } from "../html.js";
import { PRIORITIES } from "../jobs.js";
import { act, may, models } from "../store.js";
import { post, Problem } from "../wire.js";

const SOURCES = { hf: "huggingface", ollama: "ollama", file: "file" };

export function Pull() {
  const [told, tell] = useState({ reference: "", id: "", type: "llm", priority: "MEDIUM" });
  const [busy, setBusy] = useState(false);
  const field = (name) => ({ name, value: told[name], onInput: ({ target }) => tell({ ...told, [name]: target.value }) });
  const submit = async (event) => {
    event.preventDefault();
    const wanted = Object.fromEntries(new FormData(event.target)); // a fast hand is ahead of what was painted
    setBusy(true);
    const done = await act(`Pull of ${wanted.reference}`, () => pull(wanted));
    setBusy(false);
    if (done) tell({ ...wanted, reference: "", id: "" });
  };
  if (!may("operator")) return null;
  const types = [...new Set(["llm", "embedding", "image_gen", ...(models.data.value ?? []).map((model) => model.modelType)])];
  return html`<form class="bar" onSubmit=${submit} aria-label="Pull a model">
    <label class="grow">Pull <input ...${field("reference")} required autocomplete="off" spellcheck="false"
      placeholder="hf:owner/name, https://…, ollama:name, file:/path" /></label>
    <label>Id <input ...${field("id")} autocomplete="off" placeholder=${suggested(told.reference) || "as its name"} /></label>
    <label>Type <input ...${field("type")} required list="types" /></label>
    <datalist id="types">${types.map((type) => html`<option key=${type} value=${type} />`)}</datalist>
    <label>Priority <select ...${field("priority")}>${PRIORITIES.map((each) => html`<option key=${each}>${each}</option>`)}</select></label>
    <button class="primary" disabled=${busy}>Pull</button>
  </form>`;
}

/** Enter it in the registry and ask for its download. */
async function pull({ reference, id, type, priority }) {
  const { source, location, revision } = read(reference.trim());
  const modelId = id || suggested(reference);
  const model = { modelId, modelType: type, name: location.split("/").pop() || location, source, sourceUrl: location, revision };
  await post("/models/add", model);
  return post("/models/download", { modelId, priority });
}

function read(reference) {
  const [scheme, ...more] = reference.split(":");
  const rest = more.join(":");
  if (["http", "https"].includes(scheme) && rest) return { source: "url", location: reference, revision: null };
  if (!rest || !(scheme in SOURCES)) {
    const hint = "Write hf:owner/name, hf:owner/name@revision, https://…, ollama:name:tag or file:/path.";
    throw new Problem({ detail: `“${reference}” is no reference to a model.`, hint });
  }
  const [location, revision = null] = scheme === "hf" ? rest.split("@") : [rest];
  return { source: SOURCES[scheme], location, revision };
}

/** "hf:Qwen/Qwen3-0.6B" → "qwen3-0.6b" */
function suggested(reference) {
  const last = reference.replace(/^(hf|ollama|file):/, "").split("@")[0].replace(/\/+$/, "").split("/").pop();
  return last.toLowerCase().replaceAll(/[^a-z0-9._-]+/g, "-").slice(0, 96).replaceAll(/^[-._]+|[-._]+$/g, "");
}
