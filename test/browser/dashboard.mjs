// Tests of the dashboard's page in Chromium: dashboard.exs writes it in each state. See bin/browser.
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";
import assert from "node:assert/strict";
import { chromium } from "playwright-core";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const folder = resolve("_build/browser/dashboard");
execFileSync("mix", ["run", "--no-compile", "test/browser/dashboard.exs", folder], { stdio: ["ignore", "ignore", "inherit"] });

const states = {
  healthy: [/Idle: the last request succeeded; nothing is queued\./, /Delivered\s+10/],
  "refused-key": [
    /Backing off: 401 from 127\.0\.0\.1, next try at \d\d:\d\d:\d\d; 20 of 20 queued, oldest \d+ s\./,
    /Compare :api_key with the key of the project/,
    /queue_full\s+11\s+The queue reached :max_queue_size/,
    /Not delivered, it stays in the queue/,
  ],
  spooling: [/Backing off: .* refuses the connection/, /Events\s+50/, /Check :host and its port/],
  hanging: [/Waiting \d+ s for the response of 127\.0\.0\.1 to 20 events/],
};

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });
for (const [state, texts] of Object.entries(states)) {
  for (const [width, colorScheme] of [[1280, "light"], [400, "dark"]]) {
    const page = await browser.newPage({ viewport: { width, height: 900 }, colorScheme });
    await page.goto(`file://${folder}/${state}.html`);
    const text = await page.innerText("body");
    for (const expected of texts) assert.match(text, expected);
    assert.doesNotMatch(await page.content(), /browser-key/);
    assert.equal(await page.locator("svg path").count(), 6);
    await page.evaluate(axe);
    const { violations } = await page.evaluate(() => globalThis.axe.run());
    assert.deepEqual(violations.map(({ id, nodes }) => `${id}: ${nodes[0].html}`), []);
    await page.close();
  }
  console.log(`ok  the dashboard's page: ${state}`);
}
await browser.close();
