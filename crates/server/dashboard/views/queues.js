// @ts-check
// View "Queues": where messages wait, and which clients do not keep up.
//
// Owns: the two lists. Does not: judge; a session's page says why.

import { api } from '../api.js';
import { badge, h, panel, problem, table, update } from '../dom.js';
import { every } from '../history.js';
import { bytes, count, millis } from '../text.js';

const PAUSE_MS = 5000;

export const title = () => 'Queues';

const client = { name: 'Client', head: true, cell: (/** @type {any} */ row) => h('a', { class: 'id', href: `#/sessions/${encodeURIComponent(row.client_id)}` }, row.client_id) };

/**
 * @param {HTMLElement} root
 * @param {string[]} rest
 * @param {AbortSignal} signal
 */
export function open(root, rest, signal) {
  const queues = h('div');
  const slow = h('div');
  root.append(queues, slow);
  every(PAUSE_MS, signal, async () => {
    await Promise.all([
      show(signal, queues, 'Longest queues', api.queues, (answer) => [incomplete(answer), table({
        caption: 'Longest queues of the cluster, longest first',
        rows: answer.queues,
        key: (row) => `queue-${row.client_id}`,
        empty: 'No messages wait for anybody.',
        columns: [
          client,
          { name: 'Connection', cell: (row) => (row.online ? badge('ok', `online${row.node ? ` on ${row.node}` : ''}`) : badge('quiet', 'offline')) },
          { name: 'Messages', number: true, cell: (row) => count(row.messages) },
          { name: 'Bytes', number: true, cell: (row) => bytes(row.bytes) },
          { name: 'Oldest waits', number: true, cell: (row) => millis(row.oldest_ms) },
        ],
      })]),
      show(signal, slow, 'Slow consumers', api.slowConsumers, (answer) => [incomplete(answer), table({
        caption: 'Connected clients that do not keep up, slowest first',
        rows: answer.consumers,
        key: (row) => `slow-${row.client_id}`,
        empty: 'Every connected client keeps up.',
        columns: [
          client,
          { name: 'Node', cell: (row) => row.node ?? '–' },
          { name: 'Inflight', number: true, cell: (row) => (row.inflight === null ? '–' : `${count(row.inflight)} of ${count(row.inflight_max)}`) },
          { name: 'Queued', number: true, cell: (row) => count(row.queued) },
          { name: 'Oldest unacknowledged', number: true, cell: (row) => millis(row.oldest_unacked_ms) },
          { name: 'Dropped', number: true, cell: (row) => count(row.dropped) },
        ],
      })]),
    ]);
  });
}

/**
 * @param {AbortSignal} signal
 * @param {HTMLElement} root
 * @param {string} name
 * @param {() => Promise<any>} ask
 * @param {(answer: any) => (HTMLElement | null)[]} draw
 */
async function show(signal, root, name, ask, draw) {
  try {
    const answer = await ask();
    if (!signal.aborted) update(root, panel(name, null, ...draw(answer)));
  } catch (error) {
    if (!signal.aborted) update(root, panel(name, null, problem(error)));
  }
}

/** @param {{incomplete_groups?: number[], complete?: boolean}} answer */
export function incomplete({ incomplete_groups: missing = [], complete = true }) {
  if (missing.length > 0) return h('p', { class: 'problem' }, `Not complete: these partitions could not be read: ${missing.join(', ')}.`);
  return complete ? null : h('p', { class: 'note' }, 'Some nodes had more than they could look through in time, or did not answer: there may be others.');
}
