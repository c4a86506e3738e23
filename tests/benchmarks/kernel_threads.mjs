// Times a span of kernel.py on one thread and on several, in turns, by the clock: what threads gain shows nowhere else.
// node kernel_threads.mjs ROUNDS THREADS FILE; answers a line of JSON, milliseconds of a block by how many threads.

import { SimdRuntime } from '../../web/bridge/engine_simd.ts'
import { launch } from '../ports/node_thread.mjs'
import { read } from './kernel_runs.mjs'

const [rounds, most, file] = process.argv.slice(2)
const spans = []
for (const threads of [1, Number(most)]) {
  const { graph, shape, tensors } = read(file)
  const span = await new SimdRuntime({ threads, launch, tell: () => {} }).build(graph, tensors, shape)
  spans.push({ threads, span, shape, slab: span.openSlab(1, 256), times: { decode: [], prefill: [] } })
}
for (let round = -2; round < Number(rounds); round++) {
  for (const [kind, length, tokens] of [['decode', 128, 1], ['prefill', 0, 128]]) {
    for (const { span, shape, slab, times } of spans) {
      const hidden = Float32Array.from({ length: tokens * shape.hiddenSize }, (_, at) => Math.sin(at * 1.7))
      const start = performance.now()
      await span.run(slab, { firstRow: 0, lengths: [length], first: 0, end: shape.blocks }, tokens, hidden)
      if (round >= 0) times[kind].push((performance.now() - start) / shape.blocks)
    }
  }
}
const median = numbers => numbers.sort((a, b) => a - b)[numbers.length >> 1]
const figures = spans.map(({ threads, times }) => [threads, { decode: median(times.decode), prefill: median(times.prefill) }])
console.log(JSON.stringify(Object.fromEntries(figures)))
for (const { span } of spans) await span.release()
