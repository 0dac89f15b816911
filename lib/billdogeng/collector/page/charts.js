// Stacked columns over time: the events and responses of the last minutes.

import { $, el, count } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";

export function traffic({ seconds }) {
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
export function chart(svg, series, height, label) {
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
