// What is reported of peers.

import assert from 'node:assert/strict'
import test from 'node:test'
import { Reader } from '../../web/bridge/reader.ts'
import { write } from '../../web/bridge/streams.ts'
import { echo, Traffic } from '../../web/bridge/traffic.ts'
import { MAX_REPORTED } from '../../web/worker/messages.ts'
import { fromHex, streamPair } from './stream_pair.ts'

test('bytes of streams are counted for their peer, both ways', async () => {
  const traffic = new Traffic()
  const [near, far] = streamPair()
  Object.assign(near, { meter: traffic.meter('b') })
  const reader = new Reader(near)
  await write(near, fromHex('010203'))
  far.send(fromHex('0405'))
  await reader.exactly(2)
  assert.deepEqual(traffic.report(new Map([['b', 'circuit']])), [{ peer: 'b', kind: 'circuit', bytes_in: 2, bytes_out: 3 }])
})

test('the relay comes first, then the busiest; who left is forgotten; the list is bounded', () => {
  const traffic = new Traffic()
  traffic.meter('b').bytesIn = 10
  traffic.meter('c').bytesOut = 20
  traffic.echoed('c', 1.234)
  const lines = traffic.report(new Map([['b', 'webrtc'], ['c', 'circuit'], ['r', 'relay']]))
  assert.deepEqual(lines.map(line => line.peer), ['r', 'c', 'b'])
  assert.equal(lines[1]!.rtt_ms, 1.2)
  assert.deepEqual(traffic.report(new Map()), [])
  assert.equal(traffic.report(new Map([['c', 'circuit']]))[0]!.bytes_out, 0)
  const many = new Map(Array.from({ length: 1000 }, (_, index) => [`p${index}`, 'circuit' as const]))
  assert.equal(traffic.report(many).length, MAX_REPORTED)
})

test('a peer is pinged when its turn has come', () => {
  const traffic = new Traffic()
  assert.deepEqual([traffic.takeTurn('b', 0, 10), traffic.takeTurn('b', 9, 10), traffic.takeTurn('b', 10, 10)], [true, false, true])
})

test('an echo is timed, and a stream that breaks fails it', async () => {
  const [near, far] = streamPair()
  far.addEventListener('message', (event: { data: Uint8Array }) => { far.send(event.data) })
  assert.ok(await echo(near) >= 0)
  const [broken, other] = streamPair()
  other.abort(new Error('gone'))
  await assert.rejects(echo(broken), { name: 'StreamReset' })
})
