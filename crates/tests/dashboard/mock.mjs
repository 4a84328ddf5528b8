// A cluster that is made up: answers of the admin API for journeys that a real cluster cannot show at will, such as a
// node that lags, a full queue, or a refused drain.
//
// Owns: a small state and the answers over it. Does not: serve files; the page comes from a real node.

const MINUTE = 60_000;
const at = Date.now();

/** The state. A drain moves one leader at each look at the cluster, as a real one does over time. */
export class Mock {
  constructor({ token = null } = {}) {
    this.token = token;
    this.tick = 0;
    this.draining = new Set();
    this.following = new Set();
    this.blocked = new Set(['n3']);
    this.level = 'info';
    this.calls = [];
    this.nodes = ['n1', 'n2', 'n3'].map((name, index) => ({ id: index + 1, name, zone: 'abc'[index] }));
    this.leaders = Array.from({ length: 17 }, (_, group) => (group % 3) + 1);
    this.sessions = Array.from({ length: 130 }, (_, index) => ({
      client_id: index === 0 ? 'press/line 4' : `sensor-${String(index).padStart(3, '0')}`,
      partition: (index % 16) + 1,
      owner: index % 3 === 0 ? undefined : (index % 3) + 1,
      durable: index % 5 !== 0,
      subscriptions: (index % 4) + 1,
      queued_messages: index % 3 === 0 ? index * 7 : 0,
      queued_bytes: index % 3 === 0 ? index * 7 * 310 : 0,
      inflight: index % 3 === 0 ? 0 : index % 6,
    }));
    this.retained = ['plant/press/4/state', 'plant/press/4/temperature', 'plant/oven/1/state', 'plant/binary'].map((topic, index) => ({
      topic, qos: index % 3, payload_bytes: 21, expiry_s: index === 1 ? 3600 : null,
    }));
    this.events = [
      [12, 'node_down', 'n3', null, 'n3 stopped renewing its lease; its groups elect other leaders'],
      [11, 'node_up', 'n3', null, 'n3 is back'],
      [9, 'leadership_gained', 'n1', 4, 'n1 leads group 4 in term 9'],
      [6, 'connections_refused', 'n2', null, 'refused 412 connections in 10 s: bad user name or password'],
      [3, 'readiness_changed', 'n1', null, 'ready: the lease was renewed'],
      [1, 'queue_dropped', 'n2', 7, 'dropped 20 messages for a full queue of'],
      ...Array.from({ length: 40 }, (_, index) => [0.9 - index / 100, 'leadership_gained', 'n2', index % 17, `n2 leads group ${index % 17} in term 10`]),
    ].map(([minutes, kind, node, group, text], index) => ({
      seq: index + 1, at_ms: at - minutes * MINUTE, kind, node, group, text, client_id: kind === 'queue_dropped' ? 'sensor-120' : null,
    }));
  }

  name(id) {
    return this.nodes.find((node) => node.id === id).name;
  }

  leads(name) {
    const { id } = this.nodes.find((node) => node.name === name);
    return this.leaders.flatMap((leader, group) => (leader === id ? [group] : []));
  }

  target(group, name) {
    const others = this.nodes.filter((node) => node.name !== name && !this.draining.has(node.name));
    return others[group % others.length];
  }

  /** Answer to a request of the page: status and body. */
  answer(method, url, headers, body) {
    const { pathname, searchParams: query } = new URL(url);
    this.calls.push(`${method} ${pathname}`);
    const failed = (status, code, message, hint = '') => [status, { error: { code, message, hint } }];
    if (this.token !== null && headers.authorization !== `Bearer ${this.token}` && !pathname.startsWith('/readyz')) {
      return failed(401, 'token_needed', 'a bearer token is needed');
    }
    if (method !== 'GET' && headers['content-type'] !== 'application/json') return failed(415, 'content_type', 'send application/json');
    const [, , kind, key, action] = pathname.split('/').map(decodeURIComponent);
    switch (`${method} ${kind}`) {
      case 'GET cluster':
        return key === 'state' ? [200, this.clusterState()] : [200, { level: 1, can_finalize: false, supported: [], blockers: [] }];
      case 'GET figures':
        return [200, this.figures()];
      case 'GET events':
        return [200, { events: this.events.filter((event) => event.seq > Number(query.get('after'))), next: this.events.length }];
      case 'GET groups':
        return [200, { group: Number(key), kind: 'partition', role: 'follower', leader: this.leaders[Number(key)], term: 9, voters: [1, 2, 3], replicas: [], findings: [{ code: 'follows', message: 'Another node leads this group, and that is in order.', hint: '' }] }];
      case 'GET why':
        return [200, { node: 'n1', ready: true, findings: [{ code: 'nothing_wrong', message: 'Nothing is wrong with this node.', hint: '' }] }];
      case 'GET log-level':
        return [200, { filter: this.level }];
      case 'PUT log-level':
        this.level = body.filter;
        return [200, { filter: this.level }];
      case 'GET listeners':
        return [200, { node: 'n1', listeners: [{ kind: 'tcp', address: '127.0.0.1:1883' }, { kind: 'websocket', address: '127.0.0.1:8083' }] }];
      case 'GET sessions':
        return key === undefined ? [200, this.page(query)] : [200, this.session(key)];
      case 'POST sessions':
        this.sessions.find((one) => one.client_id === key).owner = undefined;
        return [200, { client_id: key, kicked: true, node: 'n2' }];
      case 'DELETE sessions':
        this.sessions = this.sessions.filter((one) => one.client_id !== key);
        return [200, { client_id: key, existed: true }];
      case 'GET queues':
        return [200, { queues: this.sessions.filter((one) => one.queued_messages > 0).sort((a, b) => b.queued_messages - a.queued_messages).slice(0, 20)
          .map((one) => ({ client_id: one.client_id, messages: one.queued_messages, bytes: one.queued_bytes, oldest_ms: one.queued_messages * 900, online: Boolean(one.owner), node: one.owner ? this.name(one.owner) : null })) }];
      case 'GET slow-consumers':
        return [200, { consumers: [{ client_id: 'sensor-004', node: 'n2', inflight: 32, inflight_max: 32, queued: 812, oldest_unacked_ms: 43_120, dropped: 20 }] }];
      case 'GET retained':
        return this.retainedAnswer(key, query);
      case 'DELETE retained':
        this.retained = this.retained.filter((one) => one.topic !== query.get('topic'));
        return [200, { topic: query.get('topic'), existed: true }];
      case 'GET nodes':
        return [200, this.drainStatus(key)];
      case 'POST nodes':
        return action === 'drain' ? this.drain(key, body) : this.transfer(key, body);
      case 'DELETE nodes':
        this.draining.delete(key);
        this.following.delete(key);
        this.leaders = this.leaders.map((_, group) => (group % 3) + 1);
        return [200, { node: key, draining: false }];
      default:
        return pathname === '/readyz' ? [200, { ready: true, clauses: ['worker', 'lease', 'log', 'groups', 'running'].map((name) => ({ name, ok: true })) }] : [404, null];
    }
  }

  retainedAnswer(key, query) {
    if (key === 'message') {
      const bytes = query.get('topic') === 'plant/binary' ? Buffer.from([0, 1, 2, 255]) : Buffer.from('{"state":"running ✓"}');
      return [200, { topic: query.get('topic'), qos: 1, payload_base64: bytes.toString('base64'), payload_bytes: bytes.length, content_type: 'application/json', user_properties: [['line', '4']], expiry_s: null }];
    }
    const filter = query.get('filter').replace(/#$/, '');
    return [200, { messages: this.retained.filter((one) => one.topic.startsWith(filter)), next: null }];
  }

  clusterState() {
    for (const name of this.draining) {
      const [group] = this.leads(name);
      if (group !== undefined) this.leaders[group] = this.target(group, name).id;
    }
    return {
      cluster_name: 'plant', cluster_id: '00', node_id: 1, node_name: 'n1', version: '0.1.0', level: 1,
      nodes: this.nodes.map(({ id, name, zone }) => ({
        id, name, zone, version: '0.1.0', state: 'live', incarnation: 3, fenced: false, ready: id === 1 ? true : undefined, draining: this.draining.has(name), duty: this.following.has(name) ? 'follow' : 'full',
        mqtt: `127.0.0.1:188${id + 2}`, admin: `http://127.0.0.1:988${id + 2}`, peer: `127.0.0.1:1188${id + 2}`, lease_ms: id === 1 ? 655 : undefined,
      })),
      groups: this.leaders.map((leader, id) => ({
        id, kind: id === 0 ? 'control' : 'partition', state: leader === 1 ? 'leader' : 'follower', leader, term: 9, voters: [1, 2, 3], learners: [], committed: 1000, applied: 1000,
        sessions: 8 + (id % 3), retained: 1, subscriptions: 20, queued_messages: id === 7 ? 812 : 0, queued_bytes: 0, inflight: 3,
        replicas: leader === 1 ? [1, 2, 3].map((node) => ({ node, matched: 1000, lag: node === 3 && id === 6 ? 4210 : node === 2 && id === 3 ? 12 : 0, snapshot: false, active: true })) : [],
      })),
      totals: { connections: 41, sessions: 130, subscriptions: 320, retained: this.retained.length, queued_messages: 812, queued_bytes: 251_720, inflight: 48 },
      placement_violations: [{ group: 5, text: 'two replicas are in zone b, where each should be in a zone of its own' }],
    };
  }

  figures() {
    this.tick += 1;
    const wave = (base, swing, phase) => Math.max(0, base + swing * Math.sin(this.tick / 9 + phase) + swing * 0.3 * Math.sin(this.tick / 2.3 + phase * 3));
    const of = (node, phase) => ({
      node, connections: this.draining.has(node) ? 0 : Math.round(wave(41, 4, phase)), sessions: 43, messages_in_per_s: wave(820, 210, phase), messages_out_per_s: wave(1440, 420, phase + 1),
      bytes_in_per_s: wave(253_000, 61_000, phase), bytes_out_per_s: wave(440_000, 90_000, phase + 1), publish_latency_p50_us: wave(1900, 240, phase), publish_latency_p99_us: wave(7400, 2300, phase + 2),
      queued_messages: 271, retained: 2, dropped_per_s: this.tick % 40 === 7 ? 3 : 0,
    });
    const nodes = [of('n1', 0), of('n2', 2), of('n3', 4)];
    const total = Object.fromEntries(Object.keys(nodes[0]).filter((key) => key !== 'node').map((key) => [key, nodes.reduce((sum, one) => sum + one[key], 0) / (key.includes('latency') ? 3 : 1)]));
    return { at_ms: at - 550_000 + this.tick * 2000, nodes, total };
  }

  page(query) {
    const limit = Number(query.get('limit') ?? 100);
    const online = query.get('online');
    const fits = this.sessions.filter((one) => one.client_id.startsWith(query.get('prefix') ?? '')
      && (online === null || (online === 'true') === Boolean(one.owner)) && one.queued_messages >= Number(query.get('min_queued') ?? 0)
      && one.client_id > (query.get('after') ?? ''));
    const sessions = fits.slice(0, limit);
    return { read_from: { id: 1, name: 'n1' }, sessions, next_after: fits.length > limit ? sessions.at(-1).client_id : null, missing_partitions: [] };
  }

  session(id) {
    const found = this.sessions.find((one) => one.client_id === id);
    const node = (number) => ({ id: number, name: this.name(number) });
    const answer = { client_id: id, partition: found?.partition ?? 3, leader: node(2), read_from: node(1), leading: false, applied: 48_211, committed: 48_211 };
    if (!found) return { ...answer, findings: [{ name: 'no_session', text: 'There is no session: it never connected, expired, or was purged.' }] };
    return {
      ...answer,
      session: {
        session: 4, epoch: 12, principal: 'press', durable: found.durable, owner: found.owner && { node: node(found.owner), incarnation: 1, connection: 9 }, offline_s: found.owner ? undefined : 7420,
        expiry_s: 86_400, ends_in_s: found.owner ? undefined : 78_980, subscription_count: 2,
        subscriptions: [{ filter: 'plant/press/#', qos: 1, no_local: false }, { filter: 'orders/+/press', qos: 2, no_local: true, identifier: 7 }],
        queue: { messages: found.queued_messages, bytes: found.queued_bytes, messages_max: 1000, bytes_max: 1_048_576, overflow: 'drop-oldest' },
        inflight: { sent: found.inflight, held: 0, window: 32, receive_max: 65_535, sent_bytes: 900, sent_bytes_max: 1_048_576, awaiting_puback: found.inflight, awaiting_pubrec: 0, awaiting_pubcomp: 0 },
        inbound: 0, dropped: [{ reason: 'queue_messages', count: 20 }], refused: 0,
      },
      findings: found.owner ? [{ name: 'queue_empty', text: 'Nothing waits: all that was published for it went out.' }] : [{ name: 'offline', text: 'It has no connection; its messages wait until the session ends.' }, { name: 'dropped', text: '20 messages were dropped for it: the queue was full.' }],
    };
  }

  drainStatus(name) {
    const leads = this.leads(name);
    const draining = this.draining.has(name);
    const own = name === 'n1' ? { connections: draining && leads.length === 0 ? 0 : 41, quiescent: draining && leads.length === 0 } : {};
    return { node: name, duty: draining ? 'drain' : this.following.has(name) ? 'follow' : 'full', draining, grace_s: draining ? 30 : undefined, leads, since_ms: 61_000, ...own };
  }

  drain(name, { dry_run: dryRun }) {
    const leads = this.leads(name);
    const blockers = this.blocked.has(name) ? [{ code: 'quorum_at_risk', message: 'Group 5 would be left with one live replica of three.', hint: 'Bring back n2 first.' }] : [];
    if (blockers.length > 0 && !dryRun) return [409, { error: { code: 'quorum_at_risk', message: blockers[0].message, hint: blockers[0].hint } }];
    if (!dryRun) this.draining.add(name);
    return [200, { node: name, draining: true, dry_run: dryRun, would: { connections: name === 'n1' ? 41 : undefined, leads, targets: leads.map((group) => ({ group, to: this.target(group, name).name })) }, blockers }];
  }

  transfer(name, { dry_run: dryRun }) {
    const moved = this.leads(name).map((group) => ({ group, to: this.target(group, name) }));
    if (!dryRun) {
      for (const { group, to } of moved) this.leaders[group] = to.id;
      this.following.add(name);
    }
    return [200, { node: name, moved: moved.map(({ group, to }) => ({ group, to: to.name })), left: [] }];
  }
}
