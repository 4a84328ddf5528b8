// @ts-check
// Elements, and their renewal in place.
//
// Owns: making elements from descriptions; making an existing tree equal to a new one without losing focus, scroll
// position or what was typed; tables that stay tables when a narrow screen shows their rows as blocks.
// Invariants: text becomes text nodes only, never markup.

/**
 * @typedef {Node | string | number | null | undefined | false} Child
 * @typedef {{[name: string]: any}} Attributes
 */

const HANDLERS = ['onclick', 'onsubmit', 'oninput', 'onchange', 'onkeydown', 'onpointermove', 'onpointerleave'];
const SVG = 'http://www.w3.org/2000/svg';

/**
 * An element. Attributes that begin with `on` are handlers; true is an empty attribute; false, null and undefined none.
 * @param {string} tag
 * @param {Attributes} [attributes]
 * @param {...(Child | Child[])} children
 * @returns {HTMLElement}
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  return /** @type {HTMLElement} */ (fill(element, attributes, children));
}

/**
 * An element of a drawing.
 * @param {string} tag
 * @param {Attributes} [attributes]
 * @param {...(Child | Child[])} children
 */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/**
 * @param {Element} element
 * @param {Attributes} attributes
 * @param {(Child | Child[])[]} children
 */
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (HANDLERS.includes(name)) {
      /** @type {any} */ (element)[name] = value;
    } else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, value === true ? '' : String(value));
    }
  }
  for (const child of /** @type {Child[]} */ (children.flat(Infinity))) {
    if (child === null || child === undefined || child === false) continue;
    element.append(typeof child === 'number' ? String(child) : child);
  }
  return element;
}

/**
 * Makes the children of `parent` equal to `children`, keeping elements that stay.
 * @param {Element} parent
 * @param {...(Child | Child[])} children
 */
export function update(parent, ...children) {
  const wanted = document.createElement('div');
  fill(wanted, {}, children);
  const focused = /** @type {HTMLElement | null} */ (document.activeElement);
  renewChildren(parent, wanted);
  // An element that was moved has lost the focus.
  if (focused !== document.activeElement && focused?.isConnected) focused.focus({ preventScroll: true });
}

/**
 * @param {Element} parent
 * @param {Element} wanted
 */
function renewChildren(parent, wanted) {
  const keyed = new Map();
  for (const child of parent.children) {
    const key = child.getAttribute('data-key');
    if (key !== null) keyed.set(key, child);
  }
  let at = parent.firstChild;
  for (const next of [...wanted.childNodes]) {
    const key = next instanceof Element ? next.getAttribute('data-key') : null;
    const same = key === null ? at : keyed.get(key);
    if (same && same !== at && sameKind(same, next)) {
      parent.insertBefore(same, at);
      renew(same, next);
    } else if (same && sameKind(same, next)) {
      at = same.nextSibling;
      renew(same, next);
    } else {
      parent.insertBefore(next, at);
    }
  }
  while (at) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
}

/**
 * @param {Node} one
 * @param {Node} other
 */
function sameKind(one, other) {
  if (one.nodeName !== other.nodeName) return false;
  if (!(one instanceof Element && other instanceof Element)) return true;
  return one.getAttribute('data-key') === other.getAttribute('data-key') && one.id === other.id;
}

/**
 * @param {Node} old
 * @param {Node} next
 */
function renew(old, next) {
  if (!(old instanceof Element && next instanceof Element)) {
    if (old.nodeValue !== next.nodeValue) old.nodeValue = next.nodeValue;
    return;
  }
  // What the user opened stays open; what was typed is the input's value, which is no attribute.
  const kept = old.nodeName === 'DETAILS' ? 'open' : '';
  for (const { name } of [...old.attributes]) {
    if (!next.hasAttribute(name) && name !== kept) old.removeAttribute(name);
  }
  for (const { name, value } of next.attributes) {
    if (old.getAttribute(name) !== value && name !== kept) old.setAttribute(name, value);
  }
  for (const name of HANDLERS) /** @type {any} */ (old)[name] = /** @type {any} */ (next)[name];
  // What is large is renewed by its owner, when it has changed.
  if (!old.hasAttribute('data-kept')) renewChildren(old, next);
}

/**
 * @typedef {{name: string, cell: (row: any) => Child | Child[], number?: boolean, head?: boolean}} Column
 */

/**
 * A table with a caption. On a narrow screen each row is a block whose cells have the name of their column before
 * them, and the explicit roles keep it a table for those who hear it.
 * @param {{caption: string, columns: Column[], rows: any[], key: (row: any) => string, empty: Child,
 *   hidden?: boolean}} table
 */
export function table({ caption, columns, rows, key, empty, hidden = true }) {
  if (rows.length === 0) return h('p', { class: 'empty' }, empty);
  const head = columns.map(({ name, number }) => h('th', { scope: 'col', role: 'columnheader', class: number && 'number' }, name));
  const body = rows.map((row) => h('tr', { role: 'row', 'data-key': key(row) }, columns.map(({ name, cell, number, head: leads }) => {
    const attributes = { 'data-label': name, class: number && 'number' };
    return leads
      ? h('th', { ...attributes, scope: 'row', role: 'rowheader' }, cell(row))
      : h('td', { ...attributes, role: 'cell' }, cell(row));
  })));
  return h('table', { class: 'stack', role: 'table' },
    h('caption', { class: hidden && 'unseen' }, caption),
    h('thead', { role: 'rowgroup' }, h('tr', { role: 'row' }, head)),
    h('tbody', { role: 'rowgroup' }, body));
}

/** @typedef {'ok' | 'warn' | 'bad' | 'quiet' | 'info'} Tone */

const SIGNS = { ok: '●', warn: '▲', bad: '✕', quiet: '○', info: '◆' };

/**
 * A state in words, with a sign of its own shape: the colour only repeats it.
 * @param {Tone} tone
 * @param {string} text
 */
export function badge(tone, text) {
  return h('span', { class: `badge ${tone}` }, h('span', { 'aria-hidden': 'true' }, SIGNS[tone]), ` ${text}`);
}

/**
 * Names with values.
 * @param {([string, Child | Child[]] | null | false)[]} pairs
 */
export function facts(pairs) {
  const known = pairs.filter((pair) => pair && pair[1] !== undefined && pair[1] !== null);
  return h('dl', { class: 'facts' }, /** @type {[string, Child][]} */ (known).map(([name, value]) => h('div', {}, h('dt', {}, name), h('dd', {}, value))));
}

/**
 * A section with its heading.
 * @param {string} title
 * @param {Child | Child[]} beside what stands beside the heading
 * @param {...(Child | Child[])} children
 */
export function panel(title, beside, ...children) {
  const id = `h-${title.toLowerCase().replaceAll(/[^a-z0-9]+/g, '-')}`;
  return h('section', { class: 'panel', 'aria-labelledby': id, 'data-key': id },
    h('div', { class: 'panel-head' }, h('h2', { id }, title), beside), ...children);
}

/**
 * A labelled field.
 * @param {string} label
 * @param {HTMLElement} input
 * @param {string} [note]
 */
export function field(label, input, note) {
  return h('label', { class: 'field' }, h('span', { class: 'label' }, label), input, note && h('span', { class: 'note' }, note));
}

/**
 * @param {string} text
 * @param {(event: MouseEvent) => void} onclick
 * @param {Attributes} [attributes]
 */
export function button(text, onclick, attributes = {}) {
  return h('button', { type: 'button', ...attributes, onclick }, text);
}

/**
 * `draw` with the next picture of the screen, once, however often it is asked for until then.
 * @param {() => void} draw
 */
export function oncePerPicture(draw) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      draw();
    });
  };
}

/** @param {unknown} error */
export function problem(error) {
  const { message = String(error), hint = '', missing = false } = /** @type {any} */ (error) ?? {};
  if (missing) return h('p', { class: 'empty' }, message);
  return h('div', { class: 'problem', role: 'alert' }, h('strong', {}, message), hint && h('p', {}, hint.charAt(0).toUpperCase() + hint.slice(1)));
}

/**
 * Says something to those who cannot see it appear.
 * @param {string} text
 */
export function announce(text) {
  const region = document.getElementById('live');
  if (region) region.textContent = text;
}

/**
 * Shows a sentence above the view, until it is dismissed or another view is opened.
 * @param {Tone} tone
 * @param {string} text
 */
export function notice(tone, text) {
  const list = document.getElementById('notices');
  if (!list) return;
  const item = h('div', { class: `notice ${tone}` }, badge(tone, text),
    button('Dismiss', () => item.remove(), { class: 'quiet', 'aria-label': `Dismiss: ${text}` }));
  list.append(item);
  while (list.children.length > 3) list.firstElementChild?.remove();
}
