// @ts-check
// View "Sessions": search, one session with its backlog and what keeps messages from it, kick and purge.
//
// Owns: the search, the paging, the detail. Does not: list what the answering node cannot know; it says so.

import { api, pageWithRows } from '../api.js';
import { confirmAction, findingList } from '../dialog.js';
import { badge, button, facts, field, h, notice, panel, problem, table, update } from '../dom.js';
import { every, nodeName } from '../history.js';
import { bytes, count, list, plural, seconds } from '../text.js';

/** Rows of a page; a narrow screen shows each as a block. */
const PAGE = matchMedia('(max-width: 700px)').matches ? 20 : 50;
const DETAIL_PAUSE_MS = 2000;

export const title = (/** @type {string[]} */ [id]) => (id === undefined ? 'Sessions' : `Session ${id}`);

/**
 * @param {HTMLElement} root
 * @param {string[]} rest
 * @param {AbortSignal} signal
 */
export function open(root, [id], signal) {
  if (id === undefined) openList(root, signal);
  else openDetail(root, id, signal);
}

/** What was searched last, so that the way back from a session finds the same page. */
const search = { prefix: '', online: '', min_queued: '', pages: /** @type {(string | undefined)[]} */ ([undefined]) };

/**
 * @param {HTMLElement} root
 * @param {AbortSignal} signal
 */
function openList(root, signal) {
  const prefix = /** @type {HTMLInputElement} */ (h('input', { type: 'search', name: 'prefix', value: search.prefix, autocomplete: 'off', spellcheck: 'false' }));
  const online = /** @type {HTMLSelectElement} */ (h('select', { name: 'online' }, h('option', { value: '' }, 'all'), h('option', { value: 'true' }, 'online'), h('option', { value: 'false' }, 'offline')));
  const queued = /** @type {HTMLInputElement} */ (h('input', { type: 'number', name: 'min_queued', min: 0, step: 1, value: search.min_queued, placeholder: '0' }));
  online.value = search.online;
  const result = h('div', { class: 'panel', 'aria-live': 'polite' });
  const load = async () => {
    result.setAttribute('aria-busy', 'true');
    try {
      const after = search.pages.at(-1);
      const page = await pageWithRows((from) => api.sessions({ limit: PAGE, after: from, prefix: search.prefix, online: search.online, min_queued: search.min_queued }), ({ sessions }) => sessions.filter(fits), after);
      if (!signal.aborted) update(result, found(page, load));
    } catch (error) {
      update(result, problem(error));
    }
    result.removeAttribute('aria-busy');
  };
  const submit = (/** @type {Event} */ event) => {
    event.preventDefault();
    Object.assign(search, { prefix: prefix.value, online: online.value, min_queued: queued.value, pages: [undefined] });
    load();
  };
  root.append(h('form', { class: 'toolbar', role: 'search', 'aria-label': 'Sessions', onsubmit: submit },
    field('Client identifier begins with', prefix), field('Connection', online), field('Queued at least', queued),
    h('button', { type: 'submit', class: 'primary' }, 'Search')), result);
  load();
}

/**
 * @param {import('../api.js').SessionPage} page
 * @param {() => void} load
 */
function found(page, load) {
  const next = page.next_after ?? page.next;
  const missing = page.incomplete_groups ?? page.missing_partitions ?? [];
  const move = (/** @type {(string | undefined)[]} */ pages) => {
    search.pages = pages;
    load();
  };
  return [
    missing.length > 0 && h('p', { class: 'problem' }, `Not listed: sessions of ${plural(missing.length, 'partition')} that this node could not read (${list(missing.slice(0, 10).map(String))}).`),
    table({
      caption: 'Sessions',
      rows: page.sessions.filter(fits),
      key: (session) => `session-${session.client_id}`,
      empty: next ? 'None in what was read so far. More may follow on the next page.' : search.prefix || search.online || search.min_queued ? 'No session fits.' : 'There are no sessions.',
      columns: [
        { name: 'Client', head: true, cell: (session) => h('a', { class: 'id', href: `#/sessions/${encodeURIComponent(session.client_id)}` }, session.client_id || '(empty)') },
        { name: 'Connection', cell: (session) => (session.owner ? badge('ok', `online on ${nodeName(session.owner)}`) : badge('quiet', 'offline')) },
        { name: 'Kind', cell: (session) => (session.durable ? 'durable' : 'transient') },
        { name: 'Subscriptions', number: true, cell: (session) => count(session.subscriptions) },
        { name: 'Queued', number: true, cell: (session) => [count(session.queued_messages), session.queued_messages > 0 && h('span', { class: 'note' }, ` ${bytes(session.queued_bytes)}`)] },
        { name: 'Inflight', number: true, cell: (session) => count(session.inflight) },
        { name: 'Partition', number: true, cell: (session) => count(session.partition) },
      ],
    }),
    h('div', { class: 'pages' },
      button('Previous page', () => move(search.pages.slice(0, -1)), { disabled: search.pages.length < 2 }),
      h('span', { class: 'note' }, `Page ${search.pages.length}`),
      button('Next page', () => move([...search.pages, next ?? undefined]), { disabled: !next })),
  ];
}

/**
 * An older node does not know the filters and sends everything.
 * @param {import('../api.js').SessionSummary} session
 */
function fits(session) {
  return session.client_id.startsWith(search.prefix)
    && (search.online === '' || (search.online === 'true') === Boolean(session.owner))
    && session.queued_messages >= Number(search.min_queued || 0);
}

/**
 * @param {HTMLElement} root
 * @param {string} id
 * @param {AbortSignal} signal
 */
function openDetail(root, id, signal) {
  const content = h('div', {}, h('p', { class: 'busy' }, 'Asking the node …'));
  root.append(h('p', {}, h('a', { href: '#/sessions' }, '← All sessions')), content);
  const load = async () => {
    try {
      const answer = await api.session(id);
      if (!signal.aborted) update(content, detail(answer, load));
    } catch (error) {
      if (!signal.aborted) update(content, problem(error));
    }
  };
  every(DETAIL_PAUSE_MS, signal, load);
}

/**
 * @param {any} answer
 * @param {() => void} load
 */
function detail(answer, load) {
  const { session, client_id: id } = answer;
  return [
    panel('What keeps messages from it', null, findingList(answer.findings ?? [])),
    session && backlog(session),
    session && panel('Session', actions(id, session, load), facts([
      ['Connection', session.owner ? badge('ok', `online on ${session.owner.node.name || nodeName(session.owner.node.id)}`) : badge('quiet', `offline${session.offline_s !== undefined ? ` for ${seconds(session.offline_s)}` : ''}`)],
      ['Kind', session.durable ? 'durable: outlives its connection' : 'transient: ends with its connection'],
      ['Principal', session.principal || 'anonymous'],
      ['Expiry', session.expiry_s === undefined || session.expiry_s === null ? 'never' : seconds(session.expiry_s)],
      session.ends_in_s !== undefined && ['Ends in', seconds(session.ends_in_s)],
      ['Home partition', `${answer.partition}${answer.leader ? `, led by ${answer.leader.name || nodeName(answer.leader.id)}` : ', without a leader'}`],
      ['Answer from', `${answer.read_from.name || nodeName(answer.read_from.id)}, up to log index ${count(answer.applied)}${answer.leading ? '' : ' (a follower, which may lag)'}`],
      ['Unreleased QoS 2 from it', count(session.inbound)],
      ['Publishes refused because of it', count(session.refused)],
    ])),
    session && subscriptions(session),
  ];
}

/** @param {any} session */
function backlog({ queue, inflight, dropped }) {
  const bar = (/** @type {string} */ name, /** @type {number} */ value, /** @type {number} */ max, /** @type {(value: number) => string} */ shown) => h('div', { class: 'gauge' },
    h('span', {}, name), h('meter', { min: 0, max: Math.max(1, max), value, high: max * 0.8, 'aria-label': `${name}: ${shown(value)} of ${shown(max)}` }),
    h('span', { class: 'number' }, `${shown(value)} of ${shown(max)}`));
  return panel('Backlog', null,
    bar('Queued messages', queue.messages, queue.messages_max, count),
    bar('Queued bytes', queue.bytes, queue.bytes_max, bytes),
    bar('Inflight', inflight.sent, inflight.window, count),
    facts([
      ['When the queue is full', queue.overflow],
      ['Awaits PUBACK', count(inflight.awaiting_puback)],
      ['Awaits PUBREC', count(inflight.awaiting_pubrec)],
      ['Awaits PUBCOMP', count(inflight.awaiting_pubcomp)],
      inflight.held > 0 && ['To be sent again', count(inflight.held)],
      inflight.oldest && ['Oldest unacknowledged', `packet ${inflight.oldest.packet_id}, QoS ${inflight.oldest.qos}${inflight.oldest.sent_before ? ', sent on an earlier connection' : ''}`],
      ['Dropped', dropped.length === 0 ? 'nothing' : dropped.map((/** @type {any} */ one) => `${count(one.count)} ${one.reason}`).join(', ')],
    ]));
}

/** @param {any} session */
function subscriptions(session) {
  const rest = session.subscription_count - session.subscriptions.length;
  return panel('Subscriptions', h('span', { class: 'note' }, rest > 0 ? `the first ${session.subscriptions.length} of ${count(session.subscription_count)}` : count(session.subscription_count)),
    table({
      caption: 'Subscriptions of the session',
      rows: session.subscriptions,
      key: (one) => `filter-${one.filter}`,
      empty: 'It has no subscriptions.',
      columns: [
        { name: 'Filter', head: true, cell: (one) => h('code', {}, one.filter) },
        { name: 'QoS', number: true, cell: (one) => one.qos },
        { name: 'Own messages', cell: (one) => (one.no_local ? 'left out' : 'too') },
        { name: 'Identifier', number: true, cell: (one) => one.identifier ?? '–' },
      ],
    }));
}

/**
 * @param {string} id
 * @param {any} session
 * @param {() => void} load
 */
function actions(id, session, load) {
  const kick = async () => {
    const answer = await confirmAction({
      title: `Disconnect ${id}?`,
      text: [h('p', {}, `The connection of the client `, h('code', {}, id), ` is closed with the reason “administrative action”.`),
        h('p', {}, 'Its session stays as it is, and the client may connect again at once.')],
      label: `Disconnect ${id}`,
      act: () => api.kick(id),
    });
    if (answer) notice('ok', answer.kicked ? `${id} was disconnected${answer.node ? ` from ${answer.node}` : ''}.` : `${id} had no connection.`);
    load();
  };
  const purge = async () => {
    const answer = await confirmAction({
      title: `Purge the session of ${id}?`,
      text: [h('p', {}, 'The session of the client ', h('code', {}, id), ' is removed for good:'),
        h('ul', {}, h('li', {}, plural(session.subscription_count, 'subscription')), h('li', {}, `${plural(session.queue.messages, 'queued message')}, ${bytes(session.queue.bytes)}`), h('li', {}, `${plural(session.inflight.sent + session.inflight.held, 'unacknowledged message')}`), h('li', {}, 'its will, unpublished')),
        h('p', {}, session.owner ? 'Its connection is closed first. ' : '', 'This cannot be undone.')],
      label: `Purge ${id}`,
      tone: 'danger',
      act: () => api.purge(id),
    });
    if (answer) notice('ok', answer.existed ? `The session of ${id} is gone.` : `${id} had no session.`);
    load();
  };
  return h('div', { class: 'actions' }, button('Disconnect …', kick, { disabled: !session.owner }), button('Purge …', purge, { class: 'danger' }));
}
