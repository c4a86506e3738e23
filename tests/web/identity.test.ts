// A new identity stands as near its relay as was asked for, and a bit more; where that takes too long, as near as was found.

import assert from 'node:assert/strict'
import test from 'node:test'
import { newSeed } from '../../web/bridge/identity.ts'

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
