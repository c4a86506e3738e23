// Times spans on the wasm engine's kernels, for tests/benchmarks/kernel.py: one file for each, written by it.
// Processor time, not wall time: on a loaded machine a thread waits for others. Answers one line of JSON a file.

import { readFileSync } from 'node:fs'
import { Heap } from '../../web/bridge/kernel.ts'
import { SimdRuntime } from '../../web/bridge/engine_simd.ts'

const [rounds, ...files] = process.argv.slice(2)

/** Median milliseconds of the processor. */
async function median (work) {
  for (let warm = 0; warm < 5; warm++) await work() // until it is compiled well
  const times = []
  for (let round = 0; round < Number(rounds); round++) {
    const start = process.cpuUsage()
    await work()
    const { user, system } = process.cpuUsage(start)
    times.push((user + system) / 1000)
  }
  return times.sort((a, b) => a - b)[times.length >> 1]
}

export function read (file) {
  const bytes = readFileSync(file)
  const end = 4 + bytes.readUInt32LE(0)
  const { graph, shape, sizes } = JSON.parse(bytes.subarray(4, end))
  let at = end
  const tensors = new Map(sizes.map(([name, size]) => {
    at += size
    return [name, new Uint8Array(bytes.subarray(at - size, at))]
  }))
  return { graph: new TextEncoder().encode(graph), shape, tensors }
}

for (const file of import.meta.main ? files : []) {
  const { graph, shape, tensors } = read(file)
  const span = await new SimdRuntime().build(graph, tensors, shape)
  const resident = span.size
  const slab = span.openSlab(16, 4224)
  const run = async (length, tokens, rows = 1) => {
    const hidden = Float32Array.from({ length: rows * tokens * shape.hiddenSize }, (_, at) => Math.sin(at * 1.7))
    const place = { firstRow: 0, lengths: Array(rows).fill(length), first: 0, end: shape.blocks }
    return await median(() => span.run(slab, place, tokens, hidden)) / shape.blocks
  }
  const heap = await Heap.open()
  const size = Math.min(resident, 2 ** 28)
  const memory = heap.copy(new Uint8Array(size))
  const figures = {
    resident,
    read: await median(() => heap.kernels.read_all(memory, size)) * resident / size / shape.blocks,
    decode: await run(128, 1),
    long: await run(4096, 1),
    sixteen: await run(128, 1, 16),
    prefill: await run(0, 128)
  }
  console.log(JSON.stringify(figures))
}
