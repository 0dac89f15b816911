// Elements and their contents.
//
// Nothing is shown as HTML: all text goes through text nodes.

export const $ = (id) => document.getElementById(id);
export const count = (n) => n.toLocaleString("en");
export const plural = (n, noun) => `${count(n)} ${noun}${n === 1 ? "" : "s"}`;

export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key in node && key !== "list") node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...children.flat().filter((child) => child != null && child !== false));
  return node;
}

export const button = (text, onclick, className = "") => el("button", { type: "button", onclick, className }, text);

// Text from a sender: its direction and its marks stay within it.
export const foreign = (text, className = "") => el("bdi", { className, dir: "auto" }, text);

// Replaces the content only if it changed, so that a click or a focus in it is not lost.
export function fill(node, children, key) {
  if (key && node.dataset.key === key) return;
  node.dataset.key = key;
  node.replaceChildren(...children);
}

export const announce = (text) => { $("announce").textContent = text; };

export async function copy(text, what) {
  await navigator.clipboard.writeText(text);
  announce(`copied ${what}`);
}

export const quoted = (text) => (/\s/.test(text) ? `"${text}"` : text);
export const statusClass = (outcome) => (/^[245]\d\d$/.test(outcome) ? `s${outcome[0]}` : "sx");
