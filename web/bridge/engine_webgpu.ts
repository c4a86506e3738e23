// Spans on the graphics device: onnxruntime-web's WebGPU execution provider.
// Rule of the file: the only one that imports onnxruntime-web. Caches never leave the device: a slab's keys, and its values,
// of one block are one buffer, given to a run as past and as present, so that the attention writes in place; truncating is
// a smaller length. A run for all rows of a slab, as decode steps are, copies nothing. Rows of a run for some of them, as
// prefills are, pass through buffers of their own, because a tensor over a buffer starts at its first byte.
// Graph capture is left alone. onnxruntime-web 1.30 binds a session's inputs and outputs once and for all where it captures
// (wasm-core-impl.ts, `inputOutputBound`), so that each slab's decode steps need a session of their own; these can share weights
// only where all of them are inputs of the graph. And after a run it forgets the buffers of outputs it has bound, so that the
// next one fails unless its private notes are changed. tests/benchmarks/gpu_capture.ts does both, and times what is gained.

import type { InferenceSession, Tensor } from 'onnxruntime-web'
import {
  cacheNames, EngineError, switchesFor, switchNames, switchTensors, type Move, type Place, type Probe, type Runtime,
  type Shape, type Span, type Tensors
} from './engine.ts'
import { Gpu } from './gpu.ts'

type Ort = typeof import('onnxruntime-web')
type Feeds = Record<string, Tensor>

// Of the largest value: float32 kernels differ by about 1e-6 of it, those of half precision by 1e-3, wrong ones by its whole.
const TOLERANCE = 1e-3
const HALF_TOLERANCE = 2e-2

/** For each block its keys, then its values: float [rows, kv heads, capacity, head dim]. */
export interface GpuSlab { rows: number, capacity: number, buffers: GPUBuffer[] }

export class GpuRuntime implements Runtime<GpuSlab> {
  readonly #ort: Ort
  #gpu: Gpu | null = null
  #subgroups = true
  /** The probes this device has passed, by what of their shape decides the kernels. */
  #passed = new Set<string>()

  private constructor (ort: Ort) {
    this.#ort = ort
  }

  /** Load the build that this browser can run best, and find a device. */
  static async load (ortUrl: string): Promise<GpuRuntime> {
    const ort = 'Suspending' in WebAssembly ? await import('onnxruntime-web/jspi') : await import('onnxruntime-web/webgpu')
    ort.env.wasm.wasmPaths = ortUrl
    ort.env.wasm.numThreads = 1
    ort.env.logLevel = 'fatal' // errors are raised with the same words
    const runtime = new GpuRuntime(ort)
    await runtime.#device()
    return runtime
  }

  get half (): boolean {
    return this.#gpu?.device.features.has('shader-f16') ?? false
  }

  /** onnxruntime-web has a session's tensors all at once. */
  async take (data: Uint8Array): Promise<Uint8Array> {
    return data
  }

  async discard (): Promise<void> {}


  async verify (probe: Probe): Promise<void> {
    const allowed = probe.shape.half ? HALF_TOLERANCE : TOLERANCE
    const kind = `${probe.shape.kvHeads} heads of ${probe.shape.headDim}, ${[...probe.tensors.keys()].join()}, ${probe.graph.byteLength}, ${allowed}`
    await this.#device()
    if (this.#passed.has(kind)) return
    const expected = await this.#computeOnProcessor(probe)
    let error = await this.#errorOf(probe, expected)
    if (!(error <= allowed) && (await this.#device()).subgroups) {
      this.#subgroups = false
      this.#gpu?.device.destroy()
      this.#gpu = null
      error = await this.#errorOf(probe, expected)
    }
    if (!(error <= allowed)) {
      throw new EngineError('EngineError', `this graphics device computes wrongly: the self-test is off by ${error.toExponential(1)} ` +
        `of the largest value (allowed ${allowed}); use the wasm backend`)
    }
    this.#passed.add(kind)
  }

  async build (graph: Uint8Array, tensors: Tensors, shape: Shape): Promise<GpuSpan> {
    const gpu = await this.#device()
    const switches = switchTensors(shape, tensors)
    const preferredOutputLocation = Object.fromEntries(cacheNames(shape, 'present').map(name => [name, 'gpu-buffer' as const]))
    const session = await gpu.guard(async () => await this.#ort.InferenceSession.create(graph, {
      executionProviders: [{ name: 'webgpu', device: gpu.device }],
      externalData: files(tensors),
      preferredOutputLocation
    }))
    const size = Math.max(...switches.map(([, data]) => data.byteLength))
    const [zeros, ...buffers] = await gpu.guard(async () => await gpu.allocate(switches.length + 1, size))
    const on = switches.map(([, data], index) => ({ buffer: buffers[index] as GPUBuffer, size: data.byteLength / bytesOf(shape) }))
    switches.forEach(([, data], index) => { gpu.device.queue.writeBuffer(buffers[index] as GPUBuffer, 0, data as BufferSource) })
    return new GpuSpan(this.#ort, gpu, session, shape, on, zeros as GPUBuffer)
  }

  async #device (): Promise<Gpu> {
    if (this.#gpu !== null && !this.#gpu.lost) return this.#gpu
    this.#passed.clear()
    this.#gpu = await Gpu.open(this.#subgroups)
    return this.#gpu
  }

  /** Largest difference over largest value; NaN or more than TOLERANCE means wrong. */
  async #errorOf ({ graph, tensors, shape, tokens, hidden }: Probe, expected: Float32Array): Promise<number> {
    const span = await this.build(graph, tensors, shape)
    try {
      const slab = await span.openSlab(1, 2 * tokens)
      const all = { firstRow: 0, first: 0, end: shape.blocks }
      const split = tokens * shape.hiddenSize
      const first = await span.run(slab, { ...all, lengths: [0] }, tokens, hidden.subarray(0, split))
      const last = await span.run(slab, { ...all, lengths: [tokens] }, 1, hidden.subarray(split))
      span.closeSlab(slab)
      return difference([...first, ...last], expected)
    } finally {
      await span.release()
    }
  }

  /** The probe on the same build's processor kernels, which share no code with those of the device. */
  async #computeOnProcessor ({ graph, tensors, shape, tokens, hidden }: Probe): Promise<Float32Array> {
    const { InferenceSession, Tensor } = this.#ort
    const session = await InferenceSession.create(graph, { executionProviders: ['wasm'], externalData: files(tensors) })
    const dataType = typeOf(shape)
    const vector = (data: Uint8Array): Tensor => { // of the shape's type, whatever this browser has for halves
      const { buffer } = data.slice()
      const values = dataType === 'float32' ? new Float32Array(buffer) : new Uint16Array(buffer)
      return new Tensor(dataType, values, [values.length])
    }
    const empty = vector(new Uint8Array(0)).reshape([1, shape.kvHeads, 0, shape.headDim])
    const pasts = Object.fromEntries(cacheNames(shape, 'past').map(name => [name, empty]))
    const switches = Object.fromEntries(switchTensors(shape, tensors).map(([name, data]) =>
      [name, vector(data)]))
    const feeds = { ...feed(this.#ort, [0], tokens + 1, hidden, shape), ...pasts, ...switches }
    const { y } = await session.run(feeds)
    await session.release()
    return y?.data as Float32Array
  }
}

/** Floats at a buffer's start. */
interface Vector { buffer: GPUBuffer, size: number }

class GpuSpan implements Span<GpuSlab> {
  readonly #ort: Ort
  readonly #gpu: Gpu
  readonly #session: InferenceSession
  readonly #shape: Shape
  readonly #on: Vector[]
  readonly #off: Vector[]

  constructor (ort: Ort, gpu: Gpu, session: InferenceSession, shape: Shape, on: Vector[], zeros: GPUBuffer) {
    this.#ort = ort
    this.#gpu = gpu
    this.#session = session
    this.#shape = shape
    this.#on = on
    this.#off = on.map(({ size }) => ({ buffer: zeros, size }))
  }

  async openSlab (rows: number, capacity: number): Promise<GpuSlab> {
    const buffers = await this.#allocate(rows, capacity)
    return { rows, capacity, buffers }
  }

  async run (slab: GpuSlab, place: Place, tokens: number, hidden: Float32Array): Promise<Float32Array> {
    return await this.#gpu.guard(async () => {
      const { buffers, capacity } = slab
      const rows = place.lengths.length
      if (rows === slab.rows) return await this.#runOn(buffers, capacity, place, tokens, hidden)
      const own = await this.#allocate(rows, capacity)
      try {
        this.#copy(buffers, own, capacity, [[place.firstRow, 0, rows]])
        const result = await this.#runOn(own, capacity, place, tokens, hidden)
        this.#copy(own, buffers, capacity, [[0, place.firstRow, rows]])
        return result
      } finally {
        for (const buffer of own) buffer.destroy()
      }
    })
  }

  async reorder ({ buffers, capacity }: GpuSlab, firstRow: number, rows: number[]): Promise<void> {
    const own = await this.#allocate(rows.length, capacity)
    this.#copy(buffers, own, capacity, rows.map((from, to) => [firstRow + from, to, 1]))
    this.#copy(own, buffers, capacity, [[0, firstRow, rows.length]])
    for (const buffer of own) buffer.destroy()
  }

  copyRows (from: GpuSlab, to: GpuSlab, moves: Move[]): void {
    this.#copy(from.buffers, to.buffers, from.capacity, moves.map(({ source, target, count }) => [source, target, count]))
  }

  closeSlab (slab: GpuSlab): void {
    for (const buffer of slab.buffers.splice(0)) buffer.destroy()
  }

  async release (): Promise<void> {
    for (const { buffer } of [...this.#on, ...this.#off.slice(0, 1)]) buffer.destroy()
    await this.#session.release().catch((error: unknown) => { if (!this.#gpu.lost) throw error })
  }

  async #allocate (rows: number, capacity: number): Promise<GPUBuffer[]> {
    const size = rows * this.#rowSize(capacity)
    return await this.#gpu.guard(async () => await this.#gpu.allocate(2 * this.#shape.blocks, size))
  }

  /** Copy whole rows of every buffer: `count` from row `source` on to row `target` on. */
  #copy (from: GPUBuffer[], to: GPUBuffer[], capacity: number, moves: Array<[source: number, target: number, count: number]>): void {
    const size = this.#rowSize(capacity)
    this.#gpu.copy(encoder => {
      from.forEach((buffer, index) => {
        for (const [source, target, count] of moves) {
          encoder.copyBufferToBuffer(buffer, source * size, to[index] as GPUBuffer, target * size, count * size)
        }
      })
    })
  }

  async #runOn (buffers: GPUBuffer[], capacity: number, place: Place, tokens: number, hidden: Float32Array): Promise<Float32Array> {
    const { kvHeads, headDim } = this.#shape
    const dataType = typeOf(this.#shape)
    const switches = switchesFor(this.#shape, this.#on, this.#off, place)
    const feeds = feed(this.#ort, place.lengths, tokens, hidden, this.#shape)
    const fetches: Record<string, Tensor | null> = { y: null }
    const presents = cacheNames(this.#shape, 'present')
    cacheNames(this.#shape, 'past').forEach((name, index) => {
      const dims = [place.lengths.length, kvHeads, capacity, headDim]
      const tensor = this.#ort.Tensor.fromGpuBuffer(buffers[index] as GPUBuffer, { dataType, dims })
      feeds[name] = tensor
      fetches[presents[index] as string] = tensor
    })
    switchNames(this.#shape).forEach((name, index) => {
      const { buffer, size } = switches[index] as Vector
      feeds[name] = this.#ort.Tensor.fromGpuBuffer(buffer, { dataType, dims: [size] })
    })
    const { y } = await this.#session.run(feeds, fetches)
    return y?.data as Float32Array
  }

  #rowSize (capacity: number): number {
    return this.#shape.kvHeads * capacity * this.#shape.headDim * bytesOf(this.#shape)
  }
}

function typeOf ({ half }: Shape): 'float16' | 'float32' {
  return half ? 'float16' : 'float32'
}

function bytesOf ({ half }: Shape): number {
  return half ? Uint16Array.BYTES_PER_ELEMENT : Float32Array.BYTES_PER_ELEMENT
}

function files (tensors: Tensors): Array<{ path: string, data: Uint8Array }> {
  return Array.from(tensors, ([path, data]) => ({ path, data }))
}

/** The inputs beside the caches. */
function feed ({ Tensor }: Ort, lengths: number[], tokens: number, hidden: Float32Array, { hiddenSize }: Shape): Feeds {
  const rows = lengths.length
  const totals = lengths.map(length => length + tokens)
  return {
    x: new Tensor('float32', hidden, [rows, tokens, hiddenSize]),
    seqlens_k: new Tensor('int32', Int32Array.from(totals, total => total - 1), [rows]),
    total_seq: new Tensor('int32', Int32Array.of(Math.max(...totals)), [])
  }
}

function difference (found: ArrayLike<number>, expected: ArrayLike<number>): number {
  let error = 0
  let largest = 1
  for (let index = 0; index < expected.length; index++) {
    const value = expected[index] ?? NaN
    const distance = Math.abs((found[index] ?? NaN) - value)
    if (!(distance <= error)) error = distance // a NaN stays
    largest = Math.max(largest, Math.abs(value))
  }
  return error / largest
}
