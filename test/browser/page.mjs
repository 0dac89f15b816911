// Tests of the collector's page in Chromium, and its screenshots. See bin/browser.
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { readFileSync, writeFileSync, mkdirSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import assert from "node:assert/strict";
import { chromium } from "playwright-core";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const images = process.env.IMAGES ?? "_build/browser";
mkdirSync(images, { recursive: true });

// ── The collector, in a VM that evaluates lines of Elixir ──

const vm = spawn("mix", ["run", "--no-compile", "test/browser/server.exs"], { stdio: ["pipe", "pipe", "inherit"] });
const lines = createInterface({ input: vm.stdout })[Symbol.asyncIterator]();

async function line(prefix) {
  for (;;) {
    const { value, done } = await lines.next();
    if (done) throw new Error("the VM has ended");
    if (value.startsWith(prefix)) return value.slice(prefix.length).trim();
  }
}

async function elixir(code) {
  vm.stdin.write(code.replaceAll("\n", " ") + "\n");
  await line("done");
}

const capture = (user, name, properties = "%{}") =>
  elixir(`BilldogEng.Analytics.capture(client, ${user}, ${name}, ${properties})`);

const url = await line("page ");

// ── The browser ──

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });
const errors = [];

async function open(options = {}, path = "/") {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, colorScheme: "light", ...options });
  await context.grantPermissions(["clipboard-read", "clipboard-write"], { origin: url });
  const page = await context.newPage();
  page.on("console", (message) => {
    // The browser reports a stream that was refused, which is the state under test.
    if (message.type() === "error" && !message.text().includes("ERR_")) errors.push(message.text());
  });
  page.on("pageerror", (error) => errors.push(String(error)));
  await page.goto(url + path);
  return page;
}

const rows = (page) => page.locator("#rows .row");
const shown = (page, selector, text) => page.locator(selector, { hasText: text }).first().waitFor({ timeout: 15_000 });
const gone = (page, selector) => page.locator(selector).waitFor({ state: "hidden", timeout: 15_000 });

async function eventually(check) {
  for (let i = 0; ; i++) {
    const value = await check();
    if (value || i > 150) return assert.ok(value, String(check));
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

async function accessible(page) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  assert.deepEqual(violations.map(({ id, nodes }) => `${id}: ${nodes[0].html}`), []);
}

async function fits(page) {
  const [content, window] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  assert.ok(content <= window, `the page is ${content} px wide in a window of ${window} px`);
}

async function screenshot(page, name) {
  await page.locator("#overview").evaluate((pane) => { pane.scrollTop = 0; });
  const path = `${images}/${name}.webp`;
  const session = await page.context().newCDPSession(page);
  const { data } = await session.send("Page.captureScreenshot", { format: "webp", quality: 92 });
  writeFileSync(path, Buffer.from(data, "base64"));
  assert.ok(statSync(path).size < 200 * 1024, `${path} has ${statSync(path).size} bytes`);
}

async function test(name, run) {
  const from = Date.now();
  try {
    await run();
  } catch (error) {
    await page.screenshot({ path: `${images}/failure.png` });
    console.error(`FAILED  ${name}: ${error.stack}\n${errors.join("\n")}\nSee ${images}/failure.png`);
    process.exit(1);
  }
  assert.deepEqual(errors, [], name);
  console.log(`ok  ${name} (${Date.now() - from} ms)`);
}

const page = await open();

await test("an empty page shows the configuration, and its button sends a sample", async () => {
  await shown(page, "#empty", "Waiting for events");
  assert.match(await page.locator("#empty pre").innerText(), /host: "http:\/\/127\.0\.0\.1:\d+"/);
  await accessible(page);
  await page.getByRole("button", { name: "Send a sample event" }).click();
  await rows(page).first().waitFor();
  await gone(page, "#empty");
  await page.getByRole("button", { name: "Clear" }).click();
  await shown(page, "#empty", "Waiting for events");
});

await test("events arrive, newest first, with a preview and a column", async () => {
  await elixir(`for n <- 1..40, do: BilldogEng.Analytics.capture(client, "user-#{rem(n, 7)}",
    Enum.at(["page_viewed", "signed_up", "order_completed"], rem(n, 3)),
    %{plan: if(rem(n, 4) == 0, do: "pro", else: "free"), path: "/products/#{n}", revenue: n * 1.5,
      cart: %{items: [%{sku: "A-#{n}", quantity: 2}], currency: "EUR"}}, %{company: "acme"})`);
  await eventually(async () => (await rows(page).count()) === 40);
  assert.match(await rows(page).first().innerText(), /user-5/);
  await shown(page, "#totals", /^40 rows$/);
  await page.locator("#column").fill("cart.currency");
  await page.keyboard.press("Enter");
  await shown(page, ".row .preview", "EUR");
  await page.locator("#column").fill("");
  await page.keyboard.press("Enter");
  await eventually(async () => (await rows(page).count()) === 40);
});

await test("a filter chooses among events, and stays in the address", async () => {
  await page.locator("#filter").fill("properties.plan:pro");
  await shown(page, "#totals", "10 of 40 match");
  assert.match(page.url(), /q=properties\.plan%3Apro/);
  await page.reload();
  await shown(page, "#totals", "10 of 40 match");
  await page.locator("#filter").fill("event:nothing");
  await shown(page, "#empty", "0 of 40 match");
  await page.getByRole("button", { name: "Clear the filter" }).click();
  await eventually(async () => (await rows(page).count()) === 40);
});

await test("details show properties, groups, batch and request, and copy them", async () => {
  await rows(page).first().click();
  await shown(page, "#details h2", "signed_up");
  await shown(page, "#details", "company");
  await shown(page, "#details dd", /event \d+ of \d+/);
  await page.getByRole("button", { name: "Copy as curl" }).click();
  await eventually(async () => /^curl .*ingest-events/s.test(await page.evaluate(() => navigator.clipboard.readText())));
  await page.locator("#details summary", { hasText: "cart" }).click();
  await page.locator("#details summary", { hasText: "items" }).click();
  await accessible(page);
});

await test("what arrives moves neither the selection, nor the folds, nor the scroll position", async () => {
  await page.locator("#rows").evaluate((list) => { list.scrollTop = 280; });
  const before = await page.locator(".row[aria-selected=true]").getAttribute("id");
  const view = await page.evaluate(() => {
    const list = document.getElementById("rows").getBoundingClientRect();
    return document.elementFromPoint(list.left + 200, list.top + 100).closest(".row").id;
  });
  await elixir(`for n <- 1..30, do: BilldogEng.Analytics.capture(client, "user-9", "later", %{n: n})`);
  await shown(page, "#newer", "30 new");
  assert.equal(await page.locator(".row[aria-selected=true]").getAttribute("id"), before);
  assert.equal(await page.evaluate(() => {
    const list = document.getElementById("rows").getBoundingClientRect();
    return document.elementFromPoint(list.left + 200, list.top + 100).closest(".row").id;
  }), view);
  assert.equal(await page.locator("#details details[open]").count(), 2);
  await page.locator("#newer").click();
  assert.equal(await page.locator("#rows").evaluate((list) => list.scrollTop), 0);
});

await test("a timeline follows one user", async () => {
  await rows(page).first().click();
  await page.getByRole("button", { name: "timeline" }).click();
  await shown(page, "#totals", "30 of 70 match");
  await page.keyboard.press("Escape");
  await page.locator("#filter").fill("");
  await shown(page, "#totals", "70 rows");
});

await test("pause counts what arrives, and resume shows it", async () => {
  await page.locator("#rows").focus();
  await page.keyboard.press("p");
  await shown(page, "#state", "paused, 0 new");
  await elixir(`for n <- 1..13, do: BilldogEng.Analytics.capture(client, "u", "while_paused", %{n: n})`);
  await shown(page, "#state", "paused, 13 new");
  assert.equal(await rows(page).count(), 70);
  await page.keyboard.press("p");
  await eventually(async () => (await rows(page).count()) === 83);
});

await test("the keyboard moves, opens and closes, and leaves modified keys to the browser", async () => {
  await page.keyboard.press("j");
  await page.keyboard.press("j");
  await shown(page, "#details", "while_paused");
  const second = await page.locator(".row[aria-selected=true]").getAttribute("id");
  await page.keyboard.press("k");
  assert.notEqual(await page.locator(".row[aria-selected=true]").getAttribute("id"), second);
  await page.keyboard.press("Enter");
  await eventually(() => page.evaluate(() => document.activeElement.id === "details"));
  await page.keyboard.press("Control+j");
  await page.keyboard.press("Escape");
  await gone(page, "#details");
  await page.keyboard.press("/");
  assert.equal(await page.evaluate(() => document.activeElement.id), "filter");
  await page.keyboard.press("Escape");
  await page.keyboard.press("?");
  await page.locator("#help-dialog[open]").waitFor();
  await accessible(page);
  await page.keyboard.press("Escape");
});

await test("problems are found, with the remedy, and n jumps to the next one", async () => {
  await capture('"someone@example.com"', '"signed_up"');
  await capture('"undefined"', '"signedUp"');
  await capture('"user-1"', '"order_completed"', '%{revenue: "12"}');
  await capture('"user-1"', '"imported"', '%{}, %{}, timestamp: 1_000_000_000');
  await capture('nil', '""');
  await shown(page, "#problems", "e-mail address");
  await shown(page, "#problems", "type changes");
  await shown(page, "#problems", "case or separator");
  await shown(page, "#problems", "over a year old");
  await shown(page, "#problems", "without a name");
  await page.locator("#rows").focus();
  await page.keyboard.press("n");
  await shown(page, "#details .problems strong", "");
  await screenshot(page, "collector-problem");
  await page.keyboard.press("Escape");
});

await test("hostile values do no harm", async () => {
  await capture('"<script>alert(1)</script>"', '"<img src=x onerror=alert(1)>"',
    '%{"\\u202Ereversed" => "\\u202Eabc\\u202C", html: "<b>bold</b>", big: 123456789012345678901234567890}');
  await capture('"u"', '"long"', '%{text: String.duplicate("long text ", 50_000)}');
  await capture('"u"', '"deep"', '%{deep: Enum.reduce(1..99, 1, fn _, inner -> [inner] end)}');
  await shown(page, ".row .name", "<img src=x");
  await rows(page).filter({ hasText: "<img src=x" }).click();
  await shown(page, "#details h2", "<img src=x onerror=alert(1)>");
  await shown(page, "#details .number", "123456789012345678901234567890");
  await rows(page).filter({ hasText: /long text/ }).click();
  await page.getByRole("button", { name: /show all 500,000 characters/ }).click();
  await rows(page).filter({ hasText: "deep" }).click();
  await shown(page, "#details h2", "deep");
  assert.equal(await page.locator("#details img, #rows img, #details b").count(), 0);
  await fits(page);
  await page.keyboard.press("Escape");
});

await test("a fault changes the responses, shows a banner, and refused requests are rows with the reason", async () => {
  await page.locator("#fault-kind").selectOption("503");
  await page.getByRole("button", { name: "Start the fault" }).click();
  await shown(page, "#banner", "requests are answered with 503");
  await capture('"user-1"', '"during_503"');
  await shown(page, ".row.refused", "503");
  await shown(page, ".row.refused", "without it the ingest accepts its event");
  await shown(page, "#numbers", /requests? refused: 503/);
  await page.getByRole("button", { name: "Switch off" }).click();
  await gone(page, "#banner");
  await elixir(`BilldogEng.Analytics.flush(client)`);
  await shown(page, ".row", "during_503");
  await shown(page, ".row .mark", "retry");
});

await test("the fault down closes the ingest and leaves the page; the client's queue grows and drains", async () => {
  await page.locator("#newer").click();
  await page.locator("#fault-kind").selectOption("down");
  await page.getByRole("button", { name: "Start the fault" }).click();
  await shown(page, "#banner", "the ingest is down");
  await elixir(`for n <- 1..600, do: (BilldogEng.Analytics.capture(client, "user-#{rem(n, 30)}", "page_viewed", %{path: "/#{n}"}); if(rem(n, 10) == 0, do: Process.sleep(20)))`);
  await eventually(async () => /Queued\s*600/.test(await page.locator("#client-counts").innerText()));
  await screenshot(page, "collector-outage");
  await accessible(page);
  await page.getByRole("button", { name: "Switch off" }).click();
  await elixir(`BilldogEng.Analytics.flush(client)`);
  await eventually(async () => /Queued\s*0/.test(await page.locator("#client-counts").innerText()));
});

await test("respond/2 of the collector shows in the banner too", async () => {
  await elixir(`BilldogEng.Collector.respond(collector, {:status, 429, [{"retry-after", "1"}]})`);
  await shown(page, "#banner", "answered with 429, Retry-After 1 s");
  await elixir(`BilldogEng.Collector.respond(collector, :ok)`);
  await gone(page, "#banner");
});

await test("a bad parameter of a fault is named", async () => {
  await page.locator("#fault-kind").selectOption("slow");
  await page.locator("#fault-value").fill("-5");
  await page.getByRole("button", { name: "Start the fault" }).click();
  await shown(page, "#fault-error", "from 0 to 600000");
  // The browser reports the refused request.
  assert.deepEqual(errors.splice(0).filter((text) => !text.includes("400")), []);
});

await test("light, dark and narrow pages are whole and accessible", async () => {
  await page.getByRole("button", { name: "Clear" }).click();
  await elixir(`for n <- 1..120, do: (BilldogEng.Analytics.capture(client, "user-#{rem(n * 7, 23)}",
    Enum.at(["page_viewed", "page_viewed", "signed_up", "order_completed", "search"], rem(n * 3, 5)),
    %{plan: Enum.at(["free", "pro"], rem(n, 2)), path: "/products/#{n}", price: n * 0.5}, %{company: "acme"}); if(rem(n, 8) == 0, do: Process.sleep(250)))`);
  await rows(page).nth(4).click();
  await screenshot(page, "collector-light");
  const dark = await open({ colorScheme: "dark" });
  await rows(dark).nth(3).waitFor();
  await eventually(async () => (await dark.locator("#names li").count()) > 2);
  await screenshot(dark, "collector-dark");
  await accessible(dark);
  await dark.context().close();
  const narrow = await open({ viewport: { width: 400, height: 800 } });
  await rows(narrow).first().waitFor();
  await fits(narrow);
  await rows(narrow).first().click();
  await shown(narrow, "#details h2", "");
  await fits(narrow);
  await accessible(narrow);
  await screenshot(narrow, "collector-narrow");
  await narrow.context().close();
});

await test("5,000 events a second: four updates a second, exact totals, a bounded page", async () => {
  await page.keyboard.press("Escape");
  await page.getByRole("button", { name: "Clear" }).click();
  await page.locator("#follow").check();
  await page.evaluate(() => {
    globalThis.mutations = 0;
    new MutationObserver(() => globalThis.mutations++).observe(document.getElementById("rows"), { childList: true });
  });
  const from = Date.now();
  await elixir(`for n <- 1..30_000, do: (BilldogEng.Analytics.capture(client, "user-#{rem(n, 997)}",
    Enum.at(["page_viewed", "search", "signed_up"], rem(n, 3)), %{n: n, path: "/p/#{n}"}); if(rem(n, 50) == 0, do: Process.sleep(9)))`);
  await screenshot(page, "collector-load");
  await elixir(`BilldogEng.Analytics.flush(client)`);
  await shown(page, "#totals", "30,000 rows");
  const seconds = (Date.now() - from) / 1000;
  const updates = await page.evaluate(() => globalThis.mutations);
  // An update adds and trims rows in one task.
  assert.ok(updates <= 4 * seconds + 4, `${updates} updates in ${seconds} s`);
  assert.ok((await page.locator("#rows > *").count()) <= 2000);
  await shown(page, "#foot", /not shown/);
  await shown(page, "#rows .gap", "not shown");
  assert.match(await page.locator("#foot").innerText(), /keeps 10,000, 20,000 older ones were removed/);
});

await test("a lost connection is shown, and the page catches up", async () => {
  await page.context().setOffline(true);
  await elixir(`BilldogEng.Collector.Page`);
  await page.evaluate(() => document.dispatchEvent(new Event("visibilitychange")));
  await shown(page, "#state", "connection lost");
  await capture('"u"', '"missed_meanwhile"');
  await elixir(`BilldogEng.Analytics.flush(client)`);
  await page.context().setOffline(false);
  await shown(page, "#state", "live");
  await shown(page, ".row .name", "missed_meanwhile");
  await shown(page, "#totals", "30,001 rows");
});

await test("the API returns what the page shows", async () => {
  const response = await fetch(`${url}/api/events?name=missed_meanwhile`);
  const [event] = (await response.text()).trim().split("\n").map((text) => JSON.parse(text));
  assert.equal(event.distinct_id, "u");
  assert.equal(event.event, "missed_meanwhile");
});

await browser.close();
vm.stdin.end();
