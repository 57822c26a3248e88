// What is believed of jobs: the ledger's answers first, events in between. Pure: maps in, maps out.

export const LIVE = ["running", "queued", "paused"];
export const ENDED = ["succeeded", "failed", "cancelled", "rejected"];
export const PRIORITIES = ["CRITICAL", "HIGH", "MEDIUM", "LOW"];

export const live = (job) => LIVE.includes(job.status);

/** Is one event id after another? Proxies send some twice, or late. */
export function after(id, than) {
  if (!id || !than) return true;
  const [[a, b], [c, d]] = [id, than].map((each) => each.split("-").map(Number));
  return a > c || (a === c && (b || 0) > (d || 0));
}

/** The jobs after an event. An end stays an end until the ledger says otherwise, and progress never goes back. */
export function told(jobs, event) {
  if (event.type === "snapshot" || event.type === "resync") return resynced(jobs, event);
  const job = jobs.get(event.jobId);
  if (event.type === "job.state") return new Map(jobs).set(event.jobId, moved(job, event));
  if (event.type !== "job.progress" || job?.status !== "running" || event.attempt < job.attempt) return jobs;
  return new Map(jobs).set(event.jobId, advanced(job, event));
}

/** The jobs after an answer of the ledger that was asked for at `since`. */
export function learned(jobs, found, since) {
  const next = new Map(jobs);
  for (const job of found) {
    const known = next.get(job.id);
    const late = known?.heardAt > since && known.attempt >= job.attempt && !ENDED.includes(job.status);
    next.set(job.id, late ? { ...job, ...known } : furthest(known, job));
  }
  return next;
}

/** Those that wait, the next one first. A class goes before the ones below it; places are the ledger's. */
export function waiting(jobs) {
  return [...jobs.values()].filter((job) => job.status === "queued").sort(
    (a, b) => PRIORITIES.indexOf(a.priority) - PRIORITIES.indexOf(b.priority)
      || (a.queuePosition ?? Infinity) - (b.queuePosition ?? Infinity)
      || a.createdAt.localeCompare(b.createdAt),
  );
}

/** Seconds until the last byte; null where it cannot be told. */
export function secondsLeft(job) {
  if (!job.bytesTotal || !job.bytesPerSecond || job.status !== "running") return null;
  return Math.max(0, job.bytesTotal - (job.bytesDone ?? 0)) / job.bytesPerSecond;
}

function resynced(jobs, { jobs: there = [] }) {
  const named = new Set(there.map((job) => job.id));
  const kept = [...jobs].filter(([id, job]) => ENDED.includes(job.status) || named.has(id));
  return learned(new Map(kept), there, Infinity);
}

function moved(job, event) {
  const { kind, modelId, status, attempt, priority, phase, error } = event;
  const heard = { id: event.jobId, kind, modelId, attempt, priority, phase, error, heardAt: Date.now() };
  if (!job) return { createdAt: new Date(event.at * 1000).toISOString(), parts: [], status, ...heard };
  if (ENDED.includes(job.status) && !ENDED.includes(status)) return job;
  return { ...job, ...heard, status, ...(status === "running" ? {} : { bytesPerSecond: null }) };
}

function advanced(job, event) {
  const { phase, bytesDone, bytesTotal, bytesPerSecond, parts, attempt } = event;
  const progress = event.progress === null ? job.progress : Math.max(job.progress ?? 0, event.progress);
  return { ...job, phase, bytesDone, bytesTotal, bytesPerSecond, parts, attempt, progress };
}

function furthest(known, job) {
  const same = known && live(known) && live(job) && known.attempt === job.attempt;
  return same && known.progress > (job.progress ?? 0) ? { ...job, progress: known.progress } : job;
}
