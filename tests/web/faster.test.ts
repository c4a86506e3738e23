// Both ways are tried in turns, and then only the one whose best time was shorter.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Faster } from '../../web/bridge/faster.ts'

const LARGE = 2 ** 24

/** What `count` works of so many units did, where one way takes `times[0]` ms and the other `times[1]`. */
function ways (count: number, units: number, times: [number, number], disturbed = -1): boolean[] {
  let now = 0
  const faster = new Faster(() => now)
  return Array.from({ length: count }, (_, at) => {
    let done = false
    faster.run(units, second => {
      done = second
      now += at === disturbed ? 1000 : times[second ? 1 : 0]
    })
    return done
  })
}

test('both are tried as often, then the faster one is taken', () => {
  for (const times of [[2, 1], [1, 2]] as Array<[number, number]>) {
    const did = ways(100, LARGE, times)
    const tried = did.slice(0, 32)
    assert.equal(tried.filter(second => second).length, 16)
    assert.deepEqual(new Set(did.slice(32)), new Set([times[1] < times[0]]))
  }
})

test('a try that was interrupted does not decide', () => {
  assert.equal(ways(100, LARGE, [2, 1], 5).at(-1), true)
})

test('small works decide nothing', () => {
  assert.deepEqual(new Set(ways(100, 1000, [2, 1])), new Set([false]))
})
