// The collector's page. The server filters, samples and counts; this file shows what it sends.
//
//     EventSource ──hello, update, traffic──► state ──► rows, overview, banner
//     fetch ──► details of the chosen row, faults, sample, clear
//
// Nothing is shown as HTML: all text goes through text nodes.

const MOST_ROWS = 2000;
const ROW_HEIGHT = 28;
const LONG_TEXT = 400;
const SVG = "http://www.w3.org/2000/svg";
const $ = (id) => document.getElementById(id);
const count = (n) => n.toLocaleString("en");
const plural = (n, noun) => `${count(n)} ${noun}${n === 1 ? "" : "s"}`;

function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key in node && key !== "list") node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...children.flat().filter((child) => child != null && child !== false));
  return node;
}

const button = (text, onclick, className = "") => el("button", { type: "button", onclick, className }, text);

// Text from a sender: its direction and its marks stay within it.
const foreign = (text, className = "") => el("bdi", { className, dir: "auto" }, text);

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

const statusClass = (outcome) => (/^[245]\d\d$/.test(outcome) ? `s${outcome[0]}` : "sx");
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
  await showDetails(n);
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

// ── Details ──

// A number as it was sent: JSON.parse rounds integers above 2^53.
class Exact { constructor(source) { this.source = source; } }
const parse = (text) => JSON.parse(text, (_key, value, context) =>
  typeof value === "number" && context?.source ? new Exact(context.source) : value);

async function showDetails(n) {
  const pane = $("details");
  const response = await fetch(`api/rows/${n}`);
  if (n !== state.chosen) return;
  const body = await response.json();
  const close = el("button", { type: "button", onclick: () => choose(null), "aria-label": "Close the details" }, "✕");
  if (!response.ok) return fill(pane, [el("div", { className: "head" }, el("h2", {}, `Row ${n}`), close), el("p", {}, body.error.message)]);
  const { request } = body;
  let value = null;
  try { value = parse(body.text); } catch { /* Raw JSON shows it. */ }
  const event = body.kind === "event" && value ? value : null;
  const groups = event?.properties?.$groups;
  const properties = event && (groups ? Object.fromEntries(Object.entries(event.properties).filter(([key]) => key !== "$groups")) : event.properties);
  const facts = [
    ["Status", el("span", { className: statusClass(request.outcome) }, request.outcome), body.marks.length > 0 && ` (${body.marks.join(", ")})`],
    body.reason && ["Reason", foreign(body.reason)],
    body.id && ["Distinct ID", foreign(body.id), " ", button("timeline", () => setFilter(`id:${quoted(body.id)}`), "link")],
    ["Arrived", `${new Date(request.at).toISOString()}`],
    event && ["Captured", when(event.event_timestamp)],
    ["Batch", `request ${request.number}, ` + (request.events ? `event ${request.index} of ${request.events}` : `${request.method} ${request.path}`)],
    ["Attempt", `${request.attempt}` + (request.delay ? `, answered after ${count(request.delay)} ms` : "")],
    ["Size", `${count(request.bytes)} bytes` + (request.wire_bytes < request.bytes ? `, ${count(request.wire_bytes)} gzipped` : "")],
  ].filter(Boolean);
  pane.replaceChildren(
    el("div", { className: "head" }, el("h2", {}, foreign(body.name || "(no name)")), close),
    el("dl", { className: "facts" }, facts.flatMap(([name, ...values]) => [el("dt", {}, name), el("dd", {}, values)])),
    body.problems.length > 0 && el("ul", { className: "problems" }, body.problems.map((problem) =>
      el("li", {}, el("strong", {}, foreign(problem.text)), problem.remedy && el("p", {}, problem.remedy)))) || "",
    el("div", { className: "tools" },
      button("Copy JSON", () => copy(body.text, "JSON")), request.method && button("Copy as curl", () => copyCurl(n))),
    section("Properties", properties), section("Groups", groups), event ? "" : section("Body", value),
    section("Headers", Object.fromEntries(request.headers)),
    el("details", {}, el("summary", {}, "Raw JSON"), el("pre", { className: "raw", tabIndex: 0 }, foreign(body.text))));
}

function when(ms) {
  const date = new Date(Number(ms?.source));
  return Number.isNaN(date.getTime()) ? String(ms?.source ?? ms) : date.toISOString();
}

function section(title, value) {
  if (value == null || (typeof value === "object" && Object.keys(value).length === 0)) return "";
  return el("section", {}, el("h2", {}, title), tree(value));
}

function tree(value) {
  const keys = Array.isArray(value) ? value.keys() : Object.keys(value);
  return el("div", { className: "tree" }, [...keys].slice(0, 1000).map((key) => branch(key, value[key])),
    Object.keys(value).length > 1000 && el("p", { className: "other" }, `+${count(Object.keys(value).length - 1000)} not shown: see the raw JSON`));
}

function branch(key, value) {
  const name = [foreign(String(key), "key"), ": "];
  if (value === null || typeof value !== "object" || value instanceof Exact) return leaf(name, value);
  const size = Object.keys(value).length;
  const brackets = Array.isArray(value) ? `[${size}]` : `{${size}}`;
  if (size === 0) return el("div", { className: "leaf" }, name, el("span", { className: "other" }, brackets));
  // A level is built when it is opened: values can be deep.
  const node = el("details", {}, el("summary", {}, name, el("span", { className: "other" }, brackets)));
  node.addEventListener("toggle", () => { if (node.open && !node.querySelector(".tree")) node.append(tree(value)); });
  return node;
}

function leaf(name, value) {
  const text = value instanceof Exact ? value.source : String(value);
  const kind = typeof value === "string" ? "string" : value instanceof Exact ? "number" : "other";
  const shown = foreign(text.slice(0, LONG_TEXT), kind);
  const showAll = (event) => { shown.textContent = text; event.target.remove(); };
  const more = text.length > LONG_TEXT && button(` … show all ${count(text.length)} characters`, showAll, "link");
  return el("div", { className: "leaf" }, name, shown, more, button("copy", () => copy(text, "the value"), "copy"));
}

async function copy(text, what) {
  await navigator.clipboard.writeText(text);
  announce(`copied ${what}`);
}

const copyCurl = async (n) => copy(await (await fetch(`api/rows/${n}/curl`)).text(), "the curl command");
const announce = (text) => { $("announce").textContent = text; };

// ── Filter ──

const quoted = (text) => (/\s/.test(text) ? `"${text}"` : text);

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

// Replaces the content only if it changed, so that a click or a focus in it is not lost.
function fill(node, children, key) {
  if (key && node.dataset.key === key) return;
  node.dataset.key = key;
  node.replaceChildren(...children);
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

function traffic({ seconds }) {
  const all = seconds.length ? seconds : Array(300).fill(0);
  // Buckets of three seconds: a column of one pixel cannot be read.
  const buckets = Array.from({ length: 100 }, (_, i) => all.slice(3 * i, 3 * i + 3)
    .reduce((sum, second) => sum.map((n, j) => n + (second ? second[j] : 0)), [0, 0, 0, 0, 0]));
  const events = buckets.map((bucket) => bucket[0] / 3);
  const peak = Math.max(...all.map((second) => (second ? second[0] : 0)));
  const last = all[299] ? all[299][0] : 0;
  $("events-peak").textContent = `${count(last)}/s now, peak ${count(peak)}/s`;
  chart($("events-chart"), [["", events]], 56, `Events per second: ${last} now, ${peak} at most`);
  const classes = [["c2", 1, "2xx"], ["c4", 2, "4xx"], ["c5", 3, "5xx"], ["cx", 4, "none"]];
  const sums = classes.map(([, index, name]) => [name, buckets.reduce((sum, bucket) => sum + bucket[index], 0)]);
  const text = sums.map(([name, n]) => `${name} ${count(n)}`).join("   ");
  $("statuses").replaceChildren(el("span", {}, "responses"), ...sums.map(([name, n], i) => el("span", { className: ["s2", "s4", "s5", "sx"][i] }, `${name} ${count(n)}`)));
  chart($("status-chart"), classes.map(([name, index]) => [name, buckets.map((bucket) => bucket[index])]), 32, `Responses of the last five minutes: ${text}`);
}

// Stacked columns, scaled to the highest one.
function chart(svg, series, height, label) {
  const columns = series[0][1].length;
  const sums = Array.from({ length: columns }, (_, i) => series.reduce((sum, [, values]) => sum + values[i], 0));
  const most = Math.max(1, ...sums);
  const width = 300 / columns;
  const base = Array(columns).fill(0);
  svg.setAttribute("aria-label", label);
  svg.replaceChildren(...series.map(([name, values]) => {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("class", name);
    path.setAttribute("d", values.map((value, i) => {
      if (!value) return "";
      const top = height - ((base[i] += value) / most) * (height - 4);
      return `M${i * width} ${top}h${width * 0.85}v${(value / most) * (height - 4)}h${-width * 0.85}z`;
    }).join(""));
    return path;
  }));
}

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
