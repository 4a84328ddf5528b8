// @ts-check
// What the page keeps of the node's answers: the newest state of the cluster, ten minutes of figures, the last events.
//
// Owns: the polling, which goes on while another view is open. Does not: draw.
// Limits: POINTS_MAX points of figures, EVENTS_MAX events; the oldest go first.

import { api } from './api.js';

export const POLL_MS = 2000;
/** Ten minutes. */
export const POINTS_MAX = 300;
export const EVENTS_MAX = 200;

/**
 * Calls `ask` again and again, one call at a time, until the signal says stop.
 * @param {number} pauseMs
 * @param {AbortSignal} signal
 * @param {() => Promise<unknown>} ask
 */
export async function every(pauseMs, signal, ask) {
  while (!signal.aborted) {
    await ask();
    await new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        signal.removeEventListener('abort', done);
        resolve(undefined);
      };
      const timer = setTimeout(done, pauseMs);
      signal.addEventListener('abort', done);
    });
  }
}

/**
 * A value that is asked for again and again.
 * @template T
 */
class Watched {
  /** @param {() => Promise<T>} ask */
  constructor(ask) {
    this.ask = ask;
    /** @type {T | null} */
    this.value = null;
    /** @type {any} */
    this.error = null;
    /** Unix time of the last answer, in milliseconds. */
    this.answeredAt = 0;
    /** @type {Set<() => void>} */
    this.listeners = new Set();
  }

  async refresh() {
    try {
      this.value = await this.ask();
      this.answeredAt = Date.now();
      this.error = null;
    } catch (error) {
      this.error = error;
    }
    for (const listener of this.listeners) listener();
  }

  /**
   * Calls `listener` now and whenever an answer came, until the signal says stop.
   * @param {AbortSignal} signal
   * @param {() => void} listener
   */
  follow(signal, listener) {
    this.listeners.add(listener);
    signal.addEventListener('abort', () => this.listeners.delete(listener), { once: true });
    listener();
  }
}

/** @type {import('./api.js').FiguresAnswer[]} */
export const points = [];
/** Newest first. @type {import('./api.js').NotableEvent[]} */
export const events = [];
let lastEvent = 0;

export const clusterState = new Watched(() => api.clusterState());

export const figures = new Watched(async () => {
  const answer = await api.figures();
  points.push(answer);
  while (points.length > POINTS_MAX) points.shift();
  return answer;
});

/** The events that are new since the last answer, oldest first. */
export const newEvents = new Watched(async () => {
  const { events: found, next } = await api.events(lastEvent);
  const highest = found.reduce((seq, event) => Math.max(seq, event.seq), 0);
  // A node that started again counts from the beginning.
  lastEvent = typeof next === 'number' && next < lastEvent ? next : Math.max(highest, lastEvent);
  events.unshift(...[...found].reverse());
  events.splice(EVENTS_MAX);
  return found;
});

/** Begins to ask; ends never: the page is what ends. */
export function start() {
  const forever = new AbortController().signal;
  for (const watched of [clusterState, figures, newEvents]) every(POLL_MS, forever, () => watched.refresh());
}

/**
 * Name of a node by its id.
 * @param {number | null | undefined} id
 */
export function nodeName(id) {
  return clusterState.value?.nodes.find((node) => node.id === id)?.name ?? (id === null || id === undefined ? 'nobody' : `node ${id}`);
}

/**
 * The newest figures of a node.
 * @param {string} name
 */
export function figuresOf(name) {
  return figures.value?.nodes.find((node) => node.node === name);
}
