// The wasm engine on Node: a block as Hugging Face computes it, caches, order, errors.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import test from 'node:test'
import { createEngine, EngineError, type JsEngine, type Place, type Shape } from '../../web/bridge/engine.ts'

const VECTOR = JSON.parse(readFileSync(new URL('../vectors/llama_block.json', import.meta.url), 'utf8')) as {
  config: {
    hidden_size: number, intermediate_size: number, num_attention_heads: number, num_key_value_heads: number, head_dim: number
  }
  tensors: Record<string, string>, hidden: string, expected: string, tokens: number
}
const { hidden_size: WIDTH, intermediate_size: INNER, head_dim: HEAD } = VECTOR.config
const [QUERIES, KEYS] = [VECTOR.config.num_attention_heads * HEAD, VECTOR.config.num_key_value_heads * HEAD]
const SHAPE: Shape = {
  blocks: 1, hiddenSize: WIDTH, kvHeads: VECTOR.config.num_key_value_heads, headDim: HEAD, half: false, switches: []
}
const HIDDEN = floats(VECTOR.hidden)
const EXPECTED = floats(VECTOR.expected)

/** The vector's weights, as a file would have them: rows of what goes in. */
const WEIGHTS: Record<string, [rows: number, columns: number, values: Float32Array]> = {
  norm: [1, WIDTH, floats(VECTOR.tensors['0.input_norm'] as string)],
  q: matrix('0.qkv', 0, QUERIES, WIDTH),
  k: matrix('0.qkv', QUERIES, KEYS, WIDTH),
  v: matrix('0.qkv', QUERIES + KEYS, KEYS, WIDTH),
  o: matrix('0.o', 0, WIDTH, QUERIES),
  mlp_norm: [1, WIDTH, floats(VECTOR.tensors['0.post_norm'] as string)],
  gate: matrix('0.gate_up', 0, INNER, WIDTH),
  up: matrix('0.gate_up', INNER, INNER, WIDTH),
  down: matrix('0.down', 0, WIDTH, INNER),
  cos: table('cos'),
  sin: table('sin')
}

const PROGRAM = {
  buffers: { h: WIDTH, q: QUERIES, k: KEYS, v: KEYS, a: QUERIES, gate: INNER, up: INNER },
  tensors: Object.fromEntries(Object.entries(WEIGHTS).map(([name, [rows, columns]]) => [name, ['F32', rows, columns]])),
  blocks: [[
    { op: 'rms_norm', x: 'x', weight: 'norm', y: 'h', epsilon: 1e-5 },
    ...['q', 'k', 'v'].map(name => ({ op: 'matmul', x: 'h', weight: name, y: name, add: false })),
    ...['q', 'k'].map(name => ({ op: 'rope', x: name, cos: 'cos', sin: 'sin' })),
    { op: 'attention', q: 'q', k: 'k', v: 'v', y: 'a', scale: HEAD ** -0.5, window: 0, softcap: 0 },
    { op: 'matmul', x: 'a', weight: 'o', y: 'x', add: true },
    { op: 'rms_norm', x: 'x', weight: 'mlp_norm', y: 'h', epsilon: 1e-5 },
    ...['gate', 'up'].map(name => ({ op: 'matmul', x: 'h', weight: name, y: name, add: false })),
    { op: 'gated', gate: 'gate', up: 'up', activation: 'silu' },
    { op: 'matmul', x: 'gate', weight: 'down', y: 'x', add: true }
  ]]
}

/** Columns of a packed tensor [in, all of the outputs] as rows. */
function matrix (name: string, first: number, rows: number, columns: number): [number, number, Float32Array] {
  const packed = floats(VECTOR.tensors[name] as string)
  const all = packed.length / columns
  return [rows, columns, Float32Array.from({ length: rows * columns }, (_, at) =>
    packed[(at % columns) * all + first + Math.floor(at / columns)] as number)]
}

function table (name: string): [number, number, Float32Array] {
  const values = floats(VECTOR.tensors[name] as string)
  return [2 * values.length / HEAD, HEAD / 2, values]
}

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

async function fill (engine: JsEngine, program: unknown = PROGRAM): Promise<void> {
  for (const [name, [,, values]] of Object.entries(WEIGHTS)) await engine.addTensor(name, new Uint8Array(values.slice().buffer))
  await engine.build(new TextEncoder().encode(JSON.stringify(program)), SHAPE)
}

async function built (): Promise<JsEngine> {
  const engine = await createEngine({ backend: 'wasm', ortUrl: '' })
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

test('a run is answered at once unless others wait, and then the same', async () => {
  const engine = await built()
  const slab = await engine.openSlab(1, 16)
  const waiting = engine.run(slab, row(0), 1, tokens(HIDDEN, 0, 1))
  assert.equal(engine.runNow(slab, 0, [1], 0, 1, 1, tokens(HIDDEN, 1, 2)), null)
  assertClose(await waiting, tokens(EXPECTED, 0, 1))
  await new Promise(resolve => setImmediate(resolve))
  assertClose(engine.runNow(slab, 0, [1], 0, 1, 1, tokens(HIDDEN, 1, 2)) as Float32Array, tokens(EXPECTED, 1, 2))
  assert.throws(() => engine.runNow(77, 0, [1], 0, 1, 1, tokens(HIDDEN, 1, 2)), refused('EngineError', /slab 77 is not open/))
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

test('what is not there is refused by name', async () => {
  const engine = await createEngine({ backend: 'wasm', ortUrl: '' })
  await assert.rejects(engine.openSlab(1, 1), refused('EngineError', /build it first/))
  await assert.rejects(engine.build(new TextEncoder().encode(JSON.stringify(PROGRAM)), SHAPE), refused('EngineError', /norm has no bytes/))
  await fill(engine)
  await assert.rejects(engine.run(77, row(0), 1, tokens(HIDDEN, 0, 1)), refused('EngineError', /slab 77 is not open/))
  await engine.closeSlab(77)
})

test('a run that does not fit its slab is refused before it starts', async () => {
  const engine = await built()
  const slab = await engine.openSlab(2, 16)
  const step = tokens(HIDDEN, 0, 1)
  for (const place of [row(16), row(-1), row(0, 2), row(0, -1), row(0, 1, 2), { ...row(0), first: -1 }, { ...row(0), end: 2 }, row(0, 0, 0)]) {
    await assert.rejects(engine.run(slab, place, 1, step), refused('EngineError', /does not fit a slab of 2 rows of 16/))
  }
  await assert.rejects(engine.run(slab, row(0), 2, step), refused('EngineError', /does not fit/))
  const long = await engine.openSlab(1, 100)
  await assert.rejects(engine.run(long, row(64), 1, step), refused('EngineError', /does not fit/)) // the tables end
})

test('experts give each token what the best of them say, as much as the router trusts them', async () => {
  const engine = await createEngine({ backend: 'wasm', ortUrl: '' })
  const expert = ['gate', 'up', 'down']
  const logits = Float32Array.from({ length: 3 * WIDTH }, (_, at) => Math.sin(at) * Math.floor(at / WIDTH))
  const moe = {
    buffers: { ...PROGRAM.buffers, logits: 3, own: WIDTH, said: WIDTH },
    tensors: { ...PROGRAM.tensors, router: ['F32', 3, WIDTH] },
    blocks: [[...(PROGRAM.blocks[0] as object[]).slice(0, -4),
      { op: 'matmul', x: 'h', weight: 'router', y: 'logits', add: false },
      {
        op: 'experts', x: 'h', y: 'x', logits: 'logits', top: 2, experts: [expert, expert, expert], activation: 'silu',
        gate: 'gate', up: 'up', own: 'own', said: 'said'
      }]]
  }
  await engine.addTensor('router', new Uint8Array(logits.buffer))
  await fill(engine, moe)
  const slab = await engine.openSlab(1, 16)
  assertClose(await engine.run(slab, row(0), VECTOR.tokens, HIDDEN), EXPECTED) // all say the same, and shares add up to one
})

test('a failed run leaves the cache and the engine usable', async () => {
  const engine = await built()
  const slab = await engine.openSlab(1, 16)
  await engine.run(slab, row(0), 4, tokens(HIDDEN, 0, 4))
  await assert.rejects(engine.run(slab, row(4, 0, 0), 1, tokens(HIDDEN, 4, 5)), refused('EngineError', /./))
  assertClose(await engine.run(slab, row(4), 5, tokens(HIDDEN, 4, 9)), tokens(EXPECTED, 4, 9))
})

test('weights beyond the budget are refused before they are loaded', async () => {
  const engine = await createEngine({ backend: 'wasm', ortUrl: '' })
  const huge = { byteLength: 2 ** 32 } as Uint8Array
  await assert.rejects(engine.addTensor('0.qkv', huge), refused('CapacityError', /4096 are not all: take fewer blocks/))
  await fill(engine)
})

test('what was added is given up with the engine, or with a program that does not fit', async () => {
  const engine = await createEngine({ backend: 'wasm', ortUrl: '' })
  await engine.addTensor('0.qkv', new Uint8Array(8))
  await engine.close()
  await assert.rejects(fill(engine, { ...PROGRAM, blocks: [] }), refused('EngineError', /it has 0 blocks/))
  await assert.rejects(engine.build(new TextEncoder().encode(JSON.stringify(PROGRAM)), SHAPE), refused('EngineError', /has no bytes/))
  await fill(engine)
})

test('a cache that the heap cannot hold is refused, and what it took is given back', async () => {
  const engine = await built()
  for (let attempt = 0; attempt < 5; attempt++) {
    await assert.rejects(engine.openSlab(1024, attempt % 2 === 0 ? 2 ** 16 : 2 ** 15), refused('CapacityError', /wasm memory has no/))
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
