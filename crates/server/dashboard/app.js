// @ts-check
// The frame of the dashboard: routes, the head line, the switch of colours, the token.
//
// Owns: which view is open, and that the one before is ended. Does not: know what a view shows.

import { forgetToken, hasToken, onTokenNeeded } from './api.js';
import { promptToken } from './dialog.js';
import { button, update } from './dom.js';
import { POLL_MS, clusterState, start } from './history.js';
import { clock } from './text.js';
import * as client from './views/client.js';
import * as cluster from './views/cluster.js';
import * as node from './views/node.js';
import * as queues from './views/queues.js';
import * as retained from './views/retained.js';
import * as sessions from './views/sessions.js';
import * as traffic from './views/traffic.js';

/**
 * A view: its title, and how it fills its place until the signal says stop.
 * @typedef {object} View
 * @property {(rest: string[]) => string} title
 * @property {(root: HTMLElement, rest: string[], signal: AbortSignal) => void} open
 */

/** @type {{[name: string]: View}} */
const VIEWS = { cluster, traffic, sessions, queues, retained, nodes: node, client };
const THEME_KEY = 'quorate.colours';

const element = (/** @type {string} */ id) => /** @type {HTMLElement} */ (document.getElementById(id));
let current = new AbortController();
let opened = false;

function route() {
  const [name = 'cluster', ...rest] = location.hash.replace(/^#\/?/, '').split('/').filter(Boolean).map(decoded);
  const view = VIEWS[name] ?? cluster;
  current.abort();
  current = new AbortController();
  const title = view.title(rest);
  document.title = `${title} · Quorate`;
  element('title').textContent = title;
  update(element('notices'));
  const root = document.createElement('div');
  element('view').replaceChildren(root);
  for (const link of document.querySelectorAll('.views a')) {
    const here = link.getAttribute('href') === `#/${name in VIEWS ? name : 'cluster'}`;
    if (here) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  closeMenu();
  view.open(root, rest, current.signal);
  // The first view leaves the focus where the browser puts it.
  if (opened) {
    element('main').focus({ preventScroll: true });
    scrollTo(0, 0);
  }
  opened = true;
}

/** @param {string} part */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function closeMenu() {
  element('menu').setAttribute('aria-expanded', 'false');
  element('views').classList.remove('open');
}

function headLine() {
  const { value, error, answeredAt } = clusterState;
  element('where').textContent = value ? `${value.cluster_name} · ${value.node_name}` : '';
  const place = element('link-state');
  const late = Date.now() - answeredAt > 3 * POLL_MS;
  const text = error && late
    ? `▲ ${answeredAt ? `No answer since ${clock(answeredAt)}` : 'No answer'}`
    : value ? '● Connected' : 'Connecting …';
  const said = place.firstChild?.textContent;
  if (said !== text) {
    place.className = `link-state ${error && late ? 'bad' : 'ok'}`;
    update(place, text, hasToken() && button('Forget token', () => {
      forgetToken();
      location.reload();
    }, { class: 'quiet' }));
  }
}

function theme() {
  const choice = /** @type {HTMLSelectElement} */ (element('theme'));
  choice.value = localStorage.getItem(THEME_KEY) ?? 'auto';
  const apply = () => {
    if (choice.value === 'auto') delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = choice.value;
  };
  choice.onchange = () => {
    localStorage.setItem(THEME_KEY, choice.value);
    apply();
  };
  apply();
}

onTokenNeeded(promptToken);
theme();
element('menu').onclick = () => {
  const open = element('menu').getAttribute('aria-expanded') !== 'true';
  element('menu').setAttribute('aria-expanded', String(open));
  element('views').classList.toggle('open', open);
};
element('skip').onclick = (event) => {
  // The fragment of the address is the route.
  event.preventDefault();
  element('main').focus();
};
addEventListener('hashchange', route);
clusterState.follow(new AbortController().signal, headLine);
route();
start();
