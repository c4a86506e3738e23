// What happened and was mended without a click: said for a while, the newest last.

import type { NodeStatus } from '../sdk/index.ts'
import { clock, element, made, NOTICES, spanOf } from './words.ts'

const MOST = 4
const ASLEEP = 30_000 // ms between two beats of a page's timer, beyond what browsers slow that of a page that is seen to
const BEAT = 5000
const LEFT = 'kwaainet-left'

export function notice (text: string): void {
  const list = element('notices')
  list.append(made('li', `${clock(new Date())} ${text}`))
  while (list.children.length > MOST) list.firstElementChild?.remove()
  list.hidden = false
}

/** Have this tab say, when it is back, that its page went while it served; a tab that comes back whole has lost nothing. */
export function watchLeaving (serves: () => boolean): void {
  addEventListener('pagehide', () => {
    try { if (serves()) sessionStorage.setItem(LEFT, '1') } catch { /* a browser that refuses storage forgets it */ }
  })
  addEventListener('pageshow', ({ persisted }) => {
    try {
      if (sessionStorage.getItem(LEFT) !== null && !persisted) notice(NOTICES.left)
      sessionStorage.removeItem(LEFT)
    } catch { /* as above */ }
  })
}

/** Tell of sleep, of the network, of hidden times, of the relay and of the engine, while `serves` says so. */
export class Watch {
  #beat = Date.now()
  #hiddenSince: number | null = null
  #lostSince: number | null = null
  #ahead: number | undefined
  #served: string | null = null // its blocks, since they were served without a pause
  #broken = false // ... and are loaded again

  constructor (serves: () => boolean) {
    setInterval(() => {
      const asleep = Date.now() - this.#beat
      this.#beat = Date.now()
      if (serves() && !document.hidden && asleep > ASLEEP && this.#hiddenSince === null) notice(NOTICES.slept(asleep / 1000))
    }, BEAT)
    let frozenSince: number | null = null
    document.addEventListener('freeze', () => { frozenSince = Date.now() })
    document.addEventListener('resume', () => {
      if (frozenSince !== null && serves()) notice(NOTICES.frozen((Date.now() - frozenSince) / 1000))
      frozenSince = null
    })
    addEventListener('offline', () => { if (serves()) notice(NOTICES.offline) })
    addEventListener('online', () => { if (serves()) notice(NOTICES.online) })
    document.addEventListener('visibilitychange', () => {
      if (document.hidden) this.#hiddenSince = Date.now()
      else if (this.#hiddenSince !== null) {
        if (this.#served !== null) notice(NOTICES.hidden((Date.now() - this.#hiddenSince) / 1000))
        this.#hiddenSince = null
        this.#beat = Date.now()
      }
    })
  }

  /** Every state of the node. */
  state ({ state, step, relay, blocks, clockAhead }: NodeStatus): void {
    this.#relay(relay)
    this.#clock(clockAhead)
    if (state === 'loading') this.#broken ||= this.#served !== null && step !== 'reserving' && this.#lostSince === null
    else if (state === 'serving') {
      const now = blocks === undefined ? '' : spanOf(...blocks)
      if (this.#broken) notice(now === this.#served ? NOTICES.rebuilt : NOTICES.moved(now))
      this.#served = now
      this.#broken = false
    } else this.forget()
  }

  #relay (state: string | undefined): void {
    if (state === 'lost' && this.#lostSince === null) {
      this.#lostSince = performance.now()
      notice(NOTICES.lost)
    } else if (state === 'reserved' && this.#lostSince !== null) {
      notice(NOTICES.found((performance.now() - this.#lostSince) / 1000))
      this.#lostSince = null
    }
  }

  /** Said once a start. */
  #clock (ahead: number | undefined): void {
    if (ahead !== undefined && ahead !== this.#ahead) notice(NOTICES.clock(ahead))
    this.#ahead = ahead
  }

  /** Nothing that was served is missed. */
  forget (): void {
    this.#served = null
    this.#broken = false
  }

  /** A node that ended waits for no relay. */
  ended (): void {
    this.forget()
    this.#lostSince = null
  }
}
