// The collector's page. The server filters, samples and counts; this file shows what it sends.
//
//     EventSource ──hello, update, traffic──► state ──► rows, overview, banner
//     fetch ──► details of the chosen row, faults, sample, clear

import { $, el, button, count, plural, foreign, fill, announce, copy, quoted, statusClass } from "./dom.js";
import { showDetails } from "./details.js";
import { chart, traffic } from "./charts.js";

const MOST_ROWS = 2000;
const ROW_HEIGHT = 28;

// ── State ──

const params = new URLSearchParams(location.search);
const state = {
  filter: params.get("q") ?? "", column: params.get("column") ?? "",
  rows: [], chosen: null, matched: 0, examined: 0, trimmed: 0, evicted: 0, kept: 0,
  paused: false, waiting: [], waitingCount: 0, newer: 0,
  id: null, source: null, lost: false, seen: false, counters: null, queue: Array(240).fill(0), queued: 0, ingest: "",
};

function remember() {
  const query = new URLSearchParams([["q", state.filter], ["column", state.column]].filter(([, value]) => value));
  history.replaceState(null, "", `?${query}`);
}

// ── Stream ──

function connect() {
  state.source?.close();
  const query = new URLSearchParams({ q: state.filter, column: state.column });
  if (state.id) query.set("after", state.id);
  const source = new EventSource(`api/stream?${query}`);
  state.source = source;
  source.addEventListener("hello", (event) => hello(JSON.parse(event.data)));
  source.addEventListener("update", (event) => { state.id = event.lastEventId; update(JSON.parse(event.data)); });
  source.addEventListener("traffic", (event) => traffic(JSON.parse(event.data)));
  source.onerror = () => {
    state.lost = true;
    showState();
    // A browser reconnects by itself, unless the response was no stream.
    if (source.readyState === EventSource.CLOSED && source === state.source) setTimeout(connect, 2000);
  };
}

function restart() {
  state.id = null;
  forgetRows();
  connect();
}

function hello(data) {
  state.lost = false;
  state.ingest = data.ingest;
  state.problems = data.problems;
  $("ingest").textContent = data.ingest;
  if (!data.resumed) forgetRows();
  if (!$("fault-kind").options.length) setUpFaults(data.faults);
  showState();
}

function forgetRows() {
  Object.assign(state, { rows: [], matched: 0, examined: 0, trimmed: 0, waiting: [], waitingCount: 0, newer: 0 });
  $("rows").replaceChildren();
}

function update(data) {
  if (data.clear) forgetRows();
  state.matched += data.matched;
  state.examined += data.examined + data.missed;
  state.seen ||= state.examined > 0;
  const items = [...data.rows];
  const gap = data.hidden + data.missed;
  if (gap > 0) items.push({ gap });
  if (state.paused) {
    state.waiting = [...items, ...state.waiting].slice(0, MOST_ROWS);
    state.waitingCount += data.matched;
  } else if (items.length) addRows(items);
  Object.assign(state, { evicted: data.evicted, kept: data.kept, counters: data.counters });
  $("banner").hidden = !data.fault;
  $("fault-text").textContent = data.fault;
  showOverview();
  showClient(data.client);
  showState();
}

function showState() {
  const node = $("state");
  node.className = `state${state.lost ? " lost" : state.paused ? " paused" : ""}`;
  node.textContent = state.lost ? "connection lost, reconnecting"
    : state.paused ? `paused, ${count(state.waitingCount)} new` : "live";
  $("pause").setAttribute("aria-pressed", state.paused);
  $("totals").textContent = state.filter ? `${count(state.matched)} of ${count(state.examined)} match` : plural(state.matched, "row");
  const shown = shownRows().length;
  const older = state.matched - state.waitingCount - shown;
  $("foot").textContent = `${count(shown)} shown` + (older > 0 ? `, +${count(older)} not shown` : "") +
    `. The collector keeps ${count(state.kept)}` + (state.evicted ? `, ${count(state.evicted)} older ones were removed.` : ".");
  showEmpty();
}

// ── Rows ──

const clock = (ms) => new Date(ms).toTimeString().slice(0, 8) + "." + String(ms % 1000).padStart(3, "0");

function rowNode(row) {
  if (row.gap) return el("div", { className: "gap", role: "option", "aria-disabled": "true" }, `+${count(row.gap)} not shown`);
  const classes = ["row", row.k === "refused" && "refused", row.x.length && "problem", row.c !== undefined && "with-cell"];
  return el("div", { className: classes.filter(Boolean).join(" "), id: `row-${row.n}`, role: "option", "aria-selected": String(row.n === state.chosen) },
    el("span", { className: `status ${statusClass(row.o)}` }, row.o),
    el("span", { className: "time" }, clock(row.t)),
    el("span", { className: "name" }, foreign(row.e || "(no name)"), row.m.map((mark) => el("span", { className: "mark" }, mark))),
    el("span", { className: "user" }, foreign(row.u)),
    el("span", { className: "preview" }, foreign(row.c ?? row.p)));
}

function addRows(items) {
  const list = $("rows");
  const nodes = items.map(rowNode);
  const top = list.scrollTop;
  list.prepend(...nodes);
  state.rows.unshift(...items);
  for (; state.rows.length > MOST_ROWS; state.rows.pop()) list.lastChild.remove();
  // Unless the list follows, the rows in view stay where they are.
  list.scrollTop = $("follow").checked ? 0 : top + nodes.length * ROW_HEIGHT;
  if (list.scrollTop > 0) state.newer += items.reduce((sum, row) => sum + (row.gap ?? 1), 0);
  showNewer();
}

function showNewer() {
  if ($("rows").scrollTop === 0) state.newer = 0;
  [$("newer").hidden, $("newer").textContent] = [state.newer === 0, `↑ ${count(state.newer)} new`];
}

const shownRows = () => state.rows.filter((row) => !row.gap);
const rowAt = (n) => $(`row-${n}`);

async function choose(n, focus) {
  rowAt(state.chosen)?.setAttribute("aria-selected", "false");
  state.chosen = n;
  const node = rowAt(n);
  node?.setAttribute("aria-selected", "true");
  $("overview").hidden = n !== null;
  $("details").hidden = n === null;
  if (n === null) return $("rows").removeAttribute("aria-activedescendant");
  $("rows").setAttribute("aria-activedescendant", `row-${n}`);
  setFollow(false);
  if (node) scrollTo(node);
  await showDetails(n, { chosen: () => state.chosen, close: () => choose(null), filter: setFilter });
  if (focus) $("details").focus();
}

function scrollTo({ offsetTop: top }) {
  const list = $("rows");
  list.scrollTop = Math.min(top, Math.max(list.scrollTop, top + ROW_HEIGHT - list.clientHeight));
}

function step(by, wanted = () => true) {
  const rows = shownRows();
  const at = rows.findIndex((row) => row.n === state.chosen);
  for (let i = at < 0 ? (by > 0 ? 0 : rows.length - 1) : at + by; i >= 0 && i < rows.length; i += by) {
    if (wanted(rows[i])) return choose(rows[i].n);
  }
  if (wanted.length) announce("no further problem among the rows shown");
}

function setFollow(on) {
  $("follow").checked = on;
  if (on) $("rows").scrollTop = 0;
  showNewer();
}

// ── Filter ──

function setFilter(filter) {
  state.filter = filter.trim();
  $("filter").value = state.filter;
  remember();
  restart();
}

function setColumn(column) {
  state.column = column.trim().replace(/^properties\./, "");
  $("column-name").textContent = state.column || "Properties";
  document.querySelector(".columns").classList.toggle("with-cell", state.column !== "");
  remember();
}

// ── Empty states ──

function showEmpty() {
  const node = $("empty");
  const empty = state.rows.length === 0;
  const kind = !empty ? "" : state.paused ? "paused" : state.filter && state.examined ? "filtered" : "waiting";
  node.hidden = kind === "";
  if (kind === "filtered") {
    fill(node, [el("h2", {}, `0 of ${count(state.examined)} match`),
      el("p", {}, "No event that the collector keeps matches ", el("code", {}, foreign(state.filter)), ". New ones appear as they arrive."),
      button("Clear the filter", () => setFilter(""))], kind + state.filter + state.examined);
  } else if (kind === "paused") {
    fill(node, [el("h2", {}, `Paused, ${count(state.waitingCount)} new`), button("Resume", pause)], kind + state.waitingCount);
  } else if (kind === "waiting") {
    const config = `config :my_app, MyApp.Analytics,\n  api_key: "any",\n  host: "${state.ingest}"`;
    fill(node, [el("h2", {}, "Waiting for events"),
      el("p", {}, "Point a client at this ingest, in config/dev.exs:"),
      el("pre", { tabIndex: 0 }, config),
      el("div", { className: "row-of" }, button("Copy the configuration", () => copy(config, "the configuration")), button("Send a sample event", sample)),
      el("p", { className: "error", id: "sample-error", role: "alert" })], kind + state.ingest);
  }
}

async function post(path, body) {
  const response = await fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body ?? {}) });
  return response.ok ? null : (await response.json()).error.message;
}

async function sample() {
  const error = await post("api/sample");
  if (error) $("sample-error").textContent = error;
}

// ── Overview ──

function showOverview() {
  const counters = state.counters;
  const refused = Object.entries(counters.refused);
  const refusedCount = refused.reduce((sum, [, n]) => sum + n, 0);
  const numbers = [
    ["Events", count(counters.events)], counters.updates && ["Person updates", count(counters.updates)],
    ["Requests", count(counters.requests)],
    ["Events per batch", counters.batches ? `${count(Math.round(counters.events / counters.batches))}, at most ${count(counters.largest_batch)}` : "–"],
    ["Compression", counters.wire_bytes ? `${(counters.bytes / counters.wire_bytes).toFixed(1)} : 1` : "–"],
    ["Retries", count(counters.retries)], ["Duplicates", count(counters.duplicates)],
    refusedCount > 0 && ["Refused", button(`${plural(refusedCount, "request")} refused: ${refused.map(([outcome]) => outcome).join(", ")}`,
      () => setFilter("is:refused"), "link")],
  ].filter(Boolean);
  fill($("numbers"), numbers.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]), numbers.map(([name, value]) => name + (value.textContent ?? value)).join());
  const most = counters.top[0]?.[1] ?? 1;
  fill($("names"), counters.top.length ? counters.top.map(([name, n]) => {
    const bar = el("i", { className: "bar" });
    bar.style.width = `${(100 * n) / most}%`;
    return el("li", {}, el("button", { type: "button", onclick: () => setFilter(`event:${quoted(name)}`) }, bar, el("span", {}, foreign(name || "(no name)")), el("span", {}, count(n))));
  }) : [el("li", { className: "none" }, "none yet")], JSON.stringify(counters.top));
  const found = state.problems.filter(({ code }) => counters.problems[code]);
  $("problem-count").textContent = found.length ? `(${count(found.reduce((sum, { code }) => sum + counters.problems[code], 0))})` : "";
  const problem = ({ code, title, remedy }) => el("li", {},
    button(el("strong", {}, `${title}: ${count(counters.problems[code])}`), () => setFilter("is:problem"), "link"), el("p", {}, remedy));
  fill($("problems"), found.length ? found.map(problem) : [el("li", { className: "none" }, "none found")], JSON.stringify(counters.problems));
}

function showClient(client) {
  $("client").hidden = !client;
  if (!client) return;
  const dropped = Object.entries(client.dropped ?? {});
  const rows = client.ended ? [["State", "ended"]] : [
    ["State", client.state], ["Captured", count(client.captured)], ["Delivered", count(client.delivered)],
    ["Queued", count(client.queued)], ["Retries", count(client.retries)],
    ["Dropped", dropped.length ? dropped.map(([reason, n]) => `${count(n)} ${reason}`).join(", ") : "0"]];
  $("client-counts").replaceChildren(...rows.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
  state.queued = client.queued ?? 0;
}

// Four samples a second; the stream has an update only when a counter changed.
setInterval(() => {
  state.queue = [...state.queue, state.queued].slice(-240);
  const peak = Math.max(...state.queue);
  $("client-peak").textContent = `peak ${count(peak)}`;
  chart($("client-chart"), [["", state.queue]], 40, `Queue of the client: ${state.queued} events now, ${peak} at most`);
}, 250);

// ── Faults ──

function setUpFaults(faults) {
  $("fault-kind").append(...faults.map(({ kind }) => el("option", { value: kind }, kind)));
  const show = () => {
    const { kind, value } = faults.find((fault) => fault.kind === $("fault-kind").value);
    $("fault-value-label").hidden = !value;
    if (value) {
      $("fault-value-label").querySelector("span").textContent = value[0];
      $("fault-value").type = typeof value[1] === "number" ? "number" : "text";
      $("fault-value").value = value[1];
    }
    $("fault-times-label").hidden = kind === "down";
    $("fault-count-label").hidden = kind === "down" || $("fault-times").value !== "n";
  };
  $("fault-kind").onchange = $("fault-times").onchange = show;
  show();
}

const startFault = async (fault) => fill($("fault-error"), [(await post("api/fault", fault)) ?? ""]);

$("fault-form").onsubmit = (event) => {
  event.preventDefault();
  const input = $("fault-value");
  const value = $("fault-value-label").hidden ? null : input.type === "number" ? input.valueAsNumber : input.value;
  const chosen = $("fault-times-label").hidden ? "" : $("fault-times").value;
  const times = chosen === "n" ? Number($("fault-count").value) : chosen ? 1 : null;
  startFault({ fault: $("fault-kind").value, value, times });
};
$("fault-off").onclick = () => startFault({ fault: "off" });

// ── Controls ──

function pause() {
  state.paused = !state.paused;
  if (!state.paused && state.waiting.length) addRows(state.waiting);
  if (!state.paused) Object.assign(state, { waiting: [], waitingCount: 0 });
  showState();
}

const help = () => $("help-dialog").showModal();
$("pause").onclick = pause;
$("clear").onclick = () => { post("api/clear"); choose(null); };
$("help").onclick = help;
$("newer").onclick = () => setFollow(true);
$("follow").onchange = () => setFollow($("follow").checked);
$("rows").onscroll = () => { if ($("rows").scrollTop > 0) $("follow").checked = false; showNewer(); };
$("rows").onclick = ({ target }) => { if (target.closest(".row")) choose(Number(target.closest(".row").id.slice(4))); };

let typing;
$("filter").oninput = () => { clearTimeout(typing); typing = setTimeout(() => setFilter($("filter").value), 250); };
$("column").onchange = () => { setColumn($("column").value); restart(); };
$("filter-form").onsubmit = (event) => { event.preventDefault(); document.activeElement.blur(); };

const keys = {
  "/": () => $("filter").focus(), j: () => step(1), k: () => step(-1), p: pause,
  n: () => step(1, (row) => row.x.length > 0), "?": help,
  Enter: () => state.chosen !== null && choose(state.chosen, true),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help-dialog").open) return;
  const field = event.target.closest("input, select, textarea");
  if (event.key === "Escape") field ? field.blur() : choose(null);
  else if (!field && keys[event.key] && !(event.key === "Enter" && event.target.closest("button, summary"))) {
    event.preventDefault();
    keys[event.key]();
  }
});

// A browser allows six streams for each host, so a hidden tab gives its stream back, and catches up later.
document.addEventListener("visibilitychange", () => (document.hidden ? state.source?.close() : connect()));

[$("filter").value, $("column").value] = [state.filter, state.column];
setColumn(state.column);
if (!document.hidden) connect();
