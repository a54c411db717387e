// Drawings of round trips, and numbers as people read them. Plain data in, pixels or text out:
// nothing here knows where the data comes from.

export const STAGES = [
  { key: "lag_ns", name: "lag", means: "late to send: due until the prober sent it" },
  { key: "send_ns", name: "send", means: "the prober's application to its driver" },
  { key: "network_ns", name: "network", means: "driver out to driver in, without the peer" },
  { key: "peer_ns", name: "peer", means: "inside the responder, by its own kernel" },
  { key: "unsplit_ns", name: "unsplit", label: "round trip",
    means: "network and peer together: this responder does not tell them apart" },
  { key: "wakeup_ns", name: "wakeup", means: "the prober's driver to its application" },
];

/** Nanoseconds with three digits and the unit that suits; a narrow space never breaks. */
export function time(ns) {
  if (ns === null || ns === undefined) return "–";
  for (const [size, unit] of [[1e9, "s"], [1e6, "ms"], [1e3, "µs"]]) {
    if (ns >= size * 0.9995) {
      const value = ns / size;
      const digits = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
      return `${value.toFixed(digits)}\u202f${unit}`;
    }
  }
  return `${Math.round(ns)}\u202fns`;
}

/** A share in percent; never 0 or 100 unless it is exactly that. */
export function percent(ratio) {
  if (ratio === null || ratio === undefined) return "–";
  const value = ratio * 100;
  if (value === 0 || value === 100) return `${value}\u202f%`;
  if (value > 0 && value < 0.01) return "<0.01\u202f%";
  if (value > 99.9 && value < 100) return ">99.9\u202f%";
  return `${value.toFixed(Math.abs(value) < 9.995 ? 2 : 1)}\u202f%`;
}

/** Whole numbers with gaps between thousands. */
export function count(number) {
  return number === null || number === undefined ? "–"
    : String(number).replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

/** A duration in words, coarse: how long ago. */
export function span(ns) {
  const seconds = Math.max(0, Math.round(ns / 1e9));
  if (seconds < 60) return `${seconds}\u202fs`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}\u202fmin`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)}\u202fh`;
  return `${Math.floor(seconds / 86400)}\u202fd`;
}

export function clockTime(ns, withMs) {
  const date = new Date(ns / 1e6);
  const text = date.toLocaleTimeString("en-GB");
  return withMs ? `${text}.${String(date.getMilliseconds()).padStart(3, "0")}` : text;
}

/** The parts of one probe, in path order. */
export function partsOf(probe) {
  const parts = { ...probe };
  if (probe.network_ns === null && probe.rtt_ns !== null) parts.unsplit_ns = probe.rtt_ns;
  return STAGES.map((stage) => ({ ...stage, ns: parts[stage.key] ?? null }))
    .filter((part) => part.ns !== null);
}

let palette = null;

/** Colours of the style sheet; asked for again when light turns dark. */
export function forgetColours() {
  palette = null;
}

function colours() {
  if (palette === null) {
    const style = getComputedStyle(document.documentElement);
    const names = ["ink", "soft", "line", "accent", "bad", "card", "heat-empty", "heat-low",
      "heat-high", ...STAGES.map((stage) => stage.name)];
    palette = Object.fromEntries(names.map((name) =>
      [name, style.getPropertyValue(`--${name}`).trim()]));
    const low = rgb(palette["heat-low"]);
    const high = rgb(palette["heat-high"]);
    palette.heat = Array.from({ length: 32 }, (_, step) => {
      const mix = low.map((part, at) => Math.round(part + (high[at] - part) * step / 31));
      return `rgb(${mix.join(" ")})`;
    });
  }
  return palette;
}

function rgb(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

/** A canvas as large as it is shown, on any screen; null while it is not shown. */
function prepare(canvas) {
  const { width, height } = canvas.getBoundingClientRect();
  if (width === 0 || height === 0) return null;
  const scale = window.devicePixelRatio || 1;
  const pixels = [Math.round(width * scale), Math.round(height * scale)];
  if (canvas.width !== pixels[0] || canvas.height !== pixels[1]) {
    [canvas.width, canvas.height] = pixels;
  }
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

/** The newest round trips as a line; lost ones as ticks below. */
export function drawSpark(canvas, rtts) {
  const surface = prepare(canvas);
  if (surface === null) return;
  const { context, width, height } = surface;
  const known = rtts.filter((ns) => ns !== null);
  const colour = colours();
  const x = (at) => 2 + (width - 5) * (rtts.length < 2 ? 1 : at / (rtts.length - 1));
  const sorted = [...known].sort((a, b) => a - b);
  // One slow probe must not flatten the rest: the line is cut off at the top.
  const median = sorted[Math.floor(sorted.length / 2)];
  const top = Math.min(sorted[sorted.length - 1], 3 * median);
  const low = sorted[0];
  const y = (ns) => 3 + (height - 9) * (top === low ? 0.5 : Math.max(0, (top - ns) / (top - low)));
  context.lineWidth = 1.5;
  context.lineJoin = "round";
  context.strokeStyle = colour.accent;
  context.beginPath();
  let pen = false;
  rtts.forEach((ns, at) => {
    if (ns === null) {
      pen = false;
      context.fillStyle = colour.bad;
      context.fillRect(x(at) - 1, height - 4, 2, 4);
    } else if (pen) {
      context.lineTo(x(at), y(ns));
    } else {
      context.moveTo(x(at), y(ns));
      pen = true;
    }
  });
  context.stroke();
  const last = rtts.length - 1;
  if (last >= 0 && rtts[last] !== null) {
    context.fillStyle = colour.accent;
    context.beginPath();
    context.arc(x(last), y(rtts[last]), 2.4, 0, 7);
    context.fill();
  }
}

const bucketOf = (endNs) => Math.round(4 * Math.log2(endNs / 1e9));
const endOf = (bucket) => 1e9 * 2 ** (bucket / 4);

/** Where round trips lay, column by column; lost probes as a strip below. */
export function drawHeat(canvas, columns, { columnsMax = 60, axes = false } = {}) {
  const surface = prepare(canvas);
  if (surface === null) return;
  const { context, width, height } = surface;
  const colour = colours();
  const left = axes ? 58 : 0;
  const bottom = axes ? 22 : 0;
  const strip = axes ? 8 : 5;
  const plot = { width: width - left, height: height - bottom - strip - 1 };
  context.fillStyle = colour["heat-empty"];
  context.fillRect(left, 0, plot.width, height - bottom);
  const used = columns.flatMap((column) => column.cells.map(([endNs]) => bucketOf(endNs)));
  let low = used.length ? Math.min(...used) : -56;
  let high = used.length ? Math.max(...used) : -48;
  // At least three octaves, so that a quiet target does not look wild.
  while (high - low < 11) { high += 1; if (high - low < 11) low -= 1; }
  const step = plot.width / columnsMax;
  const row = plot.height / (high - low + 1);
  const first = columnsMax - columns.length;
  const gap = step > 5 ? 1 : 0;
  columns.forEach((column, at) => {
    const x = left + (first + at) * step;
    const most = Math.max(1, ...column.cells.map(([, number]) => number));
    for (const [endNs, number] of column.cells) {
      const strength = most === 1 ? 1 : Math.log(1 + number) / Math.log(1 + most);
      context.fillStyle = colour.heat[Math.round(strength * 31)];
      const y = (high - bucketOf(endNs)) * row;
      context.fillRect(x, y, Math.max(1, step - gap), Math.max(1, row - (row > 6 ? 1 : 0.2)));
    }
    if (column.lost > 0) {
      const good = column.cells.reduce((sum, [, number]) => sum + number, 0);
      const share = Math.max(0.25, column.lost / (column.lost + good));
      context.fillStyle = colour.bad;
      const tall = Math.max(2, strip * share);
      context.fillRect(x, plot.height + 1 + strip - tall, Math.max(1.5, step - gap), tall);
    }
  });
  if (axes) heatAxes(context, colour, { left, plot, low, high, row, columnsMax, step, height });
}

function heatAxes(context, colour, { left, plot, low, high, row, columnsMax, step, height }) {
  context.fillStyle = colour.soft;
  context.font = "11px system-ui, sans-serif";
  context.textAlign = "right";
  context.textBaseline = "middle";
  let free = Infinity;
  for (const ns of ticks(endOf(low - 1), endOf(high), true)) {
    const y = (high - 4 * Math.log2(ns / 1e9)) * row;
    if (y < 5 || y > plot.height - 2 || free - y < 15) continue;
    context.fillText(shortTime(ns), left - 8, y);
    context.globalAlpha = 0.25;
    context.fillRect(left, y, plot.width, 0.6);
    context.globalAlpha = 1;
    free = y;
  }
  context.textBaseline = "alphabetic";
  for (const minutes of [15, 10, 5, 0]) {
    const x = left + (columnsMax - minutes * 4) * step;
    context.textAlign = minutes === 0 ? "right" : minutes === 15 ? "left" : "center";
    context.fillText(minutes === 0 ? "now" : `−${minutes} min`, x, height - 5);
  }
}

/** The same without zeros that say nothing. */
export function shortTime(ns) {
  return time(ns).replace(/\.0+(?=\u202f)/, "").replace(/(\.\d*[1-9])0+(?=\u202f)/, "$1");
}

/** Round numbers between two values. */
function ticks(low, high, logarithmic) {
  const found = [];
  if (logarithmic) {
    const narrow = high / low < 30;
    for (let power = 10; power < 1e12; power *= 10) {
      for (const digit of narrow ? [1, 2, 5] : [1, 3]) {
        if (power * digit >= low && power * digit <= high) found.push(power * digit);
      }
    }
    return found;
  }
  const raw = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((digit) => digit * power).find((size) => size >= raw);
  for (let ns = step; ns <= high; ns += step) found.push(ns);
  return found;
}

/** The upper end of the scale. Slow probes must not flatten the rest: those beyond are marked. */
function topOf(times, scale) {
  if (times.length === 0) return 1e5;
  times.sort((a, b) => a - b);
  const rank = (share) => times[Math.ceil(times.length * share) - 1];
  const tops = { usual: Math.max(2.5 * rank(0.5), 1.4 * rank(0.75)), most: 1.1 * rank(0.95) };
  return Math.max(1000, Math.min(tops[scale] ?? Infinity, 1.05 * rank(1)));
}

/** Every remembered probe as a bar of its stages; returns where each one is. */
export function drawProbes(canvas, probes, { cursor, places, scale }) {
  const surface = prepare(canvas);
  if (surface === null) return null;
  const { context, width, height } = surface;
  const colour = colours();
  const left = 58;
  const base = height - 14;
  const plot = width - left;
  const whole = probes.map((probe) => partsOf(probe).reduce((sum, part) => sum + part.ns, 0));
  const top = topOf(whole.filter((_, at) => probes[at].rtt_ns !== null), scale);
  const y = (ns) => base - (base - 12) * Math.min(1, ns / top);
  context.font = "11px system-ui, sans-serif";
  context.textAlign = "right";
  context.textBaseline = "middle";
  context.fillStyle = colour.soft;
  for (const ns of [0, ...ticks(0, top, false)]) {
    context.fillText(ns === 0 ? "0" : shortTime(ns), left - 8, y(ns));
    context.globalAlpha = 0.25;
    context.fillRect(left, y(ns), plot, 0.6);
    context.globalAlpha = 1;
  }
  const step = plot / Math.max(60, places);
  const first = Math.max(60, places) - probes.length;
  const bar = Math.max(step > 4 ? step - 1 : step, 0.75);
  probes.forEach((probe, at) => {
    const x = left + (first + at) * step;
    if (probe.rtt_ns === null) {
      context.fillStyle = colour.bad;
      context.globalAlpha = 0.28;
      context.fillRect(x, 12, Math.max(1, bar), base - 12);
      context.globalAlpha = 1;
      context.fillRect(x, base, Math.max(1.5, bar), 6);
      return;
    }
    let sum = 0;
    for (const part of partsOf(probe)) {
      const from = y(sum);
      sum += part.ns;
      context.fillStyle = colour[part.name];
      context.fillRect(x, y(sum), bar, from - y(sum));
    }
    if (sum > top) {
      context.fillStyle = colour.ink;
      context.beginPath();
      context.moveTo(x + bar / 2, 3);
      context.lineTo(x + bar / 2 - 3.5, 9);
      context.lineTo(x + bar / 2 + 3.5, 9);
      context.fill();
    }
  });
  if (cursor !== null && cursor >= 0 && cursor < probes.length) {
    const x = left + (first + cursor) * step;
    context.strokeStyle = colour.ink;
    context.lineWidth = 1;
    context.strokeRect(x - 1, 11, Math.max(2, bar) + 2, base - 10);
  }
  return { at: (x) => Math.floor((x - left) / step) - first };
}
