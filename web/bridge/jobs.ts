// Work that threads share: what a job is, its parts, how parts are taken, and where their results lie.
// Rule of the file: whoever takes a part computes what anybody else would have, so that results do not depend on how
// many threads there are; and writes to memory of its own only, so that a helper that comes too late does no harm.
//
// A job is divided into units and these into parts. Whoever takes a part computes it into a slot of its own and says so;
// the engine puts the results together. What is not back when it is needed the engine computes itself.

import type { Kernels } from './kernel.ts'

const FLOAT = 4
const GRAIN = 16 // outputs of a product in a unit: whole vectors, whole tiles and panels of web/kernels
const MAX_PARTS = 63
export const MAX_PRODUCTS = 4

// Places in the words that threads share; each has a cache line of its own.
const CLAIM = 0 // the job's number, and in eight bits how many parts nobody has taken yet; ENDED when helpers are to go
export const ASLEEP = 16 // helpers that wait to be woken
const RESULTS = 32 // for each part: the job's number, whose slot, and which slot
const WORDS = RESULTS + MAX_PARTS + 1
const ENDED = -1
const JOBS = 2 ** 22 // after which numbers begin again

/** Products of the same activations [rows, columns]; each is a matrix [outputs, columns] and where its results go. */
export interface Product { type: number, weights: number, outputs: number, y: number, add: boolean }

export type Job =
  /** `activation` is 0 and 1 as kernels number them, where y is to be activation(first product) * second product; else -1. */
  | { kind: 'products', x: number, rows: number, columns: number, activation: number, products: Product[] }
  /** What the queries of tokens `from` to before `end` of each row find, of `longest` positions; `lengths` has those before them. */
  | {
    kind: 'attention', q: number, y: number, keys: number, values: number, lengths: number, rows: number, tokens: number
    from: number, end: number, longest: number
    heads: number, kvHeads: number, headDim: number, capacity: number, scale: number, window: number, softcap: number
  }

const QUERIES = 16 // tokens of one key-value head in a unit
const [PRODUCTS, ATTENTION] = [0, 1]
// A job's numbers: which kind, its units and parts; where the threads' own memory starts and how much each has; what of
// it is for the kernel, for prepared activations, and for a slot; then what the kind has.
const [KIND, UNITS, PARTS, SCRATCH, STRIDE, PREPARED, SLOTS, SLOT, FIRST] = [0, 1, 2, 3, 4, 5, 6, 7, 8]
const EACH = 5 // numbers of a product
const NUMBERS = FIRST + 5 + EACH * MAX_PRODUCTS // no fewer than attention's 15
export const CONTROL_BYTES = Math.ceil(WORDS / 2) * 8 + NUMBERS * 8

/** How a job is divided, and the bytes that a thread needs for it: scratch, prepared activations, and slots. */
export interface Plan { units: number, parts: number, scratch: number, prepared: number, slot: number }

/** `parts`: as many as are wanted. */
export function plan (job: Job, kernels: Kernels, wanted: number): Plan {
  const units = job.kind === 'products'
    ? job.activation < 0 ? sum(job.products.map(({ outputs }) => grains(outputs))) : grains(job.products[0]!.outputs)
    : job.rows * job.kvHeads * Math.ceil((job.end - job.from) / QUERIES)
  const parts = Math.max(1, Math.min(units, wanted, MAX_PARTS))
  const most = Math.ceil(units / parts)
  if (job.kind === 'attention') {
    const { heads, kvHeads, headDim, from, end, capacity } = job
    const slot = most * Math.min(end - from, QUERIES) * heads / kvHeads * headDim * FLOAT
    return { units, parts, scratch: 16 * (capacity + 8) * FLOAT, prepared: 0, slot: aligned(slot) }
  }
  const { rows, columns, activation, products } = job
  const slot = most * GRAIN * rows * FLOAT * (activation < 0 ? 1 : 2)
  const prepared = kernels.prepared_bytes(products[0]!.type, rows, columns)
  return { units, parts, scratch: aligned(kernels.matmul_scratch()), prepared: aligned(prepared), slot: aligned(slot) }
}

/** Bytes that each thread needs for a job. */
export function space ({ parts, scratch, prepared, slot }: Plan): number {
  return scratch + prepared + parts * slot
}

/** What one thread sees of the work: thread 0 is the engine, who posts it. */
export class Bench {
  readonly words: Int32Array
  readonly #shared: Float64Array
  readonly #job = new Float64Array(NUMBERS) // as it was when a part was taken
  readonly #kernels: Kernels
  readonly #memory: WebAssembly.Memory
  readonly #thread: number
  #number = -1 // of the job whose activations are prepared, and how many parts of it are in slots
  #used = 0
  #taken = 0

  constructor (kernels: Kernels, memory: WebAssembly.Memory, control: ArrayBufferLike, thread: number) {
    this.words = new Int32Array(control, 0, WORDS)
    this.#shared = new Float64Array(control, Math.ceil(WORDS / 2) * 8, NUMBERS)
    this.#kernels = kernels
    this.#memory = memory
    this.#thread = thread
  }

  /** Say what is to be done; nobody may be left at the job before who is waited for. */
  post (job: Job, { units, parts, scratch, prepared, slot }: Plan, address: number, stride: number): void {
    const own = job.kind === 'products'
      ? [job.rows, job.columns, job.x, job.activation, job.products.length, ...job.products.flatMap(one => [one.type, one.weights, one.outputs, one.y, one.add ? 1 : 0])]
      : [job.q, job.y, job.keys, job.values, job.lengths, job.tokens, job.heads, job.kvHeads, job.headDim, job.capacity, job.scale, job.window, job.softcap, job.from, job.end]
    const kind = job.kind === 'products' ? PRODUCTS : ATTENTION
    this.#shared.set([kind, units, parts, address, stride, scratch, scratch + prepared, slot, ...own])
    const number = (Atomics.load(this.words, CLAIM) >>> 8) % (JOBS - 1) + 1
    this.words.fill(0, RESULTS, RESULTS + parts)
    this.#begin(number) // others may take all of it
    Atomics.store(this.words, CLAIM, number << 8 | parts)
    if (Atomics.load(this.words, ASLEEP) > 0) Atomics.notify(this.words, CLAIM)
  }

  /** Take a part: its index, or -1 if none is left. */
  take (): number {
    for (;;) {
      const claim = Atomics.load(this.words, CLAIM)
      if (claim === ENDED || (claim & 255) === 0) return -1
      if (this.#number !== claim >>> 8) this.#begin(claim >>> 8)
      if (Atomics.compareExchange(this.words, CLAIM, claim, claim - 1) !== claim) continue // somebody else took it
      return (claim & 255) - 1
    }
  }

  /** For a helper: take a part, compute it, and say where the result lies; false if none was left. */
  help (): boolean {
    const part = this.take()
    if (part < 0) return false
    const slot = this.#used++
    this.compute(part, slot)
    Atomics.store(this.words, RESULTS + part, this.#number << 10 | this.#thread << 6 | slot)
    return true
  }

  /** Whether a helper has computed a part of the engine's job. */
  isBack (part: number): boolean {
    return Atomics.load(this.words, RESULTS + part) >>> 10 === this.#number
  }

  #begin (number: number): void {
    this.#job.set(this.#shared);
    [this.#number, this.#used, this.#taken] = [number, 0, 0]
  }

  /** Put a helper's result where it belongs. */
  fetch (part: number): void {
    const result = Atomics.load(this.words, RESULTS + part)
    this.#place(part, this.#slot(result >>> 6 & 15, result & 63))
  }

  /** Compute a part and put it where it belongs. */
  own (part: number): void {
    this.compute(part, 0)
    this.#place(part, this.#slot(this.#thread, 0))
  }

  /** For a helper: sleep until there may be something to take. */
  wait (): void {
    const claim = Atomics.load(this.words, CLAIM)
    if (claim !== ENDED && (claim & 255) === 0) Atomics.wait(this.words, CLAIM, claim)
  }

  /** Let the helpers go; nothing may be posted any more. */
  end (): void {
    Atomics.store(this.words, CLAIM, ENDED)
    Atomics.notify(this.words, CLAIM)
  }

  get ended (): boolean {
    return Atomics.load(this.words, CLAIM) === ENDED
  }

  #at (index: number): number {
    return this.#job[index] as number
  }

  #slot (thread: number, slot: number): number {
    return this.#at(SCRATCH) + thread * this.#at(STRIDE) + this.#at(SLOTS) + slot * this.#at(SLOT)
  }

  /** Compute a part into a slot of this thread. */
  compute (part: number, slot: number): void {
    const [first, last] = this.#range(part)
    const own = this.#at(SCRATCH) + this.#thread * this.#at(STRIDE)
    const to = this.#slot(this.#thread, slot)
    if (this.#at(KIND) === ATTENTION) this.#attend(first, last, own, to)
    else this.#multiply(first, last, own, own + this.#at(PREPARED), to)
  }

  #range (part: number): [first: number, last: number] {
    const [units, parts] = [this.#at(UNITS), this.#at(PARTS)]
    return [Math.floor(units * part / parts), Math.floor(units * (part + 1) / parts)]
  }

  #multiply (first: number, last: number, scratch: number, prepared: number, to: number): void {
    const [rows, columns, x, activation] = [this.#at(FIRST), this.#at(FIRST + 1), this.#at(FIRST + 2), this.#at(FIRST + 3)]
    if (this.#taken++ === 0) this.#kernels.prepare(this.#at(FIRST + 5), x, rows, columns, prepared)
    this.#pieces(first, last, to, (at, from, end, result) => {
      this.#kernels.matmul(this.#at(at), this.#at(at + 1), columns, x, prepared, rows, result, end - from, scratch, from, end)
    })
    if (activation < 0) return
    const [from, end] = [first * GRAIN, Math.min(last * GRAIN, this.#at(FIRST + 7))]
    const count = rows * (end - from)
    const [at, other] = [FIRST + 5 + EACH, to + count * FLOAT]
    this.#kernels.matmul(this.#at(at), this.#at(at + 1), columns, x, prepared, rows, other, end - from, scratch, from, end)
    this.#kernels.gated(to, other, count, activation)
  }

  /** The products of units `first` to `last`: where a product's numbers are, which of its outputs, and where their results are. */
  #pieces (first: number, last: number, to: number, each: (at: number, from: number, end: number, result: number) => void): void {
    const [rows, count] = [this.#at(FIRST), this.#at(FIRST + 3) < 0 ? this.#at(FIRST + 4) : 1]
    for (let product = 0, before = 0; product < count && before < last; product++) {
      const at = FIRST + 5 + EACH * product
      const outputs = this.#at(at + 2)
      const from = Math.max(0, first - before) * GRAIN
      const end = Math.min(outputs, (last - before) * GRAIN)
      before += grains(outputs)
      if (from >= end) continue
      each(at, from, end, to)
      to += rows * (end - from) * FLOAT
    }
  }

  #attend (first: number, last: number, scratch: number, to: number): void {
    const [q, keys, values, headDim, capacity] = [this.#at(FIRST), this.#at(FIRST + 2), this.#at(FIRST + 3), this.#at(FIRST + 8), this.#at(FIRST + 9)]
    this.#heads(first, last, to, (row, head, from, end, group, stride, result) => {
      const [tokens, heads, kvHeads] = [this.#at(FIRST + 5), this.#at(FIRST + 6), this.#at(FIRST + 7)]
      const cache = (row * kvHeads + head) * capacity * headDim * FLOAT
      const length = new Int32Array(this.#memory.buffer, this.#at(FIRST + 4) + row * FLOAT, 1)[0] as number
      const past = Math.max(0, Math.min(length, capacity - tokens)) // a helper that is late may read anything there
      this.#kernels.attend(
        q + (row * tokens * heads + head * group) * headDim * FLOAT, stride, result, keys + cache, values + cache, past, from, end,
        group, headDim, capacity, this.#at(FIRST + 10), this.#at(FIRST + 11), this.#at(FIRST + 12), scratch)
    })
  }

  /** Units `first` to `last` of attention: which tokens of which row and head, and where their results are. */
  #heads (first: number, last: number, to: number, each: (row: number, head: number, from: number, end: number, group: number, stride: number, result: number) => void): void {
    const [heads, kvHeads, headDim] = [this.#at(FIRST + 6), this.#at(FIRST + 7), this.#at(FIRST + 8)]
    const [start, stop] = [this.#at(FIRST + 13), this.#at(FIRST + 14)]
    const chunks = Math.ceil((stop - start) / QUERIES)
    for (let unit = first; unit < last; unit++) {
      const pair = Math.floor(unit / chunks)
      const from = start + unit % chunks * QUERIES
      const end = Math.min(stop, from + QUERIES)
      each(Math.floor(pair / kvHeads), pair % kvHeads, from, end, heads / kvHeads, heads * headDim, to)
      to += (end - from) * heads / kvHeads * headDim * FLOAT
    }
  }

  /** A part's results from a slot to where they belong. */
  #place (part: number, slot: number): void {
    const [first, last] = this.#range(part)
    if (this.#at(KIND) === PRODUCTS) {
      const rows = this.#at(FIRST)
      this.#pieces(first, last, slot, (at, from, end, result) => {
        this.#kernels.place(this.#at(at + 3) + from * FLOAT, this.#at(at + 2), result, rows, end - from, this.#at(at + 4))
      })
      return
    }
    const [y, tokens, headDim] = [this.#at(FIRST + 1), this.#at(FIRST + 5), this.#at(FIRST + 8)]
    this.#heads(first, last, slot, (row, head, from, end, group, stride, result) => {
      const to = y + ((row * tokens + from) * stride + head * group * headDim) * FLOAT
      this.#kernels.place(to, stride, result, end - from, group * headDim, 0)
    })
  }
}

function grains (outputs: number): number {
  return Math.ceil(outputs / GRAIN)
}

function sum (numbers: number[]): number {
  return numbers.reduce((total, number) => total + number, 0)
}

export function aligned (size: number): number {
  return Math.ceil(size / 64) * 64
}
