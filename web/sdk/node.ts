// The SDK's node: this tab as a server of the swarm, with states, limits and typed events.
// Rule of the file: nothing loads or is stored before `start`; every state is told before what awaits it goes on.

/// <reference lib="esnext.disposable" preserve="true" />

import type { State } from '../worker/messages.ts'
import { type Abortable, cutShort } from './abort.ts'
import {
  changeOf, type Limits, type NodeEvents, type NodeState, type NodeStatus, type Peer, type Progress, toPeer, TypedEventTarget
} from './events.ts'
import { type Facts, limitsMessage, readLimits, reasonsAgainst, watchMachine } from './limits.ts'
import { Problem, problemOf } from './problem.ts'
import { Silence } from './silence.ts'
import { type NodeEvent, Tab, type TabOptions } from './tab.ts'
import { Turn } from './turn.ts'

/** What `createNode` takes. */
export interface NodeOptions extends TabOptions {
  /** What the node may use; see `setLimits`. */
  limits?: Limits
  /** Stops the node when aborted, at once. */
  signal?: AbortSignal
  /** As the event `progress`. */
  onProgress?: (progress: Progress) => void
}

/** A node of the swarm in this tab; it contributes only between `start` and the end of `finish` or `stop`. */
export interface KwaaiNode extends TypedEventTarget<NodeEvents>, AsyncDisposable {
  /**
   * Begin. Resolves when the node serves, or waits: paused by a limit, or because another tab of this browser serves
   * (`elsewhere`; it takes over by itself). Rejects with why it cannot; aborting `signal` stops it.
   */
  start: (options?: Abortable) => Promise<void>
  /** Compute for nobody until `resume`, keeping what is loaded. */
  pause: () => void
  /** Go on, where the limits allow it. */
  resume: () => void
  /**
   * Leave when what is being served has ended, at most `within` seconds from now (90 unless said). Aborting `signal`
   * hurries it, as `stop` does.
   */
  finish: (options?: Abortable & { within?: number }) => Promise<void>
  /** Leave now: clients are told, and go on elsewhere. Aborting `signal` ends it without waiting until they have heard. */
  stop: (options?: Abortable) => Promise<void>
  /** Change limits, with effect at once; those not named stay. Throws a TypeError for what makes no sense. */
  setLimits: (limits: Limits) => void
  /** As of now. */
  status: () => NodeStatus
}

/** A node that does nothing yet. Throws a TypeError for limits that make no sense. */
export function createNode (options: NodeOptions): KwaaiNode {
  return new TabNode(options)
}

const FINISH = 90 // s
const STATES: Partial<Record<State, NodeState>> = { online: 'serving', paused: 'paused', draining: 'draining' }
const OVER: NodeState[] = ['idle', 'stopped', 'failed']
const SETTLED: NodeState[] = ['serving', 'paused', 'elsewhere']

class TabNode extends TypedEventTarget<NodeEvents> implements KwaaiNode {
  readonly #tab: Tab
  readonly #options: NodeOptions
  #status: NodeStatus
  #turn: Turn | null = null
  #facts: (() => Facts) | null = null // since the turn is ours
  #asked = false // to pause
  #launched = false
  #settle: { resolve: () => void, reject: (error: Error) => void } | null = null
  #leave: AbortController | null = null
  readonly #silence = new Silence((waits, seconds) => { this.#stall(waits, seconds) })

  constructor (options: NodeOptions) {
    super()
    this.#options = options
    const limits = readLimits({}, options.limits)
    this.#status = { state: 'idle', work: { sessions: 0, tokensDone: 0 }, peers: [], limits }
    this.#tab = new Tab({ ...options, onEvent: event => { this.#hear(event) } })
    options.signal?.addEventListener('abort', () => { void this.stop() }, { once: true })
  }

  async start ({ signal }: Abortable = {}): Promise<void> {
    signal?.throwIfAborted()
    this.#options.signal?.throwIfAborted()
    if (!OVER.includes(this.#status.state)) throw new Error(`the node is ${this.#status.state} already; stop it first`)
    const settled = new Promise<void>((resolve, reject) => { this.#settle = { resolve, reject } })
    const abort = (): void => {
      void this.stop()
      this.#settle?.reject(signal?.reason as Error)
    }
    signal?.addEventListener('abort', abort)
    this.#begin()
    try {
      await settled
    } finally {
      signal?.removeEventListener('abort', abort)
    }
  }

  pause (): void {
    this.#asked = true
    this.#heed()
  }

  resume (): void {
    this.#asked = false
    this.#heed()
  }

  async finish ({ within = FINISH, signal }: Abortable & { within?: number } = {}): Promise<void> {
    this.#asked = false
    if (OVER.includes(this.#status.state)) return
    if (this.#launched) {
      this.#tell('draining') // as was asked; the node itself says so once the swarm knows
      await cutShort(this.#tab.stop({ drain: within }), signal, () => { void this.stop() })
    } else this.#options.onEvent?.({ event: 'offline' })
    this.#end()
    if (!OVER.includes(this.#status.state)) this.#tell('stopped')
  }

  async stop ({ signal }: Abortable = {}): Promise<void> {
    await cutShort(this.finish({ within: 0 }), signal, () => { this.#tab.cut() })
  }

  setLimits (limits: Limits): void {
    this.#status = { ...this.#status, limits: readLimits(this.#status.limits, limits) }
    this.#heed()
    this.emit('state', this.status())
  }

  status (): NodeStatus {
    return { ...this.#status }
  }

  async [Symbol.asyncDispose] (): Promise<void> {
    await this.stop()
  }

  #begin (): void {
    const { limits } = this.#status
    this.#status = { state: 'idle', work: { sessions: 0, tokensDone: 0 }, peers: [], limits }
    const turn = this.#turn = new Turn()
    const { signal } = this.#leave = new AbortController()
    this.#tell('preflight')
    this.#silence.heard('preflight')
    this.#watchThePage(signal)
    turn.take(who => { this.#wait('elsewhere', { elsewhere: who }) })
      .then(async () => {
        const facts = await watchMachine(signal, () => { this.#heed() })
        if (this.#turn !== turn) return
        this.#facts = facts
        this.#heed()
      })
      .catch((error: unknown) => {
        if (this.#turn === turn) this.#fail(problemOf(error))
      })
  }

  /** Launch unless a limit forbids it; who runs is told what is allowed and how things are. */
  #heed (): void {
    if (this.#facts === null) return
    const { limits } = this.#status
    const facts = this.#facts()
    if (this.#launched) {
      this.#tab.tell(limitsMessage(limits, facts, this.#asked))
      return
    }
    const reasons = reasonsAgainst(limits, facts, this.#asked)
    if (reasons.length > 0) this.#wait('paused', { reasons })
    else this.#launch()
  }

  /** What the tab does not know of, as it does not run yet. */
  #wait (state: 'paused' | 'elsewhere', more: Partial<NodeStatus>): void {
    const { reasons } = more
    this.#tell(state, more)
    this.#options.onEvent?.({ event: state, ...(reasons === undefined ? {} : { reasons }) })
  }

  #launch (): void {
    this.#launched = true
    this.#tell('preflight')
    this.#silence.heard('preflight')
    void this.#tab.start().then(() => { this.#heed() })
  }

  /** A page that goes takes the node along: say goodbye; one that comes back from the back/forward cache begins anew. */
  #watchThePage (signal: AbortSignal): void {
    addEventListener('pagehide', () => { this.#tab.bye() }, { signal })
    addEventListener('pageshow', event => {
      if (event.persisted) void this.stop().then(async () => { await this.start() }).catch(() => {})
    }, { signal })
  }

  #hear (event: NodeEvent): void {
    this.#options.onEvent?.(event)
    const { event: name, peer_id: peerId } = event
    if (peerId !== undefined && this.#turn !== null) this.#turn.peerId = peerId
    if (name === 'progress') this.#onProgress(event)
    else if (name === 'storage') this.#onStorage(event)
    else if (name === 'threads') this.#tell(this.#status.state, { threads: { count: event.threads ?? 1, message: event.message ?? '' } })
    else if (name === 'clock') this.#tell(this.#status.state, { clockAhead: event.ahead ?? 0 })
    else if (name === 'peers') this.#onPeers((event.peers ?? []).map(toPeer))
    else if (name === 'serving') this.#onServing(event)
    else if (name === 'receipt') this.#onReceipt(event)
    else if (name === 'connection') this.#onConnection(event)
    else if (name === 'error') this.#fail(new Problem(event.code ?? '', event.message ?? 'the node failed without a reason', event.values))
    else if (name === 'offline') this.#onPeers([])
    else if (name !== 'elsewhere') this.#onState(name, event)
  }

  #onState (name: State, { peer_id: peerId, blocks, backend, weights, reasons }: NodeEvent): void {
    const state = STATES[name] ?? 'loading'
    const [start, end] = blocks ?? []
    if (state === 'loading' && this.#status.since === undefined) this.#silence.heard(name) // who has served may drain without a word
    this.#tell(state, {
      ...(state === 'loading' ? { step: name as 'starting' } : {}),
      ...(state === 'paused' && reasons !== undefined ? { reasons } : {}),
      ...(state === 'serving' && this.#status.since === undefined ? { since: new Date() } : {}),
      ...(peerId === undefined ? {} : { peerId }),
      ...(start === undefined || end === undefined ? {} : { blocks: [start, end] }),
      ...(backend === undefined ? {} : { backend: backend as 'wasm' }),
      ...(weights === undefined ? {} : { weights })
    })
  }

  #onConnection ({ connection }: NodeEvent): void {
    if (this.#status.step === 'reserving' && this.#silence.waiting) this.#silence.heard('reserving') // with the next relay
    this.#tell(this.#status.state, { relay: connection as 'reserved' })
  }

  #onProgress ({ stage = '', done = 0, total = 0, cached = 0, rate = 0, seconds_left: left }: NodeEvent): void {
    const progress = { stage, done, total, cached, rate, ...(left === undefined ? {} : { secondsLeft: left }) }
    this.#status = { ...this.#status, progress }
    if (this.#silence.waiting) this.#silence.heard(stage)
    this.#options.onProgress?.(progress)
    this.emit('progress', progress)
  }

  #onStorage ({ kept = false, needed = 0, room = 0, message = '' }: NodeEvent): void {
    this.#tell(this.#status.state, { storage: { kept, needed, room, message } })
  }

  #onPeers (peers: Peer[]): void {
    const change = changeOf(this.#status.peers, peers)
    this.#status = { ...this.#status, peers }
    this.emit('peer', change)
  }

  #onServing ({ sessions = 0, tokens_done: tokensDone = 0, requests_done: requestsDone, busy: busySeconds, leaving_in: leavingIn }: NodeEvent): void {
    const work = { sessions, tokensDone, ...(requestsDone === undefined ? {} : { requestsDone }), ...(busySeconds === undefined ? {} : { busySeconds }) }
    this.#status = { ...this.#status, work, ...(leavingIn === undefined ? {} : { leavingIn }) }
    this.emit('work', work)
    if (leavingIn !== undefined) this.emit('state', this.status())
  }

  #onReceipt ({ receipt }: NodeEvent): void {
    if (receipt === undefined) return
    const { bytes_in: bytesIn, bytes_out: bytesOut, blocks: [start = 0, end = 0], started, ended, error, code, ...rest } = receipt
    this.emit('receipt', {
      ...rest, blocks: [start, end], bytesIn, bytesOut, started: new Date(started * 1e3), ended: new Date(ended * 1e3), ...(error === '' ? {} : { error, code })
    })
  }

  /** Something that a start needs never answers. */
  #stall (waits: string, seconds: number): void {
    const problem = new Problem('stalled', `nothing was heard for ${seconds} s at the stage "${waits}" of the start; start again`, { waits })
    if (this.#launched) this.#tab.giveUp(problem)
    else {
      const { message, code, values } = problem
      this.#options.onEvent?.({ event: 'error', message, code, values })
      this.#fail(problem)
    }
  }

  #fail (error: Problem): void {
    this.#settle?.reject(error)
    this.#settle = null
    this.#end()
    this.#tell('failed', { message: error.message, problem: error })
    this.emit('error', error)
  }

  /** Let go of the turn, the limits' watch and the page. */
  #end (): void {
    this.#launched = false
    this.#turn?.end()
    this.#leave?.abort()
    this.#facts = this.#turn = this.#leave = null
    this.#settle?.reject(new DOMException('the node was stopped', 'AbortError'))
    this.#settle = null
  }

  #tell (state: NodeState, more: Partial<NodeStatus> = {}): void {
    const { step, reasons, message, problem, elsewhere, progress, leavingIn, ...kept } = this.#status
    const same = state === this.#status.state
    const passing = { step, reasons, message, problem, elsewhere, progress, leavingIn }
    const lasting = Object.fromEntries(Object.entries(passing).filter(([, value]) => same && value !== undefined))
    this.#status = { ...kept, ...lasting, state, ...more }
    if (state !== 'preflight' && state !== 'loading') this.#silence.end()
    this.emit('state', this.status())
    if (!SETTLED.includes(state)) return
    this.#settle?.resolve()
    this.#settle = null
  }
}
