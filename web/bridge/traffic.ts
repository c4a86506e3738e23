// What goes to and comes from each connected peer: bytes of its RPCs, and how long an echo takes.
// Rule of the file: numbers only; a peer's are forgotten when its last connection is gone.

import type { ConnectionKind, PeerReport } from '../worker/messages.ts'
import { MAX_REPORTED } from '../worker/messages.ts'
import { type Meter, Reader } from './reader.ts'
import { type RpcStream, write } from './streams.ts'

const ECHO_SIZE = 32 // of libp2p's ping

interface Account extends Meter { roundTrip: number | null, echoedAt: number }

export class Traffic {
  readonly #accounts = new Map<string, Account>()

  /** What the streams of one peer's RPCs are to carry. */
  meter (peer: string): Meter {
    return this.#account(peer)
  }

  /** Whether a peer's round trip was last measured `age` ms ago or never; if so it counts as measured now. */
  takeTurn (peer: string, now: number, age: number): boolean {
    const account = this.#account(peer)
    if (now - account.echoedAt < age) return false
    account.echoedAt = now
    return true
  }

  echoed (peer: string, milliseconds: number): void {
    const account = this.#accounts.get(peer)
    if (account !== undefined) account.roundTrip = milliseconds
  }

  /** One line a peer, the busiest first; whoever is not in `kinds` is forgotten. */
  report (kinds: ReadonlyMap<string, ConnectionKind>): PeerReport[] {
    for (const peer of this.#accounts.keys()) if (!kinds.has(peer)) this.#accounts.delete(peer)
    const lines = [...kinds].map(([peer, kind]): PeerReport => {
      const { bytesIn, bytesOut, roundTrip } = this.#account(peer)
      return { peer, kind, bytes_in: bytesIn, bytes_out: bytesOut, ...(roundTrip === null ? {} : { rtt_ms: Math.round(roundTrip * 10) / 10 }) }
    })
    const weight = (line: PeerReport): number => line.kind === 'relay' ? Infinity : line.bytes_in + line.bytes_out
    return lines.sort((a, b) => weight(b) - weight(a)).slice(0, MAX_REPORTED)
  }

  #account (peer: string): Account {
    const known = this.#accounts.get(peer)
    if (known !== undefined) return known
    const account = { bytesIn: 0, bytesOut: 0, roundTrip: null, echoedAt: -Infinity }
    this.#accounts.set(peer, account)
    return account
  }
}

/** ms that libp2p's ping takes on a stream that was opened for it. */
export async function echo (stream: RpcStream): Promise<number> {
  const reader = new Reader(stream)
  const sent = performance.now()
  await write(stream, crypto.getRandomValues(new Uint8Array(ECHO_SIZE)))
  await reader.exactly(ECHO_SIZE)
  const taken = performance.now() - sent
  stream.close().catch(() => {})
  return taken
}
