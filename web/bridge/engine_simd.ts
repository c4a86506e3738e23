// Spans on the processor: programs run by the project's own kernels (web/kernels), in one WebAssembly memory.
// Rule of the file: addresses and sizes are put together here and nowhere else; each run is checked before it starts.
//
// Why not onnxruntime-web: on WebAssembly it has no matrix product for 4- and 8-bit weights that can be used (it expands
// the whole matrix for every token), so that every token reads all weights as float32. Here they lie as the file has
// them. Key and value caches grow in place; the blocks outside a run's part are not touched.

import { EngineError, type Move, type Place, type Runtime, type Shape, type Span } from './engine.ts'
import { Faster } from './faster.ts'
import { fuse, type FusedStep, type Part } from './fused.ts'
import { aligned, type Job } from './jobs.ts'
import { COARSE, Heap, type Kernels, WORDS } from './kernel.ts'
import { type Expert, type Experts, type Program, readProgram, type Weight } from './program.ts'
import { ALONE, MAX_THREADS, type ThreadOptions, Threads } from './threads.ts'

const BYTES = Float32Array.BYTES_PER_ELEMENT
// The rest of the 4 GiB is for caches and activations.
const MAX_WEIGHT_BYTES = 3 * 2 ** 30
const MAX_SCRATCH_ROWS = 4096 // rows x tokens of one run
const TOGETHER = 128 // rows x tokens of one job

/** Where the caches of `rows` rows lie: for each block its keys, then its values, [rows, kv heads, capacity, head dim]. */
export interface SimdSlab { rows: number, capacity: number, address: number }

/** A tensor in the memory of the next span. */
export interface Placed { address: number, byteLength: number }

export class SimdRuntime implements Runtime<SimdSlab, Placed | Uint8Array> {
  readonly half = false
  readonly #options: ThreadOptions
  #next: Promise<[Heap, Threads]> | null = null // what the next span will have

  constructor (options: ThreadOptions = ALONE) {
    this.#options = options
  }

  /** The processor is what other backends are measured by. */
  async verify (): Promise<void> {}

  /** Copied to where it is computed with as it comes, so that weights are not held twice. */
  async take (data: Uint8Array): Promise<Placed> {
    const [heap] = await this.#open()
    if (heap.size + data.byteLength > MAX_WEIGHT_BYTES) {
      throw new EngineError('CapacityError', `the wasm backend holds ${MAX_WEIGHT_BYTES / 2 ** 20} MiB of weights, ` +
        `and ${Math.ceil((heap.size + data.byteLength) / 2 ** 20)} are not all: take fewer blocks`)
    }
    return { address: heap.copy(data), byteLength: data.byteLength }
  }

  async discard (): Promise<void> {
    const next = this.#next
    this.#next = null
    const [, threads] = await next?.catch(() => null) ?? []
    threads?.end()
  }

  /** Of tensors that were taken, or are still elsewhere. */
  async build (graph: Uint8Array, tensors: Map<string, Placed | Uint8Array>, shape: Shape): Promise<SimdSpan> {
    try {
      const program = readProgram(graph, tensors, shape)
      const addresses = new Map<string, number>()
      for (const name of program.weights.keys()) {
        const held = tensors.get(name) as Placed | Uint8Array
        addresses.set(name, (held instanceof Uint8Array ? await this.take(held) : held).address)
      }
      const [heap, threads] = await this.#open()
      this.#next = null
      return new SimdSpan(heap, threads, program, addresses, shape)
    } catch (error) {
      await this.discard()
      throw error
    }
  }

  async #open (): Promise<[Heap, Threads]> {
    return await (this.#next ??= this.#make())
  }

  async #make (): Promise<[Heap, Threads]> {
    const { threads, tell } = this.#options
    const wanted = Math.min(threads, MAX_THREADS)
    let heap: Heap
    try {
      heap = await Heap.open(wanted)
    } catch (error) {
      if (!(error instanceof RangeError)) throw error
      tell(1, 'the processor is used with one thread: this browser has no memory that threads can share')
      heap = await Heap.open()
      return [heap, new Threads(heap, this.#options)]
    }
    const together = new Threads(heap, this.#options)
    if (wanted > 1) await together.start(wanted)
    else tell(1, '')
    return [heap, together]
  }
}

type Attention = Extract<FusedStep, { op: 'attention' }>

/** What one run works on: addresses of its buffers, and of what its steps have in common. */
interface Run {
  rows: number[] // how long each is
  tokens: number
  count: number // rows x tokens
  coarse: number // COARSE or 0, added to the types of what is multiplied
  buffers: Map<string, number>
  positions: number
  lengths: number
  scratch: number // for one number
  capacity: number
  /** Addresses of the block's caches, from the run's first row on. */
  keys: number
  values: number
}

export class SimdSpan implements Span<SimdSlab> {
  readonly #heap: Heap
  readonly #kernels: Kernels
  readonly #threads: Threads
  readonly #program: Program
  readonly #addresses: Map<string, number>
  readonly #faster = { fine: new Faster(), coarse: new Faster() } // digits or words
  readonly #shape: Shape
  readonly #blocks: FusedStep[][]

  constructor (heap: Heap, threads: Threads, program: Program, addresses: Map<string, number>, shape: Shape) {
    this.#heap = heap
    this.#kernels = heap.kernels
    this.#threads = threads
    this.#program = program
    this.#addresses = addresses
    this.#shape = shape
    this.#blocks = program.blocks.map(steps => fuse(steps, heap.kernels))
  }

  openSlab (rows: number, capacity: number): SimdSlab {
    const address = this.#heap.allocate(2 * this.#shape.blocks * rows * this.#rowSize(capacity))
    return { rows, capacity, address }
  }

  async run (slab: SimdSlab, place: Place, tokens: number, hidden: Float32Array): Promise<Float32Array> {
    return this.runNow(slab, place, tokens, hidden)
  }

  runNow (slab: SimdSlab, place: Place, tokens: number, hidden: Float32Array): Float32Array {
    this.#check(slab, place, tokens, hidden)
    const count = place.lengths.length * tokens
    const address = this.#heap.allocate(this.#workspace(count, place.lengths.length))
    try {
      const run = this.#lay(address, slab, place, tokens)
      const x = run.buffers.get('x') as number
      this.#heap.floats(x, hidden.length).set(hidden)
      for (let block = place.first; block < place.end; block++) {
        run.keys = this.#cache(slab, 2 * block) + place.firstRow * this.#rowSize(slab.capacity)
        run.values = this.#cache(slab, 2 * block + 1) + place.firstRow * this.#rowSize(slab.capacity)
        for (const step of this.#blocks[block] as FusedStep[]) this.#step(step, run)
      }
      return this.#heap.floats(x, hidden.length).slice()
    } finally {
      this.#heap.release(address) // helpers that are late read there, and write to nothing that is not theirs
    }
  }

  reorder (slab: SimdSlab, firstRow: number, rows: number[], length: number): void {
    const copy = this.openSlab(rows.length, slab.capacity)
    try {
      this.copyRows(slab, copy, rows.map((from, to) => ({ source: firstRow + from, target: to, count: 1, length })))
      this.copyRows(copy, slab, [{ source: 0, target: firstRow, count: rows.length, length }])
    } finally {
      this.closeSlab(copy)
    }
  }

  copyRows (from: SimdSlab, to: SimdSlab, moves: Move[]): void {
    const { kvHeads, headDim } = this.#shape
    const head = from.capacity * headDim * BYTES
    for (let cache = 0; cache < 2 * this.#shape.blocks; cache++) {
      for (const { source, target, count, length } of moves) {
        for (let row = 0; row < count * kvHeads; row++) {
          const [old, own] = [source * kvHeads + row, target * kvHeads + row]
          this.#heap.move(this.#cache(from, cache) + old * head, this.#cache(to, cache) + own * head, length * headDim * BYTES)
        }
      }
    }
  }

  closeSlab (slab: SimdSlab): void {
    this.#heap.release(slab.address)
  }

  /** The memory goes with the last one who knows it. */
  async release (): Promise<void> {
    this.#threads.end()
  }

  /** Bytes of the memory that are in use. */
  get size (): number {
    return this.#heap.size
  }

  #check ({ rows, capacity }: SimdSlab, { firstRow, lengths, first, end }: Place, tokens: number, hidden: Float32Array): void {
    const count = lengths.length * tokens
    const last = Math.max(...lengths) + tokens
    const fits = count > 0 && count <= MAX_SCRATCH_ROWS && hidden.length === count * this.#shape.hiddenSize &&
      firstRow >= 0 && firstRow + lengths.length <= rows && Math.min(...lengths) >= 0 &&
      last <= Math.min(capacity, this.#program.positions) && first >= 0 && end <= this.#shape.blocks
    if (fits) return
    throw new EngineError('EngineError', `a run of ${lengths.length} rows from ${firstRow} on by ${tokens} positions to ${last} ` +
      `through blocks ${first} to ${end} with ${hidden.length} numbers does not fit a slab of ${rows} rows of ${capacity}`)
  }

  #rowSize (capacity: number): number {
    return this.#shape.kvHeads * capacity * this.#shape.headDim * BYTES
  }

  #cache (slab: SimdSlab, index: number): number {
    return slab.address + index * slab.rows * this.#rowSize(slab.capacity)
  }

  /** Bytes that a run needs beside the caches and what threads have. */
  #workspace (count: number, rows: number): number {
    const widths = [...this.#program.buffers.values()].reduce((sum, width) => sum + aligned(width * count * BYTES), 0)
    return widths + aligned(count * BYTES) + aligned(rows * BYTES) + aligned(BYTES)
  }

  /** Share out the workspace at an address. */
  #lay (address: number, slab: SimdSlab, { lengths }: Place, tokens: number): Run {
    const count = lengths.length * tokens
    const buffers = new Map<string, number>()
    for (const [name, width] of this.#program.buffers) {
      buffers.set(name, address)
      address += aligned(width * count * BYTES)
    }
    const positions = address
    this.#heap.integers(positions, count).set(lengths.flatMap(length => Array.from({ length: tokens }, (_, at) => length + at)))
    const own = positions + aligned(count * BYTES)
    this.#heap.integers(own, lengths.length).set(lengths)
    const scratch = own + aligned(lengths.length * BYTES)
    const coarse = tokens >= this.#program.coarseFrom ? COARSE : 0
    return { rows: lengths, tokens, count, coarse, buffers, positions, lengths: own, scratch, capacity: slab.capacity, keys: 0, values: 0 }
  }

  #step (step: FusedStep, run: Run): void {
    const at = (name: string): number => run.buffers.get(name) as number
    const wide = (name: string): number => this.#program.buffers.get(name) as number
    const of = ({ name }: Weight): number => this.#addresses.get(name) as number
    const { headDim } = this.#shape
    const { count } = run
    switch (step.op) {
      case 'rms_norm': {
        const { columns } = step.weight
        this.#kernels.rms_norm(at(step.x), of(step.weight), at(step.y), count * wide(step.x) / columns, columns, step.epsilon)
        break
      }
      case 'products':
        this.#multiply(step.parts, at(step.x), count, at, step.activation, run.coarse)
        break
      case 'bias':
        this.#kernels.add_bias(at(step.y), of(step.bias), count, wide(step.y))
        break
      case 'rope':
        this.#kernels.rope(at(step.x), of(step.cos), of(step.sin), run.positions, count, wide(step.x) / headDim, headDim, 2 * step.cos.columns)
        break
      case 'attention':
        this.#attend(step, at, wide(step.q) / headDim, run)
        break
      case 'gated':
        this.#kernels.gated(at(step.gate), at(step.up), count * wide(step.gate), step.activation)
        break
      case 'add':
        this.#kernels.add(at(step.x), at(step.y), count * wide(step.x))
        break
      case 'experts':
        this.#experts(step, at, run)
    }
  }

  /** Products of the same `count` rows at x; `coarse` is COARSE or 0. */
  #multiply (parts: Part[], x: number, count: number, at: (name: string) => number, activation: number, coarse: number): void {
    const columns = parts[0]!.weight.columns
    for (let row = 0; row < count; row += TOGETHER) {
      const rows = Math.min(TOGETHER, count - row)
      const products = (kind: number): Job => ({
        kind: 'products',
        x: x + row * columns * BYTES,
        rows,
        columns,
        activation,
        products: parts.map(({ weight: { name, type, rows: outputs }, y, add }) =>
          ({ type: type + coarse + kind, weights: this.#addresses.get(name) as number, outputs, y: at(y) + row * outputs * BYTES, add }))
      })
      if (rows === 1) this.#threads.run(products(0))
      else {
        const units = rows * columns * parts.reduce((sum, { weight }) => sum + weight.rows, 0)
        this.#faster[coarse === 0 ? 'fine' : 'coarse'].run(units, words => { this.#threads.run(products(words ? WORDS : 0)) })
      }
    }
  }

  /** The first part's y becomes activation(first) * second. */
  #gate (parts: Part[], x: number, count: number, at: (name: string) => number, activation: number, coarse: number): void {
    const [first, second] = parts as [Part, Part]
    const alike = [1, 2].every(rows => this.#kernels.prepared_alike(first.weight.type, second.weight.type, rows) !== 0)
    if (alike) this.#multiply(parts, x, count, at, activation, coarse)
    else {
      for (const part of parts) this.#multiply([part], x, count, at, -1, coarse)
      this.#kernels.gated(at(first.y), at(second.y), count * first.weight.rows, activation)
    }
  }

  #attend (step: Attention, at: (name: string) => number, heads: number, run: Run): void {
    const { kvHeads, headDim } = this.#shape
    const { tokens, capacity } = run
    const [keys, cache] = [tokens * kvHeads * headDim * BYTES, this.#rowSize(capacity)]
    run.rows.forEach((past, row) => {
      const [k, v] = [at(step.k) + row * keys, at(step.v) + row * keys]
      this.#kernels.append(k, v, run.keys + row * cache, run.values + row * cache, past, tokens, kvHeads, headDim, capacity)
    })
    const together = Math.max(1, Math.floor(TOGETHER / tokens))
    const { scale, window, softcap } = step
    for (let row = 0; row < run.rows.length; row += together) {
      const rows = run.rows.slice(row, row + together)
      const before = row * tokens * heads * headDim * BYTES
      const place = { q: at(step.q) + before, y: at(step.y) + before, keys: run.keys + row * cache, values: run.values + row * cache }
      const lengths = run.lengths + row * BYTES
      for (let from = 0; from < tokens; from += TOGETHER) {
        const end = Math.min(tokens, from + TOGETHER)
        const job: Job = {
          kind: 'attention', ...place, lengths, rows: rows.length, tokens, from, end, longest: Math.max(...rows) + end,
          heads, kvHeads, headDim, capacity, scale, window, softcap
        }
        this.#threads.run(job)
      }
    }
  }

  /** Each expert computes the tokens that ask it, together. */
  #experts (step: Experts, at: (name: string) => number, run: Run): void {
    const { hiddenSize } = this.#shape
    const size = hiddenSize * BYTES
    const asked = route(this.#heap.floats(at(step.logits), run.count * step.experts.length), step)
    asked.forEach((tokens, index) => {
      if (tokens.length === 0) return
      const { gate, up, down } = step.experts[index] as Expert
      tokens.forEach(({ token }, place) => { this.#heap.move(at(step.x) + token * size, at(step.own) + place * size, size) })
      const inner = [{ weight: gate, y: step.gate, add: false }, { weight: up, y: step.up, add: false }]
      this.#gate(inner, at(step.own), tokens.length, at, step.activation, run.coarse)
      this.#multiply([{ weight: down, y: step.said, add: false }], at(step.gate), tokens.length, at, -1, run.coarse)
      tokens.forEach(({ token, weight }, place) => {
        this.#heap.floats(run.scratch, 1)[0] = weight
        this.#kernels.add_weighted(at(step.y) + token * size, at(step.said) + place * size, run.scratch, 1, hiddenSize)
      })
    })
  }
}

/** For each expert the tokens that ask it, and what its answer counts: the softmax over the best few logits. */
function route (logits: Float32Array, { experts, top }: Experts): Array<Array<{ token: number, weight: number }>> {
  const asked = experts.map((): Array<{ token: number, weight: number }> => [])
  for (let token = 0; token * experts.length < logits.length; token++) {
    const own = [...logits.subarray(token * experts.length, (token + 1) * experts.length)]
    const best = [...own.keys()].sort((a, b) => (own[b] as number) - (own[a] as number)).slice(0, top)
    const shares = best.map(expert => Math.exp((own[expert] as number) - (own[best[0] as number] as number)))
    const total = shares.reduce((sum, share) => sum + share, 0)
    best.forEach((expert, place) => asked[expert]?.push({ token, weight: (shares[place] as number) / total }))
  }
  return asked
}
