// The threads that compute together: the engine itself, and helpers that have the same memory.
// Rule of the file: the engine never depends on a helper coming. It takes parts like everybody else and waits only for
// parts that were taken; when one of those does not come back, it goes on alone and says so.
//
// A job takes some 10 to 1000 microseconds and there are ten in a block, so that helpers look for the next one for a
// while before they sleep, and nobody is woken who looks.

import { describe } from './faults.ts'
import { Bench, ASLEEP, BROKEN, CONTROL_BYTES, DONE, type JobName, LEFT, WAITING } from './jobs.ts'
import { connect, type Heap, type Kernels } from './kernel.ts'

export const MAX_THREADS = 16
const SHARED_SIZE = 4096 // some microseconds
const PARTS_EACH = 2 // of a job: the last one to come back keeps the others waiting for half as long
const LOOKING = 0.2 // ms that a helper looks for the next job before it sleeps
const HOPING = 0.05 // ms that the engine looks for the last part before it sleeps
const GLANCES = 64 // between looks at the clock
const START_TIME = 5000 // ms until a helper must have come
const PATIENCE = 10_000 // ms without any part coming back: the helper is gone
const WAITS = 10 // that patience is divided into: a machine may sleep in one of them

/** A worker that runs `help`. */
export type Helper = Pick<Worker, 'postMessage' | 'terminate' | 'onmessage' | 'onerror'>

/** The first message to a helper; its answer is any message. */
export interface HelperStart { module: WebAssembly.Module, memory: WebAssembly.Memory, control: SharedArrayBuffer, thread: number }

/** A part of a job did not come back. What was being computed is to be computed again, in other memory. */
export class HelperLost extends Error {}

export interface ThreadOptions {
  /** How many are to compute where they can share memory, the engine's own thread included; at most MAX_THREADS. */
  threads: number
  launch: () => Helper
  /** Hears how many compute, and why not as many as were wanted. */
  tell: (count: number, message: string) => void
  /** ms that helpers may take to start, and that a part may take; absent: 5 and 10 seconds. */
  startTime?: number
  patience?: number
}

export const ALONE: ThreadOptions = { threads: 1, launch: () => { throw new Error('there are no workers here') }, tell: () => {} }

export interface Job {
  name: JobName
  /** What the job is divided by, and how many units belong together. */
  units: number
  grain: number
  /** How long it takes, as so many numbers of a row; what is small is not shared. */
  size: number
  numbers: number[]
}

export class Threads {
  readonly #kernels: Kernels
  readonly #options: ThreadOptions
  readonly #alone: Bench // for what is not shared; a helper that was given up does not see it
  #shared: Bench | null = null
  #helpers: Helper[] = []
  #places = 1

  /** The engine alone, until `start`. */
  constructor (kernels: Kernels, options: ThreadOptions) {
    this.#kernels = kernels
    this.#options = options
    this.#alone = new Bench(kernels, new ArrayBuffer(CONTROL_BYTES), 0)
  }

  /** How many compute, the engine included. */
  get count (): number {
    return this.#helpers.length + 1
  }

  /** How many need scratch memory: those that did not come have a number, too. */
  get places (): number {
    return this.#places
  }

  /** Let `wanted` compute, as far as they come; the heap must have been opened for so many. */
  async start (heap: Heap, wanted: number): Promise<void> {
    this.#places = wanted
    const control = new SharedArrayBuffer(CONTROL_BYTES)
    this.#shared = new Bench(this.#kernels, control, 0)
    const { module, memory } = heap
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

  /** Compute a job. `stride` bytes of scratch for each thread. Raises HelperLost. */
  run ({ name, units, grain, size, numbers }: Job, scratch: number, stride: number): void {
    const parts = size >= SHARED_SIZE && this.#helpers.length > 0 ? Math.min(PARTS_EACH * this.count, Math.ceil(units / grain)) : 1
    const bench = parts > 1 && this.#shared !== null ? this.#shared : this.#alone
    bench.post(name, units, parts, grain, scratch, stride, numbers)
    while (bench.take());
    if (bench === this.#shared) this.#await(this.#shared, parts)
    if (bench.failure !== null) throw bench.failure
  }

  end (): void {
    this.#shared?.end()
    this.#shared = null
    for (const helper of this.#helpers) helper.terminate()
    this.#helpers = []
  }

  #await ({ words, failure }: Bench, parts: number): void {
    const { patience = PATIENCE } = this.#options
    if (!look(() => Atomics.load(words, DONE) === parts, HOPING)) sleep(words, parts, patience / WAITS)
    if (Atomics.load(words, BROKEN) === 1 && failure === null) this.#lost('a kernel failed on a thread')
    if (Atomics.load(words, DONE) !== parts) this.#lost(`a thread did not answer for ${patience / 1000} s`)
  }

  #lost (reason: string): never {
    this.#lose(reason)
    throw new HelperLost(reason)
  }

  #lose (reason: string): void {
    if (this.#shared === null) return
    this.end()
    this.#options.tell(1, `the processor is used with one thread from now on: ${reason}`)
  }
}

/** What a helper does until it is told to go. */
export async function help ({ module, memory, control, thread }: HelperStart, ready: () => void): Promise<void> {
  const bench = new Bench(await connect(module, memory, thread), control, thread)
  ready()
  const { words } = bench
  while (!bench.ended) {
    if (look(() => bench.take() || bench.ended, LOOKING)) continue
    Atomics.add(words, ASLEEP, 1)
    Atomics.wait(words, LEFT, 0)
    Atomics.sub(words, ASLEEP, 1)
  }
}

/** Until all parts are done, or none was for WAITS times `time` milliseconds. */
function sleep (words: Int32Array, parts: number, time: number): void {
  Atomics.store(words, WAITING, 1)
  for (let waits = 0; waits < WAITS;) {
    const done = Atomics.load(words, DONE)
    if (done === parts) break
    waits = Atomics.wait(words, DONE, done, time) === 'timed-out' ? waits + 1 : 0
  }
  Atomics.store(words, WAITING, 0)
}

/** Look for something for so many milliseconds; false if it did not come. */
function look (found: () => boolean, time: number): boolean {
  const end = performance.now() + time
  do {
    for (let glance = 0; glance < GLANCES; glance++) if (found()) return true
  } while (performance.now() < end)
  return false
}
