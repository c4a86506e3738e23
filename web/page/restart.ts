// When a node that broke while it served is started anew, without a click: its owner has consented, and not stopped it.
// Rule of the file: it only counts and waits; a node that never served tells why, and waits for its owner.

const WAITS = [2, 10, 30, 60, 120] // s before each try; after the last its owner decides
const WELL = 300_000 // ms of serving after which a break counts as the first

export class Restart {
  readonly #start: () => void
  readonly #now: () => number
  #tries = 0
  #servedSince: number | null = null
  #timer: ReturnType<typeof setTimeout> | undefined

  constructor (start: () => void, now: () => number = () => performance.now()) {
    this.#start = start
    this.#now = now
  }

  /** The node serves. */
  served (): void {
    this.#servedSince ??= this.#now()
  }

  /** The node broke: seconds until it is started anew, or null. */
  failed (): number | null {
    const since = this.#servedSince
    this.#servedSince = null
    if (since !== null && this.#now() - since > WELL) this.#tries = 0
    if (since === null && this.#tries === 0) return null
    const wait = WAITS[this.#tries++]
    if (wait === undefined) return null
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => { this.#start() }, wait * 1000)
    return wait
  }

  /** Its owner starts or stops it: forget what was. */
  forget (): void {
    clearTimeout(this.#timer)
    this.#tries = 0
    this.#servedSince = null
  }
}
