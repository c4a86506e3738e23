// What the page reckons with: days, ways, rates and wishes. What it shows is tested in a browser.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Rate } from '../../web/page/chart.ts'
import { chain, coverage, readStatus } from '../../web/page/coverage.ts'
import { add, readDays } from '../../web/page/history.ts'
import { DEFAULTS, readChoice } from '../../web/page/limits.ts'
import { Traffic } from '../../web/page/serving.ts'

const NOTHING = { seconds: 0, tokens: 0, requests: 0, received: 0, sent: 0, energy: 0 }

test('days are added up, and what makes no sense is left out', () => {
  const days = add(add([], '2026-01-02', { ...NOTHING, tokens: 3 }), '2026-01-02', { ...NOTHING, tokens: 4 })
  assert.deepEqual(days, [{ day: '2026-01-02', ...NOTHING, tokens: 7 }])
  assert.deepEqual(readDays(JSON.stringify([...days, { day: 'x' }, null, { ...days[0], tokens: -1 }])), days)
  assert.deepEqual(readDays('{'), [])
})

test('a way takes few servers and ends at a gap', () => {
  const status = readStatus({ announced: { A: [{ prefix: 'm', state: 'ONLINE', blocks: [0, 2] }], B: [{ prefix: 'm', state: 'ONLINE', blocks: [1, 4] }], C: [{ prefix: 'm', state: 'JOINING', blocks: [4, 5] }], D: 'no' } })
  assert.deepEqual(coverage(status.servers, 5), [1, 2, 1, 1, 0])
  const { hops, end } = chain(status.servers, 5)
  assert.deepEqual([hops.map(({ peer, start, end }) => [peer, start, end]), end], [[['A', 0, 2], ['B', 2, 4]], 4])
  assert.deepEqual(readStatus(null).servers, [])
})

test('a rate is of the time between two looks', () => {
  const rate = new Rate()
  assert.deepEqual([rate.add(5, 10), rate.add(9, 12), rate.add(1, 14)], [0, 2, 0])
})

test('a peer that comes anew counts from nothing', () => {
  const traffic = new Traffic()
  for (const bytesIn of [10, 15, 3]) traffic.update([{ id: 'A', kind: 'webrtc', bytesIn, bytesOut: 0 }])
  assert.equal(traffic.received, 18)
})

test('kept wishes are believed as far as they make sense', () => {
  assert.deepEqual(readChoice('{"duty":7,"onBattery":"continue","hours":[{"from":"25:00","to":"06:00"}]}'), { ...DEFAULTS, onBattery: 'continue' })
  assert.deepEqual(readChoice('nonsense'), DEFAULTS)
})
