// The public API, and nothing else: requests, the stream of events, and the key where one is needed.
import { signal } from "@preact/signals";

const KEY = "modelyard.key";
const PATIENCE = 30_000;
const MOST = 1000;

/** The service wants a key, or another one. */
export const locked = signal(false);
/** Why the key that was sent is none; empty where none was. */
export const why = signal("");
/** This tab sends a key. */
export const keyed = signal(sessionStorage.getItem(KEY) !== null);

/** A refusal, as problem+json tells it: what is wrong, and what to do next. */
export class Problem extends Error {
  constructor({ detail, hint = "", code = "unknown", status = 0, details = null }) {
    super(detail);
    Object.assign(this, { hint, code, status, details });
  }
}

/** Kept for this tab only, until it is closed. */
export function useKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
  keyed.value = Boolean(key);
  locked.value = false;
}

/** Resolves once a key was given; at once where none is missing. */
export function unlocked() {
  return new Promise((resolve) => {
    const stop = locked.subscribe((value) => {
      if (!value) setTimeout(() => { stop(); resolve(); });
    });
  });
}

/** One request below /api/v1; answers its JSON. Throws: Problem. */
export async function ask(method, path, body) {
  const options = { method, headers: headers(), signal: AbortSignal.timeout(PATIENCE) };
  if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  const answer = await reach(path.startsWith("/health") ? path : `/api/v1${path}`, options);
  if (answer.ok || path.startsWith("/health")) return answer.json();
  throw await refusal(answer, options.headers);
}

export const get = (path) => ask("GET", path);
export const post = (path, body) => ask("POST", path, body);

/** Every item of a list that comes in pages, up to MOST. */
export const all = async (path, name) => (await whole(path, name))[name];

/** An answer that comes in pages, as if it came in one: of its lists, which are named, up to MOST items. */
export async function whole(path, ...names) {
  const mark = path.includes("?") ? "&" : "?";
  const first = await get(path);
  let found = names.reduce((sum, name) => sum + first[name].length, 0);
  for (let next = first.nextCursor; next && found < MOST;) {
    const page = await get(`${path}${mark}cursor=${encodeURIComponent(next)}`);
    for (const name of names) {
      first[name].push(...page[name]);
      found += page[name].length;
    }
    next = page.nextCursor;
  }
  return first;
}

/** Events as they come; null is a sign of life. With an EventSource no key could be sent. Throws: Problem. */
export async function* events(lastId, abort) {
  const sent = { ...headers(), Accept: "text/event-stream", ...(lastId ? { "Last-Event-ID": lastId } : {}) };
  const answer = await reach("/api/v1/events", { headers: sent, signal: abort, cache: "no-store" });
  if (!answer.ok) throw await refusal(answer, sent);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const frames = (rest + value).split("\n\n");
    rest = frames.pop();
    for (const frame of frames) yield parse(frame);
  }
}

/** One frame: its JSON, with the id to go on from as `order`. */
export function parse(frame) {
  const lines = frame.split("\n");
  const field = (name) => lines.find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
  const data = field("data");
  return data === undefined ? null : { ...JSON.parse(data), order: field("id") ?? null };
}

function headers() {
  const key = sessionStorage.getItem(KEY);
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    const hint = "The page tries again by itself. On its machine, `modelyard doctor` says what is wrong.";
    throw new Problem({ detail: "The service does not answer.", hint, code: "unreachable" });
  }
}

async function refusal(answer, sent) {
  const outdated = sent.Authorization !== headers().Authorization; // another key was given meanwhile
  const told = await answer.json().catch(() => ({ detail: `The service answers ${answer.status}.` }));
  if ((answer.status === 401 || told.code === "too_many_wrong_keys") && !outdated) {
    why.value = sent.Authorization ? told.detail : "";
    locked.value = true;
  }
  return new Problem({ ...told, status: answer.status });
}
