// The Engine port's half in the node worker: one span's graph or program, its KV caches, and the queue of runs.
// Rule of the file: whose rows lie where, lengths, limits, and which rows one run is for are decided in
// browser/engine.py; here every call does what it is told, one at a time, and errors carry the names of kwaainet.errors.

import { describe } from './faults.ts'
import type { ThreadOptions } from './threads.ts'

export type EngineBackend = 'wasm' | 'webgpu'

/** What must be known of a span beside its graph. `switches` are those tensors of a block that zeros skip it by. */
export interface Shape {
  blocks: number
  hiddenSize: number
  kvHeads: number
  headDim: number
  switches: string[]
  /** Caches and switches are float16, not float32. */
  half: boolean
}

/** External data of a graph by name, little-endian. */
export type Tensors = Map<string, Uint8Array>

/** A small span to compute before trusting a device, in `tokens` positions at once and one more after them. */
export interface Probe<Held = Uint8Array> { graph: Uint8Array, tensors: Map<string, Held>, shape: Shape, tokens: number, hidden: Float32Array }

/**
 * What a run is for: adjacent rows of a slab, one for each length, which is how many positions the row holds before it;
 * and the blocks of the span that it goes through, from `first` to before `end`. The others pass on what they get.
 */
export interface Place { firstRow: number, lengths: number[], first: number, end: number }

/** `count` rows of `length` positions to be copied, from row `source` on to row `target` on. */
export interface Move { source: number, target: number, count: number, length: number }

/** One built span; a `Slab` is memory for rows of caches. Calls never overlap. */
export interface Span<Slab> {
  openSlab: (rows: number, capacity: number) => Slab | Promise<Slab>
  /** hidden [rows, tokens, hidden size] flattened; the answer has the same size. */
  run: (slab: Slab, place: Place, tokens: number, hidden: Float32Array) => Promise<Float32Array>
  /** The same at once, of a span that computes in this thread. */
  runNow?: (slab: Slab, place: Place, tokens: number, hidden: Float32Array) => Float32Array
  /** Row firstRow + i becomes what row firstRow + rows[i] was, as far as `length` positions. */
  reorder: (slab: Slab, firstRow: number, rows: number[], length: number) => void | Promise<void>
  /** Between slabs of one capacity. */
  copyRows: (from: Slab, to: Slab, moves: Move[]) => void
  closeSlab: (slab: Slab) => void
  release: () => Promise<void>
}

/** What builds spans: our own kernels, or onnxruntime-web on a graphics device. A tensor is `Held` until it is built of. */
export interface Runtime<Slab, Held = Uint8Array> {
  /** Whether spans of half precision can be built. */
  readonly half: boolean
  /** Bring a tensor to where the next span will have it. Raises EngineError. */
  take: (data: Uint8Array) => Promise<Held>
  /** What was taken is given up, unless a span has been built of it. */
  discard: () => Promise<void>
  build: (graph: Uint8Array, tensors: Map<string, Held>, shape: Shape) => Promise<Span<Slab>>
  /** Raises EngineError if this machine computes the probe wrongly. */
  verify: (probe: Probe<Held>) => Promise<void>
}

/** The graph's names for a span's caches: each block's keys, then its values. */
export function cacheNames (shape: Shape, time: 'past' | 'present'): string[] {
  return Array.from({ length: 2 * shape.blocks }, (_, index) => `${time}_${index % 2 === 0 ? 'k' : 'v'}.${index >> 1}`)
}

/** Each block's switches, in order: float vectors that are inputs of the graph. Raises EngineError. */
export function switchTensors (shape: Shape, tensors: Tensors): Array<[name: string, data: Uint8Array]> {
  return switchNames(shape).map(name => {
    const data = tensors.get(name)
    if (data !== undefined) return [name, data]
    throw new EngineError('EngineError', `the tensor ${name} was not added; the span needs it`)
  })
}

export function switchNames ({ blocks, switches }: Shape): string[] {
  return Array.from({ length: blocks }, (_, block) => switches.map(name => `${block}.${name}`)).flat()
}

/** For each switch of each block: what `on` has for it, or what `off` has where the block is to be skipped. */
export function switchesFor<T> (shape: Shape, on: readonly T[], off: readonly T[], { first, end }: Place): T[] {
  const count = shape.switches.length
  return on.map((item, index) => index >= count * first && index < count * end ? item : off[index] as T)
}

export type EngineErrorName = 'EngineError' | 'CapacityError' | 'DeviceLost'

/** An error that becomes the Python class of its name. */
export class EngineError extends Error {
  constructor (name: EngineErrorName, message: string) {
    super(message)
    this.name = name
  }
}

/** What browser/engine.py holds. Tensors and results are flat typed arrays; each belongs to its receiver. */
export interface JsEngine {
  readonly backend: EngineBackend
  readonly half: boolean
  /** What `build` takes, as kwaainet.ports.Engine says. */
  readonly graphs: 'onnx' | 'program'
  addTensor: (name: string, data: Uint8Array) => Promise<void>
  /** Only for a first look at a device: tensors added so far are the probe's, and are released. */
  verify: (graph: Uint8Array, shape: Shape, tokens: number, hidden: Float32Array) => Promise<void>
  build: (graph: Uint8Array, shape: Shape) => Promise<void>
  /** See Span for these; slabs are told by handles. */
  openSlab: (rows: number, capacity: number) => Promise<number>
  run: (slab: number, place: Place, tokens: number, hidden: Float32Array) => Promise<Float32Array>
  /** The same at once, its place in single arguments, which cross from Python for less; null where it must be waited for. */
  runNow: (slab: number, firstRow: number, lengths: number[], first: number, end: number, tokens: number, hidden: Float32Array) => Float32Array | null
  reorder: (slab: number, firstRow: number, rows: number[], length: number) => Promise<void>
  copyRows: (from: number, to: number, moves: Move[]) => Promise<void>
  closeSlab: (slab: number) => Promise<void>
  close: () => Promise<void>
}

export interface EngineOptions {
  backend: EngineBackend
  /** The folder of onnxruntime-web's .mjs and .wasm files, with a slash at its end; only webgpu loads them. */
  ortUrl: string
  /** For wasm, absent: one thread. */
  threads?: ThreadOptions
}

/** Load what a backend needs. Raises EngineError when this browser cannot run it. */
export async function createEngine ({ backend, ortUrl, threads }: EngineOptions): Promise<JsEngine> {
  try {
    if (backend === 'webgpu') {
      const { GpuRuntime } = await import('./engine_webgpu.ts')
      return new Engine(backend, await GpuRuntime.load(ortUrl))
    }
    const { SimdRuntime } = await import('./engine_simd.ts')
    return new Engine(backend, new SimdRuntime(threads))
  } catch (error) {
    throw named(error, `the engine cannot start on ${backend}`)
  }
}

function named (error: unknown, what: string): EngineError {
  return error instanceof EngineError ? error : new EngineError('EngineError', `${what}: ${describe(error)}`)
}

class Engine<Slab, Held> implements JsEngine {
  readonly backend: EngineBackend
  readonly graphs: 'onnx' | 'program'
  readonly #runtime: Runtime<Slab, Held>
  readonly #slabs = new Map<number, Slab>()
  #tensors = new Map<string, Held>()
  #span: Span<Slab> | null = null
  #handles = 0
  #last: Promise<unknown> = Promise.resolve()
  #queued = 0

  constructor (backend: EngineBackend, runtime: Runtime<Slab, Held>) {
    this.backend = backend
    this.graphs = backend === 'wasm' ? 'program' : 'onnx'
    this.#runtime = runtime
  }

  get half (): boolean {
    return this.#runtime.half
  }

  async addTensor (name: string, data: Uint8Array): Promise<void> {
    try {
      this.#tensors.set(name, await this.#runtime.take(data))
    } catch (error) {
      throw named(error, `the tensor ${name} has no place`)
    }
  }

  async verify (graph: Uint8Array, shape: Shape, tokens: number, hidden: Float32Array): Promise<void> {
    const tensors = this.#takeTensors()
    await this.#queue('the self-test cannot run', async () => {
      await this.#runtime.verify({ graph, tensors, shape, tokens, hidden })
    })
  }

  async build (graph: Uint8Array, shape: Shape): Promise<void> {
    const tensors = this.#takeTensors()
    await this.#queue('the span cannot be built', async () => {
      this.#span = await this.#runtime.build(graph, tensors, shape)
    })
  }

  async openSlab (rows: number, capacity: number): Promise<number> {
    return await this.#queue('no memory for caches', async () => {
      const slab = await this.#built().openSlab(rows, capacity)
      this.#slabs.set(++this.#handles, slab)
      return this.#handles
    })
  }

  async run (slab: number, place: Place, tokens: number, hidden: Float32Array): Promise<Float32Array> {
    return await this.#queue('the span cannot be run', async () => {
      return await this.#built().run(this.#slab(slab), place, tokens, hidden)
    })
  }

  runNow (slab: number, firstRow: number, lengths: number[], first: number, end: number, tokens: number, hidden: Float32Array): Float32Array | null {
    if (this.#queued > 0) return null
    try {
      return this.#built().runNow?.(this.#slab(slab), { firstRow, lengths, first, end }, tokens, hidden) ?? null
    } catch (error) {
      throw named(error, 'the span cannot be run')
    }
  }

  async reorder (slab: number, firstRow: number, rows: number[], length: number): Promise<void> {
    await this.#queue('the cache cannot be reordered', async () => {
      await this.#built().reorder(this.#slab(slab), firstRow, rows, length)
    })
  }

  async copyRows (from: number, to: number, moves: Move[]): Promise<void> {
    await this.#queue('the caches cannot be moved', () => {
      this.#built().copyRows(this.#slab(from), this.#slab(to), moves)
    })
  }

  async closeSlab (slab: number): Promise<void> {
    await this.#queue('the caches cannot be closed', () => {
      const memory = this.#slabs.get(slab)
      this.#slabs.delete(slab)
      if (memory !== undefined) this.#span?.closeSlab(memory)
    })
  }

  async close (): Promise<void> {
    this.#takeTensors()
    await this.#queue('the engine cannot be closed', async () => {
      await this.#runtime.discard()
      const span = this.#span
      this.#span = null
      for (const memory of this.#slabs.values()) span?.closeSlab(memory)
      this.#slabs.clear()
      await span?.release()
    })
  }

  #takeTensors (): Map<string, Held> {
    const tensors = this.#tensors
    this.#tensors = new Map()
    return tensors
  }

  #built (): Span<Slab> {
    if (this.#span === null) throw new EngineError('EngineError', 'the engine has no graph; build it first')
    return this.#span
  }

  #slab (handle: number): Slab {
    const slab = this.#slabs.get(handle)
    if (slab === undefined) throw new EngineError('EngineError', `slab ${handle} is not open`)
    return slab
  }

  /** One at a time, in the order asked: onnxruntime-web must not load or run two things at once. */
  async #queue<T> (what: string, work: () => T | Promise<T>): Promise<T> {
    this.#queued++
    const result = this.#last.then(work).catch((error: unknown) => { throw named(error, what) })
    this.#last = result.catch(() => {}).then(() => { this.#queued-- })
    return await result
  }
}
