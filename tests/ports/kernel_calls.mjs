// Calls kernels of web/kernels as told on standard input, for tests/ports/test_kernels.py.
// A call is { kernel, args, results }: an argument is a number, or { bytes } in base64, which is copied into the
// memory; `results` are the places of those whose bytes are wanted back. With PLAIN=1 the build without relaxed SIMD.

import { text } from 'node:stream/consumers'

if (process.env.PLAIN === '1') WebAssembly.validate = () => false
const { Heap } = await import('../../web/bridge/kernel.ts')
const EDGE = 4096
const heap = await Heap.open()
const { kernels } = heap

/** A product as the engine asks for it, in memory of exactly the sizes that the kernels say. */
function multiply (type, weights, columns, x, rows, y, stride, first, last) {
  const prepared = edged(kernels.prepared_bytes(type, rows, columns))
  const scratch = edged(kernels.matmul_scratch())
  kernels.prepare(type, x, rows, columns, prepared.address)
  kernels.matmul(type, weights, columns, x, prepared.address, rows, y + first * 4, stride, scratch.address, first, last)
  for (const { address, check } of [prepared, scratch]) {
    check()
    heap.release(address)
  }
}

/** Attention as the engine asks for it, one key-value head of a row after the other; one token apart from the others. */
function attend (q, k, v, y, keys, values, lengths, rows, tokens, heads, kvHeads, headDim, capacity, scale, window, softcap, scratch) {
  const [group, size] = [heads / kvHeads, headDim * 4]
  for (let row = 0; row < rows; row++) {
    const past = heap.integers(lengths, rows)[row]
    const [fresh, own] = [row * tokens * kvHeads * size, row * kvHeads * capacity * size]
    kernels.append(k + fresh, v + fresh, keys + own, values + own, past, tokens, kvHeads, headDim, capacity)
    for (let head = 0; head < kvHeads; head++) {
      const [from, cache] = [(row * tokens * heads + head * group) * size, own + head * capacity * size]
      const found = heap.allocate(tokens * group * size)
      for (const [first, last] of tokens > 1 ? [[0, 1], [1, tokens]] : [[0, 1]]) {
        const to = found + first * group * size
        kernels.attend(q + from, heads * headDim, to, keys + cache, values + cache, past, first, last, group, headDim, capacity, scale, window, softcap, scratch)
      }
      kernels.place(y + from, heads * headDim, found, tokens, group * headDim, 0)
      heap.release(found)
    }
  }
}

/** So many bytes, and a check that what lies behind them is as it was. */
function edged (size) {
  const address = heap.allocate(size + EDGE)
  const edge = () => new Uint8Array(heap.memory.buffer, address + size, EDGE)
  edge().fill(0xa5)
  return { address, check: () => { if (edge().some(byte => byte !== 0xa5)) throw new Error(`a kernel wrote beyond the ${size} bytes that it asks for`) } }
}

const answers = JSON.parse(await text(process.stdin)).map(({ kernel, args, results }) => {
  const data = args.map(argument => typeof argument === 'number' ? null : Buffer.from(argument.bytes, 'base64'))
  const values = args.map((argument, index) => data[index] === null ? argument : heap.copy(data[index]))
  if (kernel === 'matmul') multiply(...values)
  else if (kernel === 'attention') attend(...values)
  else heap.kernels[kernel](...values)
  const answer = results.map(index => {
    const floats = heap.floats(values[index], data[index].byteLength / 4)
    return Buffer.from(floats.buffer, floats.byteOffset, floats.byteLength).toString('base64')
  })
  values.forEach((value, index) => { if (data[index] !== null) heap.release(value) })
  return answer
})
process.stdout.write(JSON.stringify(answers))
