// onnxruntime's WebAssembly build, driven through the functions its module exports: what training runs on.
// Rule of the file: all that knows about addresses in the module's heap is here.
//
// Why not onnxruntime-web's own InferenceSession: it copies every input into the heap and every output out of it, and
// weights are inputs. The plain build used here is also the smallest. The exports are those that onnxruntime-web 1.30.0
// calls itself (its lib/wasm/wasm-types.ts); they are not a public interface, so the version is pinned and
// tests/browser/test_ports.py runs every one of them.

import { EngineError } from './engine.ts'

export const FLOAT = 1 // TensorProto.DataType
const CPU = 1 // onnxruntime-web's DataLocation
const ALL_OPTIMIZATIONS = 99
const LOG_NOTHING = 4 // but what is fatal: errors are raised with the same words
const POINTER = 4
const MAX_HEAP = 2 ** 32

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

/** Load the module, each time another with a heap of its own; one thread where the page is not cross-origin isolated. */
export async function loadModule (ortUrl: string, threads: number): Promise<Heap> {
  const { default: factory } = await import(`${ortUrl}ort-wasm-simd-threaded.mjs`) as { default: ModuleFactory }
  const numThreads = globalThis.crossOriginIsolated ? Math.max(1, threads) : 1
  const module = await factory({ numThreads, locateFile: name => ortUrl + name })
  const heap = new Heap(module)
  heap.check(module._OrtInit(numThreads, LOG_NOTHING) === 0)
  return heap
}

/** A session of a graph that has no external data. */
export async function createSession (heap: Heap, graph: Uint8Array): Promise<number> {
  const { module } = heap
  const options = module._OrtCreateSessionOptions(ALL_OPTIMIZATIONS, false, false, 0, false, 0, 0, LOG_NOTHING, 0, 0)
  heap.check(options !== 0)
  const address = heap.copy(graph)
  try {
    const session = await module._OrtCreateSession(address, graph.byteLength, options)
    heap.check(session !== 0)
    return session
  } finally {
    module._free(address)
    module._OrtReleaseSessionOptions(options)
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
