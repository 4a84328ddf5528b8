// @ts-check
// Line plots over the last ten minutes.
//
// Owns: scale, lines, the crosshair, and the same figures as text and as a table for those who do not see lines.
// Invariants: lines differ by their dashes, not by colour alone; a gap in the figures is a gap in the line.

import { h, svg } from './dom.js';
import { UNKNOWN, clock } from './text.js';

/** The plot's own units; it is stretched to its place, strokes are not. */
const WIDTH = 600;
const HEIGHT = 150;
const LINES = 4;

/** Where the pointer is, so that a renewed plot keeps its crosshair. @type {{title: string, at: number} | null} */
let hovered = null;

/**
 * @typedef {{name: string, values: (number | null)[]}} Series
 * @typedef {{title: string, format: (value: number | null) => string, times: number[], series: Series[], spanMs: number,
 *   step?: 'binary'}} Plot
 */

/**
 * A plot with its legend, text and table.
 * @param {Plot} plot
 */
export function chart({ title, format, times, series, spanMs, step }) {
  const end = times.at(-1) ?? Date.now();
  const start = end - spanMs;
  const highest = Math.max(0, ...series.flatMap(({ values }) => values.map((value) => value ?? 0)));
  const top = scaleTop(highest, step);
  const x = (/** @type {number} */ at) => ((at - start) / spanMs) * WIDTH;
  const y = (/** @type {number} */ value) => HEIGHT - (value / top) * HEIGHT;

  const grid = Array.from({ length: LINES + 1 }, (_, line) => {
    const at = (line / LINES) * HEIGHT;
    return svg('line', { class: 'grid', x1: 0, x2: WIDTH, y1: at, y2: at });
  });
  const lines = series.map(({ values }, index) => svg('path', { class: `line line-${index}`, d: pathOf(times, values, x, y) }));
  const pointed = hovered?.title === title ? nearest(times, hovered.at) : -1;
  const crossAt = (/** @type {number} */ index) => ({ x1: x(times[index]), x2: x(times[index]), visibility: 'visible' });
  const told = (/** @type {number} */ index) => `${clock(times[index])}   ${series.map(({ name, values }) => `${name} ${format(values[index])}`).join('   ')}`;
  const cross = svg('line', { class: 'cross', x1: 0, x2: 0, y1: 0, y2: HEIGHT, visibility: 'hidden', ...(pointed < 0 ? {} : crossAt(pointed)) });
  const drawing = /** @type {SVGElement} */ (svg('svg', {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    preserveAspectRatio: 'none',
    role: 'img',
    'aria-label': inWords(title, series, format),
  }, grid, lines, cross));
  const readout = h('p', { class: 'readout', 'aria-hidden': 'true' }, pointed < 0 ? '' : told(pointed));

  // The elements of this description may have renewed older ones, so the event's own are the ones to change.
  drawing.onpointermove = (event) => {
    const area = /** @type {Element} */ (event.currentTarget);
    const box = area.getBoundingClientRect();
    hovered = { title, at: start + ((event.clientX - box.left) / box.width) * spanMs };
    const index = nearest(times, hovered.at);
    if (index < 0) return;
    for (const [name, value] of Object.entries(crossAt(index))) area.querySelector('.cross')?.setAttribute(name, String(value));
    const place = area.closest('figure')?.querySelector('.readout');
    if (place) place.textContent = told(index);
  };
  drawing.onpointerleave = (event) => {
    const area = /** @type {Element} */ (event.currentTarget);
    hovered = null;
    area.querySelector('.cross')?.setAttribute('visibility', 'hidden');
    const place = area.closest('figure')?.querySelector('.readout');
    if (place) place.textContent = '';
  };

  const marks = Array.from({ length: LINES + 1 }, (_, line) => h('span', {}, format((top * (LINES - line)) / LINES)));
  const key = `plot-${title}`;
  return h('figure', { class: 'plot', 'data-key': key },
    h('figcaption', {}, h('h2', {}, title), legend(series, format)),
    h('div', { class: 'plot-body' },
      h('div', { class: 'plot-scale', 'aria-hidden': 'true' }, marks),
      h('div', { class: 'plot-area' }, drawing),
      h('div', { class: 'plot-times', 'aria-hidden': 'true' },
        h('span', {}, `${Math.round(spanMs / 60_000)} min ago`), h('span', {}, `${Math.round(spanMs / 120_000)} min`), h('span', {}, 'now'))),
    readout,
    h('details', { class: 'numbers' }, h('summary', {}, 'Numbers', h('span', { class: 'unseen' }, ` of ${title}`)), numbers(title, series, format)));
}

/**
 * @param {Series[]} series
 * @param {(value: number | null) => string} format
 */
function legend(series, format) {
  return h('ul', { class: 'legend' }, series.map(({ name, values }, index) => h('li', {},
    svg('svg', { viewBox: '0 0 24 8', width: 24, height: 8, 'aria-hidden': 'true' }, svg('line', { class: `line line-${index}`, x1: 0, x2: 24, y1: 4, y2: 4 })),
    h('span', {}, name), h('strong', {}, format(values.at(-1) ?? null)))));
}

/**
 * @param {string} title
 * @param {Series[]} series
 * @param {(value: number | null) => string} format
 */
function numbers(title, series, format) {
  const head = ['', 'Now', 'Lowest', 'Mean', 'Highest'];
  return h('table', {},
    h('caption', { class: 'unseen' }, `${title}, last ten minutes`),
    h('thead', {}, h('tr', {}, head.map((name) => (name ? h('th', { scope: 'col', class: 'number' }, name) : h('td', {}))))),
    h('tbody', {}, series.map(({ name, values }) => {
      const { now, low, mean, high } = summary(values);
      return h('tr', {}, h('th', { scope: 'row' }, name), [now, low, mean, high].map((value) => h('td', { class: 'number' }, format(value))));
    })));
}

/** @param {(number | null)[]} values */
export function summary(values) {
  const known = values.filter((value) => value !== null);
  if (known.length === 0) return { now: null, low: null, mean: null, high: null };
  return {
    now: values.at(-1) ?? null,
    low: Math.min(...known),
    mean: known.reduce((sum, value) => sum + value, 0) / known.length,
    high: Math.max(...known),
  };
}

/**
 * @param {string} title
 * @param {Series[]} series
 * @param {(value: number | null) => string} format
 */
function inWords(title, series, format) {
  const said = series.map(({ name, values }) => {
    const { now, low, high } = summary(values);
    return now === null && high === null ? `${name}: nothing known` : `${name}: now ${format(now)}, from ${format(low)} to ${format(high)}`;
  });
  return `${title}, last ten minutes. ${said.join('. ')}.`.replaceAll(UNKNOWN, 'unknown');
}

/**
 * @param {number[]} times
 * @param {(number | null)[]} values
 * @param {(at: number) => number} x
 * @param {(value: number) => number} y
 */
function pathOf(times, values, x, y) {
  let path = '';
  let open = false;
  values.forEach((value, index) => {
    const known = value !== null && x(times[index]) >= 0;
    // Without a length, a point that stands alone is a dot.
    if (known) path += `${open ? 'L' : 'M'}${x(times[index]).toFixed(1)} ${y(value).toFixed(1)}${open ? '' : 'h0'}`;
    open = known;
  });
  return path;
}

/**
 * The end of the scale: a round number that is not below the highest value.
 * @param {number} highest
 * @param {'binary'} [step] powers of two
 * @returns {number}
 */
export function scaleTop(highest, step) {
  if (step === 'binary') return highest <= 1024 ? 1024 : 2 ** Math.ceil(Math.log2(highest));
  if (highest <= 0) return 4;
  const power = 10 ** Math.floor(Math.log10(highest));
  const round = [1, 2, 4, 6, 8, 10].find((factor) => factor * power >= highest) ?? 10;
  return Math.max(round * power, highest < 4 && Number.isInteger(highest) ? 4 : 0);
}

/**
 * @param {number[]} times in ascending order
 * @param {number} at
 */
function nearest(times, at) {
  let best = -1;
  times.forEach((time, index) => {
    if (best < 0 || Math.abs(time - at) < Math.abs(times[best] - at)) best = index;
  });
  return best;
}
