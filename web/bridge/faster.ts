// Which of two ways to compute the same is faster on this machine.
// Rule of the file: it is found by doing the work itself both ways, in turns, so that nothing is computed for it; the best
// time of each way counts, as whoever is interrupted, or not compiled well yet, says nothing about the way.

const TRIES = 32 // of both together
const WORTH = 2 ** 22 // units of work, at least, in a try: less takes no time that clocks of browsers tell

export class Faster {
  readonly #now: () => number
  readonly #best = [Infinity, Infinity] // ms a unit
  #tries = 0

  constructor (now = () => performance.now()) {
    this.#now = now
  }

  /** Do work of so many units one way or the other. */
  run (units: number, work: (second: boolean) => void): void {
    const way = this.#tries < TRIES ? this.#tries % 2 : this.#best[1]! < this.#best[0]! ? 1 : 0
    const start = this.#now()
    work(way === 1)
    if (units < WORTH || this.#tries === TRIES) return
    this.#tries++
    this.#best[way] = Math.min(this.#best[way]!, (this.#now() - start) / units)
  }
}
