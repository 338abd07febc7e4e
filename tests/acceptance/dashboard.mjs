// Opens pages in Chromium: dashboard.mjs DIRECTORY PAGE...
// Each at three widths, light and dark: nothing in the console, nothing loaded from anywhere, no wider than the screen,
// axe-core finds nothing; with the keyboard: tables sort and filter; without scripts the same content. Pictures of all of
// it are left in DIRECTORY.
import { readFileSync } from 'node:fs';
import { basename, resolve } from 'node:path';
import { createRequire } from 'node:module';

const require = createRequire(process.cwd() + '/');
const puppeteer = require('puppeteer-core');
const axe = readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');
const [directory, ...pages] = process.argv.slice(2);
const faults = [];
let looked = 0;

const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--hide-scrollbars'],
});
try {
  for (const file of pages) {
    const name = basename(file, '.html');
    for (const scheme of ['light', 'dark']) {
      for (const width of [360, 768, 1280]) {
        await look(file, `${name}-${scheme}-${width}`, scheme, width);
      }
    }
    await keyboard(file, name);
    await withoutScript(file, name);
  }
} finally {
  await browser.close();
}
for (const fault of faults) console.error(`FAULT ${fault}`);
console.log(`${looked} views of ${pages.length} pages: ${faults.length} faults`);
process.exit(faults.length > 0 || looked === 0 ? 1 : 0);

async function open(file, what, { scheme = 'light', width = 1280, script = true, bypass = false } = {}) {
  const page = await browser.newPage();
  page.on('console', (message) => faults.push(`${what}: console: ${message.text()}`));
  page.on('pageerror', (error) => faults.push(`${what}: ${error}`));
  page.on('request', (request) => {
    const url = request.url();
    if (!url.startsWith('file:') && !url.startsWith('data:')) faults.push(`${what}: asks for ${url}`);
  });
  await page.setBypassCSP(bypass);
  await page.setJavaScriptEnabled(script);
  await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }]);
  await page.setViewport({ width, height: 900 });
  await page.goto(`file://${resolve(file)}`, { waitUntil: 'load' });
  return page;
}

async function look(file, what, scheme, width) {
  let page = await open(file, what, { scheme, width });
  const wide = await page.evaluate(() => document.documentElement.scrollWidth);
  if (wide > width) faults.push(`${what}: is ${wide} wide on a screen of ${width}`);
  await page.screenshot({ path: `${directory}/${what}.png`, fullPage: true });
  await page.close();
  // The page's own policy would keep axe-core out.
  page = await open(file, what, { scheme, width, bypass: true });
  await page.evaluate(axe);
  const found = await page.evaluate(() => window.axe.run(document, { resultTypes: ['violations'] }));
  for (const violation of found.violations) {
    const where = violation.nodes.slice(0, 3).map((node) => node.html.slice(0, 160)).join(' | ');
    faults.push(`${what}: axe: ${violation.id}: ${violation.help}: ${where}`);
  }
  looked += 1;
  await page.close();
}

async function keyboard(file, name) {
  const page = await open(file, name);
  const tables = await page.$$eval('table.data', (all) => all.filter((table) => table.tBodies[0].rows.length > 8).length);
  if (tables > 0) {
    const table = 'table.data:has(tbody tr:nth-child(9))';
    const rows = () => page.$eval(table, (it) => [...it.tBodies[0].rows].filter((row) => !row.hidden).map((row) => row.cells[0].textContent));
    const before = await rows();
    await page.focus(`${table} th button`);
    await page.keyboard.press('Enter');
    const up = await rows();
    await page.keyboard.press('Space');
    const down = await rows();
    if (up.join() !== [...up].sort().join()) faults.push(`${name}: not sorted: ${up.slice(0, 3)}`);
    if (down[0] < down[down.length - 1]) faults.push(`${name}: not sorted downward`);
    await page.focus('.filter input');
    await page.keyboard.type('nothing has this word');
    if ((await rows()).length !== 0) faults.push(`${name}: the filter keeps what it should not`);
    await page.$eval('.filter input', (input) => { input.value = ''; input.dispatchEvent(new Event('input')); });
    if ((await rows()).length !== before.length) faults.push(`${name}: the filter does not give back`);
  }
  await page.close();
}

async function withoutScript(file, name) {
  const page = await open(file, `${name} without scripts`, { script: false });
  await page.screenshot({ path: `${directory}/${name}-without-script.png` });
  await page.close();
}
