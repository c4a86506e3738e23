// The wasm engine on several threads, in Node: the same numbers for any count, and steps that end whatever becomes of a helper.

import assert from 'node:assert/strict'
import test from 'node:test'
import { Worker } from 'node:worker_threads'
import { SimdRuntime, type SimdSpan } from '../../web/bridge/engine_simd.ts'
import type { Place, Shape, Tensors } from '../../web/bridge/engine.ts'
import type { Helper } from '../../web/bridge/threads.ts'
import { planThreads } from '../../web/sdk/threads.ts'
import { launch } from '../ports/node_thread.mjs'

// Large enough that every kind of step is shared, with outputs that no count of threads divides.
const [WIDTH, INNER, HEADS, KV_HEADS, HEAD, POSITIONS] = [288, 600, 9, 3, 32, 320]
const SHAPE: Shape = { blocks: 2, hiddenSize: WIDTH, kvHeads: KV_HEADS, headDim: HEAD, half: false, switches: [] }
const SIZES: Record<string, [string, number, number]> = {
  norm: ['F32', 1, WIDTH], q: ['Q8_0', HEADS * HEAD, WIDTH], k: ['Q4_0', KV_HEADS * HEAD, WIDTH], v: ['F16', KV_HEADS * HEAD, WIDTH],
  o: ['F32', WIDTH, HEADS * HEAD], gate: ['Q4_1', INNER, WIDTH], up: ['Q4_0', INNER, WIDTH], down: ['F32', WIDTH, INNER],
  cos: ['F32', POSITIONS, HEAD / 2], sin: ['F32', POSITIONS, HEAD / 2]
}
const BLOCK_BYTES: Record<string, [numbers: number, bytes: number]> = { F32: [1, 4], F16: [1, 2], Q8_0: [32, 34], Q4_0: [32, 18], Q4_1: [32, 20] }
const GRAPH = new TextEncoder().encode(JSON.stringify({
  buffers: { h: WIDTH, q: HEADS * HEAD, k: KV_HEADS * HEAD, v: KV_HEADS * HEAD, a: HEADS * HEAD, gate: INNER, up: INNER },
  tensors: SIZES,
  blocks: Array.from({ length: SHAPE.blocks }, () => [
    { op: 'rms_norm', x: 'x', weight: 'norm', y: 'h', epsilon: 1e-5 },
    ...['q', 'k', 'v'].map(name => ({ op: 'matmul', x: 'h', weight: name, y: name })),
    { op: 'rope', x: 'q', cos: 'cos', sin: 'sin' },
    { op: 'rope', x: 'k', cos: 'cos', sin: 'sin' },
    { op: 'attention', q: 'q', k: 'k', v: 'v', y: 'a', scale: HEAD ** -0.5, window: 0, softcap: 0 },
    { op: 'matmul', x: 'a', weight: 'o', y: 'x', add: true },
    { op: 'rms_norm', x: 'x', weight: 'norm', y: 'h', epsilon: 1e-5 },
    { op: 'matmul', x: 'h', weight: 'gate', y: 'gate' },
    { op: 'matmul', x: 'h', weight: 'up', y: 'up' },
    { op: 'gated', gate: 'gate', up: 'up', activation: 'silu' },
    { op: 'matmul', x: 'gate', weight: 'down', y: 'x', add: true }
  ])
}))

/** Floats are small numbers, quantized ones any bytes under scales that are. */
function tensors (): Tensors {
  return new Map(Object.entries(SIZES).map(([name, [format, rows, columns]]) => {
    const [numbers, size] = BLOCK_BYTES[format] as [number, number]
    const blocks = rows * columns / numbers
    if (format === 'F32') return [name, new Uint8Array(Float32Array.from({ length: blocks }, (_, at) => Math.sin(at * 1.7 + 1) / 8).buffer)]
    const bytes = Uint8Array.from({ length: blocks * size }, (_, at) => at * 197 >> 3 & 255)
    for (let block = 0; block < blocks; block++) {
      bytes.set([block & 255, 0x18], block * size) // half floats of about 2e-3
      if (format === 'Q4_1') bytes.set([block & 255, 0x98], block * size + 2)
    }
    return [name, bytes]
  }))
}

async function build (threads: number, start = launch as () => Helper, startTime = 60_000, patience = 60_000): Promise<{ span: SimdSpan, heard: Array<[number, string]> }> {
  const heard: Array<[number, string]> = []
  const tell = (count: number, message: string): void => { heard.push([count, message]) }
  const span = await new SimdRuntime({ threads, launch: start, tell, startTime, patience }).build(GRAPH, tensors(), SHAPE)
  return { span, heard }
}

/** A prompt of two rows, a step beyond it of one of them, a long way down the other: what comes out. */
async function answers (span: SimdSpan): Promise<Float32Array[]> {
  const slab = span.openSlab(2, POSITIONS)
  const found: Float32Array[] = []
  const run = async (place: Omit<Place, 'first' | 'end'>, tokens: number): Promise<void> => {
    const hidden = Float32Array.from({ length: place.lengths.length * tokens * WIDTH }, (_, at) => Math.sin(at * 0.7 + found.length))
    found.push(await span.run(slab, { ...place, first: 0, end: SHAPE.blocks }, tokens, hidden))
  }
  await run({ firstRow: 0, lengths: [0, 0] }, 40)
  await run({ firstRow: 1, lengths: [40] }, 260)
  for (let step = 0; step < 3; step++) await run({ firstRow: 0, lengths: [40 + step, 300 + step] }, 1)
  await run({ firstRow: 1, lengths: [303] }, 1)
  return found
}

/** Compares as assert does, without writing down 100,000 numbers that differ. */
async function same (span: SimdSpan, what = ''): Promise<void> {
  const found = await answers(span)
  const wrong = found.map((values, at) => values.filter((value, index) => value !== expected[at]?.[index]).length)
  assert.deepEqual(wrong, expected.map(() => 0), `${what}: how many numbers differ`)
}

/** A worker that is told as a helper is, and runs `code` instead. */
function impostor (code: string): Helper {
  const worker = new Worker(`
    const { parentPort } = require('node:worker_threads')
    parentPort.once('message', ({ control }) => { const words = new Int32Array(control); ${code} })`, { eval: true })
  return mannered(worker)
}

/** A worker of Node with the browser's manners. */
function mannered (worker: Worker): Helper {
  worker.unref()
  return {
    postMessage: (message: unknown) => { worker.postMessage(message) },
    terminate: () => { void worker.terminate() },
    set onmessage (listener: () => void) { worker.on('message', listener) },
    set onerror (listener: (error: Error) => void) { worker.on('error', listener) }
  } as unknown as Helper
}

const alone = await build(1)
const expected = await answers(alone.span)

test('any count of threads computes the same numbers', async () => {
  assert.deepEqual(alone.heard, [[1, '']])
  assert.ok(expected.every(values => values.every(Number.isFinite)))
  for (const threads of [2, 3, 5]) {
    const { span, heard } = await build(threads)
    assert.deepEqual(heard, [[threads, '']])
    await same(span, `${threads} threads`)
    await span.release()
    if (threads === 2) assert.ok(span.size < 1.9 * alone.span.size, 'weights lie in memory once')
  }
})

test('helpers that do not come are not waited for', async () => {
  const refused = await build(2, () => { throw new Error('no more workers') })
  assert.deepEqual(refused.heard, [[1, 'the processor is used with 1 of 2 threads: a thread does not start: no more workers']])
  await same(refused.span)
  const silent = await build(3, () => impostor(''), 50)
  assert.deepEqual(silent.heard, [[1, 'the processor is used with 1 of 3 threads: a thread did not start within 0.05 s']])
  await same(silent.span)
})

test('a helper keeps its own scratch memory where another did not come', async () => {
  let launched = 0
  const { span, heard } = await build(3, () => {
    if (++launched === 1) throw new Error('not this one')
    return launch() as Helper
  })
  assert.deepEqual(heard, [[2, 'the processor is used with 2 of 3 threads: a thread does not start: not this one']])
  await same(span)
  await span.release()
})

test('an engine with one thread needs nothing that only an isolated page has', async () => {
  const { SharedArrayBuffer: kept } = globalThis
  try {
    Reflect.deleteProperty(globalThis, 'SharedArrayBuffer')
    const { span } = await build(1)
    await same(span)
  } finally {
    globalThis.SharedArrayBuffer = kept
  }
  assert.deepEqual(planThreads(), planThreads(8))
  assert.match(planThreads().message, /not cross-origin isolated/)
})

test('an isolated page uses half of the processor, or what is asked for', () => {
  const on = (hardwareConcurrency: number, wanted?: number): number => {
    Object.defineProperty(globalThis, 'navigator', { value: { hardwareConcurrency }, configurable: true })
    return planThreads(wanted).count
  }
  Object.assign(globalThis, { crossOriginIsolated: true })
  assert.deepEqual([1, 2, 3, 4, 6, 8, 64].map(all => on(all)), [1, 1, 1, 2, 3, 4, 4])
  assert.deepEqual([1, 2, 16].map(wanted => on(2, wanted)), [1, 2, 16])
  for (const wanted of [0, 17, 1.5, NaN]) assert.throws(() => on(2, wanted), /give a whole number from 1 to 16/)
  Reflect.deleteProperty(globalThis, 'crossOriginIsolated')
})

const TAKE = 'let claim; do { claim = Atomics.load(words, 0) } while (!(claim & 255) || Atomics.compareExchange(words, 0, claim, claim - 1) !== claim)' // as jobs.ts has its words

for (const [what, code] of [
  ['does not bring its part back', TAKE],
  ['dies with its part', `${TAKE}; process.exit()`],
  ['says nonsense of its part', `${TAKE}; Atomics.store(words, 32 + (claim & 255) - 1, (claim >>> 8) + 5 << 10)`]
] as const) {
  test(`a step with a helper that ${what} ends right, and the engine goes on alone`, async () => {
    const { span, heard } = await build(2, () => impostor(`parentPort.postMessage('ready'); ${code}`), 60_000, 50)
    for (let again = 0; heard.length < 2 && again < 1000; again++) await same(span)
    assert.deepEqual(heard, [[2, ''], [1, 'the processor is used with one thread from now on: the others did not answer for 0.05 s']])
    await same(span)
    await span.release()
  })
}

test('a helper that is late changes nothing, whatever was computed meanwhile', async () => {
  const { span } = await build(2, () => mannered(new Worker(new URL('../ports/late_thread.mjs', import.meta.url))))
  for (let again = 0; again < 3; again++) await same(span)
  await span.release()
})
