// @ts-check
// View "Nodes": one node, why it is not ready, and its maintenance: drain, transfer of leadership, log level.
//
// Owns: the page of a node. Does not: act without showing first what the node says would happen.

import { api } from '../api.js';
import { confirmAction, confirmPlan, findingList } from '../dialog.js';
import { badge, button, facts, field, h, notice, panel, problem, update } from '../dom.js';
import { clusterState, every, figures, figuresOf } from '../history.js';
import { count, list, micros, millis, plural, rate, seconds } from '../text.js';
import { nodeState } from './cluster.js';

/** @typedef {import('../api.js').NodeStatus} NodeStatus */

const PAUSE_MS = 2000;
const GRACE_SECONDS = 30;
const GRACE_SECONDS_MAX = 3600;

export const title = (/** @type {string[]} */ [name]) => (name === undefined ? 'Nodes' : `Node ${name}`);

/**
 * @param {HTMLElement} root
 * @param {string[]} rest
 * @param {AbortSignal} signal
 */
export function open(root, [name], signal) {
  const tabs = h('nav', { class: 'tabs', 'aria-label': 'Nodes' });
  const head = h('div');
  const drain = h('div');
  const why = h('div');
  const log = h('div');
  root.append(tabs, head, drain, why, log);
  let opened = '';
  clusterState.follow(signal, () => {
    const state = clusterState.value;
    if (!state) return update(head, clusterState.error ? problem(clusterState.error) : h('p', { class: 'busy' }, 'Asking the node …'));
    const shown = name ?? state.node_name;
    update(tabs, h('ul', {}, state.nodes.map((node) => h('li', {}, h('a', { href: `#/nodes/${encodeURIComponent(node.name)}`, 'aria-current': node.name === shown && 'page' }, node.name)))));
    const node = state.nodes.find((one) => one.name === shown);
    if (!node) return update(head, h('p', { class: 'problem' }, `The cluster has no node that is called ${shown}.`));
    update(head, about(node));
    if (opened === '') {
      opened = shown;
      const own = node.id === state.node_id;
      watchDrain(drain, shown, signal);
      if (own) {
        watchReasons(why, signal);
        openLogLevel(log);
      } else {
        update(why, panel('Readiness and log level', null, elsewhere(node)));
      }
    }
    return undefined;
  });
  figures.follow(signal, () => {
    const node = clusterState.value?.nodes.find((one) => one.name === opened);
    if (node) update(head, about(node));
  });
}

/** @param {NodeStatus} node */
function about(node) {
  const state = clusterState.value;
  const leads = (state?.groups ?? []).filter((group) => group.leader === node.id).map((group) => group.id);
  const now = figuresOf(node.name);
  return panel('State', nodeState(node), facts([
    ['Identifier', `${node.id}, run ${node.incarnation}`],
    ['Zone', node.zone || '–'],
    ['Version', node.version ?? (node.id === state?.node_id ? state.version : '–')],
    ['Lease', node.lease_ms === undefined || node.lease_ms === null ? null : `${millis(node.lease_ms)} left`],
    ['Leads', leads.length === 0 ? 'no group' : `${plural(leads.length, 'group')}: ${leads.join(', ')}`],
    ['Connections', count(now?.connections ?? node.connections)],
    now !== undefined && ['Messages in, out', `${rate(now.messages_in_per_s)} /s, ${rate(now.messages_out_per_s)} /s`],
    now?.publish_latency_p99_us !== undefined && now?.publish_latency_p99_us !== null && ['Publish latency p50, p99', `${micros(now.publish_latency_p50_us)}, ${micros(now.publish_latency_p99_us)}`],
    ['MQTT', h('code', {}, node.mqtt ?? '–')],
    ['Admin', h('code', {}, node.admin ?? '–')],
    ['Peers', node.peer ? h('code', {}, node.peer) : null],
  ]));
}

/** @param {NodeStatus} node */
function elsewhere(node) {
  const address = node.admin && /^https?:\/\//.test(node.admin) ? node.admin : null;
  return h('p', {}, 'Only the node itself can tell why it is not ready, and only there its log level is set. ',
    address ? h('a', { href: `${address}/#/nodes/${encodeURIComponent(node.name)}` }, `Open the dashboard of ${node.name}`) : `The address of the admin listener of ${node.name} is not known here.`);
}

/**
 * @param {HTMLElement} root
 * @param {string} name
 * @param {AbortSignal} signal
 */
function watchDrain(root, name, signal) {
  const load = async () => {
    try {
      const status = await api.drainStatus(name);
      if (!signal.aborted) update(root, maintenance(name, status, load));
    } catch (error) {
      if (!signal.aborted) update(root, panel('Maintenance', null, problem(error)));
    }
  };
  every(PAUSE_MS, signal, load);
}

/**
 * @param {string} name
 * @param {import('../api.js').DrainStatus} status
 * @param {() => void} load
 */
function maintenance(name, status, load) {
  const own = status.connections !== undefined;
  const connections = status.connections ?? figuresOf(name)?.connections;
  const empty = status.leads.length === 0 && connections === 0;
  const buttons = [
    status.draining ? button('Undrain …', () => undrain(name, load), { class: 'primary' }) : button('Drain …', () => drain(name, load)),
    !status.draining && (status.duty === 'follow'
      ? button('Let it lead again …', () => leadAgain(name, load))
      : button('Transfer leadership …', () => transfer(name, load))),
  ];
  return panel('Maintenance', h('div', { class: 'actions' }, buttons), facts([
    ['State', dutyBadge(status, empty)],
    ['Leads', plural(status.leads.length, 'group')],
    ['Connections', connections === undefined ? 'known to the node itself' : `${count(connections)}${own ? '' : ', by its last figures'}`],
    status.duty !== 'full' && status.since_ms !== undefined && ['For', seconds(Math.floor(status.since_ms / 1000))],
    status.draining && status.grace_s !== undefined && ['Time for clients', `${status.grace_s} s`],
  ]));
}

/** @param {() => void} load */
function lookAgain(load) {
  load();
  clusterState.refresh();
}

/**
 * @param {import('../api.js').DrainStatus} status
 * @param {boolean} empty nothing rests on it, as far as this node knows
 */
function dutyBadge(status, empty) {
  if (status.draining) return empty || status.quiescent ? badge('info', 'drained: it may be stopped') : badge('warn', 'draining');
  return status.duty === 'follow' ? badge('warn', 'in service, is not to lead') : badge('ok', 'in service');
}

/**
 * @param {string} name
 * @param {() => void} load
 */
async function drain(name, load) {
  const grace = /** @type {HTMLInputElement} */ (h('input', { type: 'number', min: 0, max: GRACE_SECONDS_MAX, step: 1, value: GRACE_SECONDS }));
  const given = () => Math.min(GRACE_SECONDS_MAX, Math.max(0, Math.round(Number(grace.value) || 0)));
  const answer = await confirmPlan({
    title: `Drain ${name}?`,
    label: `Drain ${name}`,
    fields: field('Seconds that clients have to leave', grace, 'After that the node closes their connections; they connect to another node.'),
    plan: () => api.drain(name, true, given()),
    show: (plan) => ({
      allowed: (plan.blockers ?? []).length === 0,
      content: (plan.blockers ?? []).length > 0
        ? [h('p', {}, h('strong', {}, `${name} cannot be drained now.`)), findingList(plan.blockers)]
        : [h('p', {}, 'This would happen:'), h('ul', {},
          h('li', {}, clientsLeave(name, plan.would.connections)),
          h('li', {}, plan.would.leads.length === 0 ? 'It leads no group.' : `${plural(plan.would.leads.length, 'group')} would get another leader${moves(plan.would.targets)}.`),
          h('li', {}, 'It takes no new clients until it is undrained. Its replicas stay.'))],
    }),
    act: () => api.drain(name, false, given()),
  });
  if (answer) notice('ok', `${name} is being drained. It may be stopped when the page says so.`);
  lookAgain(load);
}

/**
 * @param {string} name
 * @param {number | undefined} connections not known when another node answers
 */
function clientsLeave(name, connections) {
  const shown = connections ?? figuresOf(name)?.connections;
  if (shown === undefined) return 'Its clients would have to connect elsewhere. How many there are only the node itself knows.';
  const source = connections === undefined ? ', by its last figures' : '';
  return shown === 0 ? `No client is connected to it${source}.` : `${plural(shown, 'client')} would have to connect elsewhere${source}.`;
}

/** @param {import('../api.js').Move[]} targets */
function moves(targets = []) {
  const to = new Map();
  for (const move of targets) to.set(move.to, [...(to.get(move.to) ?? []), move.group]);
  if (to.size === 0) return '';
  return `: ${list([...to].map(([node, groups]) => `${groups.join(', ')} to ${node ?? 'nobody'}`))}`;
}

/**
 * @param {string} name
 * @param {() => void} load
 */
async function undrain(name, load) {
  const answer = await confirmAction({
    title: `Undrain ${name}?`,
    text: `${name} takes clients again, and leadership may come back to it.`,
    label: `Undrain ${name}`,
    act: () => api.undrain(name),
  });
  if (answer) notice('ok', `${name} is in service again.`);
  lookAgain(load);
}

/**
 * @param {string} name
 * @param {() => void} load
 */
async function transfer(name, load) {
  const answer = await confirmPlan({
    title: `Transfer leadership away from ${name}?`,
    label: 'Transfer leadership',
    plan: () => api.transfer(name, true),
    show: (plan) => ({
      allowed: true,
      content: [
        h('p', {}, `${name} leads nothing from then on, until it is let to lead again. Its clients stay.`),
        plan.moved.length === 0 && h('p', {}, 'It leads no group now.'),
        plan.moved.length > 0 && [h('p', {}, `${plural(plan.moved.length, 'group')} would get another leader:`), h('ul', {}, h('li', {}, moves(plan.moved).slice(2)))],
        plan.left.length > 0 && [h('p', {}, 'These would stay:'), h('ul', {}, plan.left.map((one) => h('li', {}, `Group ${one.group}: ${one.reason}`)))],
      ].flat(),
    }),
    act: () => api.transfer(name, false),
  });
  if (answer) {
    const stayed = answer.left.length > 0 ? ` ${plural(answer.left.length, 'group')} stayed: ${answer.left[0].reason}.` : '';
    notice(answer.left.length > 0 ? 'warn' : 'ok', `${plural(answer.moved.length, 'group')} moved away from ${name}.${stayed}`);
  }
  lookAgain(load);
}

/**
 * @param {string} name
 * @param {() => void} load
 */
async function leadAgain(name, load) {
  const answer = await confirmAction({
    title: `Let ${name} lead again?`,
    text: `Groups may choose ${name} as their leader again. Leadership is spread over the nodes by itself.`,
    label: `Let ${name} lead`,
    act: () => api.leadAgain(name),
  });
  if (answer) notice('ok', `${name} may lead again.`);
  lookAgain(load);
}

/**
 * @param {HTMLElement} root
 * @param {AbortSignal} signal
 */
function watchReasons(root, signal) {
  every(PAUSE_MS, signal, async () => {
    const [readiness, why] = await Promise.all([settled(api.readiness()), settled(api.why())]);
    if (signal.aborted) return;
    const clauses = readiness.value?.clauses ?? [];
    update(root, panel('Readiness', readiness.value && badge(readiness.value.ready ? 'ok' : 'warn', readiness.value.ready ? 'ready' : 'not ready'),
      readiness.error !== undefined && problem(readiness.error),
      why.value && findingList(why.value.findings),
      why.error !== undefined && problem(why.error),
      clauses.length > 0 && h('ul', { class: 'clauses' }, clauses.map((clause) => h('li', {}, badge(clause.ok ? 'ok' : 'bad', `${clause.name.replaceAll('_', ' ')}: ${clause.ok ? 'fine' : 'not met'}`), clause.reason && ` ${clause.reason}`)))));
  });
}

/**
 * @template T
 * @param {Promise<T>} promise
 * @returns {Promise<{value?: T, error?: unknown}>}
 */
function settled(promise) {
  return promise.then((value) => ({ value }), (error) => ({ error }));
}

/** @param {HTMLElement} root */
async function openLogLevel(root) {
  const filter = /** @type {HTMLInputElement} */ (h('input', { name: 'filter', required: true, autocomplete: 'off', spellcheck: 'false' }));
  const lasting = /** @type {HTMLInputElement} */ (h('input', { name: 'seconds', type: 'number', min: 1, step: 1, value: 600 }));
  const said = h('div', { 'aria-live': 'polite' });
  try {
    filter.value = (await api.logLevel()).filter;
  } catch (error) {
    update(root, panel('Log level', null, problem(error)));
    return;
  }
  update(root, panel('Log level', null));
  root.firstElementChild?.append(h('form', {
    class: 'toolbar',
    onsubmit: async (/** @type {Event} */ event) => {
      event.preventDefault();
      try {
        const answer = await api.setLogLevel(filter.value, Number(lasting.value) || undefined);
        filter.value = answer.filter;
        update(said, badge('ok', lasting.value ? `The node logs at ${answer.filter} for ${lasting.value} s, then as before.` : `The node logs at ${answer.filter} until it is told otherwise.`));
      } catch (error) {
        update(said, problem(error));
      }
    },
  }, field('Filter', filter, 'such as info, or info,quorate_node=debug'), field('For seconds', lasting, 'empty: until changed again'),
  h('button', { type: 'submit' }, 'Set')), said);
}
