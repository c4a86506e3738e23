// The SDK's client: completions through the swarm, computed by this tab's own client of it.
// Rule of the file: nothing loads before `start` or the first completion; a client contributes nothing and stores no
// identity: it is a peer of its own beside the tab's node, so that either can stop, fail or run out of memory alone.

/// <reference lib="esnext.disposable" preserve="true" />

import { hostRtc } from '../bridge/rtc.ts'
import type { Chain, ClientToPage, Finished, HopReport, PageToClient } from '../worker/chat_messages.ts'
import type { IceServer, NetworkToPage, PageToNetwork, PeerReport } from '../worker/messages.ts'
import { type Abortable, abortable, cutShort } from './abort.ts'
import { Answer, type ChatCompletion, type ChatCompletionChunk, CompletionError, type CompletionParams, orderOf } from './completion.ts'
import { readIceServers } from './ice.ts'
import { askOrigin } from './origin.ts'
import { problemOf } from './problem.ts'
import { TypedWorker } from './worker.ts'

const STOP_PATIENCE = 5000 // ms for ending sessions in order before the workers are ended

/** What `createClient` takes. */
export interface ClientOptions {
  /** Where relay, model and bundles come from, such as `location.origin`. */
  relay: string | URL
  /** The model to talk to; absent: the one the relay offers. */
  model?: string
  /** Closes the client when aborted. */
  signal?: AbortSignal
  /** STUN and TURN servers for direct connections; absent: those the origin names. */
  iceServers?: IceServer[]
  /** 'off': always through the relay. */
  webrtc?: 'auto' | 'off'
  /** Whether servers pass a step on to the next one themselves ('on'), or it comes back here between them ('off');
   * 'auto', which is the default: as it is sooner. */
  push?: 'auto' | 'on' | 'off'
  /** Everything the client does, as it happens. */
  onEvent?: (event: ClientEvent) => void
}

/** `idle`: nothing is loaded. `loading`, `ready`. `closed`: for good. `error`: it failed, and the next completion tries again. */
export type ClientState = 'idle' | 'loading' | 'ready' | 'closed' | 'error'

/**
 * What a client tells: its state; what it loads, in bytes (a total of 0 is not known); the chain of servers that answers,
 * again (`anew`) when it broke within an answer, with those that left it; how the relay is reached; who is connected.
 */
export type ClientEvent =
  /** `code`: what kind of error, as of a Problem. */
  | { event: 'state', state: ClientState, message?: string, code?: string }
  | { event: 'progress', stage: string, done: number, total: number }
  | { event: 'chain', hops: HopReport[], lost: string[], anew: boolean }
  | { event: 'connection', connection: string, message: string }
  | { event: 'peers', peers: PeerReport[] }

/** How a client is doing. */
export interface ClientStatus {
  state: ClientState
  peer_id?: string
  /** The last chain, first hop first, empty once it was lost for good; how each is connected, as far as that is known. */
  hops: Array<HopReport & { connection?: PeerReport }>
  /** Of the last answer, after its first token. */
  tokens_per_second?: number
  /** Chains that were replaced within an answer, since the client began. */
  failovers: number
}

/** A client of the swarm in this tab. It contributes nothing and keeps no identity; servers see activations. */
export interface Client {
  /** Load everything now; otherwise the first completion does. Rejects if that fails; it may be tried again. */
  start: (options?: Abortable) => Promise<void>
  /** Completions in the shape of OpenAI's API. */
  chat: { completions: { create: Create } }
  /** As of now. */
  status: () => ClientStatus
  /** End every answer, telling servers, and let go of all memory; aborting `signal` leaves servers to find out for themselves. */
  close: (options?: Abortable) => Promise<void>
  /** As `close`, for `await using`. */
  [Symbol.asyncDispose]: () => Promise<void>
}

/** Completes a conversation: whole, or with `stream` in chunks, for `for await`; leaving that loop aborts the rest. */
export interface Create {
  (params: CompletionParams & { stream: true }): Promise<AsyncIterableIterator<ChatCompletionChunk>>
  (params: CompletionParams & { stream?: false }): Promise<ChatCompletion>
}

interface Running {
  network: TypedWorker<PageToNetwork, NetworkToPage>
  client: TypedWorker<PageToClient, ClientToPage>
  endRtc: () => void
  ready: () => void
  failed: (error: Error) => void
  stopped: () => void
}

/** A client that has loaded nothing yet. */
export function createClient (options: ClientOptions): Client {
  return new TabClient(options)
}

class TabClient implements Client {
  readonly #options: ClientOptions
  readonly #answers = new Map<number, Answer>()
  readonly #chains = new Map<number, HopReport[]>()
  #state: ClientState = 'idle'
  #starting: Promise<void> | null = null
  #running: Running | null = null
  #model = ''
  #peerId: string | undefined
  #peers: PeerReport[] = []
  #hops: HopReport[] = []
  #rate: number | undefined
  #failovers = 0
  #numbers = 0

  readonly chat = { completions: { create: this.#create.bind(this) as Create } }

  constructor (options: ClientOptions) {
    this.#options = options
    options.signal?.addEventListener('abort', () => { void this.close() }, { once: true })
  }

  async start ({ signal }: Abortable = {}): Promise<void> {
    signal?.throwIfAborted()
    if (this.#state === 'closed') throw new CompletionError('UsageError', 'this client was closed; create another')
    this.#starting ??= this.#load().catch((error: unknown) => {
      this.#starting = null
      if (this.#state === 'loading') this.#fail(problemOf(error))
      throw error
    })
    await abortable(this.#starting, signal)
  }

  status (): ClientStatus {
    const connections = new Map(this.#peers.map(report => [report.peer, report]))
    const hops = this.#hops.map(hop => {
      const connection = connections.get(hop.peer)
      return connection === undefined ? hop : { ...hop, connection }
    })
    return {
      state: this.#state,
      hops,
      failovers: this.#failovers,
      ...(this.#peerId === undefined ? {} : { peer_id: this.#peerId }),
      ...(this.#rate === undefined ? {} : { tokens_per_second: this.#rate })
    }
  }

  async close ({ signal }: Abortable = {}): Promise<void> {
    const wasReady = this.#state === 'ready'
    this.#tell('closed')
    const running = this.#running
    if (running !== null) {
      const stopped = new Promise<void>(resolve => {
        const timer = setTimeout(resolve, wasReady ? STOP_PATIENCE : 0)
        running.stopped = () => {
          clearTimeout(timer)
          resolve()
        }
      })
      running.client.post({ type: 'stop-client' })
      await cutShort(stopped, signal, () => { running.stopped() })
    }
    this.#end(new CompletionError('UsageError', 'the client was closed'))
  }

  async [Symbol.asyncDispose] (): Promise<void> {
    await this.close()
  }

  async #create (params: CompletionParams): Promise<ChatCompletion | AsyncIterableIterator<ChatCompletionChunk>> {
    const id = ++this.#numbers
    const order = orderOf(id, params)
    const { signal, stream } = params
    signal?.throwIfAborted()
    await this.start(signal === undefined ? {} : { signal })
    const running = this.#running
    if (running === null) throw new CompletionError('UsageError', 'the client was closed')
    signal?.throwIfAborted()
    const answer = new Answer(id, this.#model, Math.floor(Date.now() / 1000), () => {
      this.#forget(id)
      running.client.post({ type: 'cancel', id, reason: 'the page gave up' })
    })
    this.#answers.set(id, answer)
    signal?.addEventListener('abort', () => { answer.abort(signal.reason) }, { once: true })
    running.client.post(order)
    return stream === true ? answer : await answer.whole()
  }

  async #load (): Promise<void> {
    this.#tell('loading')
    const { relay, model: wanted, iceServers, webrtc, push = 'auto' } = this.#options
    const given = iceServers === undefined ? null : readIceServers(iceServers, 'the option iceServers')
    const described = await askOrigin(relay, wanted, this.#options.signal)
    const origin = described.url
    this.#model = described.model.prefix
    const rpc = new MessageChannel()
    const rtc = new MessageChannel()
    await new Promise<void>((resolve, reject) => {
      const broken = (what: string) => (reason: string): void => { this.#fail({ code: 'LocalError', message: `the ${what} worker broke: ${reason}` }) }
      const network = new TypedWorker<PageToNetwork, NetworkToPage>(described.workers.network, message => { this.#fromNetwork(message) }, broken('network'))
      const client = new TypedWorker<PageToClient, ClientToPage>(described.workers.client, message => { this.#fromClient(message) }, broken('client'))
      this.#running = { network, client, endRtc: hostRtc(rtc.port1), ready: resolve, failed: reject, stopped: () => {} }
      const direct = webrtc !== 'off' && typeof RTCPeerConnection === 'function'
      const { relays, model } = described
      network.post({ type: 'start-network', identity: 'new', relays, node: rpc.port1, rtc: rtc.port2, direct, ice_servers: given ?? described.iceServers, ahead: described.ahead, near_bits: 0 }, [rpc.port1, rtc.port2])
      client.post({ type: 'start-client', config: { origin, relays, model, push }, network: rpc.port2 }, [rpc.port2])
    })
    if (this.#state === 'loading') this.#tell('ready')
  }

  #fromNetwork (message: NetworkToPage): void {
    if (message.type === 'identity') this.#peerId = message.peer_id
    else if (message.type === 'failed') this.#fail({ code: message.error, message: message.message })
    else if (message.type === 'peers') this.#emit({ event: 'peers', peers: this.#peers = message.peers })
    else this.#emit({ event: 'connection', connection: message.state, message: message.reason })
  }

  #fromClient (message: ClientToPage): void {
    if (message.type === 'client-state') {
      if (message.state === 'ready') this.#running?.ready()
    } else if (message.type === 'progress') this.#emit({ event: 'progress', stage: message.stage, done: message.done, total: message.total })
    else if (message.type === 'failed') this.#fail({ code: message.error, message: message.message })
    else if (message.type === 'stopped') this.#running?.stopped()
    else if (message.type === 'chain') this.#onChain(message)
    else {
      this.#answers.get(message.id)?.take(message)
      if (message.type === 'finished') this.#rate = rateOf(message) ?? this.#rate
      if (message.type === 'refused' && this.#hops === this.#chains.get(message.id)) this.#hops = [] // nobody answers any more
      if (message.type !== 'piece') this.#forget(message.id)
    }
  }

  #onChain ({ id, hops }: Chain): void {
    const before = this.#chains.get(id)
    this.#chains.set(id, hops)
    this.#hops = hops
    if (before !== undefined) this.#failovers++
    const now = new Set(hops.map(({ peer }) => peer))
    this.#emit({ event: 'chain', hops, lost: [...new Set((before ?? []).map(({ peer }) => peer))].filter(peer => !now.has(peer)), anew: before !== undefined })
  }

  #forget (id: number): void {
    this.#answers.delete(id)
    this.#chains.delete(id)
  }

  #fail ({ code, message }: { code: string, message: string }): void {
    if (this.#state === 'closed') return
    const error = new CompletionError(code, message)
    this.#starting = null
    this.#tell('error', { message, code })
    this.#end(error)
  }

  #end (error: Error): void {
    const running = this.#running
    this.#running = null
    this.#peers = []
    for (const [id, answer] of [...this.#answers]) {
      answer.fail(error)
      this.#forget(id)
    }
    if (running === null) return
    running.failed(error)
    running.client.end()
    running.network.end()
    running.endRtc()
  }

  #tell (state: ClientState, why: { message?: string, code?: string } = {}): void {
    this.#state = state
    this.#emit({ event: 'state', state, ...why })
  }

  #emit (event: ClientEvent): void {
    this.#options.onEvent?.(event)
  }
}

function rateOf ({ completion_tokens: tokens, decoding_ms: time }: Finished): number | undefined {
  return tokens > 1 && time > 0 ? (tokens - 1) * 1e3 / time : undefined
}
