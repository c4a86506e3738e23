// The wasm engine on Node, which runs the same module: a block as Hugging Face computes it, caches, order, errors.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import test from 'node:test'
import { createEngine, EngineError, type JsEngine, type Place, type Shape } from '../../web/bridge/engine.ts'

const VECTOR = JSON.parse(readFileSync(new URL('../vectors/llama_block.json', import.meta.url), 'utf8')) as {
  config: { hidden_size: number, num_key_value_heads: number, head_dim: number }
  graph: string, tensors: Record<string, string>, hidden: string, expected: string, tokens: number
}
const ORT = new URL('../../node_modules/onnxruntime-web/dist/', import.meta.url).href
const WIDTH = VECTOR.config.hidden_size
const SHAPE: Shape = {
  blocks: 1,
  hiddenSize: WIDTH,
  kvHeads: VECTOR.config.num_key_value_heads,
  headDim: VECTOR.config.head_dim,
  half: false,
  switches: ['input_norm', 'post_norm']
}
const HIDDEN = floats(VECTOR.hidden)
const EXPECTED = floats(VECTOR.expected)

function bytes (text: string): Uint8Array {
  return Uint8Array.from(Buffer.from(text, 'base64'))
}

function floats (text: string): Float32Array {
  return new Float32Array(bytes(text).buffer)
}

function tokens (values: Float32Array, start: number, end: number): Float32Array {
  return values.slice(start * WIDTH, end * WIDTH)
}

function assertClose (found: Float32Array, expected: Float32Array): void {
  assert.equal(found.length, expected.length)
  const error = Math.max(...found.map((value, index) => Math.abs(value - (expected[index] ?? NaN))))
  assert.ok(error < 1e-5, `max abs error ${error}`)
}

async function addTensors (engine: JsEngine, wanted: (name: string) => boolean = () => true): Promise<void> {
  for (const [name, text] of Object.entries(VECTOR.tensors)) if (wanted(name)) await engine.addTensor(name, bytes(text))
}

async function fill (engine: JsEngine): Promise<void> {
  await addTensors(engine)
  await engine.build(bytes(VECTOR.graph), SHAPE)
}

async function built (): Promise<JsEngine> {
  const engine = await createEngine({ backend: 'wasm', ortUrl: ORT })
  await fill(engine)
  return engine
}

const row = (length: number, firstRow = 0, rows = 1): Place => ({ firstRow, lengths: new Array<number>(rows).fill(length), first: 0, end: 1 })

function refused (name: string, words: RegExp): (error: unknown) => boolean {
  return error => error instanceof EngineError && error.name === name && words.test(error.message)
}

test('a block computes what Hugging Face computes', async () => {
  const engine = await built()
  const slab = await engine.openSlab(1, 16)
  assertClose(await engine.run(slab, row(0), VECTOR.tokens, HIDDEN), EXPECTED)
})

test('calls that nobody waits for run in the order they were made', async () => {
  const engine = await built()
  const slab = await engine.openSlab(1, 16)
  const parts = await Promise.all([...Array(VECTOR.tokens).keys()].map(async at =>
    await engine.run(slab, row(at), 1, tokens(HIDDEN, at, at + 1))))
  assertClose(Float32Array.from(parts.flatMap(part => [...part])), EXPECTED)
})

test('a length that is told again smaller rolls a cache back', async () => {
  const engine = await built()
  const slab = await engine.openSlab(1, 16)
  await engine.run(slab, row(0), 4, tokens(HIDDEN, 0, 4))
  await engine.run(slab, row(4), 3, tokens(HIDDEN, 0, 3))
  assertClose(await engine.run(slab, row(4), 5, tokens(HIDDEN, 4, 9)), tokens(EXPECTED, 4, 9))
})

test('rows can be filled one by one, reordered, and stepped together', async () => {
  const engine = await built()
  const slab = await engine.openSlab(3, 16)
  await engine.run(slab, row(0, 1), 8, tokens(HIDDEN, 0, 8))
  await engine.reorder(slab, 0, [1, 1, 0], 8)
  const step = tokens(HIDDEN, 8, 9)
  const found = await engine.run(slab, row(8, 0, 3), 1, Float32Array.of(...step, ...step, ...step))
  assertClose(tokens(found, 0, 1), tokens(EXPECTED, 8, 9))
  assertClose(tokens(found, 1, 2), tokens(EXPECTED, 8, 9))
})

test('runs through no blocks pass on what they get, beside those through all', async () => {
  const engine = await built()
  const none = await engine.openSlab(1, 16)
  const all = await engine.openSlab(1, 16)
  assert.deepEqual(await engine.run(none, { ...row(0), end: 0 }, 4, tokens(HIDDEN, 0, 4)), tokens(HIDDEN, 0, 4))
  assertClose(await engine.run(all, row(0), VECTOR.tokens, HIDDEN), EXPECTED)
  assert.deepEqual(await engine.run(none, { ...row(4), end: 0 }, 1, tokens(HIDDEN, 4, 5)), tokens(HIDDEN, 4, 5))
})

test('rows of different lengths step together, and what was copied elsewhere goes on there', async () => {
  const engine = await built()
  const old = await engine.openSlab(2, 16)
  await engine.run(old, row(0, 1), 8, tokens(HIDDEN, 0, 8))
  await engine.run(old, row(0, 0), 5, tokens(HIDDEN, 0, 5))
  const slab = await engine.openSlab(4, 16)
  await engine.copyRows(old, slab, [{ source: 0, target: 3, count: 1, length: 5 }, { source: 1, target: 1, count: 1, length: 8 }])
  await engine.closeSlab(old)
  const zeros = new Float32Array(WIDTH)
  const x = Float32Array.of(...tokens(HIDDEN, 8, 9), ...zeros, ...tokens(HIDDEN, 5, 6))
  const found = await engine.run(slab, { ...row(0), firstRow: 1, lengths: [8, 0, 5] }, 1, x)
  assertClose(tokens(found, 0, 1), tokens(EXPECTED, 8, 9))
  assertClose(tokens(found, 2, 3), tokens(EXPECTED, 5, 6))
})

test('weights of a norm of another size are refused', async () => {
  const engine = await createEngine({ backend: 'wasm', ortUrl: ORT })
  await addTensors(engine)
  await engine.addTensor('0.post_norm', new Uint8Array(8))
  await engine.build(bytes(VECTOR.graph), SHAPE)
  const slab = await engine.openSlab(1, 16)
  await assert.rejects(engine.run(slab, row(0), VECTOR.tokens, HIDDEN), refused('EngineError', /0\.post_norm/))
})

test('what is not there is refused by name', async () => {
  const engine = await createEngine({ backend: 'wasm', ortUrl: ORT })
  await assert.rejects(engine.openSlab(1, 1), refused('EngineError', /build it first/))
  await assert.rejects(engine.build(bytes(VECTOR.graph), SHAPE), refused('EngineError', /0\.input_norm was not added/))
  await addTensors(engine, name => name.endsWith('_norm'))
  await assert.rejects(engine.build(bytes(VECTOR.graph), SHAPE), refused('EngineError', /onnxruntime: .+/))
  await fill(engine)
  await assert.rejects(engine.run(77, row(0), 1, tokens(HIDDEN, 0, 1)), refused('EngineError', /slab 77 is not open/))
  await engine.closeSlab(77)
})

test('a graph that is none is refused in the words of onnxruntime', async () => {
  const engine = await createEngine({ backend: 'wasm', ortUrl: ORT })
  await addTensors(engine)
  await assert.rejects(engine.build(Uint8Array.of(1, 2, 3), SHAPE), refused('EngineError', /onnxruntime: .*protobuf/i))
})

test('a failed run leaves the cache and the engine usable', async () => {
  const engine = await built()
  const slab = await engine.openSlab(1, 16)
  await engine.run(slab, row(0), 4, tokens(HIDDEN, 0, 4))
  await assert.rejects(engine.run(slab, row(4, 0, 0), 1, tokens(HIDDEN, 4, 5)), refused('EngineError', /./))
  assertClose(await engine.run(slab, row(4), 5, tokens(HIDDEN, 4, 9)), tokens(EXPECTED, 4, 9))
})

test('weights beyond the budget are refused before they are loaded', async () => {
  const engine = await createEngine({ backend: 'wasm', ortUrl: ORT })
  await engine.addTensor('0.qkv', { byteLength: 2 ** 31 } as Uint8Array)
  await assert.rejects(engine.build(bytes(VECTOR.graph), SHAPE), refused('CapacityError', /2048 MiB.*take fewer blocks/))
})

test('a cache that the heap cannot hold is refused, and what it took is given back', async () => {
  const engine = await built()
  for (let attempt = 0; attempt < 5; attempt++) {
    await assert.rejects(engine.openSlab(1024, attempt % 2 === 0 ? 2 ** 16 : 2 ** 15), refused('CapacityError', /wasm heap has no/))
  }
  const slab = await engine.openSlab(1, 16)
  assertClose(await engine.run(slab, row(0), VECTOR.tokens, HIDDEN), EXPECTED)
})

test('a closed engine holds nothing and can be filled again', async () => {
  const engine = await built()
  const slab = await engine.openSlab(1, 16)
  await engine.close()
  await engine.close()
  await assert.rejects(engine.run(slab, row(0), 1, tokens(HIDDEN, 0, 1)), refused('EngineError', /build it first/))
  await fill(engine)
  await assert.rejects(engine.run(slab, row(0), 1, tokens(HIDDEN, 0, 1)), refused('EngineError', /not open/))
  const again = await engine.openSlab(1, 16)
  assertClose(await engine.run(again, row(0), VECTOR.tokens, HIDDEN), EXPECTED)
})

test('a folder without onnxruntime is an error of the engine', async () => {
  const elsewhere = new URL('./nowhere/', import.meta.url).href
  await assert.rejects(createEngine({ backend: 'wasm', ortUrl: elsewhere }), refused('EngineError', /cannot start on wasm/))
})
