// A worker that times a span on one thread and on several, in turns, as a contributing tab's node worker would compute it.
// Rule of the file: by the clock, for what threads gain shows nowhere else; the span is a file that kernel.py wrote.

import { SimdRuntime } from '../../web/bridge/engine_simd.ts'
import type { Shape } from '../../web/bridge/engine.ts'

interface Request { span: string, rounds: number, threads: number }
interface Head { graph: string, shape: Shape, sizes: Array<[name: string, bytes: number]> }

/** Milliseconds of a block by how many threads, in the order of the rounds. */
type Times = Record<number, { decode: number[], prefill: number[] }>

async function time ({ span: file, rounds, threads: most }: Request): Promise<{ isolated: boolean, times: Times, counts: number[] }> {
  const bytes = new Uint8Array(await (await fetch(file)).arrayBuffer())
  const end = 4 + new DataView(bytes.buffer).getUint32(0, true)
  const { graph, shape, sizes } = JSON.parse(new TextDecoder().decode(bytes.subarray(4, end))) as Head
  const launch = (): Worker => new Worker('thread.js', { type: 'module' })
  const spans = []
  const counts: number[] = []
  const times: Times = {}
  for (const threads of [1, most]) {
    let at = end
    const tensors = new Map(sizes.map(([name, size]) => [name, bytes.subarray(at, at += size)]))
    const runtime = new SimdRuntime({ threads, launch, startTime: 60_000, tell: count => { counts.push(count) } })
    const span = await runtime.build(new TextEncoder().encode(graph), tensors, shape)
    spans.push({ span, slab: span.openSlab(1, 256), own: times[threads] = { decode: [] as number[], prefill: [] as number[] } })
  }
  for (let round = -5; round < rounds; round++) { // some to warm up
    for (const [kind, length, tokens] of [['decode', 128, 1], ['prefill', 0, 128]] as const) {
      const hidden = Float32Array.from({ length: tokens * shape.hiddenSize }, (_, index) => Math.sin(index * 1.7))
      for (const { span, slab, own } of spans) {
        const started = performance.now()
        await span.run(slab, { firstRow: 0, lengths: [length], first: 0, end: shape.blocks }, tokens, hidden)
        if (round >= 0) own[kind].push((performance.now() - started) / shape.blocks)
      }
    }
  }
  for (const { span } of spans) await span.release()
  return { isolated: crossOriginIsolated, times, counts }
}

addEventListener('message', ({ data }: MessageEvent<Request>) => {
  time(data).then(postMessage, (error: unknown) => { reportError(error) })
})
