// Work that threads share: kernels by number, the parts of each job, and the words by which parts are taken.
// Rule of the file: whoever takes a part computes what anybody else would have, so that results do not depend on how
// many threads there are; a helper that takes none is not missed.

import type { Kernels } from './kernel.ts'

const FLOAT = 4

// Places in the words that threads share; each has a cache line of its own.
export const LEFT = 0 // parts that nobody has taken yet; ENDED when helpers are to go
export const DONE = 16 // parts that are computed
export const ASLEEP = 32 // helpers that wait to be woken
export const WAITING = 48 // 1 while the engine sleeps until all parts are computed
export const BROKEN = 64 // 1 once a kernel failed on a helper
const WORDS = 80
const ENDED = -1

// A job's numbers: the kernel's, how many units in how many parts, which begin at multiples of a grain of units; where
// scratch memory starts and how much of it each thread has; then what the kernel gets.
const [KERNEL, UNITS, PARTS, GRAIN, SCRATCH, STRIDE, FIRST] = [0, 1, 2, 3, 4, 5, 6]
const NUMBERS = 32
export const CONTROL_BYTES = WORDS * 4 + NUMBERS * 8

/** `at` gives a job's numbers; `scratch` is the thread's own. */
type Part = (k: Kernels, at: (index: number) => number, scratch: number, first: number, last: number) => void

/** What can be shared, and what its units are. */
const KERNELS = {
  /** Outputs of a product; the last number is 1 where it is added to what is there. */
  matmul: (k, at, scratch, first, last) => {
    const [outputs, rows, y] = [at(2), at(5), at(6)]
    if (at(7) === 0) for (let row = 0; row < rows; row++) k.zero(y + (row * outputs + first) * FLOAT, last - first)
    k.matmul(at(0), at(1), outputs, at(3), at(4), rows, y, scratch, first, last)
  },
  /** Pairs of a row and a key-value head. */
  attention: (k, at, scratch, first, last) => {
    k.attention(at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7), at(8), at(9), at(10), at(11), at(12), at(13), at(14), scratch, first, last)
  },
  /** Numbers. */
  gated: (k, at, _, first, last) => { k.gated(at(0) + first * FLOAT, at(1) + first * FLOAT, last - first, at(2)) },
  /** Rows. */
  rms_norm: (k, at, _, first, last) => {
    const size = at(3) * FLOAT
    k.rms_norm(at(0) + first * size, at(1), at(2) + first * size, last - first, at(3), at(4))
  },
  /** Tokens. */
  rope: (k, at, _, first, last) => {
    k.rope(at(0) + first * at(4) * at(5) * FLOAT, at(1), at(2), at(3) + first * FLOAT, last - first, at(4), at(5), at(6))
  }
} satisfies Record<string, Part>

export type JobName = keyof typeof KERNELS
const NAMES = Object.keys(KERNELS) as JobName[]
const ALL: Part[] = Object.values(KERNELS)

/** What one thread sees of the work: thread 0 is the engine, who posts it. */
export class Bench {
  readonly words: Int32Array
  readonly #job: Float64Array
  readonly #at: (index: number) => number
  readonly #kernels: Kernels
  readonly #thread: number
  /** What a kernel of this thread threw. */
  failure: unknown = null

  constructor (kernels: Kernels, control: ArrayBufferLike, thread: number) {
    this.words = new Int32Array(control, 0, WORDS)
    this.#job = new Float64Array(control, WORDS * 4, NUMBERS)
    this.#at = index => this.#job[FIRST + index] as number
    this.#kernels = kernels
    this.#thread = thread
  }

  /** Say what is to be done in `parts`; all parts of the job before must have been done. */
  post (name: JobName, units: number, parts: number, grain: number, scratch: number, stride: number, numbers: number[]): void {
    this.#job.set([NAMES.indexOf(name), units, parts, grain, scratch, stride])
    this.#job.set(numbers, FIRST)
    Atomics.store(this.words, DONE, 0)
    Atomics.store(this.words, LEFT, parts)
    if (Atomics.load(this.words, ASLEEP) > 0) Atomics.notify(this.words, LEFT)
  }

  /** Take a part and compute it; false if none was left. */
  take (): boolean {
    const left = Atomics.load(this.words, LEFT)
    if (left <= 0) return false
    if (Atomics.compareExchange(this.words, LEFT, left, left - 1) !== left) return true // somebody else took it
    try {
      this.#compute(left - 1)
    } catch (error) {
      this.failure = error
      Atomics.store(this.words, BROKEN, 1)
    }
    Atomics.add(this.words, DONE, 1)
    if (Atomics.load(this.words, WAITING) === 1) Atomics.notify(this.words, DONE)
    return true
  }

  /** Let the helpers go; nothing may be posted any more. */
  end (): void {
    Atomics.store(this.words, LEFT, ENDED)
    Atomics.notify(this.words, LEFT)
  }

  get ended (): boolean {
    return Atomics.load(this.words, LEFT) === ENDED
  }

  #compute (part: number): void {
    const job = this.#job
    const [units, parts, grain] = [job[UNITS] as number, job[PARTS] as number, job[GRAIN] as number]
    const grains = Math.ceil(units / grain)
    const first = Math.floor(grains * part / parts) * grain
    const last = Math.min(units, Math.floor(grains * (part + 1) / parts) * grain)
    const compute = ALL[job[KERNEL] as number] as Part
    compute(this.#kernels, this.#at, job[SCRATCH] as number + this.#thread * (job[STRIDE] as number), first, last)
  }
}
