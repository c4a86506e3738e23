// When a peer that is reached through the relay gets a direct connection too, and which of a peer's
// connections carries a new stream. Rule of the file: decisions only; libp2p is behind `Directory`, the
// clock is given, and an attempt that fails fails no stream.
//
// The tie: who dialled the circuit begins; if both did, the peer whose id sorts first begins, and should
// two direct connections come about all the same, both ends use the one that this peer began.

const FIRST_PAUSE = 5000 // ms after the first failed attempt; doubles
const LONGEST_PAUSE = 5 * 60_000
const MAX_ATTEMPTS = 8 // under way at once: each is an RTCPeerConnection of the page

/** A connection, as far as these decisions go. `ours`: we began it; `idle`: no stream is on it. */
export interface Link { direct: boolean, ours: boolean, idle: boolean }

/** What is asked of libp2p. Peers are base58 ids. */
export interface Directory<L extends Link> {
  /** The open connections to a peer, oldest first. */
  links: (peer: string) => L[]
  /** Make a direct connection through the circuit; rejects when that fails. */
  connect: (peer: string) => Promise<void>
  close: (link: L) => void
}

interface Entry { speaks: boolean, failures: number, notBefore: number, trying: boolean }

/** The best link for a new stream; `first`: our id sorts before the peer's. */
export function bestLink<L extends Link> (links: readonly L[], first: boolean): L | null {
  const direct = links.filter(link => link.direct)
  return direct.find(link => link.ours === first) ?? direct[0] ?? links[0] ?? null
}

/** Whether it is us who make the direct connection to a peer with these links. */
export function isOurTurn (links: readonly Link[], first: boolean): boolean {
  if (links.some(link => link.direct) || !links.some(link => link.ours)) return false
  return first || links.every(link => link.ours)
}

/** ms from one failed attempt to the next. */
export function pauseAfter (failures: number): number {
  return Math.min(FIRST_PAUSE * 2 ** (failures - 1), LONGEST_PAUSE)
}

export class Upgrades<L extends Link> {
  readonly #self: string
  readonly #directory: Directory<L>
  readonly #now: () => number
  readonly #entries = new Map<string, Entry>()
  readonly #waiting = new Map<string, Set<() => void>>()
  readonly #unexpected = new Set<string>() // peers waited for in vain: not again before something changes
  #attempts = 0

  constructor (self: string, directory: Directory<L>, now: () => number) {
    this.#self = self
    this.#directory = directory
    this.#now = now
  }

  best (peer: string): L | null {
    return bestLink(this.#directory.links(peer), this.#self < peer)
  }

  /** A peer has told whether it speaks WebRTC. */
  identified (peer: string, speaks: boolean): void {
    const entry = this.#entries.get(peer)
    if (entry === undefined) this.#entries.set(peer, { speaks, failures: 0, notBefore: 0, trying: false })
    else entry.speaks = speaks
    this.changed(peer)
  }

  /** What is known of a peer, or its connections, changed. */
  changed (peer: string): void {
    this.#consider(peer)
    const links = this.#directory.links(peer)
    if (links.length === 0 || links.some(link => link.direct)) this.#unexpected.delete(peer)
    if (this.#isSettled(peer)) for (const resolve of this.#waiting.get(peer) ?? []) resolve()
  }

  /** Try again what is due, close what lost the tie, forget who is gone. */
  tick (): void {
    for (const [peer, entry] of this.#entries) {
      const links = this.#directory.links(peer)
      if (links.length === 0 && !entry.trying && entry.notBefore <= this.#now()) this.#entries.delete(peer)
      const kept = bestLink(links, this.#self < peer)
      for (const link of links) if (link.direct && link.ours && link !== kept && link.idle) this.#directory.close(link)
      this.#consider(peer)
    }
  }

  /** Wait until a peer's first direct connection is there or is not to be expected; at most `patience` ms, and once. */
  async settled (peer: string, patience: number): Promise<void> {
    if (this.#isSettled(peer)) return
    const waiting = this.#waiting.get(peer) ?? new Set()
    this.#waiting.set(peer, waiting)
    await new Promise<void>(resolve => {
      const timer = setTimeout(() => {
        this.#unexpected.add(peer)
        settle()
      }, patience)
      function settle (): void {
        clearTimeout(timer)
        waiting.delete(settle)
        resolve()
      }
      waiting.add(settle)
    })
    if (waiting.size === 0) this.#waiting.delete(peer)
  }

  #isSettled (peer: string): boolean {
    const links = this.#directory.links(peer)
    const entry = this.#entries.get(peer)
    return links.length === 0 || links.some(link => link.direct) || this.#unexpected.has(peer) || (entry !== undefined && (!entry.speaks || entry.failures > 0))
  }

  #consider (peer: string): void {
    const entry = this.#entries.get(peer)
    if (entry === undefined || !entry.speaks || entry.trying || entry.notBefore > this.#now() || this.#attempts >= MAX_ATTEMPTS) return
    if (isOurTurn(this.#directory.links(peer), this.#self < peer)) void this.#attempt(peer, entry)
  }

  async #attempt (peer: string, entry: Entry): Promise<void> {
    entry.trying = true
    this.#attempts++
    try {
      await this.#directory.connect(peer)
      entry.failures = 0
      entry.notBefore = this.#now() + FIRST_PAUSE // what breaks as soon as it is there is not made anew at once
    } catch {
      entry.failures++
      entry.notBefore = this.#now() + pauseAfter(entry.failures)
    }
    entry.trying = false
    this.#attempts--
    this.changed(peer)
  }
}
