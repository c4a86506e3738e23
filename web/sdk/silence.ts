// Whether a start goes on: what it waits for, and since when nothing has come of that.
// A browser's promise may never settle (a lock, storage, a graphics adapter, a worker that does not run), and no stage
// can tell so itself. Rule of the file: looks are counted and no time is measured, so that while a machine sleeps or a
// page is frozen nothing runs out.

const LOOK = 5000 // ms between two looks
const MOST = 36 // looks, three minutes: longer than any stage takes that gives up by itself, and than a slow line takes for what is not told piece by piece

export class Silence {
  readonly #over: (waits: string, seconds: number) => void
  readonly #look: number
  #timer: ReturnType<typeof setInterval> | undefined
  #looks = 0
  #waits = ''

  /** `over` is called, once, when nothing was heard for too long; `look`: ms between two looks. */
  constructor (over: (waits: string, seconds: number) => void, look = LOOK) {
    this.#over = over
    this.#look = look
  }

  /** Something came; from now on `waits` is waited for. */
  heard (waits: string): void {
    this.#looks = 0
    this.#waits = waits
    this.#timer ??= setInterval(() => {
      if (++this.#looks < MOST) return
      this.end()
      this.#over(this.#waits, MOST * this.#look / 1000)
    }, this.#look)
  }

  /** What was waited for came, or nobody waits any more. */
  end (): void {
    clearInterval(this.#timer)
    this.#timer = undefined
  }

  get waiting (): boolean {
    return this.#timer !== undefined
  }
}
