// The details of one row: its facts, problems, properties, headers and raw JSON.

import { $, el, button, count, foreign, fill, copy, quoted, statusClass } from "./dom.js";

const LONG_TEXT = 400;

// A number as it was sent: JSON.parse rounds integers above 2^53.
class Exact { constructor(source) { this.source = source; } }
const parse = (text) => JSON.parse(text, (_key, value, context) =>
  typeof value === "number" && context?.source ? new Exact(context.source) : value);

// Shows row `n`, unless another one is chosen by the time its data is here. `actions`: `chosen()`, `close()`,
// `filter(text)`.
export async function showDetails(n, actions) {
  const pane = $("details");
  const response = await fetch(`api/rows/${n}`);
  if (n !== actions.chosen()) return;
  const body = await response.json();
  const close = el("button", { type: "button", onclick: actions.close, "aria-label": "Close the details" }, "✕");
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
    body.id && ["Distinct ID", foreign(body.id), " ", button("timeline", () => actions.filter(`id:${quoted(body.id)}`), "link")],
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

const copyCurl = async (n) => copy(await (await fetch(`api/rows/${n}/curl`)).text(), "the curl command");
