// The status page: a list of targets, and one target in full. What is shown comes from /api/v1/ and
// is kept fresh by its events. Names are whatever users write: they only ever become text.

import * as chart from "./charts.js";

const { time, percent, count, span, clockTime, STAGES } = chart;
const PAGE = 50;
const QUIET_MS = 3500;
const STATE_WORDS = {
  down: "down", unresolved: "no address", connecting: "connecting",
  unknown: "waiting for the first probe", up: "up",
};
const LIVE_WORDS = { waiting: "connecting", live: "live", lost: "connection lost" };
const find = (id) => document.getElementById(id);

/** An element with attributes and children; a text is never anything but text. */
function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

async function ask(path) {
  const response = await fetch(path, { headers: { accept: "application/json" } });
  if (!response.ok) throw Object.assign(new Error(path), { status: response.status });
  return response.json();
}

// The stream of events, and whether it lives.

let stream = null;
let lastWord = performance.now();
let lastTime = null;
let retry = null;

function listen(path, name, take) {
  hangUp();
  lastWord = performance.now();
  stream = new EventSource(path);
  stream.addEventListener(name, (event) => {
    const data = JSON.parse(event.data);
    lastWord = performance.now();
    lastTime = data.time_ns;
    showLive("live");
    take(data);
  });
  stream.addEventListener("error", () => {
    // A stream that ended comes back by itself; one that was turned away does not.
    if (stream !== null && stream.readyState === EventSource.CLOSED) {
      retry = setTimeout(() => listen(path, name, take), 3000);
    }
  });
}

function hangUp() {
  clearTimeout(retry);
  if (stream !== null) stream.close();
  stream = null;
}

function showLive(live) {
  const before = find("live").dataset.live;
  if (before === live) return;
  find("live").dataset.live = live;
  write(find("live"), LIVE_WORDS[live]);
  find("main").classList.toggle("stale", live === "lost");
  const banner = find("banner");
  banner.hidden = live !== "lost";
  if (live === "lost") {
    const known = lastTime === null ? "" : ` What you see is from ${clockTime(lastTime)}.`;
    write(banner, `The connection to rttscope is lost; trying again.${known}`);
  } else if (before === "lost") {
    refreshProgram();
  }
}

setInterval(() => {
  if (stream !== null && !document.hidden && performance.now() - lastWord > QUIET_MS) {
    showLive("lost");
  }
}, 500);

// The list

const list = { rows: new Map(), nodes: new Map(), ids: [], page: null, turns: null };
const view = { q: "", state: "", sort: "worst", offset: 0 };

function question(extra) {
  const { sort, offset } = view;
  const words = new URLSearchParams({ sort, limit: PAGE, offset, ...extra });
  if (view.q) words.set("q", view.q);
  if (view.state) words.set("state", view.state);
  return words;
}

function hashOfView() {
  const words = new URLSearchParams();
  if (view.q) words.set("q", view.q);
  if (view.state) words.set("state", view.state);
  if (view.sort !== "worst") words.set("sort", view.sort);
  if (view.offset) words.set("offset", view.offset);
  return words.size ? `#/?${words}` : "#/";
}

async function openList(words) {
  view.q = words.get("q") ?? "";
  view.state = words.get("state") ?? "";
  view.sort = words.get("sort") ?? "worst";
  view.offset = Number(words.get("offset") ?? 0) || 0;
  document.title = "rttscope";
  find("detail").hidden = true;
  find("detail").replaceChildren();
  find("list").hidden = false;
  if (document.activeElement !== find("search")) find("search").value = view.q;
  find("sort").value = view.sort;
  list.turns = null;
  refreshProgram();
  follow();
  await loadList();
}

/** The list with its heat maps, which events do not repeat. */
async function loadList() {
  const wanted = hashOfView();
  try {
    const page = await ask(`api/v1/targets?${question({ heatmap: true })}`);
    if (wanted !== hashOfView() || find("list").hidden) return;
    list.turns = page.turns;
    list.rows = new Map(page.targets.map((row) => [row.id, row]));
    showList(page, page.targets.map((row) => row.id));
  } catch (error) {
    if (error.status === 400) location.hash = "#/";
    else showLive("lost");
  }
}

function takeList(event) {
  for (const row of event.targets) {
    const old = list.rows.get(row.id);
    row.heatmap = old?.heatmap ?? null;
    if (row.heatmap !== null && row.column !== null && event.turns === list.turns) {
      row.heatmap[row.heatmap.length - 1] = row.column;
    }
    list.rows.set(row.id, row);
  }
  const strange = event.ids.some((id) => !list.rows.get(id)?.heatmap);
  if (list.turns !== null && (event.turns !== list.turns || strange)) {
    list.turns = event.turns;
    loadList();
    return;
  }
  if (list.turns !== null) showList(event, event.ids);
}

function showList(page, ids) {
  list.page = page;
  showStates(page.states);
  const body = find("rows");
  const focused = document.activeElement;
  ids.forEach((id) => {
    if (!list.nodes.has(id)) list.nodes.set(id, makeRow(list.rows.get(id)));
  });
  if (ids.join() !== list.ids.join() || body.childElementCount !== ids.length) {
    body.replaceChildren(...ids.map((id) => list.nodes.get(id).row));
    list.ids = ids;
    for (const id of [...list.nodes.keys()]) if (!ids.includes(id)) list.nodes.delete(id);
    if (focused !== null && focused.isConnected) focused.focus({ preventScroll: true });
  }
  for (const id of ids) fillRow(list.nodes.get(id), list.rows.get(id), page.time_ns);
  const { down, unresolved } = page.states;
  document.title = down + unresolved ? `${down + unresolved} down – rttscope` : "rttscope";
  const empty = find("empty");
  empty.hidden = ids.length > 0;
  find("rows").parentElement.hidden = ids.length === 0;
  find("controls").hidden = page.total === 0;
  find("pager").parentElement.hidden = page.total === 0;
  if (page.total === 0) write(empty, "No targets: this instance only answers probes.");
  else if (ids.length === 0) {
    write(empty, view.q ? `No target matches “${view.q}”.` : "No such target now.");
  }
  const pager = find("pager");
  pager.hidden = page.matched <= PAGE && view.offset === 0;
  const last = Math.min(page.matched, view.offset + ids.length);
  write(find("range"), `${count(view.offset + 1)}–${count(last)} of ${count(page.matched)}`);
  find("previous").disabled = view.offset === 0;
  find("next").disabled = last >= page.matched;
}

function showStates(states) {
  const group = find("states");
  const total = Object.values(states).reduce((sum, number) => sum + number, 0);
  const shown = [["", "all", total], ...Object.entries(states)
    .filter(([name, number]) => number > 0 || [view.state, "up", "down"].includes(name))
    .map(([name, number]) => [name, name === "unknown" ? "waiting" : STATE_WORDS[name], number])];
  const names = shown.map(([name]) => name).join();
  if (group.dataset.names !== names) {
    group.dataset.names = names;
    group.replaceChildren(...shown.map(([name, word]) => {
      const mark = name ? el("span", { class: "state", "data-state": name }, word) : word;
      const button = el("button", { type: "button" }, mark, " ", el("b"));
      button.addEventListener("click", () => {
        view.state = name;
        view.offset = 0;
        location.hash = hashOfView();
      });
      return button;
    }));
  }
  shown.forEach(([name, , number], at) => {
    group.children[at].setAttribute("aria-pressed", String(view.state === name));
    write(group.children[at].querySelector("b"), count(number));
  });
}

function makeRow(row) {
  const parts = {
    state: el("span", { class: "state" }),
    clock: el("span", { class: "chip" }),
    last: el("span", { class: "number" }),
    spark: el("canvas", { class: "spark", role: "img" }),
    quantiles: el("span", { class: "quantiles small soft" }),
    heat: el("canvas", { class: "heat", role: "img" }),
    stages: el("div"),
    loss: el("div"),
    budget: el("div", { class: "budget" }),
    failure: el("div"),
  };
  const where = row.target === row.address ? "" : row.address;
  const labels = Object.entries(row.labels).map(([name, value]) => ` ${name}=${value}`).join("");
  const name = el("span", { class: "name" }, el("a", { href: `#/target/${row.id}` }, row.target));
  const who = el("div", { class: "who" }, name, el("span", { class: "where small soft" },
    parts.state, where + labels ? el("span", {}, where + labels) : null, parts.clock));
  const rtt = el("div", { class: "rtt" }, parts.last, parts.spark, parts.quantiles);
  const cell = (label, child) => el("td", { "data-label": label }, child);
  parts.row = el("tr", {}, el("th", { scope: "row" }, who), cell("Round trip", rtt),
    cell("Last 15 minutes", parts.heat), cell("Where the time goes", parts.stages),
    cell("Loss", parts.loss), cell("Error budget left", parts.budget),
    cell("Last failure", parts.failure));
  return parts;
}

function fillRow(parts, row, now) {
  parts.state.dataset.state = row.state;
  write(parts.state, row.state === "unknown" ? "waiting" : STATE_WORDS[row.state]);
  parts.clock.hidden = row.clock === null;
  write(parts.clock, row.clock ?? "");
  parts.clock.title = `round trips by the ${row.clock} clock`;
  write(parts.last, time(row.last_rtt_ns));
  const recent = row.recent;
  write(parts.quantiles, recent === null || recent.received === 0
    ? (row.state === "up" ? "" : STATE_WORDS[row.state])
    : `p50 ${time(recent.rtt_ns_p50)} · p99 ${time(recent.rtt_ns_p99)}`);
  const rtts = recent?.rtts_ns ?? [];
  const [least, most] = [time(recent?.rtt_ns_min), time(recent?.rtt_ns_max)];
  parts.spark.setAttribute("aria-label", recent === null ? "no round trips yet"
    : `the newest ${rtts.length} round trips: ${least} to ${most}`);
  chart.drawSpark(parts.spark, rtts);
  const columns = row.heatmap ?? (row.column ? [row.column] : []);
  parts.heat.setAttribute("aria-label", heatWords(columns));
  parts.heat.title = heatWords(columns);
  chart.drawHeat(parts.heat, columns);
  fillStages(parts, recent?.stages ?? null);
  const lost = row.window.loss_ratio;
  write(parts.loss, percent(lost));
  parts.loss.className = lost > 0 ? "number bad" : lost === null ? "soft" : "number";
  const { lost: gone, probes } = row.window;
  parts.loss.title = `${count(gone)} of the last ${count(probes)} probes lost`;
  fillBudgets(parts.budget, row.slos);
  const failure = row.last_failure;
  if (failure === null) {
    parts.failure.className = "soft";
    write(parts.failure, "none");
  } else {
    parts.failure.className = "";
    if (parts.failure.childElementCount !== 2) {
      parts.failure.replaceChildren(el("div", { class: "nowrap" }),
        el("div", { class: "small soft" }));
    }
    const times = failure.count > 1 ? ` × ${count(failure.count)}` : "";
    write(parts.failure.children[0], failure.outcome.replace("_", " ") + times);
    write(parts.failure.children[1], `${span(now - failure.last_time_ns)} ago`);
    parts.failure.title = failure.reason;
  }
}

function heatWords(columns) {
  const medians = columns.map((column) => column.rtt_ns_p50).filter((ns) => ns !== null);
  const lost = columns.reduce((sum, column) => sum + column.lost, 0);
  if (medians.length === 0) return lost ? `nothing received, ${count(lost)} lost` : "nothing yet";
  const range = `medians from ${time(Math.min(...medians))} to ${time(Math.max(...medians))}`;
  return `the last ${span(15e9 * columns.length)}: ${range}, ${count(lost)} lost`;
}

function fillStages(parts, stages) {
  if (stages === null) {
    if (parts.stages.dataset.none !== "1") {
      parts.stages.dataset.none = "1";
      parts.stages.replaceChildren(el("span", { class: "soft" }, "–"));
      parts.bar = null;
    }
    return;
  }
  if (!parts.bar) {
    parts.stages.dataset.none = "0";
    parts.bar = el("div", { class: "stages", role: "img" },
      ...STAGES.map((stage) => el("i", { class: stage.name })));
    parts.most = el("div", { class: "small soft nowrap" });
    parts.stages.replaceChildren(parts.bar, parts.most);
  }
  const known = STAGES.filter((stage) => stages[stage.key] !== null);
  const sum = known.reduce((total, stage) => total + stages[stage.key], 0);
  const words = known.map((stage) => `${stage.label ?? stage.name} ${time(stages[stage.key])}`);
  const text = `${words.join(", ")}; together ${time(sum)}`;
  parts.bar.setAttribute("aria-label", text);
  parts.bar.title = text;
  STAGES.forEach((stage, at) => {
    parts.bar.children[at].style.flexGrow = stages[stage.key] ?? 0;
  });
  const most = known.reduce((a, b) => (stages[b.key] > stages[a.key] ? b : a));
  const share = sum ? Math.round(100 * stages[most.key] / sum) : 0;
  write(parts.most, `${most.label ?? most.name} ${share}\u202f% of ${time(sum)}`);
}

function objective(slo) {
  const ratio = Number((100 * slo.objective_ratio).toPrecision(9));
  return `${ratio}\u202f% ≤ ${chart.shortTime(slo.threshold_ns)}`;
}

function fillBudgets(box, slos) {
  if (slos.length === 0) {
    write(box, "–");
    box.classList.add("soft");
    return;
  }
  const left = (slo) => slo.budget_left_ratio ?? 2;
  const shown = [...slos].sort((a, b) => left(a) - left(b)).slice(0, 2);
  const names = shown.map((slo) => slo.slo).join("\n");
  if (box.dataset.names !== names) {
    box.dataset.names = names;
    box.replaceChildren(...shown.map(() => el("div", {}, el("span"),
      el("span", { class: "small soft nowrap" }),
      el("div", { class: "bar", "aria-hidden": "true" }, el("i")))));
  }
  shown.forEach((slo, at) => {
    const [value, name, bar] = box.children[at].children;
    const ratio = slo.budget_left_ratio;
    write(value, ratio === null ? "–" : ratio < 0 ? "used up" : percent(ratio));
    value.className = ratio !== null && ratio < 0 ? "bad nowrap" : "nowrap";
    write(name, objective(slo));
    box.children[at].className = ratio < 0 ? "spent" : "";
    bar.firstChild.style.width = `${ratio < 0 ? 100 : 100 * (ratio ?? 0)}%`;
    const bad = count(slo.total - slo.good);
    box.children[at].title = `${slo.slo}: ${bad} of ${count(slo.total)} probes were bad` +
      (ratio < 0 ? `; ${(1 - ratio).toFixed(1)} times the budget` : "");
  });
}

// The program

async function refreshProgram() {
  let status;
  try {
    status = await ask("api/v1/status");
  } catch {
    return;
  }
  const up = status.uptime_ns === null ? "" : ` · up ${span(status.uptime_ns)}`;
  write(find("program"), `${status.version} · ${status.os} ${status.arch}${up}`);
  const works = status.capabilities.map((known) => el("li", {},
    el("span", { class: `mark ${known.available ? "" : "warn"}`, "aria-hidden": "true" },
      known.available ? "✓" : "–"),
    el("span", { class: "unseen" }, known.available ? "works: " : "missing: "),
    known.name.replaceAll("_", " "),
    known.reason === null ? null : el("span", { class: "small soft" }, ` ${known.reason}`)));
  const cards = [el("section", { class: "card padded" }, el("h3", {}, "What works here"),
    el("ul", {}, ...works))];
  for (const responder of status.responders) {
    cards.push(facts(`Answers probes at ${responder.listener}`, [
      ["connections", `${count(responder.connections_active)} of ${count(responder.connections)}`],
      ["frames answered (v3)", count(responder.frames_v3)],
      ["bytes in", bytes(responder.received_bytes)],
      ["bytes out", bytes(responder.sent_bytes)],
      ["residence p50, p99", responder.residence === null ? "–"
        : `${time(responder.residence.ns_p50)}, ${time(responder.residence.ns_p99)}`],
    ]));
  }
  const timed = status.workers.filter((worker) => worker.lateness.count > 0);
  const threads = timed.map((worker) => [worker.thread,
    `p50 ${time(worker.lateness.ns_p50)}, p99 ${time(worker.lateness.ns_p99)}`]);
  if (threads.length) cards.push(facts("How late its threads wake up", threads));
  cards.push(facts("Process", [
    ["memory", bytes(status.process.resident_bytes)],
    ["CPU time", time(status.process.cpu_ns)],
    ["descriptors", `${count(status.process.open_fds)} of ${count(status.process.max_fds)}`],
    ["listening pages", `${status.events.clients} of ${status.events.clients_max}`],
  ]));
  find("facts").replaceChildren(...cards);
}

function facts(title, pairs) {
  return el("section", { class: "card padded" }, el("h3", {}, title), el("dl", { class: "pairs" },
    ...pairs.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])));
}

function bytes(number) {
  if (number === null) return "–";
  for (const [size, unit] of [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]]) {
    if (number >= size) return `${(number / size).toFixed(1)}\u202f${unit}`;
  }
  return `${number}\u202fB`;
}

// One target

const SCALES = { usual: "typical probes", most: "95\u202f% of probes", all: "all probes" };
let shown = null;

async function openDetail(id) {
  find("list").hidden = true;
  const box = find("detail");
  box.hidden = false;
  box.replaceChildren(el("p", { class: "empty" }, "One moment …"));
  shown = { id, detail: null, probes: [], cursor: null, loading: false, turns: null };
  refreshProgram();
  await loadDetail();
  if (shown?.id === id) follow();
}

async function loadDetail() {
  const mine = shown;
  if (mine.loading) return;
  mine.loading = true;
  try {
    const detail = await ask(`api/v1/targets/${encodeURIComponent(mine.id)}`);
    if (shown !== mine) return;
    const first = mine.detail === null;
    mine.detail = detail;
    mine.probes = detail.probes;
    if (first) makeDetail(detail);
    lastTime = detail.time_ns;
    fillDetail();
  } catch (error) {
    if (error.status === 404) {
      find("detail").replaceChildren(el("p", { class: "empty" },
        "There is no such target (any more). ", el("a", { href: "#/" }, "All targets")));
    } else {
      showLive("lost");
    }
  } finally {
    mine.loading = false;
  }
}

function takeDetail(event) {
  const { detail } = shown;
  const before = event.probes_seen - event.probes.length;
  const fresh = event.probes.slice(Math.max(0, detail.probes_seen - before));
  const gap = before > detail.probes_seen;
  const heatmap = detail.target.heatmap;
  detail.target = { ...event.target, heatmap };
  detail.time_ns = event.time_ns;
  detail.failures = event.failures;
  const turned = shown.turns !== null && shown.turns !== event.turns;
  shown.turns = event.turns;
  if (gap || turned) {
    loadDetail();
    return;
  }
  if (heatmap !== null && event.target.column !== null) {
    heatmap[heatmap.length - 1] = event.target.column;
  }
  detail.probes_seen = event.probes_seen;
  const all = [...shown.probes, ...fresh];
  const gone = Math.max(0, all.length - (detail.probes_max ?? 0));
  shown.probes = all.slice(gone);
  // Whoever reads a probe goes on reading it, until it is gone.
  if (shown.cursor !== null && shown.cursor >= gone) shown.cursor -= gone;
  else shown.cursor = null;
  fillDetail();
}

function makeDetail(detail) {
  const { target } = detail;
  document.title = `${target.target} – rttscope`;
  const parts = {
    state: el("span", { class: "state" }),
    tiles: el("dl", { class: "tiles" }),
    about: el("p", { class: "about" }),
    heat: el("canvas", { class: "big-heat", role: "img" }),
    probes: el("canvas", { class: "probes", tabindex: "0", role: "img",
      "aria-describedby": "readout" }),
    probesTitle: el("span"),
    scale: el("select", {}, ...Object.entries(SCALES).map(([value, word]) =>
      el("option", { value }, word))),
    readout: el("output", { class: "readout soft", id: "readout" }),
    stages: el("tbody"),
    slos: el("tbody"),
    failures: el("tbody"),
    numbers: el("dl", { class: "pairs" }),
    table: el("tbody"),
    more: el("details"),
  };
  const heads = (...names) => el("thead", {}, el("tr", {}, ...names.map((name, at) =>
    el("th", { scope: "col", class: at ? "right" : null }, name))));
  const table = (caption, head, body) => el("table", { class: "plain" },
    el("caption", { class: "unseen" }, caption), head, body);
  const card = (title, note, wide, ...children) => el("section",
    { class: `card padded${wide ? " wide" : ""}` }, el("h2", {}, title, note), ...children);
  parts.more.append(el("summary", {}, "The same as a table"),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Newest probes" },
      table("The newest probes, newest first", heads("due", "outcome", "round trip", "lag", "send",
        "network", "peer", "wakeup", "clock", "number"), parts.table)));
  parts.more.addEventListener("toggle", fillDetail);
  const isCheck = target.kind === "check";
  const soft = (text) => el("span", {}, text);
  find("detail").replaceChildren(
    el("p", {}, el("a", { href: "#/" }, "← All targets")),
    el("div", { class: "head" }, el("h1", {}, target.target), parts.state),
    parts.about, parts.tiles,
    el("div", { class: "grid" },
      card("The last 15 minutes",
        soft("round trips by their length, and below the line what was lost"), true, parts.heat),
      card(`The newest ${isCheck ? "checks" : "probes"}`, parts.probesTitle, true,
        parts.probes, el("div", { class: "below" }, legend(),
          el("label", { class: "field scale" }, el("span", {}, "Scale"), parts.scale)),
        parts.readout, parts.more),
      card("Where the time goes",
        soft("mean of the newest 100, and quantiles since the start"), false,
        el("div", { class: "scroll" }, table("Stages",
          heads("stage", "now", "p50", "p99", "max"), parts.stages))),
      card("Error budget", soft("since the start"), false, el("div", { class: "scroll" },
        table("Objectives", heads("objective", "bad", "of", "budget left"), parts.slos))),
      card("Last failures", soft("the same again within 10 s is one line"), false,
        el("div", { class: "scroll" }, table("Last failures, newest first",
          heads("failure", "times", "last", "began"), parts.failures))),
      card("Counted since the start", soft(""), false, parts.numbers)));
  shown.parts = parts;
  steer(parts);
  find("main").focus({ preventScroll: true });
  window.scrollTo(0, 0);
}

function legend() {
  return el("ul", { class: "legend", "aria-label": "Colours of the stages" },
    ...STAGES.map((stage) => el("li", { title: stage.means },
      el("span", { class: `swatch ${stage.name}` }), stage.label ?? stage.name)));
}

/** A probe is chosen by the mouse or by the arrow keys. */
function steer(parts) {
  parts.scale.addEventListener("change", drawDetail);
  const point = (cursor) => {
    const last = shown.probes.length - 1;
    shown.cursor = last < 0 || cursor === null ? null : Math.min(last, Math.max(0, cursor));
    const byKeys = document.activeElement === parts.probes;
    parts.readout.setAttribute("aria-live", byKeys ? "polite" : "off");
    drawDetail();
  };
  parts.probes.addEventListener("pointermove", (event) => {
    const x = event.clientX - parts.probes.getBoundingClientRect().left;
    point(parts.places ? parts.places.at(x) : null);
  });
  parts.probes.addEventListener("pointerleave", () => point(null));
  parts.probes.addEventListener("keydown", (event) => {
    const last = shown.probes.length - 1;
    const at = shown.cursor ?? last + 1;
    const steps = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last,
      PageUp: at - 20, PageDown: at + 20, Escape: null };
    if (event.key in steps) {
      point(steps[event.key]);
      event.preventDefault();
    }
  });
}

function fillDetail() {
  if (shown === null || shown.parts === undefined) return;
  const { detail, parts } = shown;
  const { target, lifetime } = detail;
  const { recent } = target;
  parts.state.dataset.state = target.state;
  write(parts.state, STATE_WORDS[target.state]);
  const about = [target.address,
    target.kind === "check" ? `half-open checks by ${target.method}` : "echo probes",
    target.clock === null ? "" : `${target.clock} clock`,
    target.wire_version === null ? "" : `wire v${target.wire_version}`,
    target.connected === null ? "" : target.connected ? "connected" : "not connected",
    ...Object.entries(target.labels).map(([name, value]) => `${name}=${value}`)];
  write(parts.about, about.filter((word) => word !== "").join("  ·  "));
  fillTiles(parts.tiles, [
    ["Last round trip", time(target.last_rtt_ns)],
    ["Median", time(recent?.rtt_ns_p50)],
    ["p99", time(recent?.rtt_ns_p99)],
    ["Longest", time(recent?.rtt_ns_max)],
    [`Loss of the last ${count(target.window.probes)}`, percent(target.window.loss_ratio)],
    ["An application waits", time(sumOf(recent?.stages))],
  ]);
  fillStageTable(parts.stages, recent?.stages ?? null, lifetime);
  parts.slos.replaceChildren(...target.slos.map((slo) => el("tr", {},
    el("th", { scope: "row" }, objective(slo)),
    ...right(count(slo.total - slo.good), count(slo.total)),
    el("td", { class: slo.budget_left_ratio < 0 ? "right bad" : "right" },
      slo.budget_left_ratio < 0 ? "used up" : percent(slo.budget_left_ratio)))));
  if (target.slos.length === 0) {
    parts.slos.replaceChildren(lonely("No objective is set (--slo).", 4));
  }
  parts.failures.replaceChildren(...detail.failures.map((failure) => el("tr", {},
    el("th", { scope: "row" }, failure.outcome.replace("_", " "),
      el("div", { class: "small soft" }, failure.reason)),
    ...right(count(failure.count), `${span(detail.time_ns - failure.last_time_ns)} ago`,
      clockTime(failure.first_time_ns)))));
  if (detail.failures.length === 0) parts.failures.replaceChildren(lonely("None so far.", 4));
  fillPairs(parts.numbers, [
    ["sent", target.sent], ["received", target.received], ["lost", target.lost],
    ["in flight", target.in_flight], ["skipped", lifetime.skipped], ["late", lifetime.late],
    ["connections", lifetime.connects], ["connections lost or failed", lifetime.drops],
    ["failed lookups", lifetime.resolve_failures],
  ].filter(([, value]) => value !== null).map(([name, value]) => [name, count(value)]));
  if (parts.more.open) fillTable(parts.table);
  drawDetail();
}

function sumOf(stages) {
  if (!stages) return null;
  return STAGES.reduce((sum, stage) => sum + (stages[stage.key] ?? 0), 0);
}

function fillPairs(box, pairs) {
  const names = pairs.map(([name]) => name).join();
  if (box.dataset.names !== names) {
    box.dataset.names = names;
    box.replaceChildren(...pairs.flatMap(([name]) => [el("dt", {}, name), el("dd")]));
  }
  pairs.forEach(([, value], at) => write(box.children[2 * at + 1], value));
}

function fillTiles(box, pairs) {
  while (box.childElementCount < pairs.length) box.append(el("div", {}, el("dt"), el("dd")));
  pairs.forEach(([name, value], at) => {
    write(box.children[at].children[0], name);
    write(box.children[at].children[1], value);
  });
}

const right = (...texts) => texts.map((text) => el("td", { class: "right" }, text));
const lonely = (text, columns) => el("tr", {}, el("td", { colspan: columns, class: "soft" }, text));

function fillStageTable(body, stages, lifetime) {
  const rows = STAGES.map((stage) => {
    const now = stages?.[stage.key] ?? null;
    const ever = stage.name === "unsplit" ? lifetime.rtt
      : lifetime.stages.find((known) => known.stage === stage.name);
    if (now === null && (!ever || stage.name === "unsplit")) return null;
    return el("tr", {}, el("th", { scope: "row", title: stage.means },
      el("span", { class: `swatch ${stage.name}` }), stage.label ?? stage.name),
    ...right(time(now), time(ever?.ns_p50), time(ever?.ns_p99), time(ever?.ns_max)));
  }).filter((row) => row !== null);
  const whole = lifetime.elapsed;
  if (whole) {
    rows.push(el("tr", {}, el("th", { scope: "row" }, "together"), ...right(time(sumOf(stages)),
      time(whole.ns_p50), time(whole.ns_p99), time(whole.ns_max))));
  }
  body.replaceChildren(...(rows.length ? rows : [lonely("Waiting for the first probe.", 5)]));
}

function fillTable(body) {
  body.replaceChildren(...shown.probes.slice(-200).reverse().map((probe) => el("tr", {},
    el("th", { scope: "row" }, clockTime(probe.due_time_ns, true)),
    ...right(probe.outcome.replace("_", " "), time(probe.rtt_ns), time(probe.lag_ns),
      time(probe.send_ns), time(probe.network_ns), time(probe.peer_ns), time(probe.wakeup_ns),
      probe.clock ?? "–", String(probe.seq)))));
}

function drawDetail() {
  if (shown === null || shown.parts === undefined) return;
  const { detail, parts, probes, cursor } = shown;
  const columns = detail.target.heatmap ?? [];
  parts.heat.setAttribute("aria-label", heatWords(columns));
  chart.drawHeat(parts.heat, columns, { axes: true });
  const lost = probes.filter((probe) => probe.rtt_ns === null).length;
  const answers = lost ? `${count(lost)} without an answer` : "all answered";
  write(parts.probesTitle, probes.length === 0 ? "waiting for the first one"
    : `${count(probes.length)} of them, ${answers}; each is a bar of its stages`);
  parts.probes.setAttribute("aria-label", `The newest ${probes.length} probes, oldest first, ` +
    `${lost} without an answer. Arrow keys choose one.`);
  parts.places = chart.drawProbes(parts.probes, probes,
    { cursor, places: detail.probes_max ?? probes.length, scale: parts.scale.value });
  const probe = cursor === null ? null : probes[cursor];
  parts.readout.classList.toggle("soft", !probe);
  write(parts.readout, probe ? probeWords(probe)
    : "Point at a probe, or choose one with the arrow keys, to read its times.");
}

function probeWords(probe) {
  const head = `#${probe.seq} due at ${clockTime(probe.due_time_ns, true)}: `;
  if (probe.rtt_ns === null) return head + probe.outcome.replace("_", " ");
  const parts = chart.partsOf(probe).map((part) => `${part.label ?? part.name} ${time(part.ns)}`);
  const clock = probe.clock === null ? "" : ` by the ${probe.clock} clock`;
  const sum = `${parts.join(" + ")} = ${time(probe.elapsed_ns)}`;
  return `${head}round trip ${time(probe.rtt_ns)}${clock}. ${sum}`;
}

// Which of the two is shown

/** Listens to what happens to whatever is shown; what was missed meanwhile is asked for then. */
function follow() {
  if (shown === null) listen(`api/v1/events?${question()}`, "targets", takeList);
  else if (shown.detail !== null) {
    listen(`api/v1/events?target=${encodeURIComponent(shown.id)}`, "target", takeDetail);
  }
}

function route() {
  hangUp();
  shown = null;
  const hash = location.hash || "#/";
  const target = /^#\/target\/([0-9a-f]+)$/.exec(hash);
  if (target) openDetail(target[1]);
  else openList(new URLSearchParams(hash.split("?")[1] ?? ""));
}

let typing = null;
find("search").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    view.q = find("search").value.trim();
    view.offset = 0;
    location.hash = hashOfView();
  }, 200);
});
find("sort").addEventListener("change", () => {
  view.sort = find("sort").value;
  view.offset = 0;
  location.hash = hashOfView();
});
find("controls").addEventListener("submit", (event) => event.preventDefault());
const turnPage = (step) => {
  view.offset = Math.max(0, view.offset + step * PAGE);
  location.hash = hashOfView();
  window.scrollTo(0, 0);
};
find("previous").addEventListener("click", () => turnPage(-1));
find("next").addEventListener("click", () => turnPage(1));
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  find("main").focus();
});
find("legend").replaceWith(legend());
const redraw = () => {
  chart.forgetColours();
  if (shown !== null) drawDetail();
  else if (list.page !== null) showList(list.page, list.ids);
};
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
window.addEventListener("resize", redraw);
window.addEventListener("hashchange", route);
// Nobody looks at a hidden tab: it costs the server nothing.
document.addEventListener("visibilitychange", () => (document.hidden ? hangUp() : follow()));
setInterval(() => { if (!document.hidden) refreshProgram(); }, 15000);
route();
