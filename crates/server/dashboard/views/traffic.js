// @ts-check
// View "Traffic": the last ten minutes, as lines.
//
// Owns: which figures are plotted. Does not: keep them; they are kept while other views are open.

import { chart } from '../chart.js';
import { field, h, problem, update } from '../dom.js';
import { POINTS_MAX, POLL_MS, figures, points } from '../history.js';
import { bytes, count, micros, rate } from '../text.js';

/** @typedef {import('../api.js').Figures} Figures */

export const title = () => 'Traffic';

/**
 * @param {HTMLElement} root
 * @param {string[]} rest
 * @param {AbortSignal} signal
 */
export function open(root, rest, signal) {
  let chosen = '';
  const select = /** @type {HTMLSelectElement} */ (h('select', {
    onchange: () => {
      chosen = select.value;
      draw();
    },
  }));
  const plots = h('div', { class: 'plots' });
  const said = h('div');
  root.append(h('div', { class: 'toolbar' }, field('Figures of', select)), said, plots);
  const draw = () => {
    const names = (figures.value?.nodes ?? []).map((node) => node.node ?? '');
    update(select, h('option', { value: '' }, 'the whole cluster'), names.map((name) => h('option', { value: name }, name)));
    select.value = chosen;
    select.disabled = points.length === 0;
    update(said, figures.error && problem(figures.error),
      !figures.error && points.length < 2 && h('p', { class: 'busy' }, `The lines begin with the second answer; a point is taken every ${POLL_MS / 1000} s.`));
    if (points.length > 0) update(plots, allPlots(chosen));
  };
  figures.follow(signal, draw);
}

/** @param {string} node */
function allPlots(node) {
  const times = points.map((point) => point.at_ms);
  const spanMs = POINTS_MAX * POLL_MS;
  /** @param {keyof Figures} key */
  const values = (key) => points.map((point) => {
    const found = node === '' ? point.total : point.nodes.find((one) => one.node === node);
    const value = found?.[key];
    return typeof value === 'number' ? value : null;
  });
  const shared = { times, spanMs };
  return [
    chart({ ...shared, title: 'Messages per second', format: rate, series: [{ name: 'in', values: values('messages_in_per_s') }, { name: 'out', values: values('messages_out_per_s') }] }),
    chart({ ...shared, title: 'Bytes per second', format: bytes, step: 'binary', series: [{ name: 'in', values: values('bytes_in_per_s') }, { name: 'out', values: values('bytes_out_per_s') }] }),
    chart({ ...shared, title: 'Publish latency', format: micros, series: [{ name: 'p50', values: values('publish_latency_p50_us') }, { name: 'p99', values: values('publish_latency_p99_us') }] }),
    chart({ ...shared, title: 'Connections', format: count, series: [{ name: 'connections', values: values('connections') }] }),
    chart({ ...shared, title: 'Queued messages', format: count, series: [{ name: 'queued', values: values('queued_messages') }] }),
    chart({ ...shared, title: 'Dropped per second', format: rate, series: [{ name: 'dropped', values: values('dropped_per_s') }] }),
  ];
}
