// @ts-check
// View "Cluster": what is wrong, the nodes, the partition map, events.
//
// Owns: the order, which is by urgency. Does not: change anything; a node's page does.

import { api } from '../api.js';
import { place, partitionMap, troubled } from '../cluster-map.js';
import { announce, badge, h, oncePerPicture, panel, problem, table, update } from '../dom.js';
import { clusterState, events, every, figures, figuresOf, newEvents } from '../history.js';
import { bytes, clock, count, list, plural } from '../text.js';

/** @typedef {import('../api.js').ClusterState} ClusterState */
/** @typedef {import('../api.js').NodeStatus} NodeStatus */

const EVENTS_SHOWN = 50;
const LEVEL_PAUSE_MS = 15_000;

export const title = () => 'Cluster';

/**
 * @param {HTMLElement} root
 * @param {string[]} rest
 * @param {AbortSignal} signal
 */
export function open(root, rest, signal) {
  let onlyTroubled = false;
  /** What the map shows. @type {{state: ClusterState | null, onlyTroubled: boolean}} */
  let drawn = { state: null, onlyTroubled };
  /** @type {any} */
  let level = null;
  const draw = oncePerPicture(() => {
    if (signal.aborted) return undefined;
    const state = clusterState.value;
    if (!state) return update(root, clusterState.error ? problem(clusterState.error) : h('p', { class: 'busy' }, 'Asking the node …'));
    update(root, clusterState.error && problem(clusterState.error), warnings(state), summary(state, level), nodes(state),
      h('div', { class: 'beside', 'data-key': 'beside' }, panel('Partition map', filterBox(onlyTroubled, (only) => {
        onlyTroubled = only;
        draw();
      }), h('div', { 'data-key': 'map', 'data-kept': 'map' })),
      eventPanel(state.node_name)));
    const place = root.querySelector('[data-kept=map]');
    if (place && (drawn.state !== state || drawn.onlyTroubled !== onlyTroubled)) {
      update(place, map(state, onlyTroubled));
      drawn = { state, onlyTroubled };
    }
    return undefined;
  });
  clusterState.follow(signal, draw);
  figures.follow(signal, draw);
  newEvents.follow(signal, () => {
    const fresh = newEvents.value ?? [];
    // The first answer is history, not news.
    if (fresh.length > 0 && fresh.length < events.length) announce(fresh.length > 3 ? `${fresh.length} new events` : fresh.map((event) => event.text).join('. '));
    draw();
  });
  every(LEVEL_PAUSE_MS, signal, async () => {
    level = await api.clusterLevel().catch(() => null);
    draw();
  });
}

/** @param {ClusterState} state */
function warnings(state) {
  const found = [];
  const down = state.nodes.filter((node) => node.state === 'down');
  if (down.length > 0) found.push(`${list(down.map((node) => node.name))} ${down.length === 1 ? 'is' : 'are'} down.`);
  const headless = state.groups.filter((group) => group.leader === undefined || group.leader === null);
  if (headless.length > 0) found.push(`${plural(headless.length, 'group has', 'groups have')} no leader: ${list(headless.slice(0, 8).map((group) => String(group.id)))}.`);
  for (const violation of state.placement_violations ?? []) found.push(`Group ${violation.group}: ${violation.text}`);
  if (found.length === 0) return null;
  return h('section', { class: 'problem', 'aria-label': 'What needs attention', 'data-key': 'warnings' },
    h('strong', {}, 'Needs attention'), h('ul', {}, found.map((text) => h('li', {}, text))));
}

/**
 * @param {ClusterState} state
 * @param {any} level
 */
function summary(state, level) {
  const live = state.nodes.filter((node) => node.state === 'live').length;
  const led = state.groups.filter((group) => group.leader).length;
  const connections = figures.value?.total.connections;
  const tile = (/** @type {string} */ name, /** @type {string} */ value, note = '') =>
    h('div', {}, h('dt', {}, name), h('dd', {}, value, note && h('span', { class: 'note' }, ` ${note}`)));
  return h('dl', { class: 'tiles', 'data-key': 'summary', 'aria-label': 'Figures of the cluster' },
    tile('Nodes live', `${live}`, `of ${state.nodes.length}`),
    tile('Groups led', `${led}`, `of ${state.groups.length}`),
    connections === undefined ? tile('Connections', count(state.totals.connections), `on ${state.node_name}`) : tile('Connections', count(connections)),
    tile('Sessions', count(state.totals.sessions)),
    tile('Queued', count(state.totals.queued_messages), bytes(state.totals.queued_bytes)),
    tile('Retained', count(state.totals.retained)),
    (state.level ?? level?.level) !== undefined && tile('Level', String(state.level ?? level?.level), level?.can_finalize ? 'can be raised' : ''));
}

/** @param {ClusterState} state */
function nodes(state) {
  return panel('Nodes', null, table({
    caption: 'Nodes of the cluster',
    rows: state.nodes,
    key: (node) => `node-${node.id}`,
    empty: 'The node knows of no members.',
    columns: [
      { name: 'Node', head: true, cell: (node) => h('a', { href: `#/nodes/${encodeURIComponent(node.name)}` }, node.name) },
      { name: 'State', cell: (node) => nodeState(node) },
      { name: 'Zone', cell: (node) => node.zone || '–' },
      { name: 'Version', cell: (node) => node.version ?? (node.id === state.node_id ? state.version : '–') },
      { name: 'Leads', number: true, cell: (node) => count(state.groups.filter((group) => group.leader === node.id).length) },
      { name: 'Replicas', number: true, cell: (node) => count(state.groups.filter((group) => place(group, node).kind !== 'absent').length) },
      { name: 'Connections', number: true, cell: (node) => count(figuresOf(node.name)?.connections ?? node.connections) },
      { name: 'MQTT', cell: (node) => h('code', {}, node.mqtt ?? '–') },
    ],
  }));
}

/** @param {NodeStatus} node */
export function nodeState(node) {
  if (node.state === 'down') return badge('bad', 'down');
  if (node.fenced) return badge('bad', 'fenced');
  if (node.draining) return badge('warn', 'draining');
  if (node.ready === false) return badge('warn', 'not ready');
  const state = node.ready ? 'ready' : 'live';
  return badge('ok', node.duty === 'follow' ? `${state}, is not to lead` : state);
}

/**
 * @param {boolean} checked
 * @param {(only: boolean) => void} changed
 */
function filterBox(checked, changed) {
  const box = /** @type {HTMLInputElement} */ (h('input', { type: 'checkbox', onchange: (/** @type {Event} */ event) => changed(/** @type {HTMLInputElement} */ (event.target).checked) }));
  box.checked = checked;
  return h('label', { class: 'check' }, box, ' Only groups that need a look');
}

/**
 * @param {ClusterState} state
 * @param {boolean} onlyTroubled
 */
function map(state, onlyTroubled) {
  const groups = onlyTroubled ? state.groups.filter((group) => troubled(group, state.nodes)) : state.groups;
  if (groups.length === 0) return h('p', { class: 'empty' }, 'No group needs a look: each has a leader, and no replica is known to be silent or far behind.');
  return partitionMap(groups, state.nodes);
}

/** @param {string} node */
function eventPanel(node) {
  const error = newEvents.error;
  const shown = events.slice(0, EVENTS_SHOWN);
  return panel('Events', h('span', { class: 'note' }, `of ${node}${events.length > EVENTS_SHOWN ? `, newest ${EVENTS_SHOWN}` : ''}`),
    error && problem(error),
    !error && events.length === 0 && h('p', { class: 'empty' }, 'Nothing notable has happened since the node started.'),
    shown.length > 0 && h('div', { class: 'events', role: 'region', 'aria-label': 'Events, newest first', tabindex: '0' }, h('ol', {}, shown.map((event) => h('li', { 'data-key': `event-${event.seq}-${event.at_ms}` },
      h('time', { datetime: new Date(event.at_ms).toISOString() }, clock(event.at_ms)),
      h('code', {}, event.kind.replaceAll('_', ' ')),
      h('span', {}, event.text, event.client_id && [' ', h('a', { href: `#/sessions/${encodeURIComponent(event.client_id)}` }, event.client_id)]),
      h('span', { class: 'note' }, [event.node, event.group !== undefined && event.group !== null && `group ${event.group}`].filter(Boolean).join(', ')))))));
}

