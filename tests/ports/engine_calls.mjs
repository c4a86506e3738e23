// The wasm engine for tests/ports/test_simd_engine.py: a line of JSON in, [method, arguments]; a line of JSON out,
// { value } or { name, message }. Typed arrays are { bytes } in base64 and { floats } likewise.

import { createInterface } from 'node:readline'
import { createEngine } from '../../web/bridge/engine.ts'

const engine = await createEngine({ backend: 'wasm', ortUrl: '' })

function read (value) {
  if (typeof value.bytes === 'string') return Uint8Array.from(Buffer.from(value.bytes, 'base64'))
  if (typeof value.floats === 'string') return new Float32Array(Uint8Array.from(Buffer.from(value.floats, 'base64')).buffer)
  return value
}

function write (value) {
  if (!(value instanceof Float32Array)) return value ?? null
  return { floats: Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString('base64') }
}

for await (const line of createInterface({ input: process.stdin })) {
  const [method, values] = JSON.parse(line)
  const called = async () => await engine[method](...values.map(read))
  const answer = await called().then(value => ({ value: write(value) }), ({ name, message }) => ({ name, message }))
  process.stdout.write(`${JSON.stringify(answer)}\n`)
}
