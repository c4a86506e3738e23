// Whenever a protocol is said, a node that is being connected ends up handling it, and the latest handler.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Served } from '../../web/bridge/served.ts'

test('what is said while a node is being connected is handled by it', async () => {
  const served = new Served<string>()
  const handled = new Map<string, string>()
  let calls = 0
  served.set('first', 'a')
  const catchUp = served.on(async (protocol, handler) => {
    calls++
    handled.set(protocol, handler)
    if (protocol === 'second') served.set('third', 'c') // while it works, too
    await new Promise(resolve => setImmediate(resolve))
  })
  await catchUp()
  assert.deepEqual([...handled], [['first', 'a']])
  served.set('second', 'b')
  served.set('first', 'anew')
  await catchUp()
  assert.deepEqual([...handled].sort(), [['first', 'anew'], ['second', 'b'], ['third', 'c']])
  await catchUp()
  assert.equal(calls, 4)
})
