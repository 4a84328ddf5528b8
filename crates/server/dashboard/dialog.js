// @ts-check
// Questions before something is changed, and the prompt for the token.
//
// Owns: the dialogs. Does not: change anything itself.
// Invariants: the first control that has the focus never changes anything; Escape is "no"; the focus goes back to
// where it was.

import { badge, button, field, h, problem, update } from './dom.js';
import { sentence } from './text.js';

/** @typedef {import('./dom.js').Child} Child */

/** Findings that say that all is in order. */
const CALM = ['nothing_wrong', 'queue_empty', 'leads', 'follows'];

/**
 * Shows a dialog until it is closed. `fill` gets its body and a function that closes it with a result.
 * @template T
 * @param {string} title
 * @param {(body: HTMLElement, close: (result: T | null) => void) => void} fill
 * @param {{fixed?: boolean}} [options] a fixed dialog is not closed with Escape
 * @returns {Promise<T | null>} null when it was closed without a result
 */
export function openDialog(title, fill, { fixed = false } = {}) {
  return new Promise((resolve) => {
    const back = /** @type {HTMLElement | null} */ (document.activeElement);
    const body = h('div', { class: 'dialog-body' });
    const dialog = /** @type {HTMLDialogElement} */ (h('dialog', { 'aria-labelledby': 'dialog-title' }, h('h2', { id: 'dialog-title' }, title), body));
    /** @type {T | null} */
    let result = null;
    const close = (/** @type {T | null} */ answer) => {
      result = answer;
      dialog.close();
    };
    dialog.addEventListener('cancel', (event) => fixed && event.preventDefault());
    dialog.addEventListener('close', () => {
      dialog.remove();
      if (back?.isConnected) back.focus();
      resolve(result);
    });
    fill(body, close);
    document.body.append(dialog);
    dialog.showModal();
  });
}

/**
 * Asks before something is changed. Returns what `act` gave, or null when the user said no.
 * @template T
 * @param {{title: string, text: Child | Child[], label: string, tone?: 'danger', act: () => Promise<T>}} question
 * @returns {Promise<T | null>}
 */
export function confirmAction({ title, text, label, tone, act }) {
  return openDialog(title, (body, close) => {
    const said = h('div', { 'aria-live': 'polite' });
    const yes = /** @type {HTMLButtonElement} */ (button(label, async () => {
      yes.disabled = true;
      update(said, h('p', { class: 'busy' }, 'Working …'));
      try {
        close(await act());
      } catch (error) {
        yes.disabled = false;
        update(said, problem(error));
      }
    }, { class: tone ?? 'primary' }));
    update(body, h('div', { class: 'dialog-text' }, typeof text === 'string' ? h('p', {}, text) : text), said,
      h('div', { class: 'dialog-buttons' }, button('Cancel', () => close(null), { autofocus: true }), yes));
  });
}

/**
 * First asks the node what would happen and shows it, then lets the user decide.
 * @template P, T
 * @param {object} question
 * @param {string} question.title
 * @param {string} question.label
 * @param {Child | Child[]} [question.fields] inputs that the plan depends on; the plan is asked for again when they change
 * @param {() => Promise<P>} question.plan the dry run
 * @param {(plan: P) => {content: Child | Child[], allowed: boolean}} question.show
 * @param {() => Promise<T>} question.act
 * @returns {Promise<T | null>}
 */
export function confirmPlan({ title, label, fields, plan, show, act }) {
  return openDialog(title, (body, close) => {
    const said = h('div', { class: 'plan', 'aria-live': 'polite' });
    let acting = false;
    const yes = /** @type {HTMLButtonElement} */ (button(label, async () => {
      acting = true;
      yes.disabled = true;
      update(said, h('p', { class: 'busy' }, 'Working …'));
      try {
        close(await act());
      } catch (error) {
        update(said, refusal(error));
      }
    }, { class: 'primary', disabled: true }));
    update(said, h('p', { class: 'busy' }, 'Asking what would happen …'));
    // A plan that is asked for again leaves everything in its place until it is there: the change may have come from the
    // same press that is on its way to the button.
    const ask = async () => {
      try {
        const { content, allowed } = show(await plan());
        if (acting) return;
        update(said, content);
        yes.disabled = !allowed;
      } catch (error) {
        yes.disabled = true;
        update(said, refusal(error));
      }
    };
    body.append(...[fields].flat().filter((child) => child instanceof Node), said,
      h('div', { class: 'dialog-buttons' }, button('Cancel', () => close(null), { autofocus: true }), yes));
    body.onchange = ask;
    ask();
  });
}

/** @param {any} error */
function refusal(error) {
  return [problem(error), error?.blockers?.length > 0 && findingList(error.blockers)];
}

/**
 * Findings: what, and what to do.
 * @param {import('./api.js').Finding[]} findings
 */
export function findingList(findings) {
  return h('ul', { class: 'findings' }, findings.map((finding) => {
    const code = finding.code ?? finding.name ?? '';
    const calm = CALM.includes(code);
    return h('li', { 'data-key': code + (finding.message ?? finding.text) }, badge(calm ? 'ok' : 'warn', ''), h('span', {}, finding.message ?? finding.text ?? code), ' ', code && h('code', {}, code), finding.hint && h('p', {}, sentence(finding.hint)));
  }));
}

/**
 * Asks for the bearer token of the admin listener.
 * @param {boolean} refused the one that was given before does not fit
 * @returns {Promise<string>}
 */
export async function promptToken(refused) {
  const token = await openDialog('This node asks for a token', (body, /** @type {(token: string | null) => void} */ close) => {
    const input = /** @type {HTMLInputElement} */ (h('input', { type: 'password', name: 'token', required: true, autocomplete: 'off', autofocus: true, spellcheck: 'false' }));
    const form = h('form', {
      onsubmit: (/** @type {Event} */ event) => {
        event.preventDefault();
        if (input.value.trim()) close(input.value.trim());
      },
    },
    refused && h('div', { class: 'problem', role: 'alert' }, h('strong', {}, 'The node refused that token.')),
    field('Bearer token', input, 'The text in the file that admin.token_file names. It is kept in this tab only, until the tab is closed.'),
    h('div', { class: 'dialog-buttons' }, h('button', { type: 'submit', class: 'primary' }, 'Use token')));
    body.append(form);
  }, { fixed: true });
  if (token === null) throw new Error('no token was given');
  return token;
}
