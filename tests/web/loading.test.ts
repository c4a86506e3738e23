// The one number of bytes that a page is told of loading: what counts, how fast it is said to be, when it is told.

import assert from 'node:assert/strict'
import test from 'node:test'
import { LoadMeter } from '../../web/worker/loading.ts'
import type { LoadProgress } from '../../web/worker/messages.ts'

const weights = (done: number, total: number, cached = 0): LoadProgress => ({ type: 'progress', stage: 'weights', done, total, cached, rate: 0 })

function metered (): { meter: LoadMeter, told: LoadProgress[], wait: (milliseconds: number) => void } {
  let now = 0
  const told: LoadProgress[] = []
  return { meter: new LoadMeter(message => { told.push(message) }, () => now), told, wait: milliseconds => { now += milliseconds } }
}

test('runtime and weights are one sum, and what was kept is part of it', () => {
  const { meter, told, wait } = metered()
  meter.runtime({ done: 0, total: 100, cached: 0 })
  wait(200)
  meter.runtime({ done: 100, total: 100, cached: 40 })
  wait(200)
  meter.python(weights(50, 300, 20))
  assert.deepEqual(told.map(({ stage, done, total, cached }) => [stage, done, total, cached]), [
    ['python', 0, 100, 0], ['python', 100, 100, 40], ['weights', 150, 400, 60]
  ])
})

test('bytes of a range count while they come, once', () => {
  const { meter, told, wait } = metered()
  meter.python(weights(0, 1000))
  for (const piece of [300, 200]) {
    wait(200)
    meter.received(piece)
  }
  assert.equal(told.at(-1)?.done, 500)
  meter.settled(500)
  wait(200)
  meter.python(weights(500, 1000))
  assert.equal(told.at(-1)?.done, 500)
})

test('a range that failed takes nothing back: the sum waits until it is true again', () => {
  const { meter, told, wait } = metered()
  meter.python(weights(0, 1000))
  wait(200)
  meter.received(400)
  meter.settled(400)
  wait(200)
  meter.received(100)
  assert.equal(told.at(-1)?.done, 400)
  wait(200)
  meter.received(500)
  assert.equal(told.at(-1)?.done, 600)
})

test('the rate is that of the last seconds, of the network alone, and none when nothing comes', () => {
  const { meter, told, wait } = metered()
  meter.python(weights(5000, 100_000, 5000))
  for (let second = 0; second < 20; second++) {
    wait(1000)
    meter.received(second < 10 ? 4000 : 1000)
  }
  assert.ok(Math.abs((told.at(-1)?.rate ?? 0) - 1000) < 1, `${told.at(-1)?.rate}`)
  assert.ok(Math.abs((told.at(-1)?.seconds_left ?? 0) - 45) < 0.1)
  wait(10_000)
  meter.python(weights(5000, 100_000, 5000))
  assert.deepEqual([told.at(-1)?.rate, told.at(-1)?.seconds_left], [0, undefined])
})

test('pieces are many and messages few, but a new stage and the end are told at once', () => {
  const { meter, told, wait } = metered()
  meter.python(weights(0, 1000))
  for (let piece = 0; piece < 1000; piece++) {
    wait(1)
    meter.received(1)
  }
  assert.ok(told.length < 15, `${told.length} messages`)
  assert.equal(told.at(-1)?.done, 1000)
  meter.python({ type: 'progress', stage: 'build', done: 0, total: 1, cached: 0, rate: 0 })
  assert.equal(told.at(-1)?.stage, 'build')
})
