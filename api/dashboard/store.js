// What the page knows, and how it hears of more. Views read signals; nothing else is kept anywhere.
import { batch, signal } from "@preact/signals";
import * as believed from "./jobs.js";
import { all, ask, events, get, keyed, locked, unlocked, whole } from "./wire.js";

const SETTLE = 400;
const SILENT = 25_000; // the service gives a sign of life every ten seconds
const LONGEST_WAIT = 8000;
const KEPT_EVENTS = 200;
const MOST_PLACES = 20;
const LOG = "modelyard.events";
const ROLES = ["viewer", "operator", "admin"];

const remembered = JSON.parse(sessionStorage.getItem(LOG) ?? "null") ?? { last: null, log: [] };

export const now = signal(Date.now());
export const jobs = signal(new Map());
export const log = signal(remembered.log);
/** state: connecting, live or away; heardAt: when the service last said anything. */
export const link = signal({ state: "connecting", heardAt: 0 });
export const notices = signal([]);

/** Something that is asked for again when it may have changed; several wishes at a time are one request. */
function resource(load) {
  const it = { data: signal(null), problem: signal(null), at: signal(0), used: 0 };
  let asked = null;
  let again = false;
  const once = async () => {
    try {
      const found = await load();
      batch(() => { it.data.value = found; it.problem.value = null; it.at.value = Date.now(); });
    } catch (problem) {
      it.problem.value = problem;
    }
  };
  it.refresh = () => {
    if (asked) { again = true; return asked; }
    asked = once().finally(() => {
      asked = null;
      if (again) { again = false; it.refresh(); }
    });
    return asked;
  };
  return it;
}

export const models = resource(() => all("/models?limit=500", "models"));
export const hardware = resource(() => get("/system/hardware/profile"));
export const servers = resource(() => get("/models/servers"));
export const optimization = resource(() => get("/system/optimization/status"));
export const storage = resource(() => get("/models/storage/info"));
export const trash = resource(() => get("/models/trash"));
export const cleanup = resource(() => whole("/cleanup", "recommendations", "kept"));
export const schedules = resource(() => get("/schedules"));
export const audit = resource(() => get("/audit?limit=50"));
export const readiness = resource(() => ask("GET", "/health/ready"));
export const me = resource(() => get("/key"));
export const ledger = resource(async () => {
  const since = Date.now();
  const pages = [...believed.LIVE.map((state) => `/jobs?limit=200&status=${state}`), "/jobs?limit=60"];
  const found = (await Promise.all(pages.map(get))).flatMap((page) => page.jobs);
  jobs.value = believed.learned(jobs.value, found, since);
  const next = believed.waiting(jobs.value).slice(0, MOST_PLACES);
  const places = await Promise.allSettled(next.map((job) => get(`/jobs/${job.id}`)));
  jobs.value = believed.learned(jobs.value, places.flatMap((one) => one.value ?? []), since);
  return true;
});

/** Which answers an event may have changed. */
const CONCERNED = [
  [/^job\.state/, [ledger, models]],
  [/^(residency|model\.active)/, [models, servers, hardware]],
  [/^model\./, [models, storage, trash, cleanup]],
  [/^cleanup/, [cleanup]],
];
const ALL = [me, ledger, models, servers, hardware, storage, trash, cleanup, schedules, readiness, audit];
const pending = new Set();
let settling = null;

/** Ask again soon for what is on the screen; what is not is asked for when it comes there. */
export function touch(...resources) {
  resources.forEach((each) => pending.add(each));
  settling ??= setTimeout(() => {
    settling = null;
    const wanted = [...pending].filter((each) => each.used > 0);
    pending.clear();
    wanted.forEach((each) => each.refresh());
  }, SETTLE);
}

/** For a view's effect: these are on the screen from now on. Answers how to end that. */
export function watch(...resources) {
  resources.forEach((each) => { each.used += 1; each.refresh(); });
  return () => resources.forEach((each) => { each.used -= 1; });
}

/** Whether whoever has this key may do what needs that role; the service judges it all the same. */
export const may = (role) => ROLES.indexOf(me.data.value?.role ?? "admin") >= ROLES.indexOf(role);

/** Say something to the person; stays until it is dismissed where it is a problem. */
export function notify(notice) {
  const one = { id: crypto.randomUUID?.() ?? String(Math.random()), at: Date.now(), ...notice };
  notices.value = [...notices.value.slice(-4), one];
  if (!notice.problem) setTimeout(() => dismiss(one.id), notice.undo ? 60_000 : 6000);
}

export const dismiss = (id) => { notices.value = notices.value.filter((each) => each.id !== id); };

/** Do what a button says, and tell what came of it. Answers the answer, or null where it was refused. */
export async function act(what, request) {
  try {
    const answer = await request();
    if (answer?.job) jobs.value = believed.learned(jobs.value, [answer.job], Date.now());
    notify({ text: what });
    return answer ?? {};
  } catch (problem) {
    notify({ text: `${what}: refused`, problem });
    return null;
  } finally {
    touch(...ALL);
  }
}

// -- the stream -----------------------------------------------------------------------------------------------

let last = remembered.last;
let stream = new AbortController();

function heard(event) {
  link.value = { state: "live", heardAt: Date.now() };
  if (event === null || !believed.after(event.order, last)) return;
  last = event.order ?? last;
  batch(() => {
    jobs.value = believed.told(jobs.value, event);
    if (!["job.progress", "snapshot"].includes(event.type)) note(event);
  });
  const resync = event.type === "resync" || event.type === "snapshot";
  touch(...(resync ? ALL : (CONCERNED.find(([pattern]) => pattern.test(event.type))?.[1] ?? [])));
}

function note({ jobs: _, ...event }) {
  log.value = [...log.value.slice(1 - KEPT_EVENTS), { ...event, at: event.at ?? Date.now() / 1000 }];
}

async function listen() {
  for (let wait = 500; ; wait = Math.min(2 * wait, LONGEST_WAIT)) {
    await unlocked();
    stream = new AbortController();
    try {
      for await (const event of events(last, stream.signal)) {
        if (link.value.state !== "live") touch(...ALL);
        heard(event);
        wait = 500;
      }
    } catch (problem) {
      if (problem instanceof TypeError) console.warn(problem);
    }
    link.value = { ...link.value, state: locked.value ? "connecting" : "away" };
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
}

function tick() {
  now.value = Date.now();
  if (link.value.state === "live" && now.value - link.value.heardAt > SILENT) stream.abort();
}

/** Begin to listen, once. */
export function begin() {
  setInterval(tick, 1000);
  setInterval(() => document.hidden || touch(hardware, servers, storage, readiness, schedules, cleanup, trash), 15_000);
  addEventListener("pagehide", () => sessionStorage.setItem(LOG, JSON.stringify({ last, log: log.value })));
  locked.subscribe((value) => value || touch(...ALL));
  keyed.subscribe(() => stream.abort()); // whoever forgets the key sees no more
  watch(me, ledger, models, readiness);
  listen();
}
