// A new identity stands as near its relay as was asked for, and a bit more; where that takes too long, as near as was found.

import assert from 'node:assert/strict'
import test from 'node:test'
import { isEnough, newSeed } from '../../web/bridge/identity.ts'

test('where nothing is asked for the first will do', async () => {
  const seed = await newSeed(async () => assert.fail('nobody needs to know'), 0)
  assert.equal(seed.length, 32)
})

test('keys are tried until one is near enough', async () => {
  const near = async (seed: Uint8Array): Promise<number> => Math.clz32(seed[0]!) - 24
  assert.ok(await near(await newSeed(near, 2)) >= 3)
})

test('when the time is over the nearest is taken', async () => {
  const found = new Map<number, number>()
  let time = 0
  const near = async (seed: Uint8Array): Promise<number> => {
    const bits = [1, 3, 2][found.size % 3]!
    found.set(new DataView(seed.buffer).getUint32(0), bits)
    return bits
  }
  const seed = await newSeed(near, 9, () => time++ * 100)
  assert.equal(found.get(new DataView(seed.buffer).getUint32(0)), 3)
  assert.ok(found.size > 3)
})

test('what a search could not find is not searched for again at each start, unless more is asked for or the relay is another', () => {
  const aim = { bits: 13, shared: 11 }
  assert.ok(isEnough(13, 13, undefined))
  assert.ok(!isEnough(11, 13, undefined))
  assert.ok(isEnough(11, 13, aim))
  assert.ok(isEnough(11, 12, aim))
  assert.ok(!isEnough(11, 14, aim))
  assert.ok(!isEnough(1, 13, aim))
})

test('an identity is kept where none that is found is nearer', async () => {
  const kept = new Uint8Array(32).fill(7)
  let time = 0
  assert.equal(await newSeed(async seed => seed === kept ? 5 : 4, 9, () => time++ * 1000, kept), kept)
})

test('the place of a seed is that of its peer, by the own keys of the browser or without', async t => {
  const { idOfSeed } = await import('../../web/bridge/relay_node.ts')
  const seed = new Uint8Array(32).fill(9)
  const native = await idOfSeed(seed)
  t.mock.method(crypto.subtle, 'importKey', async () => { throw new DOMException('no such algorithm', 'NotSupportedError') })
  assert.deepEqual(await idOfSeed(seed), native)
  assert.equal(native.length, 38)
})
