// Figures as operators read them.

const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];

/** 1234567 → "1.2 MB"; nothing for what is not known. */
export function bytes(count) {
  if (count === null || count === undefined) return "–";
  const step = count < 1 ? 0 : Math.min(UNITS.length - 1, Math.floor(Math.log10(count) / 3));
  return `${(count / 1000 ** step).toFixed(step < 2 ? 0 : 1)} ${UNITS[step]}`;
}

export const speed = (perSecond) => (perSecond ? `${bytes(perSecond)}/s` : "–");

/** 75 → "1 min 15 s"; two units at most. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 10) return `${seconds.toFixed(seconds < 1 ? 2 : 1)} s`;
  const whole = Math.round(seconds);
  const parts = [[86_400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const first = parts.findIndex(([size]) => whole >= size);
  const [[big, name], next] = [parts[first], parts[first + 1]];
  const rest = next ? Math.floor((whole % big) / next[0]) : 0;
  return `${Math.floor(whole / big)} ${name}${rest ? ` ${rest} ${next[1]}` : ""}`;
}

/** "3 min ago", "in 2 h"; coarse, and right when it was painted. */
export function when(moment, now = Date.now()) {
  if (!moment) return "–";
  const seconds = (new Date(moment) - now) / 1000;
  if (Math.abs(seconds) < 5) return "now";
  const text = duration(Math.max(10, Math.abs(seconds))).split(" ").slice(0, 2).join(" ");
  return seconds < 0 ? `${text} ago` : `in ${text}`;
}

export const clock = (moment) => new Date(moment).toLocaleTimeString([], { hour12: false });
export const percent = (share) => (share === null || share === undefined ? "–" : `${Math.floor(share * 100)} %`);
/** 7600000000 → "7.6 billion" */
export function many(count) {
  const [size, name] = count >= 1e9 ? [1e9, " billion"] : count >= 1e6 ? [1e6, " million"] : [1e3, " thousand"];
  return `${(count / size).toFixed(1)}${name}`;
}

/** "model.download" → "download" */
export const verb = (kind) => (kind ?? "").split(".").pop().replaceAll("_", " ");
