// The page in a real browser: pan, zoom, switch slides by keyboard, and look at every frame
// for places of the slide that nothing is drawn on. usage: browser.mjs URL SCREENSHOT CHROMIUM
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';

const [url, screenshot, chromiumPath] = process.argv.slice(2);
const require = createRequire(new URL('../../systems/slides/page/package.json', import.meta.url));
const { chromium } = require('playwright-core');

const browser = await chromium.launch({
  executablePath: chromiumPath, args: ['--no-sandbox', '--disable-gpu'],
});
const page = await browser.newPage({ viewport: { width: 1200, height: 800 } });
const problems = [];
const outside = [];
// 410: a viewport that was on its way while another slide came; the page asks again by itself.
page.on('console', message => message.type() === 'error' &&
  !message.text().includes('status of 410') && problems.push(message.text()));
page.on('pageerror', error => problems.push(String(error)));
page.on('request', request => {
  if (!request.url().startsWith(url) && !/^(data|blob):/.test(request.url()))
    outside.push(request.url());
});

// Every frame: points of the window that lie on the slide, and whether something is drawn there.
await page.addInitScript(() => {
  window.frames_ = { looked: 0, points: 0, grey: 0, names: new Set(), other: 0 };
  const look = () => {
    requestAnimationFrame(look);
    const { shown, main, slide } = window.slides || {};
    if (!shown)
      return;
    const canvas = shown.element.querySelector('canvas');
    const ratio = canvas.width / innerWidth;
    const pen = canvas.getContext('2d');
    const bounds = shown.viewport.viewportToViewerElementRectangle(main.getBounds(true));
    const frames = window.frames_;
    frames.looked++;
    frames.names.add(slide.name);
    for (let x = 10; x < innerWidth; x += 61) {
      for (let y = 10; y < innerHeight; y += 61) {
        if (x < bounds.x + 3 || y < bounds.y + 3 || x > bounds.x + bounds.width - 3 ||
            y > bounds.y + bounds.height - 3)
          continue;
        frames.points++;
        if (pen.getImageData(x * ratio, y * ratio, 1, 1).data[3] !== 255)
          frames.grey++;
      }
    }
  };
  requestAnimationFrame(look);
});

// The page's policy forbids what waitForFunction() does, and it is to stay in force.
const until = async (what, test, argument) => {
  const deadline = Date.now() + 60000;
  while (!await page.evaluate(test, argument)) {
    assert.ok(Date.now() < deadline, `${what} did not come: ` +
      await page.evaluate(() => document.getElementById('problem').textContent));
    await page.waitForTimeout(30);
  }
};

await page.goto(url);
await until('the first slide', () => window.slides?.shown && window.slides.preload &&
  !window.slides.preload.running);
const count = await page.evaluate(() => window.slides.slides.length);
const preload = await page.evaluate(() => window.slides.preload);
assert.equal(preload.tiles_failed, 0);
assert.equal(preload.tiles_done + preload.tiles_skipped, preload.tiles);
assert.equal(preload.slides_done, count);
const before = await (await page.request.get(`${url}stats`)).json();

const at = () => page.evaluate(() => window.slides.at);
const settle = index => until(`slide ${index}`, i => window.slides.at === i, index);
const pan = async () => {
  await page.mouse.move(600, 400);
  for (const scroll of [-300, -300, -300])
    await page.mouse.wheel(0, scroll);
  await page.waitForTimeout(400);
  for (const [x, y] of [[200, 200], [900, 650], [300, 600], [800, 150]]) {
    await page.mouse.move(600, 400);
    await page.mouse.down();
    await page.mouse.move(x, y, { steps: 12 });
    await page.mouse.up();
  }
  await page.mouse.wheel(0, 600);
  await page.waitForTimeout(300);
};

// Through all slides by the right arrow, panning and zooming in each, and back by the left one.
await pan();
for (let i = 0; i + 1 < count; i++) {
  const next = (await at()) + 1;
  if (next >= count)
    break;
  await page.keyboard.press('ArrowRight');
  await settle(next);
  await pan();
}
const last = await at();
await page.keyboard.press('ArrowRight'); // there is none
await page.waitForTimeout(200);
assert.equal(await at(), last);
for (let i = last; i > 0; i--) {
  await page.keyboard.press('ArrowLeft');
  await settle(i - 1);
}
assert.equal(await at(), 0);
await page.mouse.move(600, 400);
await page.mouse.wheel(0, -300);
await page.mouse.wheel(0, -300);
await page.keyboard.press('t');
await page.waitForTimeout(700);
if (screenshot)
  await page.screenshot({ path: screenshot });
const marked = await page.evaluate(() => {
  const canvas = document.getElementById('marks');
  const bytes = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  let count = 0;
  for (let i = 3; i < bytes.length; i += 4)
    count += bytes[i] > 0;
  return count;
});
const frames = await page.evaluate(() => ({ ...window.frames_, names: [...window.frames_.names] }));
await page.waitForTimeout(1100); // what is said of stats may be a second old
const end = await (await page.request.get(`${url}stats`)).json();
await browser.close();

console.log(`${frames.looked} frames, ${frames.points} points, ${frames.grey} grey; slides ` +
  `${frames.names.join(', ')}; served ${JSON.stringify(end.served)}`);
assert.deepEqual(problems, []);
assert.deepEqual(outside, []);
assert.equal(frames.names.length, count);
assert.ok(frames.looked > 50 && frames.points > 5000, 'too little was looked at');
assert.equal(frames.grey, 0, 'a place of a slide was grey');
assert.ok(marked > 1000, 'the key t showed no colours');
assert.equal(end.served.source - before.served.source, 0, 'a tile was read again after preloading');
assert.ok(end.served.memory > before.served.memory);
