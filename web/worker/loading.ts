// How far loading is, as one number of bytes: the runtime's files and the weights, and how fast they come.
// Rule of the file: bytes count when they are here; no figure goes back, and none is told that was not measured.

import type { Transfer } from '../bridge/ranges.ts'
import type { LoadProgress } from './messages.ts'

const TELL_EVERY = 100 // ms between two messages of one stage
const WINDOW = 5000 // ms over which the rate is taken
const LEAST = 500 // ms without which it says nothing

/** `done` of `total` bytes, of which `cached` were here before. */
export interface Part { done: number, total: number, cached: number }

export class LoadMeter implements Transfer {
  readonly #tell: (message: LoadProgress) => void
  readonly #now: () => number
  #runtime: Part = { done: 0, total: 0, cached: 0 }
  #weights: Part = { done: 0, total: 0, cached: 0 }
  #stage = 'python'
  #underWay = 0 // bytes of requests that have not ended, and so are in no part yet
  #all = 0 // bytes that came from the network
  readonly #samples: Array<[time: number, bytes: number]> = []
  #told = { stage: '', time: 0, done: 0, total: 0 }

  constructor (tell: (message: LoadProgress) => void, now: () => number = () => performance.now()) {
    this.#tell = tell
    this.#now = now
  }

  runtime (part: Part): void {
    const before = this.#runtime
    this.#came(part.done - part.cached - before.done + before.cached)
    this.#runtime = part
    this.#report()
  }

  /** What Python says of its part; `build` has no bytes of its own. */
  python (message: LoadProgress): void {
    this.#stage = message.stage
    if (message.stage === 'weights') this.#weights = message
    this.#report()
  }

  received (bytes: number): void {
    this.#underWay += bytes
    this.#came(bytes)
    this.#report()
  }

  settled (bytes: number): void {
    this.#underWay -= bytes
  }

  #came (bytes: number): void {
    if (bytes <= 0) return
    const now = this.#now()
    this.#all += bytes
    this.#samples.push([now, this.#all])
    while (this.#samples.length > 2 && (this.#samples[1] as [number, number])[0] < now - WINDOW) this.#samples.shift()
  }

  /** Bytes a second over the last few seconds. */
  #rate (now: number): number {
    const [first, last] = [this.#samples[0], this.#samples.at(-1)]
    if (first === undefined || last === undefined || now - last[0] > WINDOW) return 0
    return now - first[0] < LEAST ? 0 : (last[1] - first[1]) * 1000 / (now - first[0])
  }

  #report (): void {
    const now = this.#now()
    const stage = this.#stage
    const total = this.#runtime.total + this.#weights.total
    const sum = Math.min(total, this.#runtime.done + this.#weights.done + this.#underWay)
    const told = this.#told
    const done = total === told.total ? Math.max(sum, told.done) : sum
    const over = stage === told.stage && total === told.total && (done !== total || told.done === total)
    if (over && now - told.time < TELL_EVERY) return
    this.#told = { stage, time: now, done, total }
    const rate = this.#rate(now)
    this.#tell({
      type: 'progress', stage, done, total, cached: this.#runtime.cached + this.#weights.cached, rate,
      ...(rate > 0 && total > 0 ? { seconds_left: (total - done) / rate } : {})
    })
  }
}
