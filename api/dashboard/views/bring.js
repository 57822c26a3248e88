// Buttons that bring a model's bytes; where a model is, there they are.
import { html } from "../html.js";
import { Button } from "../parts.js";
import { post } from "../wire.js";

export const Download = ({ id }) => html`<${Button} what="Download of ${id}" label="Download ${id}"
  request=${() => post("/models/download", { modelId: id })}>Download<//>`;
export const Repair = ({ id }) => html`<${Button} what="Repair of ${id}" label="Repair ${id}"
  request=${() => post(`/models/${id}/repair`)}>Repair<//>`;

/** What is here, or on its way, before what could be had. */
export const byPresence = (a, b) => (a.status === "missing") - (b.status === "missing") || a.modelId.localeCompare(b.modelId);
