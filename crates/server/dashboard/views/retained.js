// @ts-check
// View "Retained": the last message of each topic; look at one, delete one.
//
// Owns: the list and the shown message. Does not: publish.

import { api, pageWithRows } from '../api.js';
import { confirmAction, openDialog } from '../dialog.js';
import { button, facts, field, h, notice, problem, table, update } from '../dom.js';
import { bytes, count, seconds } from '../text.js';
import { incomplete } from './queues.js';

const PAGE = 50;
/** Bytes of a payload that are shown. */
const SHOWN_MAX = 16_384;

export const title = () => 'Retained messages';

const search = { filter: '#', pages: /** @type {(string | undefined)[]} */ ([undefined]) };

/**
 * @param {HTMLElement} root
 * @param {string[]} rest
 * @param {AbortSignal} signal
 */
export function open(root, rest, signal) {
  const filter = /** @type {HTMLInputElement} */ (h('input', { type: 'search', name: 'filter', value: search.filter, required: true, autocomplete: 'off', spellcheck: 'false' }));
  const result = h('div', { class: 'panel', 'aria-live': 'polite' });
  const load = async () => {
    try {
      const page = await pageWithRows((after) => api.retained({ filter: search.filter, limit: PAGE, after }), ({ messages }) => messages, search.pages.at(-1));
      if (!signal.aborted) update(result, found(page, load));
    } catch (error) {
      if (!signal.aborted) update(result, problem(error));
    }
  };
  root.append(h('form', {
    class: 'toolbar',
    role: 'search',
    'aria-label': 'Retained messages',
    onsubmit: (/** @type {Event} */ event) => {
      event.preventDefault();
      Object.assign(search, { filter: filter.value, pages: [undefined] });
      load();
    },
  }, field('Topic filter', filter), h('button', { type: 'submit', class: 'primary' }, 'List')), result);
  load();
}

/**
 * @param {any} page
 * @param {() => void} load
 */
function found(page, load) {
  const move = (/** @type {(string | undefined)[]} */ pages) => {
    search.pages = pages;
    load();
  };
  return [
    incomplete(page),
    table({
      caption: 'Retained messages',
      rows: page.messages,
      key: (message) => `topic-${message.topic}`,
      empty: page.next ? 'None in what was read so far. More may follow on the next page.' : `No topic with a retained message matches ${search.filter}.`,
      columns: [
        { name: 'Topic', head: true, cell: (message) => h('code', {}, message.topic) },
        { name: 'QoS', number: true, cell: (message) => message.qos },
        { name: 'Size', number: true, cell: (message) => bytes(message.payload_bytes) },
        { name: 'Expires in', number: true, cell: (message) => (message.expiry_s === null || message.expiry_s === undefined ? 'never' : seconds(message.expiry_s)) },
        {
          name: 'Actions',
          cell: (message) => h('div', { class: 'actions' },
            button('View', () => view(message.topic), { 'aria-label': `View ${message.topic}` }),
            button('Delete …', () => remove(message.topic, load), { class: 'danger', 'aria-label': `Delete ${message.topic}` })),
        },
      ],
    }),
    h('div', { class: 'pages' },
      button('Previous page', () => move(search.pages.slice(0, -1)), { disabled: search.pages.length < 2 }),
      h('span', { class: 'note' }, `Page ${search.pages.length}`),
      button('Next page', () => move([...search.pages, page.next]), { disabled: !page.next })),
  ];
}

/** @param {string} topic */
function view(topic) {
  return openDialog(topic, (body, close) => {
    const content = h('div', {}, h('p', { class: 'busy' }, 'Asking the node …'));
    body.append(content, h('div', { class: 'dialog-buttons' }, button('Close', () => close(null), { autofocus: true })));
    api.retainedMessage(topic).then((message) => {
      const payload = Uint8Array.from(atob(message.payload_base64 ?? ''), (char) => char.charCodeAt(0));
      update(content,
        facts([
          ['QoS', message.qos], ['Size', bytes(message.payload_bytes)], ['Content type', message.content_type || '–'],
          ['Expires in', message.expiry_s === null || message.expiry_s === undefined ? 'never' : seconds(message.expiry_s)],
          ...(message.user_properties ?? []).map((/** @type {[string, string]} */ [key, value]) => /** @type {[string, string]} */ ([key, value])),
        ]),
        h('pre', { class: 'payload', tabindex: '0', role: 'region', 'aria-label': 'Payload' }, payloadText(payload)));
    }, (error) => update(content, problem(error)));
  });
}

/**
 * Text when it is text, else bytes.
 * @param {Uint8Array} payload
 */
export function payloadText(payload) {
  if (payload.length === 0) return '(empty)';
  const shown = payload.subarray(0, SHOWN_MAX);
  const rest = payload.length - shown.length;
  const more = rest > 0 ? `\n… ${count(rest)} bytes more` : '';
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(shown, { stream: rest > 0 });
    if (!/[\u0000-\u0008\u000e-\u001f]/.test(text)) return text + more;
  } catch {
    // Not UTF-8: bytes.
  }
  const bytesShown = shown.subarray(0, 1024);
  const left = payload.length - bytesShown.length;
  return Array.from(bytesShown, (byte) => byte.toString(16).padStart(2, '0')).join(' ') + (left > 0 ? `\n… ${count(left)} bytes more` : '');
}

/**
 * @param {string} topic
 * @param {() => void} load
 */
async function remove(topic, load) {
  const answer = await confirmAction({
    title: `Delete the retained message of ${topic}?`,
    text: [h('p', {}, 'New subscribers of ', h('code', {}, topic), ' will no longer get it. Those who have it keep it.'), h('p', {}, 'This cannot be undone.')],
    label: `Delete ${topic}`,
    tone: 'danger',
    act: () => api.deleteRetained(topic),
  });
  if (answer) notice('ok', answer.existed ? `The retained message of ${topic} is gone.` : `${topic} had no retained message.`);
  load();
}
