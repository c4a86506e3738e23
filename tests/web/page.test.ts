// What the page reckons with: days, ways, rates and wishes. What it shows is tested in a browser.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Rate } from '../../web/page/chart.ts'
import { lanes, rangesOf, readSwarm } from '../../web/page/coverage.ts'
import { add, readDays } from '../../web/page/history.ts'
import { byModel } from '../../web/page/kept.ts'
import { Latest } from '../../web/page/latest.ts'
import { DEFAULTS, readChoice } from '../../web/page/limits.ts'
import { Restart } from '../../web/page/restart.ts'
import { Traffic } from '../../web/page/serving.ts'
import { loadingHeard } from '../../web/page/words.ts'

const NOTHING = { seconds: 0, tokens: 0, requests: 0, received: 0, sent: 0, energy: 0 }

test('days are added up, and what makes no sense is left out', () => {
  const days = add(add([], '2026-01-02', { ...NOTHING, tokens: 3 }), '2026-01-02', { ...NOTHING, tokens: 4 })
  assert.deepEqual(days, [{ day: '2026-01-02', ...NOTHING, tokens: 7 }])
  assert.deepEqual(readDays(JSON.stringify([...days, { day: 'x' }, null, { ...days[0], tokens: -1 }])), days)
  assert.deepEqual(readDays('{'), [])
})

test('what the relay says of the swarm is taken as far as it makes sense', () => {
  const servers = [{ peer: 'A', blocks: [0, 2], state: 'ONLINE', gateway: false, name: 'x'.repeat(99) }, { peer: 'B', blocks: [1, 9], state: 'ONLINE' }, { peer: 'C', blocks: [1, 3], state: 'JOINING', gateway: true }, 'no']
  const swarm = readSwarm({ relay: { peers: 3, draining: true }, models: [{ prefix: 'm', counts: [1, -4, 2], servers, more: 7, route: [['A', 0, 2], ['C', 2, 1], 5] }, { prefix: 5 }, null] })
  assert.deepEqual([swarm.peers, swarm.draining, swarm.bytes, swarm.models.length], [3, true, 0, 1])
  assert.deepEqual(swarm.models[0], {
    name: 'm',
    counts: [1, 0, 2],
    servers: [{ peer: 'A', start: 0, end: 2, joining: false, gateway: false, name: 'x'.repeat(40) }, { peer: 'C', start: 1, end: 3, joining: true, gateway: true, name: '' }],
    more: 7,
    route: [{ peer: 'A', start: 0, end: 2 }]
  })
  assert.deepEqual(readSwarm(null).models, [])
})

test('bars share rows without overlapping, and gaps are said as ranges', () => {
  const bars = [[4, 6], [0, 3], [0, 2], [2, 4], [0, 9]].map(([start, end]) => ({ start: start as number, end: end as number }))
  assert.deepEqual(lanes(bars).map(row => row.map(({ start, end }) => [start, end])), [[[0, 9]], [[0, 3], [4, 6]], [[0, 2], [2, 4]]])
  assert.equal(lanes(bars, 1).flat().length, 1)
  assert.equal(rangesOf([0, 1, 2, 7, 9, 10]), '0–2, 7, 9–10')
})

test('a node that broke while it served starts anew, later each time, and not for ever', async t => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  let [now, starts] = [0, 0]
  const restart = new Restart(() => { starts++ }, () => now)
  assert.equal(restart.failed(), null, 'one that never served tells why')
  const waits = [2, 10, 30, 60, 120, null].map(() => {
    restart.served()
    now += 1000
    const wait = restart.failed()
    t.mock.timers.tick((wait ?? 0) * 1000)
    return wait
  })
  assert.deepEqual([waits, starts], [[2, 10, 30, 60, 120, null], 5])
  restart.served()
  now += 301_000
  assert.equal(restart.failed(), 2, 'it served well meanwhile')
  restart.forget()
  t.mock.timers.tick(200_000)
  assert.equal(starts, 5, 'its owner stopped it')
})

test('a browser is told what it keeps, model by model', () => {
  const entries = [{ model: 'm', block: null, bytes: 5, lastUsed: 1 }, { model: 'm', block: 3, bytes: 2, lastUsed: 9 }, { model: 'n', block: 0, bytes: 1, lastUsed: 2 }]
  assert.deepEqual(byModel(entries), [{ model: 'm', blocks: 1, bytes: 7, lastUsed: 9 }, { model: 'n', blocks: 1, bytes: 1, lastUsed: 2 }])
})

test('an answer that was overtaken is no news', () => {
  const looks = new Latest()
  const [first, second, third] = [looks.ask(), looks.ask(), looks.ask()]
  assert.deepEqual([second(), first(), third()], [true, false, true])
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

test('of a download a quarter at a time is heard', () => {
  const heard = new Set(Array.from({ length: 1001 }, (_, done) => loadingHeard('weights', done, 1000)))
  assert.deepEqual([...heard], ['Loading the weights…', ...[25, 50, 75, 100].map(percent => `Loading the weights, ${percent} %`)])
  assert.equal(loadingHeard('python', 0, 0), 'Loading Python…')
})
