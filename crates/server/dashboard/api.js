// @ts-check
// The admin API of the node that serves the page.
//
// Owns: requests, the bearer token, errors as sentences, the types of the answers. Does not: ask any other node: any
// node answers for the cluster.
// Invariants: the token is in sessionStorage and nowhere else, and goes to this origin only; a request that changes
// something has `Content-Type: application/json`.
// Limits: REQUEST_TIMEOUT_MS for an answer.

const REQUEST_TIMEOUT_MS = 15_000;
/** Empty pages read over before the user is asked whether to go on. */
const EMPTY_PAGES_MAX = 20;
const TOKEN_KEY = 'quorate.admin.token';

/**
 * @typedef {object} NodeStatus
 * @property {number} id
 * @property {string} name
 * @property {string} [mqtt]
 * @property {string} [admin]
 * @property {string} [peer]
 * @property {'live' | 'down'} state
 * @property {number} incarnation
 * @property {number} [lease_ms]
 * @property {boolean} fenced
 * @property {boolean} [ready]
 * @property {number} [connections]
 * @property {boolean} [draining]
 * @property {'full' | 'follow' | 'drain'} [duty]
 * @property {string | null} [zone]
 * @property {string} [version]
 *
 * @typedef {{node: number, matched: number, lag: number, snapshot: boolean, active: boolean}} ReplicaStatus
 *
 * @typedef {object} GroupStatus
 * @property {number} id
 * @property {'control' | 'partition'} kind
 * @property {string} state
 * @property {number} [leader]
 * @property {number} term
 * @property {number[]} voters
 * @property {number[]} learners
 * @property {number} committed
 * @property {number} applied
 * @property {ReplicaStatus[]} replicas
 * @property {number} sessions
 * @property {number} retained
 * @property {number} queued_messages
 * @property {number} queued_bytes
 * @property {number} inflight
 *
 * @typedef {object} ClusterState
 * @property {string} cluster_name
 * @property {string} cluster_id
 * @property {number} node_id
 * @property {string} node_name
 * @property {string} version
 * @property {NodeStatus[]} nodes
 * @property {GroupStatus[]} groups
 * @property {{connections: number, sessions: number, subscriptions: number, retained: number, queued_messages: number,
 *   queued_bytes: number, inflight: number}} totals
 * @property {number} [level]
 * @property {{group: number, text: string}[]} [placement_violations]
 *
 * @typedef {object} Figures
 * @property {string} [node]
 * @property {number} connections
 * @property {number} sessions
 * @property {number} messages_in_per_s
 * @property {number} messages_out_per_s
 * @property {number} bytes_in_per_s
 * @property {number} bytes_out_per_s
 * @property {number | null} [publish_latency_p50_us]
 * @property {number | null} [publish_latency_p99_us]
 * @property {number} queued_messages
 * @property {number} retained
 * @property {number} dropped_per_s
 *
 * @typedef {{at_ms: number, nodes: Figures[], total: Figures}} FiguresAnswer
 * @typedef {{code?: string, name?: string, message?: string, text?: string, hint?: string}} Finding
 * @typedef {{seq: number, at_ms: number, kind: string, node?: string, group?: number, client_id?: string,
 *   text: string}} NotableEvent
 *
 * @typedef {object} SessionSummary
 * @property {string} client_id
 * @property {number} partition
 * @property {number} [owner]
 * @property {boolean} durable
 * @property {number} subscriptions
 * @property {number} queued_messages
 * @property {number} queued_bytes
 * @property {number} inflight
 *
 * @typedef {{sessions: SessionSummary[], next_after?: string | null, next?: string | null,
 *   missing_partitions?: number[], incomplete_groups?: number[]}} SessionPage
 *
 * Figures of another node than the one that answers are left out. `since_ms` is how long ago the duty changed.
 * @typedef {{node: string, duty?: 'full' | 'follow' | 'drain', draining: boolean, grace_s?: number, connections?: number,
 *   leads: number[], quiescent?: boolean, since_ms?: number}} DrainStatus
 * @typedef {{group: number, to: string | null}} Move
 * @typedef {{node: string, draining: boolean, dry_run: boolean, would: {connections?: number, leads: number[],
 *   targets: Move[]}, blockers: Finding[]}} DrainPlan
 * @typedef {{node: string, moved: Move[], left: {group: number, reason: string}[]}} TransferAnswer
 */

/** An answer that is no success, or none at all. */
export class ApiError extends Error {
  /**
   * @param {number} status 0 when there was no answer
   * @param {{code?: string, message: string, hint?: string, blockers?: Finding[]}} error
   * @param {boolean} [missing] this node does not know the question
   */
  constructor(status, { code = '', message, hint = '', blockers = [] }, missing = false) {
    super(message);
    this.status = status;
    this.code = code;
    this.hint = hint;
    this.blockers = blockers;
    this.missing = missing;
  }
}

/** Asks the user for the token. Set by the page. @type {(refused: boolean) => Promise<string>} */
let askToken = () => Promise.reject(new Error('nobody to ask for the token'));
/** One prompt for all requests that wait for it. @type {Promise<void> | null} */
let asking = null;

/** @param {(refused: boolean) => Promise<string>} ask */
export function onTokenNeeded(ask) {
  askToken = ask;
}

export function hasToken() {
  return sessionStorage.getItem(TOKEN_KEY) !== null;
}

export function forgetToken() {
  sessionStorage.removeItem(TOKEN_KEY);
}

/** @param {string | null} refused the token that was sent, if any */
async function renewToken(refused) {
  if (sessionStorage.getItem(TOKEN_KEY) !== refused) return;
  asking ??= askToken(refused !== null)
    .then((token) => sessionStorage.setItem(TOKEN_KEY, token))
    .finally(() => {
      asking = null;
    });
  await asking;
}

/**
 * Asks the node. `query` leaves out what is undefined or empty.
 * @param {string} method
 * @param {string} path
 * @param {{query?: {[name: string]: any}, body?: unknown, signal?: AbortSignal}} [options]
 * @returns {Promise<any>}
 */
export async function request(method, path, { query = {}, body, signal } = {}) {
  const known = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== '');
  const search = new URLSearchParams(known.map(([name, value]) => [name, String(value)])).toString();
  const url = search ? `${path}?${search}` : path;
  for (;;) {
    const token = sessionStorage.getItem(TOKEN_KEY);
    const response = await send(method, url, body, token, signal);
    if (response.status === 401) {
      await renewToken(token);
    } else {
      return readAnswer(response, method, path);
    }
  }
}

/**
 * @param {string} method
 * @param {string} url
 * @param {unknown} body
 * @param {string | null} token
 * @param {AbortSignal} [signal]
 */
async function send(method, url, body, token, signal) {
  /** @type {{[name: string]: string}} */
  const headers = { accept: 'application/json' };
  if (method !== 'GET') headers['content-type'] = 'application/json';
  if (token !== null) headers.authorization = `Bearer ${token}`;
  const timeout = AbortSignal.timeout(REQUEST_TIMEOUT_MS);
  try {
    return await fetch(url, {
      method,
      headers,
      body: method === 'GET' ? undefined : JSON.stringify(body ?? {}),
      signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
      redirect: 'manual',
      credentials: 'omit',
      cache: 'no-store',
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    const late = /** @type {Error} */ (error).name === 'TimeoutError';
    throw new ApiError(0, {
      message: late ? `The node did not answer within ${REQUEST_TIMEOUT_MS / 1000} s.` : 'The node does not answer.',
      hint: 'The page asks again. If the node is gone for good, open the dashboard of another node.',
    });
  }
}

/**
 * @param {Response} response
 * @param {string} method
 * @param {string} path
 */
async function readAnswer(response, method, path) {
  if (response.type === 'opaqueredirect') {
    throw new ApiError(307, {
      code: 'elsewhere',
      message: 'This node has no replica of that partition and sends the question to another node.',
      hint: 'Open the dashboard of a node that has a replica: the partition map names them.',
    });
  }
  const text = await response.text();
  const answer = parsed(text);
  // Readiness says with 503 and the same body that it is not given.
  if (response.ok || (path.startsWith('/readyz') && answer?.clauses)) return answer;
  const error = answer?.error;
  const unknown = response.status === 404 && (!error || error.code === 'path_not_found');
  if (unknown || response.status === 405) {
    throw new ApiError(response.status, {
      code: 'no_such_endpoint',
      message: `This node does not offer ${method} ${path.replace(/^(\/v1\/\w[\w-]*).*/, '$1')} yet: it runs an older version.`,
    }, true);
  }
  throw new ApiError(response.status, {
    code: error?.code,
    message: error?.message ?? (text.trim() || `The node answers with status ${response.status}.`),
    hint: error?.hint,
    blockers: answer?.blockers ?? error?.blockers,
  });
}

/** @param {string} text */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

const get = (/** @type {string} */ path, /** @type {{[name: string]: any}} */ query = {}, /** @type {AbortSignal | undefined} */ signal = undefined) =>
  request('GET', path, { query, signal });
const part = encodeURIComponent;

/**
 * Asks for a page, and goes on while nothing is found and more may follow: a node reads so much for one answer.
 * @template {{next?: string | null, next_after?: string | null}} P
 * @param {(after: string | undefined) => Promise<P>} ask
 * @param {(page: P) => unknown[]} found
 * @param {string | undefined} after
 */
export async function pageWithRows(ask, found, after) {
  let page = await ask(after);
  for (let asked = 1; asked < EMPTY_PAGES_MAX && found(page).length === 0; asked += 1) {
    const next = page.next ?? page.next_after;
    if (!next) break;
    page = await ask(next);
  }
  return page;
}

/** The questions, by name. */
export const api = {
  /** @returns {Promise<ClusterState>} */
  clusterState: () => get('/v1/cluster/state'),
  /** @returns {Promise<{level: number, can_finalize: boolean, supported: any[], blockers: Finding[]}>} */
  clusterLevel: () => get('/v1/cluster/level'),
  /** @returns {Promise<FiguresAnswer>} */
  figures: () => get('/v1/figures'),
  /** @returns {Promise<{events: NotableEvent[], next: number}>} */
  events: (/** @type {number} */ after) => get('/v1/events', { after, limit: 200 }),
  group: (/** @type {number} */ id) => get(`/v1/groups/${id}`),
  /** @returns {Promise<{ready: boolean, clauses: {name: string, ok: boolean, reason?: string}[]}>} */
  readiness: () => get('/readyz'),
  /** @returns {Promise<{node: string, ready: boolean, findings: Finding[]}>} */
  why: () => get('/v1/why'),
  /** @returns {Promise<{filter: string}>} */
  logLevel: () => get('/v1/log-level'),
  setLogLevel: (/** @type {string} */ filter, /** @type {number | undefined} */ seconds) => request('PUT', '/v1/log-level', { body: { filter, seconds } }),
  /** @returns {Promise<{node: string, listeners: {kind: string, address: string}[]}>} */
  listeners: () => get('/v1/listeners'),
  /** @returns {Promise<SessionPage>} */
  sessions: (/** @type {{[name: string]: any}} */ query) => get('/v1/sessions', query),
  session: (/** @type {string} */ id) => get(`/v1/sessions/${part(id)}`),
  kick: (/** @type {string} */ id) => request('POST', `/v1/sessions/${part(id)}/kick`, { body: { reason: 'administrative' } }),
  purge: (/** @type {string} */ id) => request('DELETE', `/v1/sessions/${part(id)}`),
  queues: () => get('/v1/queues', { top: 20 }),
  slowConsumers: () => get('/v1/slow-consumers', { top: 20 }),
  retained: (/** @type {{[name: string]: any}} */ query) => get('/v1/retained', query),
  retainedMessage: (/** @type {string} */ topic) => get('/v1/retained/message', { topic }),
  deleteRetained: (/** @type {string} */ topic) => request('DELETE', '/v1/retained/message', { query: { topic } }),
  /** @returns {Promise<DrainStatus>} */
  drainStatus: (/** @type {string} */ node) => get(`/v1/nodes/${part(node)}/drain`),
  /** @returns {Promise<DrainPlan>} */
  drain: (/** @type {string} */ node, /** @type {boolean} */ dryRun, /** @type {number} */ graceSeconds) =>
    request('POST', `/v1/nodes/${part(node)}/drain`, { body: { dry_run: dryRun, grace_s: graceSeconds } }),
  undrain: (/** @type {string} */ node) => request('DELETE', `/v1/nodes/${part(node)}/drain`),
  /** @returns {Promise<TransferAnswer>} */
  transfer: (/** @type {string} */ node, /** @type {boolean} */ dryRun) =>
    request('POST', `/v1/nodes/${part(node)}/transfer`, { body: { dry_run: dryRun } }),
  leadAgain: (/** @type {string} */ node) => request('DELETE', `/v1/nodes/${part(node)}/transfer`),
};
