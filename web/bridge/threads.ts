// The threads that compute together: the engine itself, and helpers that have the same memory.
// Rule of the file: the engine waits for nobody. It takes parts like everybody else, and those that are not back in the
// time that it takes to compute one, because the machine is busy or a helper is gone, it computes itself.
//
// A job takes some 10 to 10,000 microseconds and there are five in a block, so that helpers look for the next one for a
// while before they sleep, and nobody is woken who looks.

import { describe } from './faults.ts'
import { aligned, ASLEEP, Bench, CONTROL_BYTES, type Job, plan, space } from './jobs.ts'
import { connect, type Heap } from './kernel.ts'

export const MAX_THREADS = 16
const PARTS_EACH = 4 // of a job, at least: what is lost when one comes back late
const PART_SIZE = 2 ** 23 // products in a part, at most: a millisecond, and results that the second cache holds
const SHARED_SIZE = 2 ** 17 // products of a job that is shared: some 30 microseconds
const HOPING = 1.5 // times as long as a part takes: then the engine computes what it misses
const NO_PART = 0.1 // ms: how long a part takes where the engine found none to compute
const LOOKING = 0.2 // ms that a helper looks for the next job before it sleeps
const GLANCES = 64 // between looks at the clock
const START_TIME = 5000 // ms until a helper must have come
const PATIENCE = 10_000 // ms and CHANCES jobs without any part coming back: the helpers are gone
const CHANCES = 200

/** A worker that runs `help`. */
export type Helper = Pick<Worker, 'postMessage' | 'terminate' | 'onmessage' | 'onerror'>

/** The first message to a helper; its answer is any message. */
export interface HelperStart { module: WebAssembly.Module, memory: WebAssembly.Memory, control: SharedArrayBuffer, thread: number }

export interface ThreadOptions {
  /** How many are to compute where they can share memory, the engine's own thread included; at most MAX_THREADS. */
  threads: number
  launch: () => Helper
  /** Hears how many compute, and why not as many as were wanted. */
  tell: (count: number, message: string) => void
  /** ms that helpers may take to start, and that none may bring anything back; absent: 5 and 10 seconds. */
  startTime?: number
  patience?: number
}

export const ALONE: ThreadOptions = { threads: 1, launch: () => { throw new Error('there are no workers here') }, tell: () => {} }

export class Threads {
  readonly #heap: Heap
  readonly #options: ThreadOptions
  readonly #alone: Bench // for what is not shared
  #shared: Bench | null = null
  #helpers: Helper[] = []
  #places = 1
  #address = 0 // of the threads' own memory, and how much of it each has
  #stride = 0
  #unanswered = 0 // jobs of which nothing came back, and since when
  #missing = 0

  /** The engine alone, until `start`. */
  constructor (heap: Heap, options: ThreadOptions) {
    this.#heap = heap
    this.#options = options
    this.#alone = new Bench(heap.kernels, heap.memory, new ArrayBuffer(CONTROL_BYTES), 0)
  }

  /** How many compute, the engine included. */
  get count (): number {
    return this.#helpers.length + 1
  }

  /** Let `wanted` compute, as far as they come; the heap must have been opened for so many. */
  async start (wanted: number): Promise<void> {
    this.#places = wanted
    const control = new SharedArrayBuffer(CONTROL_BYTES)
    const { module, memory, kernels } = this.#heap
    this.#shared = new Bench(kernels, memory, control, 0)
    const coming = Array.from({ length: wanted - 1 }, async (_, index) => await this.#launch({ module, memory, control, thread: index + 1 }))
    const reasons = (await Promise.all(coming)).filter(reason => reason !== '')
    this.#options.tell(this.count, reasons.length === 0 ? '' : `the processor is used with ${this.count} of ${wanted} threads: ${reasons[0]}`)
  }

  /** Empty, or why the helper did not come. */
  async #launch (start: HelperStart): Promise<string> {
    const { launch, startTime = START_TIME } = this.#options
    let helper: Helper
    try {
      helper = launch()
      helper.postMessage(start)
    } catch (error) {
      return `a thread does not start: ${describe(error)}`
    }
    let timer
    const reason = await new Promise<string>(resolve => {
      timer = setTimeout(() => { resolve(`a thread did not start within ${startTime / 1000} s`) }, startTime)
      helper.onmessage = () => { resolve('') }
      helper.onerror = ({ message }) => { resolve(`a thread does not start: ${message || 'its script could not be loaded'}`) }
    })
    clearTimeout(timer)
    if (reason === '') {
      helper.onerror = ({ message }) => { this.#lose(`a thread failed: ${message || 'without a reason'}`) }
      this.#helpers.push(helper)
    } else helper.terminate()
    return reason
  }

  #parts (job: Job, threads: number): number {
    return Math.max(Math.ceil(size(job) / PART_SIZE), threads > 1 ? PARTS_EACH * threads : 1)
  }

  /** Compute a job. Raises CapacityError. */
  run (job: Job): void {
    const bench = size(job) >= SHARED_SIZE && this.#helpers.length > 0 && this.#shared !== null ? this.#shared : this.#alone
    const division = plan(job, this.#heap.kernels, this.#parts(job, bench === this.#shared ? this.#places : 1))
    this.#reserve(space(division))
    bench.post(job, division, this.#address, this.#stride)
    if (bench === this.#alone) {
      for (let part = bench.take(); part >= 0; part = bench.take()) bench.own(part)
      return
    }
    const left = new Set(Array(division.parts).keys())
    let shortest = NO_PART // who was interrupted says nothing about how long a part takes
    for (let start = performance.now(), part = bench.take(); part >= 0; part = bench.take()) {
      bench.own(part)
      left.delete(part)
      const now = performance.now()
      shortest = Math.min(shortest === NO_PART ? Infinity : shortest, now - start)
      start = now
    }
    this.#watch(this.#gather(bench, left, HOPING * shortest))
  }

  /** Memory of its own for each thread. What there was before is not given to others: somebody who is late may write there. */
  #reserve (bytes: number): void {
    if (bytes <= this.#stride) return
    const stride = aligned(Math.max(bytes, this.#places > 1 ? 2 * this.#stride : 0))
    if (this.#places === 1) this.#heap.release(this.#address)
    this.#address = this.#heap.allocate(this.#places * stride)
    this.#stride = stride
  }

  /** What helpers took: theirs as far as it comes within `time` milliseconds of the one before, else one's own. How many came. */
  #gather (bench: Bench, left: Set<number>, time: number): number {
    let back = 0
    while (left.size > 0) {
      const come = look(() => first(left, part => bench.isBack(part)), time)
      const part = come ?? left.values().next().value as number
      left.delete(part)
      if (come === undefined) bench.own(part)
      else bench.fetch(part)
      if (come !== undefined) back++
    }
    return back
  }

  /** Helpers that bring nothing back for long, while there is much to do, are given up. */
  #watch (back: number): void {
    if (back > 0) this.#unanswered = 0
    else if (this.#unanswered++ === 0) this.#missing = performance.now()
    const { patience = PATIENCE } = this.#options
    if (this.#unanswered < CHANCES || performance.now() - this.#missing < patience) return
    this.#lose(`the others did not answer for ${patience / 1000} s`)
  }

  end (): void {
    this.#shared?.end()
    this.#shared = null
    for (const helper of this.#helpers) helper.terminate()
    this.#helpers = []
  }

  #lose (reason: string): void {
    if (this.#shared === null) return
    this.end()
    this.#options.tell(1, `the processor is used with one thread from now on: ${reason}`)
  }
}

/** Products that a job takes. */
function size (job: Job): number {
  if (job.kind === 'products') return job.rows * job.columns * job.products.reduce((sum, { outputs }) => sum + outputs, 0)
  return job.rows * (job.end - job.from) * job.heads * job.headDim * job.longest
}

function first (parts: Iterable<number>, holds: (part: number) => boolean): number | undefined {
  for (const part of parts) if (holds(part)) return part
  return undefined
}

/** What a helper does until it is told to go. */
export async function help ({ module, memory, control, thread }: HelperStart, ready: () => void): Promise<void> {
  const bench = new Bench(await connect(module, memory, thread), memory, control, thread)
  ready()
  const { words } = bench
  while (!bench.ended) {
    if (look(() => bench.help() || bench.ended || undefined, LOOKING) === true) continue
    Atomics.add(words, ASLEEP, 1)
    bench.wait()
    Atomics.sub(words, ASLEEP, 1)
  }
}

/** Look for something for so many milliseconds; undefined if it did not come. */
function look<Found> (find: () => Found | undefined, time: number): Found | undefined {
  const end = performance.now() + time
  do {
    for (let glance = 0; glance < GLANCES; glance++) {
      const found = find()
      if (found !== undefined) return found
    }
  } while (performance.now() < end)
  return undefined
}
