// @ts-check
// The partition map: which node has a replica of which group, who leads, who lags.
//
// Owns: the matrix and its legend. Does not: know how far a replica lags when another node leads: only leaders know.

import { badge, button, facts, h, problem, update } from './dom.js';
import { api } from './api.js';
import { findingList, openDialog } from './dialog.js';
import { nodeName } from './history.js';
import { brief, bytes, count, plural } from './text.js';

/** @typedef {import('./api.js').GroupStatus} GroupStatus */
/** @typedef {import('./api.js').NodeStatus} NodeStatus */

/** Entries behind from which on a replica is worth a look. */
const LAG_NOTABLE = 1000;

const SIGNS = ['★ leader', '✓ follower in step', '−12 entries behind', '• follower, only its leader knows the lag', '◌ learner',
  '⇣ snapshot on its way', '✕ silent or down'];

/**
 * What one node is to one group.
 * @param {GroupStatus} group
 * @param {NodeStatus} node
 * @returns {{sign: string, words: string, kind: string}}
 */
export function place(group, node) {
  const learner = group.learners?.includes(node.id);
  if (!group.voters.includes(node.id) && !learner) return { sign: '', words: 'no replica', kind: 'absent' };
  if (group.leader === node.id) return { sign: '★', words: 'leader', kind: 'leader' };
  if (node.state === 'down') return { sign: '✕', words: 'node is down', kind: 'silent' };
  const replica = group.replicas?.find((one) => one.node === node.id);
  if (replica && !replica.active) return { sign: '✕', words: 'does not answer', kind: 'silent' };
  if (replica?.snapshot) return { sign: '⇣', words: 'gets a snapshot', kind: 'behind' };
  if (replica && replica.lag >= LAG_NOTABLE) return { sign: `−${brief(replica.lag)}`, words: `${plural(replica.lag, 'entry', 'entries')} behind`, kind: 'behind' };
  const role = learner ? 'learner' : 'follower';
  if (replica && replica.lag > 0) return { sign: `−${brief(replica.lag)}`, words: `${role}, ${plural(replica.lag, 'entry', 'entries')} behind`, kind: role };
  if (replica) return { sign: learner ? '◌' : '✓', words: `${role}, in step`, kind: role };
  return { sign: learner ? '◌' : '•', words: `${role}, only its leader knows how far it lags`, kind: role };
}

/**
 * Whether a group needs a look.
 * @param {GroupStatus} group
 * @param {NodeStatus[]} nodes
 */
export function troubled(group, nodes) {
  return group.leader === undefined || group.leader === null
    || nodes.some((node) => ['silent', 'behind'].includes(place(group, node).kind));
}

/**
 * @param {GroupStatus[]} groups
 * @param {NodeStatus[]} nodes
 */
export function partitionMap(groups, nodes) {
  const head = ['Group', ...nodes.map((node) => node.name), 'Sessions', 'Queued'];
  const rows = groups.map((group) => h('tr', { 'data-key': `group-${group.id}` },
    h('th', { scope: 'row' }, button(label(group), () => showGroup(group.id), { class: 'link', 'aria-label': `${label(group)}, details of the group` }), !group.leader && [' ', badge('bad', 'no leader')]),
    nodes.map((node) => {
      const { sign, words, kind } = place(group, node);
      return h('td', { class: `replica ${kind}`, title: `group ${group.id} on ${node.name}: ${words}` },
        h('span', { 'aria-hidden': 'true' }, sign), h('span', { class: 'unseen' }, words));
    }),
    h('td', { class: 'number' }, group.kind === 'control' ? '' : count(group.sessions)),
    h('td', { class: 'number' }, group.kind === 'control' ? '' : count(group.queued_messages))));
  return [
    h('div', { class: 'scroll map', role: 'region', 'aria-label': 'Partition map', tabindex: '0' },
      h('table', {},
        h('caption', { class: 'unseen' }, 'Groups, and what each node is to them'),
        h('thead', {}, h('tr', {}, head.map((name, index) => h('th', { scope: 'col', class: index > nodes.length ? 'number' : index > 0 && 'middle' }, name)))),
        h('tbody', {}, rows))),
    h('ul', { class: 'key', 'aria-label': 'Signs' }, SIGNS.map((sign) => h('li', {}, sign))),
  ];
}

/** @param {GroupStatus} group */
function label({ id, kind }) {
  return kind === 'control' ? `${id} control` : String(id);
}

/** @param {number} id */
export function showGroup(id) {
  return openDialog(id === 0 ? 'Group 0, control' : `Group ${id}`, (body, close) => {
    const content = h('div', { 'aria-live': 'polite' }, h('p', { class: 'busy' }, 'Asking the node …'));
    body.append(content, h('div', { class: 'dialog-buttons' }, button('Close', () => close(null), { autofocus: true })));
    api.group(id).then((/** @type {any} */ group) => update(content,
      facts([
        ['Kind', group.kind], ['Role here', group.role], ['Leader', leaderName(group.leader)], ['Term', count(group.term)],
        ['Voters', (group.voters ?? []).map(leaderName).join(', ')],
        group.queued_bytes !== undefined && ['Queued', bytes(group.queued_bytes)],
      ]),
      (group.replicas ?? []).length > 0 && h('ul', { class: 'plain' }, group.replicas.map((/** @type {any} */ replica) =>
        h('li', {}, `${leaderName(replica.node)}: ${replica.lag > 0 ? `${plural(replica.lag, 'entry', 'entries')} behind` : 'in step'}${replica.active === false ? ', does not answer' : ''}`))),
      findingList(group.findings ?? [])), (error) => update(content, problem(error)));
  });
}

/** @param {number | string | null | undefined} node an id or a name */
function leaderName(node) {
  return typeof node === 'string' ? node : nodeName(node);
}
