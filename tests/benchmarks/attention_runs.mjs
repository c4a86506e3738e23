// Times decoding with short and long caches, and of it the attention, for tests/benchmarks/attention.py.
// The kernels of a heap are wrapped as it opens, so that the engine itself is timed and no copy of what it does.
// Processor time, not wall time: on a loaded machine a thread waits for others.

import { readFileSync } from 'node:fs'
import { Heap } from '../../web/bridge/kernel.ts'
import { SimdRuntime } from '../../web/bridge/engine_simd.ts'

const [rounds, file, ...lengths] = process.argv.slice(2)
const READ = 2 ** 28 // bytes of the plain read, far beyond any cache of the processor
const WARM_UP = 3

/** Milliseconds of the processor. */
function now () {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1000
}

let attending = 0 // milliseconds of the step under way
const open = Heap.open
Heap.open = async () => {
  const heap = await open.call(Heap)
  const timed = kernel => (...given) => {
    const start = now()
    kernel(...given)
    attending += now() - start
  }
  const { append, attend } = heap.kernels
  heap.kernels = { ...heap.kernels, append: timed(append), attend: timed(attend) }
  return heap
}

const median = values => values.sort((a, b) => a - b)[values.length >> 1]

const bytes = readFileSync(file)
const end = 4 + bytes.readUInt32LE(0)
const { graph, shape, sizes } = JSON.parse(bytes.subarray(4, end))
let at = end
const tensors = new Map(sizes.map(([name, size]) => {
  at += size
  return [name, new Uint8Array(bytes.subarray(at - size, at))]
}))
const span = await new SimdRuntime().build(new TextEncoder().encode(graph), tensors, shape)
const slab = await span.openSlab(1, Math.max(...lengths) + 64)
const hidden = Float32Array.from({ length: shape.hiddenSize }, (_, index) => Math.sin(index * 1.7))

const heap = await open.call(Heap)
const memory = heap.copy(new Uint8Array(READ))
const found = Object.fromEntries(lengths.map(length => [length, { step: [], attention: [], rest: [] }]))
const reads = []
for (let round = -WARM_UP; round < Number(rounds); round++) {
  for (const [length, times] of Object.entries(found)) {
    attending = 0
    const start = now()
    await span.run(slab, { firstRow: 0, lengths: [Number(length)], first: 0, end: shape.blocks }, 1, hidden)
    const step = now() - start
    if (round < 0) continue
    times.step.push(step / shape.blocks)
    times.attention.push(attending / shape.blocks)
    times.rest.push((step - attending) / shape.blocks)
  }
  const start = now()
  heap.kernels.read_all(memory, READ)
  if (round >= 0) reads.push((now() - start) / READ)
}
const middle = Object.entries(found).map(([length, times]) => [
  length, Object.fromEntries(Object.entries(times).map(([name, values]) => [name, median(values)]))
])
console.log(JSON.stringify({ ...Object.fromEntries(middle), msPerByte: median(reads) }))
