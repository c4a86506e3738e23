// Spans on the processor: onnxruntime's WebAssembly build, driven through the functions its module exports.
// Rule of the file: all that knows about addresses in the module's heap is here.
//
// Why not onnxruntime-web's own InferenceSession: it copies every input into the heap and every output out of it, and a
// KV cache is both. With 30 blocks of SmolLM2 a step took 53 ms at position 50 and 88 at 500 (129 at 1000); with caches
// that live in the heap, bound as past and as present of the same run, it took 53, 57 and 72. The plain build used here
// is also the smallest. The exports are those that onnxruntime-web 1.30.0 calls itself (its lib/wasm/wasm-types.ts);
// they are not a public interface, so the version is pinned and tests/browser/test_ports.py runs every one of them.

import {
  cacheNames, EngineError, switchesFor, switchNames, switchTensors, type Move, type Place, type Runtime, type Shape,
  type Span, type Tensors
} from './engine.ts'

export const FLOAT = 1 // TensorProto.DataType
const INT32 = 6
const CPU = 1 // onnxruntime-web's DataLocation
const ALL_OPTIMIZATIONS = 99
const LOG_NOTHING = 4 // but what is fatal: errors are raised with the same words
const POINTER = 4
const MAX_HEAP = 2 ** 32
// Weights lie in the heap up to twice while the session packs them.
const MAX_WEIGHT_BYTES = 1.5 * 2 ** 30

/** The part of the emscripten module that is used; sizes and addresses are bytes. */
interface OrtModule {
  readonly HEAPU8: Uint8Array
  _malloc: (size: number) => number
  _free: (address: number) => void
  getValue: (address: number, type: string) => number
  setValue: (address: number, value: number, type: string) => void
  UTF8ToString: (address: number) => string
  stringToUTF8: (text: string, address: number, size: number) => void
  lengthBytesUTF8: (text: string) => number
  mountExternalData: (path: string, data: Uint8Array) => void
  unmountExternalData: () => void
  _OrtInit: (threads: number, logLevel: number) => number
  _OrtGetLastError: (code: number, message: number) => void
  _OrtCreateSessionOptions: (
    optimization: number, arena: boolean, pattern: boolean, mode: number, profile: boolean,
    profilePrefix: number, logId: number, logLevel: number, verbosity: number, optimizedPath: number
  ) => number
  _OrtReleaseSessionOptions: (options: number) => void
  _OrtCreateSession: (graph: number, size: number, options: number) => number | Promise<number>
  _OrtReleaseSession: (session: number) => void
  _OrtCreateTensor: (type: number, data: number, size: number, dims: number, rank: number, location: number) => number
  _OrtReleaseTensor: (tensor: number) => void
  _OrtRun: (
    session: number, inputNames: number, inputs: number, inputCount: number,
    outputNames: number, outputCount: number, outputs: number, options: number
  ) => number | Promise<number>
}

type ModuleFactory = (options: { numThreads: number, locateFile: (name: string) => string }) => Promise<OrtModule>

/** For each block the address of its keys, then of its values: float [rows, kv heads, capacity, head dim]. */
export interface WasmSlab { rows: number, capacity: number, addresses: number[] }

export class WasmRuntime implements Runtime<WasmSlab> {
  readonly half = false
  readonly #heap: Heap

  private constructor (heap: Heap) {
    this.#heap = heap
  }

  static async load (ortUrl: string, threads: number): Promise<WasmRuntime> {
    return new WasmRuntime(await loadModule(ortUrl, threads))
  }

  /** The processor is what other backends are measured by. */
  async verify (): Promise<void> {}

  async build (graph: Uint8Array, tensors: Tensors, shape: Shape): Promise<WasmSpan> {
    const size = [...tensors.values()].reduce((sum, data) => sum + data.byteLength, 0)
    if (size > MAX_WEIGHT_BYTES) {
      throw new EngineError('CapacityError', `the weights of ${shape.blocks} blocks take ${Math.ceil(size / 2 ** 20)} MiB; ` +
        `the wasm backend holds ${MAX_WEIGHT_BYTES / 2 ** 20}: take fewer blocks`)
    }
    const switches = switchTensors(shape, tensors)
    return new WasmSpan(this.#heap, await createSession(this.#heap, graph, tensors), shape, switches.map(([, data]) => data))
  }
}

/** Load the module, each time another with a heap of its own; one thread where the page is not cross-origin isolated. */
export async function loadModule (ortUrl: string, threads: number): Promise<Heap> {
  const { default: factory } = await import(`${ortUrl}ort-wasm-simd-threaded.mjs`) as { default: ModuleFactory }
  const numThreads = globalThis.crossOriginIsolated ? Math.max(1, threads) : 1
  const module = await factory({ numThreads, locateFile: name => ortUrl + name })
  const heap = new Heap(module)
  heap.check(module._OrtInit(numThreads, LOG_NOTHING) === 0)
  return heap
}

/** A session of a graph whose initializers are `tensors`. */
export async function createSession (heap: Heap, graph: Uint8Array, tensors: Tensors): Promise<number> {
  const { module } = heap
  const options = module._OrtCreateSessionOptions(ALL_OPTIMIZATIONS, false, false, 0, false, 0, 0, LOG_NOTHING, 0, 0)
  heap.check(options !== 0)
  const address = heap.copy(graph)
  try {
    for (const [name, data] of tensors) module.mountExternalData(name, data)
    const session = await module._OrtCreateSession(address, graph.byteLength, options)
    heap.check(session !== 0)
    return session
  } finally {
    module.unmountExternalData()
    module._free(address)
    module._OrtReleaseSessionOptions(options)
  }
}

/** Floats in the heap. */
interface Vector { address: number, size: number }

class WasmSpan implements Span<WasmSlab> {
  readonly #heap: Heap
  readonly #session: number
  readonly #shape: Shape
  readonly #inputNames: number
  readonly #outputNames: number
  readonly #on: Vector[]
  readonly #off: Vector[]

  constructor (heap: Heap, session: number, shape: Shape, switches: Uint8Array[]) {
    this.#heap = heap
    this.#session = session
    this.#shape = shape
    const inputs = ['x', 'seqlens_k', 'total_seq', ...cacheNames(shape, 'past'), ...switchNames(shape)]
    this.#inputNames = heap.pointers(inputs.map(name => heap.text(name)))
    this.#outputNames = heap.pointers(['y', ...cacheNames(shape, 'present')].map(name => heap.text(name)))
    this.#on = switches.map(data => ({ address: heap.copy(data), size: data.byteLength / Float32Array.BYTES_PER_ELEMENT }))
    const zeros = heap.copy(new Uint8Array(Math.max(...switches.map(data => data.byteLength))))
    this.#off = this.#on.map(({ size }) => ({ address: zeros, size }))
  }

  openSlab (rows: number, capacity: number): WasmSlab {
    const slab: WasmSlab = { rows, capacity, addresses: [] }
    try {
      for (let index = 0; index < 2 * this.#shape.blocks; index++) slab.addresses.push(this.#heap.allocate(rows * this.#rowSize(capacity)))
    } catch (error) {
      this.closeSlab(slab)
      throw error
    }
    return slab
  }

  async run (slab: WasmSlab, place: Place, tokens: number, hidden: Float32Array): Promise<Float32Array> {
    const heap = this.#heap
    const rows = place.lengths.length
    const totals = place.lengths.map(length => length + tokens)
    const use = new Use(heap)
    try {
      const dims = [rows, tokens, this.#shape.hiddenSize]
      const x = use.memory(heap.copy(new Uint8Array(hidden.buffer, hidden.byteOffset, hidden.byteLength)))
      const y = use.memory(heap.allocate(hidden.byteLength))
      const lengths = use.memory(heap.pointers([...totals.map(total => total - 1), Math.max(...totals)]))
      const caches = this.#cacheTensors(use, slab, place)
      const switches = switchesFor(this.#shape, this.#on, this.#off, place).map(({ address, size }) => use.tensor(FLOAT, address, [size]))
      const inputs = [
        use.tensor(FLOAT, x, dims), use.tensor(INT32, lengths, [rows]), use.tensor(INT32, lengths + rows * POINTER, []),
        ...caches, ...switches
      ]
      const outputs = use.memory(heap.pointers([use.tensor(FLOAT, y, dims), ...caches]))
      const code = await heap.module._OrtRun(
        this.#session, this.#inputNames, use.memory(heap.pointers(inputs)), inputs.length, this.#outputNames, caches.length + 1, outputs, 0)
      heap.check(code === 0)
      return heap.floats(y, hidden.length).slice()
    } finally {
      use.end()
    }
  }

  reorder (slab: WasmSlab, firstRow: number, rows: number[], length: number): void {
    const { kvHeads, headDim } = this.#shape
    const head = slab.capacity * headDim
    const size = this.#rowSize(slab.capacity)
    for (const address of slab.addresses) {
      const all = this.#heap.floats(address + firstRow * size, rows.length * kvHeads * head)
      const old = all.slice()
      rows.forEach((from, to) => {
        for (let index = 0; index < kvHeads; index++) {
          const start = (from * kvHeads + index) * head
          all.set(old.subarray(start, start + length * headDim), (to * kvHeads + index) * head)
        }
      })
    }
  }

  copyRows (from: WasmSlab, to: WasmSlab, moves: Move[]): void {
    const { kvHeads, headDim } = this.#shape
    const head = from.capacity * headDim
    from.addresses.forEach((address, index) => {
      const old = this.#heap.floats(address, from.rows * kvHeads * head)
      const all = this.#heap.floats(to.addresses[index] as number, to.rows * kvHeads * head)
      for (const { source, target, count, length } of moves) {
        for (let row = 0; row < count * kvHeads; row++) {
          const start = (source * kvHeads + row) * head
          all.set(old.subarray(start, start + length * headDim), (target * kvHeads + row) * head)
        }
      }
    })
  }

  closeSlab (slab: WasmSlab): void {
    for (const address of slab.addresses.splice(0)) this.#heap.module._free(address)
  }

  async release (): Promise<void> {
    const count = 2 * this.#shape.blocks
    this.#heap.freePointers(this.#inputNames, count + this.#on.length + 3)
    this.#heap.freePointers(this.#outputNames, count + 1)
    for (const { address } of [...this.#on, ...this.#off.slice(0, 1)]) this.#heap.module._free(address)
    this.#heap.module._OrtReleaseSession(this.#session)
  }

  /** The same tensors serve as past and as present: the attention then writes new positions in place. */
  #cacheTensors (use: Use, { addresses, capacity }: WasmSlab, { firstRow, lengths }: Place): number[] {
    const { kvHeads, headDim } = this.#shape
    const skip = firstRow * this.#rowSize(capacity)
    return addresses.map(address => use.tensor(FLOAT, address + skip, [lengths.length, kvHeads, capacity, headDim]))
  }

  #rowSize (capacity: number): number {
    return this.#shape.kvHeads * capacity * this.#shape.headDim * Float32Array.BYTES_PER_ELEMENT
  }
}

/** What one run borrows from the heap. */
export class Use {
  readonly #heap: Heap
  readonly #tensors: number[] = []
  readonly #addresses: number[] = []

  constructor (heap: Heap) {
    this.#heap = heap
  }

  memory (address: number): number {
    this.#addresses.push(address)
    return address
  }

  /** A tensor over memory that stays where it is; all types used here have four bytes. */
  tensor (type: number, address: number, dims: number[]): number {
    const size = dims.reduce((product, dim) => product * dim, 4)
    const shape = this.#heap.pointers(dims)
    const tensor = this.#heap.module._OrtCreateTensor(type, address, size, shape, dims.length, CPU)
    this.#heap.module._free(shape)
    this.#heap.check(tensor !== 0)
    this.#tensors.push(tensor)
    return tensor
  }

  end (): void {
    for (const tensor of this.#tensors) this.#heap.module._OrtReleaseTensor(tensor)
    for (const address of this.#addresses) this.#heap.module._free(address)
  }
}

/** The module's memory. A view of it is good until the next call: the heap may grow and leave old views behind. */
export class Heap {
  readonly module: OrtModule

  constructor (module: OrtModule) {
    this.module = module
  }

  allocate (size: number): number {
    // A size that 32 bits cannot hold would come to the module as a small one.
    const address = size < MAX_HEAP ? this.module._malloc(Math.max(size, POINTER)) : 0
    if (address === 0) throw new EngineError('CapacityError', `the wasm heap has no ${size} bytes left`)
    return address
  }

  copy (data: Uint8Array): number {
    const address = this.allocate(data.byteLength)
    this.#bytes(address, data.byteLength).set(data)
    return address
  }

  /** 32-bit numbers or addresses one after another. */
  pointers (values: number[]): number {
    const address = this.allocate(values.length * POINTER)
    values.forEach((value, index) => { this.module.setValue(address + index * POINTER, value, '*') })
    return address
  }

  /** Free an array of addresses and what they point to. */
  freePointers (address: number, count: number): void {
    for (let index = 0; index < count; index++) this.module._free(this.module.getValue(address + index * POINTER, '*'))
    this.module._free(address)
  }

  text (text: string): number {
    const size = this.module.lengthBytesUTF8(text) + 1
    const address = this.allocate(size)
    this.module.stringToUTF8(text, address, size)
    return address
  }

  floats (address: number, count: number): Float32Array {
    const { buffer, byteOffset } = this.#bytes(address, count * Float32Array.BYTES_PER_ELEMENT)
    return new Float32Array(buffer, byteOffset, count)
  }

  /** Raises EngineError with onnxruntime's own words. */
  check (ok: boolean): void {
    if (ok) return
    const place = this.allocate(2 * POINTER)
    this.module._OrtGetLastError(place, place + POINTER)
    const message = this.module.getValue(place + POINTER, '*')
    const text = message === 0 ? 'no reason given' : this.module.UTF8ToString(message)
    this.module._free(place)
    throw new EngineError('EngineError', `onnxruntime: ${text}`)
  }

  #bytes (address: number, size: number): Uint8Array {
    this.module.getValue(address, 'i8') // makes the module renew HEAPU8 if the memory has grown
    return new Uint8Array(this.module.HEAPU8.buffer, address, size)
  }
}
