// Units, scales and the partition map of the dashboard.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { scaleTop, summary } from '../../server/dashboard/chart.js';
import { place, troubled } from '../../server/dashboard/cluster-map.js';
import { bytes, list, micros, plural, rate, seconds } from '../../server/dashboard/text.js';

test('figures have units that a person reads', () => {
  for (const [shown, wanted] of [
    [bytes(0), '0 B'], [bytes(1023), '1,023 B'], [bytes(1024), '1 KiB'], [bytes(1_572_864), '1.5 MiB'], [bytes(null), '–'],
    [micros(950), '950 µs'], [micros(7490), '7.49 ms'], [micros(2_500_000), '2.5 s'],
    [seconds(59), '59 s'], [seconds(3599), '59 min'], [seconds(7380), '2 h 3 min'], [seconds(86_400), '24 h'], [seconds(864_000), '10 d'],
    [rate(0.25), '0.25'], [rate(0.0982), '0.098'], [rate(3.14159), '3.14'], [rate(12_345.6), '12,346'], [rate(undefined), '–'],
    [plural(1, 'group'), '1 group'], [plural(0, 'entry', 'entries'), '0 entries'], [list(['n1', 'n2', 'n3']), 'n1, n2 and n3'],
  ]) assert.equal(shown, wanted);
});

test('the scale of a plot is round and never below its highest value', () => {
  for (const [highest, top] of [[0, 4], [1, 4], [3, 4], [0.3, 0.4], [41, 60], [4700, 6000], [9.1, 10]]) assert.equal(Number(scaleTop(highest).toPrecision(6)), top);
  for (const [highest, top] of [[0, 1024], [900, 1024], [1_200_000, 2_097_152]]) assert.equal(scaleTop(highest, 'binary'), top);
  for (let highest = 0.001; highest < 1e9; highest *= 1.7) assert.ok(scaleTop(highest) >= highest, `${highest}`);
});

test('a summary leaves out what is unknown', () => {
  assert.deepEqual(summary([null, 4, 8, null]), { now: null, low: 4, mean: 6, high: 8 });
  assert.deepEqual(summary([]), { now: null, low: null, mean: null, high: null });
});

test('the map says what a node is to a group', () => {
  const node = (id, state = 'live') => ({ id, name: `n${id}`, state, fenced: false, incarnation: 1 });
  const replica = (id, more = {}) => ({ node: id, matched: 5, lag: 0, snapshot: false, active: true, ...more });
  const group = (replicas, more = {}) => ({ id: 1, leader: 1, voters: [1, 2], learners: [3], replicas, ...more });
  assert.equal(place(group([]), node(1)).kind, 'leader');
  assert.equal(place(group([]), node(2)).words, 'follower, only its leader knows how far it lags');
  assert.equal(place(group([replica(2)]), node(2)).words, 'follower, in step');
  assert.equal(place(group([replica(2, { lag: 12 })]), node(2)).sign, '−12');
  assert.equal(place(group([replica(2, { lag: 4210 })]), node(2)).kind, 'behind');
  assert.equal(place(group([replica(3, { snapshot: true })]), node(3)).words, 'gets a snapshot');
  assert.equal(place(group([replica(2, { active: false })]), node(2)).kind, 'silent');
  assert.equal(place(group([]), node(2, 'down')).kind, 'silent');
  assert.equal(place(group([]), node(4)).kind, 'absent');
  assert.ok(!troubled(group([replica(2, { lag: 12 })]), [node(1), node(2)]));
  assert.ok(troubled(group([], { leader: undefined }), [node(1)]));
  assert.ok(troubled(group([replica(2, { active: false })]), [node(1), node(2)]));
});
