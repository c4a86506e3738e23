// js-libp2p streams in memory, as far as bridge/ needs them: two ends, half-close, reset, pause.

import type { RpcStream } from '../../web/bridge/streams.ts'

type Kind = 'message' | 'remoteCloseWrite' | 'close' | 'drain'

export class MemoryStream implements RpcStream {
  status = 'open'
  readStatus = 'readable'
  remoteWriteStatus = 'writable'
  aborted: Error | null = null
  closed = false
  sent: Uint8Array[] = []
  other: MemoryStream | null = null
  /** Set by a test: the other end's window is used up. */
  writableNeedsDrain = false
  credited = false
  #listeners: Array<[Kind, (event: any) => void]> = []
  #held: Uint8Array[] = []

  addEventListener (type: Kind, listener: (event: any) => void): void {
    this.#listeners.push([type, listener])
    if (type === 'message') queueMicrotask(() => { this.#flush() })
  }

  removeEventListener (type: Kind, listener: (event: any) => void): void {
    this.#listeners = this.#listeners.filter(([kind, one]) => kind !== type || one !== listener)
  }

  emit (type: Kind, fields: object): void {
    const event = { type, ...fields }
    if (type === 'remoteCloseWrite') this.remoteWriteStatus = 'closed'
    if (type === 'close' && this.status === 'open') this.status = 'reset'
    for (const [kind, listener] of this.#listeners) if (kind === type) listener(event)
  }

  /** What the other end sent arrives. */
  arrive (data: Uint8Array): void {
    this.#held.push(data)
    this.#flush()
  }

  #flush (): void {
    while (this.readStatus === 'readable' && this.#held.length > 0 && this.#listeners.length > 0) {
      this.emit('message', { data: this.#held.shift() })
    }
  }

  pause (): void { this.readStatus = 'paused' }

  resume (): void {
    this.readStatus = 'readable'
    this.#flush()
  }

  get held (): number { return this.#held.length }

  send (data: Uint8Array): boolean {
    if (this.closed || this.aborted !== null) throw new Error('the stream is closed')
    this.sent.push(data.slice())
    const copy = data.slice()
    queueMicrotask(() => this.other?.arrive(copy))
    return !this.writableNeedsDrain
  }

  async close (): Promise<void> {
    if (this.closed) return
    this.closed = true
    queueMicrotask(() => this.other?.emit('remoteCloseWrite', {}))
  }

  abort (error: Error): void {
    if (this.aborted !== null) return
    this.aborted = error
    this.status = 'aborted'
    this.emit('close', { error })
    queueMicrotask(() => {
      const other = this.other
      if (other !== null && other.aborted === null) other.emit('close', { error: new Error('the other end reset the stream') })
    })
  }
}

export function streamPair (): [MemoryStream, MemoryStream] {
  const [here, there] = [new MemoryStream(), new MemoryStream()]
  here.other = there
  there.other = here
  return [here, there]
}

/** Everything `stream` sent, joined, as hex. */
export function hexOf (stream: MemoryStream): string {
  return Buffer.concat(stream.sent).toString('hex')
}

export const fromHex = (text: string): Uint8Array<ArrayBuffer> => Uint8Array.from(Buffer.from(text, 'hex'))
export const toHex = (data: Uint8Array): string => Buffer.from(data).toString('hex')

/** Let everything that is ready run. */
export async function settle (): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await new Promise(resolve => setImmediate(resolve))
}
