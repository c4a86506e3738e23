// The graphics device against a browser of plain objects: features, loss, room.

import assert from 'node:assert/strict'
import test from 'node:test'
import { EngineError } from '../../web/bridge/engine.ts'
import { Gpu } from '../../web/bridge/gpu.ts'

interface Fake { device: GPUDevice, lose: (reason: string, message: string) => void, asked: GPUDeviceDescriptor, destroyed: number }

/** Put an adapter into navigator; `full` makes the device refuse memory. */
function browser ({ features = [] as string[], subgroupMinSize = undefined as number | undefined, full = false } = {}): Fake {
  const fake = { destroyed: 0 } as unknown as Fake
  const lost = new Promise(resolve => { fake.lose = (reason, message) => { resolve({ reason, message }) } })
  const limits = { maxBufferSize: 1000, maxStorageBufferBindingSize: 900 }
  const adapter = {
    features: new Set(features),
    limits,
    info: { subgroupMinSize },
    async requestDevice (asked: GPUDeviceDescriptor) {
      fake.asked = asked
      fake.device = {
        lost,
        limits,
        features: new Set(asked.requiredFeatures),
        pushErrorScope () {},
        popErrorScope: async () => full ? { message: 'out of memory' } : null,
        createBuffer: ({ size }: GPUBufferDescriptor) => ({ size, destroy () { fake.destroyed++ } })
      } as unknown as GPUDevice
      return fake.device
    }
  }
  Object.defineProperty(globalThis, 'navigator', { configurable: true, value: { gpu: { requestAdapter: async () => adapter } } })
  Object.assign(globalThis, { GPUBufferUsage: { STORAGE: 128, COPY_SRC: 4, COPY_DST: 8 } })
  return fake
}

function named (name: string, words: RegExp): (error: unknown) => boolean {
  return error => error instanceof EngineError && error.name === name && words.test(error.message)
}

for (const [size, allowed, expected] of [[4, true, false], [8, true, true], [32, true, true], [32, false, false], [undefined, true, false]] as const) {
  test(`subgroups of ${size ?? 'unknown size'}, ${allowed ? 'allowed' : 'forbidden'}: ${expected ? 'used' : 'left out'}`, async () => {
    const fake = browser({ features: ['subgroups', 'shader-f16', 'timestamp-query'], subgroupMinSize: size })
    const gpu = await Gpu.open(allowed)
    assert.equal(gpu.subgroups, expected)
    assert.deepEqual([...fake.asked.requiredFeatures ?? []], expected ? ['shader-f16', 'subgroups'] : ['shader-f16'])
  })
}

test('the limits asked for are those the adapter has', async () => {
  const fake = browser()
  await Gpu.open(true)
  assert.equal(fake.asked.requiredLimits?.maxBufferSize, 1000)
  assert.equal(fake.asked.requiredLimits?.maxStorageBufferBindingSize, 900)
})

test('a browser without an adapter is told so', async () => {
  for (const gpu of [undefined, { requestAdapter: async () => null }]) {
    Object.defineProperty(globalThis, 'navigator', { configurable: true, value: { gpu } })
    await assert.rejects(Gpu.open(true), named('EngineError', /no WebGPU adapter; use the wasm backend/))
  }
})

test('a loss ends what is under way and everything after it', async () => {
  const fake = browser()
  const gpu = await Gpu.open(true)
  assert.equal(await gpu.guard(async () => 7), 7)
  const never = gpu.guard(async () => await new Promise(() => {}))
  assert.equal(gpu.lost, false)
  fake.lose('unknown', 'the driver was reset')
  await assert.rejects(never, named('DeviceLost', /unknown.*the driver was reset/))
  assert.equal(gpu.lost, true)
  await assert.rejects(gpu.guard(async () => 7), named('DeviceLost', /driver was reset/))
})

test('a failure that a loss caused is reported as the loss', async () => {
  const fake = browser()
  const gpu = await Gpu.open(true)
  await assert.rejects(gpu.guard(async () => {
    fake.lose('destroyed', '')
    await new Promise(resolve => setImmediate(resolve))
    throw new Error('mapAsync failed')
  }), named('DeviceLost', /destroyed.*no reason given/))
})

test('a failure of its own stays what it is', async () => {
  browser()
  const gpu = await Gpu.open(true)
  await assert.rejects(gpu.guard(async () => { throw new Error('bad shader') }), /^Error: bad shader$/)
})

test('room is limited by what one binding may hold', async () => {
  browser()
  const gpu = await Gpu.open(true)
  assert.equal((await gpu.allocate(3, 900)).length, 3)
  await assert.rejects(gpu.allocate(1, 901), named('CapacityError', /901 bytes is more than this device's 900/))
})

test('buffers of a full device are given back', async () => {
  const fake = browser({ full: true })
  const gpu = await Gpu.open(true)
  await assert.rejects(gpu.allocate(4, 100), named('CapacityError', /no room for 4 buffers of 100 bytes: out of memory/))
  assert.equal(fake.destroyed, 4)
})
