// The service has a key: ask for it. It stays in this tab, and goes nowhere but into the Authorization header.
import { html } from "../html.js";
import { useKey, why } from "../wire.js";

export function AskKey() {
  const submit = (event) => {
    event.preventDefault();
    useKey(new FormData(event.target).get("key").trim());
  };
  return html`<div class="lock"><form onSubmit=${submit} aria-labelledby="key-title">
    <h2 id="key-title">This service has a key</h2>
    <p>Paste yours: <code>MODELYARD_API_KEY</code> of the service, or one that an admin has made for you
      (<code>modelyard key add NAME</code>). It is kept until this tab is closed.</p>
    ${why.value && html`<p role="alert"><strong>${why.value}</strong></p>`}
    <label>Key <input type="password" name="key" autocomplete="off" required autofocus /></label>
    <button class="primary">Use it</button>
  </form></div>`;
}
