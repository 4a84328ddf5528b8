// Journeys through the dashboard in a real browser.
//
// Usage: node journeys.mjs --modules DIR --chromium PATH (--binary PATH --work DIR | --base URL) [--shots DIR]
//        [--mqtt-port N] [--admin-port N] [--only WORDS]
//
// Owns: the journeys, and the cluster of three nodes that they are made on. Does not: wait for times to pass; each wait
// is for something to be seen.
// Each journey of the list MOCKED gets its answers from mock.mjs, with the page of a real node; those of REAL ask the
// node itself and are skipped, with a line that says so, where it does not offer what they need.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { Mock } from './mock.mjs';

const { values: options } = parseArgs({
  options: Object.fromEntries(['modules', 'chromium', 'binary', 'work', 'base', 'shots', 'mqtt-port', 'admin-port', 'only'].map((name) => [name, { type: 'string' }])),
});
const require = createRequire(join(resolve(options.modules), 'package.json'));
const { chromium } = require('playwright-core');
const axe = require('axe-core');

const MQTT_PORT = Number(options['mqtt-port'] ?? 21_883);
const ADMIN_PORT = Number(options['admin-port'] ?? 21_983);
const PHONE = { width: 360, height: 740 };
const DESK = { width: 1280, height: 860 };
const START_TIMEOUT_MS = 60_000;
const SEEN_TIMEOUT_MS = 20_000;
/** A drained node spreads the ends of its connections over half a minute. */
const SENT_AWAY_TIMEOUT_MS = 60_000;
const VIEWS = {
  cluster: '#/cluster', traffic: '#/traffic', sessions: '#/sessions', session: '#/sessions/press%2Fline%204', queues: '#/queues',
  retained: '#/retained', node: '#/nodes/n2', 'own node': '#/nodes/n1', client: '#/client',
};

class Skip extends Error {}

/** The last lines of a stream, for the case that something goes wrong. */
function lastLines(stream) {
  const said = [];
  createInterface({ input: stream }).on('line', (line) => {
    said.push(line);
    said.splice(0, said.length - 40);
  });
  return said;
}

/** Starts `quorate dev`; gives the admin address of the first node and how to end it. */
async function startCluster() {
  const flags = ['dev', '--nodes', '3', '--fresh', '--json', '--dir', join(options.work, 'cluster'), '--mqtt-port', String(MQTT_PORT), '--admin-port', String(ADMIN_PORT)];
  const child = spawn(options.binary, flags, { stdio: ['ignore', 'pipe', 'pipe'] });
  const said = lastLines(child.stderr);
  const ended = new Promise((done) => child.once('exit', done));
  const ready = new Promise((done, failed) => {
    createInterface({ input: child.stdout }).once('line', (line) => done(JSON.parse(line)));
    ended.then((code) => failed(new Error(`quorate dev ended with ${code}:\n${said.join('\n')}`)));
    setTimeout(() => failed(new Error(`the cluster was not ready in time:\n${said.join('\n')}`)), START_TIMEOUT_MS).unref();
  });
  const stop = async () => {
    child.kill('SIGTERM');
    await ended;
  };
  try {
    const { nodes } = await ready;
    return { base: nodes[0].admin, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** Starts a node of its own that asks for a token, ten ports above the cluster's. */
async function startGuardedNode(token) {
  if (!options.binary) throw new Skip('there is no binary to start a node with a token');
  const folder = join(options.work, 'guarded');
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const [mqtt, admin] = [MQTT_PORT + 10, ADMIN_PORT + 10];
  writeFileSync(join(folder, 'tokens'), `${token}\n`, { mode: 0o600 });
  writeFileSync(join(folder, 'quorate.toml'), `[node]\nname = "guarded"\ndata_dir = "./data"\n\n[[listener]]\nkind = "tcp"\nbind = "127.0.0.1:${mqtt}"\n\n[admin]\nbind = "127.0.0.1:${admin}"\ntoken_file = "${join(folder, 'tokens')}"\n`);
  const child = spawn(options.binary, ['serve', '--config', join(folder, 'quorate.toml'), '--exit-with-parent'], { stdio: ['pipe', 'ignore', 'pipe'] });
  const said = lastLines(child.stderr);
  const ended = new Promise((done) => child.once('exit', done));
  const base = `http://127.0.0.1:${admin}`;
  const stop = async () => {
    child.kill('SIGTERM');
    await ended;
  };
  const deadline = Date.now() + START_TIMEOUT_MS;
  while (!await fetch(`${base}/readyz`).then(({ ok }) => ok, () => false)) {
    if (Date.now() > deadline || child.exitCode !== null) {
      await stop();
      throw new Error(`the node with a token was not ready in time:\n${said.join('\n')}`);
    }
    await new Promise((next) => setTimeout(next, 50));
  }
  return { base, stop };
}

/** A page that fails the journey when the browser reports an error or a violation of the policy. */
async function openPage(browser, base, { mock = null, viewport = DESK, colours = 'light' } = {}) {
  const context = await browser.newContext({ viewport, colorScheme: colours, reducedMotion: 'reduce', baseURL: base });
  context.setDefaultTimeout(SEEN_TIMEOUT_MS);
  const page = await context.newPage();
  const problems = [];
  page.on('pageerror', (error) => problems.push(String(error)));
  page.on('console', (message) => {
    // A status of 4xx or 5xx is a line of the console too; the page shows it in a sentence.
    if (message.type() === 'error' && !message.text().startsWith('Failed to load resource')) problems.push(message.text());
  });
  if (mock) {
    await context.route((url) => url.pathname.startsWith('/v1/') || url.pathname === '/readyz', (route) => {
      const request = route.request();
      const [status, body] = mock.answer(request.method(), request.url(), request.headers(), request.postDataJSON());
      return route.fulfill({ status, contentType: 'application/json', body: body === null ? '' : JSON.stringify(body) });
    });
  }
  return { page, problems, close: () => context.close() };
}

const go = (page, hash) => page.goto(`/${hash}`);
const button = (page, name) => page.getByRole('button', { name, exact: true });
const seen = (locator) => locator.first().waitFor({ state: 'visible' });

/** Waits until the text of the element fits. */
async function reads(locator, pattern) {
  await locator.filter({ hasText: pattern }).first().waitFor({ state: 'visible' });
}

async function offered(base, path) {
  const response = await fetch(new URL(path, base), { redirect: 'manual' });
  const said = await response.text();
  return response.status !== 404 || (said !== '' && !said.includes('path_not_found'));
}

async function offers(base, path) {
  if (!await offered(base, path)) throw new Skip(`the node does not offer ${path} yet`);
}

/** Fills and sends the form of the test client. */
async function connect(page, { clientId, cleanStart = true, expiry = 0 }) {
  const url = page.getByLabel('WebSocket address');
  await page.waitForFunction(() => document.querySelector('input[name=url]')?.value.startsWith('ws'));
  await page.getByLabel('Client identifier').fill(clientId);
  await page.getByLabel('Session expiry, s').fill(String(expiry));
  await page.getByLabel('Clean start').setChecked(cleanStart);
  await button(page, 'Connect').click();
  await reads(page.getByRole('status'), `connected as ${clientId}`);
  return url;
}

async function subscribe(page, filter, qos) {
  await page.getByLabel('Topic filter').fill(filter);
  await page.locator('select[name=filterQos]').selectOption(String(qos));
  await button(page, 'Subscribe').click();
  await reads(page.locator('.chip'), filter);
}

async function publish(page, topic, payload, qos) {
  await page.getByLabel('Topic', { exact: true }).fill(topic);
  await page.getByLabel('Payload').fill(payload);
  await page.locator('select[name=qos]').selectOption(String(qos));
  await button(page, 'Publish').click();
}

async function disconnect(page) {
  await button(page, 'Disconnect').click();
  await reads(page.getByRole('status'), 'not connected');
}

/** Drains a node through its page, and sees its leaders move. */
async function drainAndBack(page, name, end = 'drained: it may be stopped') {
  await go(page, `#/nodes/${name}`);
  await button(page, 'Drain …').click();
  const dialog = page.getByRole('dialog', { name: `Drain ${name}?` });
  await reads(dialog, 'This would happen');
  await dialog.getByRole('button', { name: `Drain ${name}` }).click();
  await reads(page.locator('#notices'), `${name} is being drained`);
  const maintenance = page.getByRole('region', { name: 'Maintenance' });
  await reads(maintenance, /Leads0 groups/);
  await reads(maintenance, end);
  await go(page, '#/cluster');
  const row = page.getByRole('row', { name: new RegExp(`^${name} `) });
  await reads(row, 'draining');
  // A group that has just lost its leader to the drain shows the next one with one of the next answers.
  await page.waitForFunction(() => document.querySelectorAll('.map tbody tr').length > 0
    && [...document.querySelectorAll('.map tbody tr')].every((group) => group.querySelector('td.leader')));
  await go(page, `#/nodes/${name}`);
  await button(page, 'Undrain …').click();
  await page.getByRole('dialog').getByRole('button', { name: `Undrain ${name}` }).click();
  await reads(maintenance, 'in service');
}

const MOCKED = {
  async 'a session is found by its prefix, and its backlog and findings are shown'({ open }) {
    const page = await open();
    await go(page, '#/sessions');
    await seen(page.getByRole('link', { name: 'sensor-001' }));
    await button(page, 'Next page').click();
    await seen(page.getByRole('link', { name: 'sensor-060' }));
    await page.getByLabel('Client identifier begins with').fill('press');
    await page.getByLabel('Connection').selectOption('offline');
    await button(page, 'Search').click();
    await page.getByRole('link', { name: 'press/line 4' }).click();
    await reads(page.locator('h1'), 'Session press/line 4');
    await reads(page.getByRole('region', { name: 'Backlog' }), '0 of 1,000');
    await reads(page.getByRole('region', { name: 'What keeps messages from it' }), 'no connection');
    await reads(page.getByRole('region', { name: 'Subscriptions' }), 'orders/+/press');
  },

  async 'kick and purge name the client, and do nothing when cancelled'({ open, mock }) {
    const page = await open();
    await go(page, '#/sessions/sensor-001');
    await button(page, 'Purge …').click();
    await reads(page.getByRole('dialog', { name: 'Purge the session of sensor-001?' }), '2 subscriptions');
    await page.keyboard.press('Escape');
    await page.getByRole('dialog').waitFor({ state: 'detached' });
    assert.ok(!mock.calls.some((call) => call.startsWith('DELETE')), 'Escape purges nothing');
    await button(page, 'Disconnect …').click();
    await page.getByRole('dialog').getByRole('button', { name: 'Disconnect sensor-001' }).click();
    await reads(page.locator('#notices'), 'sensor-001 was disconnected from n2');
    await button(page, 'Purge …').click();
    await page.getByRole('dialog').getByRole('button', { name: 'Purge sensor-001' }).click();
    await reads(page.getByRole('region', { name: 'What keeps messages from it' }), 'There is no session');
  },

  async 'a drain shows first what would happen, leaders move, and undrain ends it'({ open }) {
    await drainAndBack(await open(), 'n2');
  },

  async 'a drain that would break a quorum cannot be confirmed'({ open, mock }) {
    const page = await open();
    await go(page, '#/nodes/n3');
    await button(page, 'Drain …').click();
    const dialog = page.getByRole('dialog');
    await reads(dialog, 'one live replica of three');
    assert.ok(await dialog.getByRole('button', { name: 'Drain n3' }).isDisabled());
    await dialog.getByRole('button', { name: 'Cancel' }).click();
    assert.equal(mock.draining.size, 0);
  },

  async 'the drain dialog works with the keyboard alone'({ open, mock }) {
    const page = await open();
    await go(page, '#/cluster');
    await seen(page.getByRole('link', { name: 'n2', exact: true }));
    const tabTo = async (name) => {
      for (let step = 0; step < 80; step += 1) {
        await page.keyboard.press('Tab');
        const focused = await page.evaluate(() => {
          const { outlineStyle } = getComputedStyle(document.activeElement);
          return { text: document.activeElement?.textContent?.trim(), visible: outlineStyle !== 'none' };
        });
        if (focused.text === name) return assert.ok(focused.visible, `the focus on ${name} is visible`);
      }
      throw new Error(`${name} is not reached with Tab`);
    };
    await tabTo('n2');
    await page.keyboard.press('Enter');
    await seen(button(page, 'Drain …'));
    await tabTo('Drain …');
    await page.keyboard.press('Enter');
    const dialog = page.getByRole('dialog');
    await reads(dialog, 'This would happen');
    assert.equal(await page.evaluate(() => document.activeElement?.textContent), 'Cancel', 'the first focus changes nothing');
    await page.keyboard.press('Escape');
    await dialog.waitFor({ state: 'detached' });
    assert.equal(mock.draining.size, 0);
    assert.equal(await page.evaluate(() => document.activeElement?.textContent), 'Drain …', 'the focus is back where it was');
    await page.keyboard.press('Enter');
    await reads(dialog, 'This would happen');
    await tabTo('Drain n2');
    await page.keyboard.press('Enter');
    await reads(page.locator('#notices'), 'n2 is being drained');
    assert.ok(mock.draining.has('n2'));
  },

  async 'colours are chosen, and kept for the next visit'({ open }) {
    const page = await open();
    await go(page, '#/cluster');
    const background = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const light = await background();
    await page.getByLabel('Colours').selectOption('dark');
    const dark = await background();
    assert.notEqual(dark, light);
    await page.reload();
    assert.equal(await background(), dark);
  },

  async 'leadership is transferred after its dry run'({ open, mock }) {
    const page = await open();
    await go(page, '#/nodes/n2');
    await button(page, 'Transfer leadership …').click();
    await reads(page.getByRole('dialog'), 'would get another leader');
    await page.getByRole('dialog').getByRole('button', { name: 'Transfer leadership' }).click();
    await reads(page.locator('#notices'), 'moved away from n2');
    assert.equal(mock.leads('n2').length, 0);
    await button(page, 'Let it lead again …').click();
    await page.getByRole('dialog').getByRole('button', { name: 'Let n2 lead' }).click();
    await reads(page.locator('#notices'), 'n2 may lead again');
  },

  async 'a retained message is shown and deleted'({ open, mock }) {
    const page = await open();
    await go(page, '#/retained');
    await page.getByLabel('Topic filter').fill('plant/press/#');
    await button(page, 'List').click();
    await page.getByRole('row', { name: /oven/ }).waitFor({ state: 'detached' });
    await button(page, 'View plant/press/4/state').click();
    await reads(page.locator('.payload'), '"running ✓"');
    await button(page, 'Close').click();
    await button(page, 'Delete plant/press/4/state').click();
    await page.getByRole('dialog').getByRole('button', { name: 'Delete plant/press/4/state' }).click();
    await reads(page.locator('#notices'), 'plant/press/4/state is gone');
    assert.equal(mock.retained.length, 3);
  },

  async 'the page asks for the token, says when it is refused, and forgets it with the tab'({ open }) {
    const mock = new Mock({ token: 'sesame' });
    const page = await open({ mock });
    await go(page, '#/cluster');
    const dialog = page.getByRole('dialog', { name: 'This node asks for a token' });
    await dialog.getByLabel('Bearer token').fill('wrong');
    await page.keyboard.press('Enter');
    await reads(dialog, 'refused that token');
    await dialog.getByLabel('Bearer token').fill('sesame');
    await page.keyboard.press('Enter');
    await seen(page.getByRole('link', { name: 'n2', exact: true }));
    const kept = await page.evaluate(() => [JSON.stringify(localStorage), document.cookie, JSON.stringify(sessionStorage)]);
    assert.ok(!kept[0].includes('sesame') && kept[1] === '' && kept[2].includes('sesame'));
    await page.reload();
    await seen(page.getByRole('link', { name: 'n2', exact: true }));
  },

  async 'a node that does not answer is noticed, and its return too'({ open, mock }) {
    const page = await open();
    await go(page, '#/cluster');
    await reads(page.locator('#link-state'), 'Connected');
    const answer = mock.answer;
    mock.answer = () => [503, { error: { code: 'busy', message: 'the node does not answer in time', hint: '' } }];
    await reads(page.locator('#link-state'), 'No answer since');
    mock.answer = answer;
    await reads(page.locator('#link-state'), 'Connected');
  },

  async 'what an older node does not offer is said in a sentence'({ open, mock }) {
    const page = await open();
    const answer = mock.answer.bind(mock);
    mock.answer = (method, url, headers, body) => (/state$|sessions/.test(new URL(url).pathname) ? answer(method, url, headers, body) : [404, null]);
    await go(page, '#/traffic');
    await reads(page.locator('main'), 'does not offer GET /v1/figures');
    for (const view of ['queues', 'retained', 'nodes/n1', 'cluster']) {
      await go(page, `#/${view}`);
      await reads(page.locator('main'), 'it runs an older version');
    }
  },

  async 'the lines of the last ten minutes are drawn and told'({ open, shoot }) {
    const page = await open();
    await page.clock.install();
    await go(page, '#/traffic');
    await seen(page.getByRole('figure').filter({ hasText: 'Messages per second' }));
    const points = () => page.evaluate(() => (document.querySelector('.plot .line-0[d]')?.getAttribute('d') ?? '').split('L').length);
    for (let before = await points(); before < 280; before = await points()) await page.clock.runFor(2000);
    await shoot(page, 'traffic-full-light');
    const area = page.locator('.plot-area').first();
    const box = await area.boundingBox();
    await page.mouse.move(box.x + box.width / 2, box.y + 40);
    await reads(page.locator('.readout').first(), /in [\d,]+ +out [\d,]+/);
    await page.clock.runFor(4000);
    await reads(page.locator('.readout').first(), /in [\d,]+ +out [\d,]+/);
    const told = await page.getByRole('img', { name: /^Messages per second/ }).getAttribute('aria-label');
    assert.match(told, /in: now [\d,]+, from [\d,]+ to [\d,]+/);
    await page.getByLabel('Figures of').selectOption('n2');
    await page.getByText('Numbers of Messages per second').click();
    await seen(page.getByRole('table', { name: 'Messages per second, last ten minutes' }));
  },
};

for (const colours of ['light', 'dark']) {
  MOCKED[`no view has a serious or critical finding of axe, ${colours}`] = async ({ open, shoot }) => {
    const page = await open({ colours });
    for (const [name, hash] of Object.entries(VIEWS)) {
      await visit(page, hash);
      if (name === 'traffic') await page.waitForFunction(() => document.querySelectorAll('.line-0[d*=L]').length > 0);
      await shoot(page, `${name}-${colours}`);
      await accessible(page, `${name}, ${colours}`);
    }
    await go(page, '#/nodes/n2');
    await button(page, 'Drain …').click();
    await reads(page.getByRole('dialog'), 'This would happen');
    await shoot(page, `drain-${colours}`);
    await accessible(page, `drain dialog, ${colours}`);
    await page.keyboard.press('Escape');
    await go(page, '#/retained');
    await button(page, 'View plant/binary').click();
    await reads(page.locator('.payload'), '00 01 02 ff');
    await accessible(page, `retained message, ${colours}`);
    await page.keyboard.press('Escape');
    await go(page, '#/cluster');
    await button(page, '3, details of the group').click();
    await reads(page.getByRole('dialog'), 'Another node leads this group');
    await accessible(page, `group dialog, ${colours}`);
  };
}

for (const viewport of [PHONE, { width: 320, height: 640 }]) {
  MOCKED[`no view scrolls sideways at ${viewport.width} pixels`] = async ({ open, shoot }) => {
    const page = await open({ viewport });
    for (const [name, hash] of Object.entries(VIEWS)) {
      await visit(page, hash);
      const { scrollWidth, clientWidth } = await page.evaluate(() => document.documentElement);
      const [wide, room] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
      assert.ok(wide <= room, `${name} is ${wide} pixels wide (${scrollWidth}, ${clientWidth})`);
      await shoot(page, `${name}-${viewport.width}`);
    }
    await button(page, 'Menu').click();
    await page.getByRole('navigation', { name: 'Views' }).getByRole('link', { name: 'Sessions' }).click();
    await reads(page.locator('h1'), 'Sessions');
    await accessible(page, `phone, ${viewport.width}`);
  };
}

const REAL = {
  async 'messages of QoS 0, 1 and 2 go from the test client through the cluster and back'({ open, base, shoot }) {
    await offers(base, '/v1/listeners');
    const page = await open();
    await go(page, '#/client');
    await connect(page, { clientId: 'journey-all-qos' });
    await subscribe(page, 'journey/#', 2);
    for (const qos of [0, 1, 2]) {
      await publish(page, `journey/${qos}`, `payload of QoS ${qos}`, qos);
      await reads(page.locator('.log .message'), new RegExp(`journey/${qos} +\\(QoS ${qos}.*payload of QoS ${qos}`, 's'));
    }
    await reads(page.locator('.log'), /QoS 1: PUBACK: success/);
    await reads(page.locator('.log'), /QoS 2: PUBCOMP: success/);
    await shoot(page, 'real-client-used');
    await accessible(page, 'test client with messages');
    await button(page, 'Unsubscribe from journey/#').click();
    await page.locator('.chip').waitFor({ state: 'detached' });
    await publish(page, 'journey/none', 'nobody', 1);
    await reads(page.locator('.log'), /no matching subscribers \(0x10\)/);
    await disconnect(page);
  },

  async 'a refused address and a refused packet are told in words'({ open, base }) {
    const page = await open();
    await go(page, '#/client');
    await page.getByLabel('WebSocket address').fill(base.replace('http', 'ws'));
    await button(page, 'Connect').click();
    await reads(page.locator('.log .problem'), 'nothing that speaks MQTT on WebSocket answers');
  },

  async 'the backlog of an offline client is found'({ open, base }) {
    await offers(base, '/v1/listeners');
    const page = await open();
    await go(page, '#/client');
    // Whatever a client calls itself is found under this name.
    const sleeper = 'journey-sleeper/ü %2F';
    await connect(page, { clientId: sleeper, expiry: 600 });
    await subscribe(page, 'sleeper/#', 1);
    await disconnect(page);
    await connect(page, { clientId: 'journey-waker' });
    for (const number of [1, 2, 3]) {
      await publish(page, 'sleeper/alarm', `ring ${number}`, 1);
      await reads(page.locator('#view'), `${number} sent`);
    }
    await page.waitForFunction(() => [...document.querySelectorAll('.log .note')].filter((line) => line.textContent?.includes('sleeper/alarm')).length === 3);
    await disconnect(page);
    await go(page, '#/sessions');
    await page.getByLabel('Client identifier begins with').fill('journey-sl');
    await button(page, 'Search').click();
    await page.getByRole('link', { name: sleeper }).click();
    await reads(page.locator('h1'), `Session ${sleeper}`);
    await reads(page.getByRole('region', { name: 'Backlog' }), '3 of');
    await reads(page.getByRole('region', { name: 'What keeps messages from it' }), /connect/i);
    await page.reload();
    await reads(page.getByRole('region', { name: 'Backlog' }), '3 of');
    await reads(page.getByRole('region', { name: 'Subscriptions' }), 'sleeper/#');
  },

  async 'a kicked client hears why, and a purged session is gone'({ open, base }) {
    await offers(base, '/v1/queues');
    const page = await open();
    await go(page, '#/client');
    await connect(page, { clientId: 'journey-kicked', expiry: 600 });
    await go(page, '#/sessions/journey-kicked');
    await button(page, 'Disconnect …').click();
    await page.getByRole('dialog').getByRole('button', { name: 'Disconnect journey-kicked' }).click();
    await reads(page.locator('#notices'), 'was disconnected');
    await button(page, 'Purge …').click();
    await page.getByRole('dialog').getByRole('button', { name: 'Purge journey-kicked' }).click();
    await reads(page.locator('#notices'), 'is gone');
    await page.evaluate(() => {
      location.hash = '#/client';
    });
    await reads(page.locator('.log .problem'), /administrative action \(0x98\)/);
  },

  async 'a retained message is listed, shown and deleted'({ open, base }) {
    await offers(base, '/v1/retained?filter=%23');
    const page = await open();
    await go(page, '#/client');
    await connect(page, { clientId: 'journey-retain' });
    await page.getByLabel('Retain').check();
    await publish(page, 'journey/retained', 'kept', 1);
    await reads(page.locator('.log'), /journey\/retained with QoS 1: PUBACK/);
    await go(page, '#/retained');
    await button(page, 'View journey/retained').click();
    await reads(page.locator('.payload'), 'kept');
    await button(page, 'Close').click();
    await button(page, 'Delete journey/retained').click();
    await page.getByRole('dialog').getByRole('button', { name: 'Delete journey/retained' }).click();
    await reads(page.locator('#notices'), 'is gone');
  },

  async 'a node that asks for a token gives the page without one, and answers with it'({ openAt }) {
    const token = 'a-token-that-is-long-enough-for-the-node';
    const node = await startGuardedNode(token);
    try {
      assert.equal((await fetch(`${node.base}/v1/cluster/state`)).status, 401);
      const page = await openAt(node.base);
      await go(page, '#/nodes/guarded');
      const dialog = page.getByRole('dialog', { name: 'This node asks for a token' });
      await dialog.getByLabel('Bearer token').fill('another-token-of-the-same-length-as-it');
      await page.keyboard.press('Enter');
      await reads(dialog, 'refused that token');
      await dialog.getByLabel('Bearer token').fill(token);
      await page.keyboard.press('Enter');
      await reads(page.getByRole('region', { name: 'State' }), 'ready');
      await button(page, 'Forget token').click();
      await dialog.waitFor();
    } finally {
      await node.stop();
    }
  },

  async 'a node is drained, its leaders move, and it comes back'({ open, base }) {
    await offers(base, '/v1/nodes/n2/drain');
    // Whether clients are left on another node is told by its figures.
    const told = await offered(base, '/v1/figures');
    await drainAndBack(await open(), 'n2', told ? 'drained: it may be stopped' : 'draining');
  },

  async 'a drained node sends the test client away and says why'({ open, base, shoot }) {
    await offers(base, '/v1/nodes/n1/drain');
    const page = await open();
    await go(page, '#/client');
    await connect(page, { clientId: 'journey-sent-away' });
    const { node_name: name } = await (await fetch(new URL('/v1/cluster/state', base))).json();
    await go(page, `#/nodes/${name}`);
    await button(page, 'Drain …').click();
    const dialog = page.getByRole('dialog', { name: `Drain ${name}?` });
    await dialog.getByLabel('Seconds that clients have to leave').fill('0');
    await reads(dialog, '1 client would have to connect elsewhere');
    await dialog.getByRole('button', { name: `Drain ${name}` }).click();
    await page.getByRole('region', { name: 'Maintenance' }).filter({ hasText: 'drained: it may be stopped' }).waitFor({ timeout: SENT_AWAY_TIMEOUT_MS });
    await shoot(page, 'real-drained');
    await go(page, '#/client');
    await reads(page.locator('.log .problem'), /use another server \(0x9C\)/);
    await go(page, `#/nodes/${name}`);
    await button(page, 'Undrain …').click();
    await page.getByRole('dialog').getByRole('button', { name: `Undrain ${name}` }).click();
    await reads(page.getByRole('region', { name: 'Maintenance' }), 'in service');
  },

  async 'leadership is moved away from a node, which is let to lead again'({ open, base }) {
    await offers(base, '/v1/nodes/n3/drain');
    const page = await open();
    await go(page, '#/nodes/n3');
    await button(page, 'Transfer leadership …').click();
    await reads(page.getByRole('dialog'), 'n3 leads nothing from then on');
    await page.getByRole('dialog').getByRole('button', { name: 'Transfer leadership' }).click();
    await reads(page.getByRole('region', { name: 'Maintenance' }), /is not to lead.*Leads0 groups/);
    await button(page, 'Let it lead again …').click();
    await page.getByRole('dialog').getByRole('button', { name: 'Let n3 lead' }).click();
    await reads(page.locator('#notices'), 'n3 may lead again');
  },

  async 'traffic is plotted, and a transfer of leadership is an event'({ open, base, shoot }) {
    await offers(base, '/v1/figures');
    await offers(base, '/v1/events');
    const page = await open();
    await go(page, '#/client');
    await connect(page, { clientId: 'journey-traffic' });
    await publish(page, 'journey/traffic', 'counted', 1);
    await reads(page.locator('.log'), 'PUBACK');
    await go(page, '#/traffic');
    await page.waitForFunction(() => [...document.querySelectorAll('.plot .line-0')].some((line) => (line.getAttribute('d') ?? '').split('L').length > 2));
    const told = await page.getByRole('img', { name: /^Connections/ }).getAttribute('aria-label');
    assert.match(told, /connections: now [1-9]/);
    await shoot(page, 'real-traffic-used');
    await go(page, '#/cluster');
    await reads(page.locator('.events li'), /lead/);
    await button(page, '1, details of the group').click();
    await reads(page.getByRole('dialog', { name: 'Group 1' }), /Voters.*n1.*n2.*n3/);
    await shoot(page, 'real-group');
    await accessible(page, 'group dialog, real node');
  },

  async 'a node says why it is well, and its log level is changed'({ open, base }) {
    await offers(base, '/v1/log-level');
    const page = await open();
    await go(page, '#/nodes/n1');
    await reads(page.getByRole('region', { name: 'Readiness' }), 'nothing_wrong');
    const form = page.getByRole('region', { name: 'Log level' });
    const before = await form.getByLabel('Filter').inputValue();
    await form.getByLabel('Filter').fill('warn');
    await form.getByLabel('For seconds').fill('5');
    await form.getByRole('button', { name: 'Set' }).click();
    await reads(form, 'logs at warn for 5 s, then as before');
    await form.getByLabel('Filter').fill('no=such=level');
    await form.getByRole('button', { name: 'Set' }).click();
    await seen(form.getByRole('alert'));
    await form.getByLabel('Filter').fill(before);
    await form.getByLabel('For seconds').fill('');
    await form.getByRole('button', { name: 'Set' }).click();
    await reads(form, 'until it is told otherwise');
  },

  async 'every view opens on a real node, and axe finds nothing serious'({ open, shoot }) {
    const page = await open();
    for (const [name, hash] of Object.entries(VIEWS)) {
      await visit(page, hash);
      await shoot(page, `real-${name}`);
      await accessible(page, `${name}, real node`);
    }
  },
};

/** Opens a view and waits until nothing in it is still being asked for. */
async function visit(page, hash) {
  await go(page, hash);
  await page.waitForFunction(() => document.querySelector('#view')?.childElementCount && !document.querySelector('#view .busy'));
}

async function accessible(page, place) {
  await page.evaluate(axe.source);
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ['violations'] }));
  const grave = violations.filter(({ impact }) => impact === 'serious' || impact === 'critical');
  const told = grave.map(({ id, help, nodes }) => `${id}: ${help}\n    ${nodes.slice(0, 4).map((node) => `${node.html.slice(0, 160)} ${node.failureSummary}`).join('\n    ')}`);
  assert.equal(grave.length, 0, `${place}:\n  ${told.join('\n  ')}`);
}

async function run(browser, base, list, mocked) {
  let failed = 0;
  for (const [name, journey] of Object.entries(list)) {
    if (options.only && !name.includes(options.only)) continue;
    const mock = mocked ? new Mock() : null;
    const pages = [];
    const openAt = async (address, how = {}) => {
      pages.push(await openPage(browser, address, { mock, ...how }));
      return pages.at(-1).page;
    };
    const open = (how) => openAt(base, how);
    const shoot = async (page, file) => options.shots && page.screenshot({ path: join(options.shots, `${file.replaceAll(' ', '-')}.png`), fullPage: true });
    const kind = mocked ? 'mock' : 'real';
    try {
      await journey({ open, openAt, base, mock, shoot });
      const problems = pages.flatMap((opened) => opened.problems);
      assert.deepEqual(problems.filter((text) => !text.includes('WebSocket connection to')), [], 'the browser reports errors');
      console.log(`ok       ${kind}  ${name}`);
    } catch (error) {
      if (error instanceof Skip) {
        console.log(`skipped  ${kind}  ${name}: ${error.message}`);
      } else {
        failed += 1;
        console.log(`FAILED   ${kind}  ${name}\n${String(error.stack ?? error)}`);
        if (options.shots) await pages.at(-1)?.page.screenshot({ path: join(options.shots, `failed-${failed}-${kind}.png`) }).catch(() => {});
        for (const text of pages.flatMap((opened) => opened.problems)) console.log(`  the browser: ${text}`);
      }
    }
    for (const opened of pages) await opened.close();
  }
  return failed;
}

async function main() {
  if (options.shots) mkdirSync(options.shots, { recursive: true });
  const cluster = options.base ? { base: options.base, stop: async () => {} } : await startCluster();
  const flags = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];
  let browser;
  try {
    browser = await chromium.launch({ executablePath: options.chromium, args: flags });
    const failed = await run(browser, cluster.base, REAL, false) + await run(browser, cluster.base, MOCKED, true);
    if (failed > 0) {
      console.log(`${failed} journeys failed`);
      process.exitCode = 1;
    }
  } finally {
    await browser?.close();
    await cluster.stop();
  }
}

await main();
