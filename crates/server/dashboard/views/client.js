// @ts-check
// View "Test client": a client of MQTT 5 in the page, on WebSocket.
//
// Owns: the forms, the list of subscriptions, the log. Does not: end with the view: the connection stays until it is
// closed or the page is.
// Limits: LOG_MAX lines, the oldest go first; PAYLOAD_SHOWN_MAX characters of a payload.

import { api } from '../api.js';
import { announce, badge, button, field, h, panel, update } from '../dom.js';
import { MqttClient } from '../mqtt/client.js';
import { isFailure } from '../mqtt/reasons.js';
import { bytes, clock, plural, sentence } from '../text.js';
import { payloadText } from './retained.js';

const LOG_MAX = 300;
const PAYLOAD_SHOWN_MAX = 2000;
/** Characters from which on a payload may have to be scrolled. */
const LONG_BODY = 200;
const KEEP_ALIVE_SECONDS = 60;
/** Paths and ports that `quorate dev` and most brokers use, when the node does not say where it listens. */
const FALLBACK_PORT = 8083;

/** @typedef {{key: number, at: number, sign: string, kind: string, head: string, body?: string}} Line */

/** The page has one client; it outlives the view. */
const state = {
  /** @type {Line[]} */
  log: [],
  /** @type {Map<string, string>} filters and what was granted */
  filters: new Map(),
  clientId: '',
  url: '',
  lines: 0,
  received: 0,
  sent: 0,
  redraw: () => {},
};

/** @type {{[name: string]: string | boolean}} */
const typed = {
  url: '', clientId: `dashboard-${crypto.getRandomValues(new Uint32Array(1))[0].toString(36)}`, username: '', keepAlive: String(KEEP_ALIVE_SECONDS),
  sessionExpiry: '0', cleanStart: true, filter: '#', filterQos: '1', topic: 'hello/world', payload: 'It works.', qos: '1', retain: false,
};

const client = new MqttClient(onEvent);

export const title = () => 'Test client';

/** @param {import('../mqtt/client.js').ClientEvent} event */
function onEvent(event) {
  switch (event.kind) {
    case 'open':
      state.clientId = event.clientId;
      log('●', 'open', `Connected as ${event.clientId}: ${event.sessionPresent ? 'the session was there' : 'a new session'}, keep-alive ${event.keepAlive} s`);
      announce(`Connected as ${event.clientId}`);
      break;
    case 'closed':
      state.filters.clear();
      log(event.expected ? '○' : '✕', event.expected ? 'note' : 'problem', sentence(event.text));
      announce(sentence(event.text));
      break;
    case 'message': {
      state.received += 1;
      const flags = [`QoS ${event.qos}`, event.retain && 'retained', event.dup && 'repeated', bytes(event.payload.length)].filter(Boolean).join(', ');
      const text = payloadText(event.payload);
      const more = text.length > PAYLOAD_SHOWN_MAX ? ' …' : '';
      log('↓', 'message', `${event.topic}  (${flags})`, text.slice(0, PAYLOAD_SHOWN_MAX) + more);
      break;
    }
    case 'note':
      log('✓', 'note', sentence(event.text));
      break;
    case 'problem':
      log('✕', 'problem', sentence(event.text));
      break;
    default:
  }
  state.redraw();
}

/**
 * @param {string} sign
 * @param {string} kind
 * @param {string} head
 * @param {string} [body]
 */
function log(sign, kind, head, body) {
  state.lines += 1;
  state.log.unshift({ key: state.lines, at: Date.now(), sign, kind, head, body });
  state.log.splice(LOG_MAX);
  state.redraw();
}

/**
 * An input that keeps what was typed while another view is open.
 * @param {string} name
 * @param {{[name: string]: any}} [attributes]
 */
function input(name, attributes = {}) {
  const element = /** @type {HTMLInputElement} */ (h('input', {
    name,
    autocomplete: 'off',
    spellcheck: 'false',
    ...attributes,
    oninput: () => {
      typed[name] = element.type === 'checkbox' ? element.checked : element.value;
    },
  }));
  if (element.type === 'checkbox') element.checked = typed[name] === true;
  else if (element.type !== 'password') element.value = String(typed[name] ?? '');
  return element;
}

/** @param {string} name */
function qosSelect(name) {
  const select = /** @type {HTMLSelectElement} */ (h('select', {
    name,
    onchange: () => {
      typed[name] = select.value;
    },
  }, ['0', '1', '2'].map((qos) => h('option', { value: qos }, qos))));
  select.value = String(typed[name]);
  return select;
}

/**
 * @param {HTMLElement} root
 * @param {string[]} rest
 * @param {AbortSignal} signal
 */
export function open(root, rest, signal) {
  const url = input('url', { type: 'text', required: true, list: 'listeners', inputmode: 'url', placeholder: 'ws://host:8083/mqtt' });
  const addresses = h('datalist', { id: 'listeners' });
  const password = input('password', { type: 'password' });
  const status = h('span', { role: 'status' });
  const connectButton = h('button', { type: 'submit', class: 'primary' }, 'Connect');
  const disconnectButton = button('Disconnect', () => client.disconnect());
  const subscribeButton = h('button', { type: 'submit' }, 'Subscribe');
  const publishButton = h('button', { type: 'submit', class: 'primary' }, 'Publish');
  const filters = h('div');
  const lines = h('ol');
  const counts = h('span', { class: 'note' });

  const connection = h('form', { class: 'fields', onsubmit: submitted(() => connect(password)) },
    h('div', { class: 'wide' }, field('WebSocket address', url), addresses),
    field('Client identifier', input('clientId', { placeholder: 'the server gives one' })),
    field('User name', input('username')), field('Password', password),
    field('Keep-alive, s', input('keepAlive', { type: 'number', min: 0, max: 65_535 })),
    field('Session expiry, s', input('sessionExpiry', { type: 'number', min: 0, max: 4_294_967_295 })),
    h('label', { class: 'check' }, input('cleanStart', { type: 'checkbox' }), ' Clean start'),
    h('div', { class: 'actions' }, connectButton, disconnectButton));
  const subscribe = h('form', { class: 'fields', onsubmit: submitted(() => subscribeTo(String(typed.filter), Number(typed.filterQos))) },
    field('Topic filter', input('filter', { required: true })), field('QoS', qosSelect('filterQos')), h('div', { class: 'actions' }, subscribeButton));
  const payload = /** @type {HTMLTextAreaElement} */ (h('textarea', {
    name: 'payload',
    rows: 3,
    oninput: () => {
      typed.payload = payload.value;
    },
  }));
  payload.value = String(typed.payload);
  const publish = h('form', { class: 'fields', onsubmit: submitted(publishTyped) },
    h('div', { class: 'wide' }, field('Topic', input('topic', { required: true }))), h('div', { class: 'wide' }, field('Payload', payload)),
    field('QoS', qosSelect('qos')), h('label', { class: 'check' }, input('retain', { type: 'checkbox' }), ' Retain'),
    h('div', { class: 'actions' }, publishButton));

  root.append(h('div', { class: 'client' },
    h('div', {}, panel('Connection', status, connection), panel('Subscribe', null, subscribe, filters), panel('Publish', null, publish)),
    h('div', {}, panel('Log', h('div', { class: 'actions' }, counts, button('Clear log', () => {
      state.log.length = 0;
      draw();
    })), h('div', { class: 'log', role: 'log', 'aria-label': 'Messages and answers, newest first', tabindex: '0' }, lines)))));

  const draw = () => {
    const connected = client.state === 'connected';
    update(status, connected ? badge('ok', `connected as ${state.clientId}`) : client.state === 'connecting' ? badge('info', 'connecting') : badge('quiet', 'not connected'));
    able(connectButton, client.state === 'closed');
    able(disconnectButton, client.state !== 'closed');
    able(subscribeButton, connected);
    able(publishButton, connected);
    update(filters, [...state.filters].map(([filter, granted]) => h('p', { class: 'chip', 'data-key': `chip-${filter}` }, h('code', {}, filter), ` ${granted} `,
      button('Unsubscribe', () => unsubscribe(filter), { 'aria-label': `Unsubscribe from ${filter}` }))));
    counts.textContent = `${plural(state.received, 'message')} received, ${state.sent} sent`;
    update(lines, state.log.length === 0 && h('li', { class: 'empty' }, 'Nothing yet. Connect, subscribe, then publish: each packet and its answer gets a line here.'), state.log.map((line) => h('li', { class: line.kind, 'data-key': `line-${line.key}` },
      h('time', { datetime: new Date(line.at).toISOString() }, clock(line.at)), h('span', { class: 'sign', 'aria-hidden': 'true' }, line.sign),
      h('span', { class: 'what' }, line.head), line.body !== undefined && h('pre', line.body.length > LONG_BODY ? { tabindex: '0', role: 'region', 'aria-label': `Payload of ${line.head}` } : {}, line.body))));
  };
  state.redraw = draw;
  signal.addEventListener('abort', () => {
    state.redraw = () => {};
  }, { once: true });
  draw();
  fillAddresses(url, addresses);
}

/**
 * @param {HTMLElement} element
 * @param {boolean} enabled
 */
function able(element, enabled) {
  /** @type {HTMLButtonElement} */ (element).disabled = !enabled;
}

/**
 * A form's handler: what goes wrong is a line in the log.
 * @param {() => unknown} act
 */
function submitted(act) {
  return async (/** @type {Event} */ event) => {
    event.preventDefault();
    try {
      await act();
    } catch (error) {
      log('✕', 'problem', sentence(/** @type {Error} */ (error).message));
    }
  };
}

/**
 * @param {HTMLInputElement} url
 * @param {HTMLElement} addresses
 */
async function fillAddresses(url, addresses) {
  const known = await api.listeners().catch(() => null);
  const found = (known?.listeners ?? []).map(websocketUrl).filter((address) => address !== null);
  if (!known) found.push(`${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.hostname}:${FALLBACK_PORT}/mqtt`);
  update(addresses, found.map((address) => h('option', { value: address })));
  if (typed.url === '' && found.length > 0) {
    typed.url = found[0];
    url.value = found[0];
  }
}

/**
 * The address for a browser. A listener on all addresses is reached under the name that the page was.
 * @param {{kind: string, address: string}} listener
 */
function websocketUrl({ kind, address }) {
  const scheme = { websocket: 'ws', 'websocket-tls': 'wss' }[kind];
  const split = address.lastIndexOf(':');
  if (!scheme || split < 0 || address.startsWith('unix:')) return null;
  const host = address.slice(0, split);
  return `${scheme}://${['0.0.0.0', '[::]'].includes(host) ? location.hostname : host}:${address.slice(split + 1)}/mqtt`;
}

/** @param {HTMLInputElement} password */
function connect(password) {
  const text = String(typed.url);
  if (!/^wss?:\/\//.test(text)) throw new Error('the address begins with ws:// or wss://');
  log('→', 'note', `Connecting to ${text}`);
  client.connect({
    url: text,
    clientId: String(typed.clientId),
    cleanStart: typed.cleanStart === true,
    keepAlive: Number(typed.keepAlive) || 0,
    sessionExpiry: Number(typed.sessionExpiry) || 0,
    username: typed.username === '' ? undefined : String(typed.username),
    password: password.value === '' ? undefined : password.value,
  });
  state.redraw();
}

/**
 * @param {string} filter
 * @param {number} qos
 */
async function subscribeTo(filter, qos) {
  const answer = await client.subscribe(filter, qos);
  if (answer && !isFailure(Number(/\((0x..)\)/.exec(answer)?.[1] ?? 0))) state.filters.set(filter, answer);
  state.redraw();
}

/** @param {string} filter */
async function unsubscribe(filter) {
  await client.unsubscribe(filter);
  state.filters.delete(filter);
  state.redraw();
}

async function publishTyped() {
  const payload = new TextEncoder().encode(String(typed.payload));
  const answered = client.publish({ topic: String(typed.topic), payload, qos: Number(typed.qos), retain: typed.retain === true });
  state.sent += 1;
  state.redraw();
  await answered;
}
