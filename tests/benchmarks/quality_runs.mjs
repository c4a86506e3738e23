// A prompt through our wasm kernels for tests/benchmarks/quality.py: node quality_runs.mjs SPAN HIDDEN OUT
// HIDDEN has [tokens, hidden] float32; OUT gets what the span makes of all at once, then of one after the other.

import { readFileSync, writeFileSync } from 'node:fs'
import { SimdRuntime } from '../../web/bridge/engine_simd.ts'
import { read } from './kernel_runs.mjs'

const [file, from, to] = process.argv.slice(2)
const { graph, shape, tensors } = read(file)
const span = await new SimdRuntime().build(graph, tensors, shape)
const hidden = new Float32Array(new Uint8Array(readFileSync(from)).buffer)
const { hiddenSize: width, blocks: end } = shape
const tokens = hidden.length / width
const slab = span.openSlab(1, tokens)
const place = { firstRow: 0, lengths: [0], first: 0, end }
const found = [span.runNow(slab, place, tokens, hidden)]
for (let at = 0; at < tokens; at++) {
  found.push(span.runNow(slab, { ...place, lengths: [at] }, 1, hidden.subarray(at * width, (at + 1) * width)))
}
writeFileSync(to, Buffer.concat(found.map(({ buffer }) => Buffer.from(buffer))))
