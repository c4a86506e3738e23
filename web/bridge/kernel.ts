// The kernels of web/kernels in a memory of their own, and who has what of that memory.
// Rule of the file: an address is given out once until it is given back; nothing is known of models.

import { PLAIN, RELAXED } from './kernel_code.ts'
import { EngineError } from './engine.ts'

const PAGE = 2 ** 16
const MAX_PAGES = 2 ** 16 - 1 // the largest memory that build/kernels.py allows: 64 KiB less than 32-bit addresses reach
const ALIGNMENT = 64 // a line of the processor's cache
// The kernels' stack and constants lie below, and they may read some bytes past the end of what they are given.
const FIRST = 2 * PAGE
const MARGIN = 64
const STACK = PAGE // of each thread but the first, from FIRST on

// How a module imports env.memory: a memory (2) that has a maximum (1) and, in the next bit, is shared.
const IMPORT = [3, ...new TextEncoder().encode('env'), 6, ...new TextEncoder().encode('memory'), 2, 1]
const SHARED = 2

/** Added to a weight's type where 16 bits of an activation are enough; see web/kernels/panels.h. */
export const COARSE = 256
/** Added where words of 16 bits are to be multiplied instead of digits, with the same result; see web/kernels/words.h. */
export const WORDS = 512

/** What web/kernels exports; every argument that is no count or number is an address. */
export interface Kernels {
  add: (x: number, y: number, count: number) => void
  add_bias: (y: number, bias: number, rows: number, width: number) => void
  add_weighted: (x: number, y: number, weights: number, rows: number, width: number) => void
  rms_norm: (x: number, weight: number, y: number, rows: number, width: number, epsilon: number) => void
  gated: (gate: number, up: number, count: number, kind: number) => void
  rope: (x: number, cos: number, sin: number, positions: number, rows: number, heads: number, headDim: number, turned: number) => void
  prepared_bytes: (type: number, rows: number, columns: number) => number
  prepared_alike: (type: number, other: number, rows: number) => number
  prepare: (type: number, x: number, rows: number, columns: number, prepared: number) => void
  matmul_scratch: () => number
  matmul: (
    type: number, weights: number, columns: number, x: number, prepared: number, rows: number, y: number, stride: number,
    scratch: number, first: number, last: number
  ) => void
  place: (y: number, stride: number, x: number, rows: number, width: number, added: number) => void
  append: (
    k: number, v: number, keys: number, values: number, past: number, tokens: number, kvHeads: number, headDim: number, capacity: number
  ) => void
  attend: (
    q: number, stride: number, y: number, keys: number, values: number, past: number, first: number, last: number, group: number,
    headDim: number, capacity: number, scale: number, window: number, softcap: number, scratch: number
  ) => void
  read_all: (bytes: number, count: number) => number
  dot_peak: (count: number) => number
  word_peak: (count: number) => number
  madd_peak: (count: number) => number
}

/** Bytes from `start` to before `end`. */
interface Extent { start: number, end: number }

export class Heap {
  readonly kernels: Kernels
  readonly module: WebAssembly.Module
  readonly memory: WebAssembly.Memory
  readonly #taken = new Map<number, number>() // how many bytes from which address on
  #free: Extent[] // in order, never two that touch

  private constructor (module: WebAssembly.Module, memory: WebAssembly.Memory, kernels: Kernels) {
    this.module = module
    this.memory = memory
    this.kernels = kernels
    this.#free = [{ start: memory.buffer.byteLength, end: MAX_PAGES * PAGE }]
  }

  /**
   * The best build that this machine can run. Raises EngineError if it can run none, and RangeError where there is no
   * memory that so many threads can share: all of its 4 GiB of addresses must be had at once.
   */
  static async open (threads = 1): Promise<Heap> {
    const shared = threads > 1
    const relaxed = bytes(RELAXED)
    const code = WebAssembly.validate(relaxed) ? relaxed : bytes(PLAIN)
    const memory = new WebAssembly.Memory({ initial: (FIRST + (threads - 1) * STACK) / PAGE, maximum: MAX_PAGES, shared })
    const module = await WebAssembly.compile(shared ? sharing(code) : code)
    return new Heap(module, memory, await connect(module, memory, 0))
  }

  /** Bytes in use. */
  get size (): number {
    return [...this.#taken.values()].reduce((sum, size) => sum + size, 0)
  }

  /** `size` bytes of whatever they held before; raises CapacityError. */
  allocate (size: number): number {
    const wanted = Math.ceil((size + MARGIN) / ALIGNMENT) * ALIGNMENT
    const place = this.#free.findIndex(({ start, end }) => end - start >= wanted)
    const found = this.#free[place]
    if (found === undefined || !this.#reach(found.start + wanted)) {
      throw new EngineError('CapacityError', `the wasm memory has no ${size} bytes left beside the ${this.size} in use`)
    }
    const address = found.start
    found.start += wanted
    if (found.start === found.end) this.#free.splice(place, 1)
    this.#taken.set(address, wanted)
    return address
  }

  /** Give back what was allocated at an address. */
  release (address: number): void {
    const size = this.#taken.get(address)
    if (size === undefined) return
    this.#taken.delete(address)
    const all = [...this.#free, { start: address, end: address + size }].sort((a, b) => a.start - b.start)
    this.#free = []
    for (const extent of all) {
      const last = this.#free.at(-1)
      if (last?.end === extent.start) last.end = extent.end
      else this.#free.push(extent)
    }
  }

  copy (data: Uint8Array): number {
    const address = this.allocate(data.byteLength)
    new Uint8Array(this.memory.buffer, address, data.byteLength).set(data)
    return address
  }

  /** A view that is good until the next allocation: the memory may grow and leave it behind. */
  floats (address: number, count: number): Float32Array {
    return new Float32Array(this.memory.buffer, address, count)
  }

  integers (address: number, count: number): Int32Array {
    return new Int32Array(this.memory.buffer, address, count)
  }

  /** Copy bytes within the memory. */
  move (from: number, to: number, size: number): void {
    new Uint8Array(this.memory.buffer).copyWithin(to, from, from + size)
  }

  #reach (end: number): boolean {
    const pages = Math.ceil(end / PAGE) - this.memory.buffer.byteLength / PAGE
    if (pages <= 0) return true
    try {
      this.memory.grow(pages)
      return true
    } catch {
      return false
    }
  }
}

/** The kernels over a memory, with the stack of a thread. */
export async function connect (module: WebAssembly.Module, memory: WebAssembly.Memory, thread: number): Promise<Kernels> {
  const { exports } = await WebAssembly.instantiate(module, { env: { memory } })
  if (thread > 0) (exports.__stack_pointer as WebAssembly.Global).value = FIRST + thread * STACK // stacks grow downwards
  return exports as unknown as Kernels
}

/** The same code for a memory that threads share: its import says so in one bit, and no instruction differs. */
function sharing (code: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const start = code.findIndex((_, at) => IMPORT.every((byte, index) => code[at + index] === byte))
  const marked = code.slice()
  marked[start + IMPORT.length - 1]! |= SHARED
  return marked
}

function bytes (base64: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(atob(base64), letter => letter.charCodeAt(0))
}
