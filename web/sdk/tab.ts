// One run of a node in this tab: the two workers, started and ended, and what becomes of them.
// Rule of the file: everything is told as plain JSON, in the workers' own words; nothing loads before `start`.

import { hostRtc } from '../bridge/rtc.ts'
import type { Backend, IceServer, NetworkToPage, PageToNetwork, PeerReport, State } from '../worker/messages.ts'
import type { NodeConfig, NodeToPage, PageToNode, PauseReason, Receipt, SetLimits } from '../worker/node_messages.ts'
import { askToKeep } from './cache.ts'
import { readIceServers } from './ice.ts'
import { askOrigin, askRelays, checkBlocks, type Workers } from './origin.ts'
import { preflight } from './preflight.ts'
import { Problem, problemOf } from './problem.ts'
import { TypedWorker } from './worker.ts'

const STOP_PATIENCE = 10_000 // ms for an orderly leave, beside its draining, before the workers are ended
const DRAIN = 90 // s
const RELAYS_EVERY = 60_000 // ms between questions for a second relay, as often as relays look for each other
const SLOTS = 2
const BYE_TIME = 80 // ms the page stays busy when it goes: a message posted alone loses the race 3 of 11 times
const BYE_LEAST = 30 // ... after the network worker has said its goodbyes, where it can be seen that it has
const BYE_MOST = 40 // ... in any case, unless the page gives more: it is not ours

/** What a tab says, as logs keep it. */
export interface NodeEvent {
  event: State | 'elsewhere' | 'connection' | 'progress' | 'storage' | 'threads' | 'clock' | 'serving' | 'peers' | 'receipt'
  peer_id?: string
  blocks?: number[]
  backend?: string
  /** How weights are kept in memory, and why so. */
  weights?: string
  message?: string
  /** Of `error`: what kind, and its parts; see `Problem`. */
  code?: string
  values?: Readonly<Record<string, string>>
  /** While paused. */
  reasons?: PauseReason[]
  /** Of `progress`: bytes of everything there is to load, 0 = unknown; `stage` is what is waited for: python, weights, build. */
  stage?: string
  done?: number
  total?: number
  /** ... how many of those done were kept here before; bytes a second from the network; how long that takes, if known. */
  cached?: number
  rate?: number
  seconds_left?: number
  /** Of `storage`: whether the weights are kept for the next start; if not, `message` says why and what to do. Bytes. */
  kept?: boolean
  needed?: number
  room?: number
  /** Of `threads`: how many compute on the processor; `message` says why not as many as were asked for. */
  threads?: number
  /** Of `clock`: seconds that this machine's clock is ahead of the relay's, by whose time the node lives. */
  ahead?: number
  /** Of `connection`: connecting, reserved or lost. */
  connection?: string
  /** Of `serving`, and in the status while online or draining: open sessions, tokens computed so far. */
  sessions?: number
  tokens_done?: number
  requests_done?: number
  /** Seconds that the engine has computed. */
  busy?: number
  /** While draining: the seconds it may still take. */
  leaving_in?: number
  /** Of `peers` and of `status()`: who is connected, by what, and what went to and fro. */
  peers?: PeerReport[]
  /** Of `receipt`: a session that has ended. */
  receipt?: Omit<Receipt, 'type'>
}

/** What a tab's node takes. */
export interface TabOptions {
  /** Where relay, model and bundles come from, such as `location.origin`; of several the first. The others are relays to hold beside it: addresses of their pages, or multiaddrs (`/ip4/…/ws/p2p/ID`). */
  relay: string | URL | Array<string | URL>
  /** The model to serve; absent: the one the relay offers. */
  model?: string
  /** START:END; auto:COUNT: so many blocks, where the swarm needs them; empty or absent: all of the model's. */
  blocks?: string
  /** Absent: webgpu where there is a real adapter, else wasm. */
  backend?: Backend
  /** How weights are kept in memory: auto (absent: the best that is exact and fits), or a format such as float32 or q4. */
  weights?: string
  /** Bytes that weights may take where their format can be chosen; absent: half of what the browser says there is. */
  memory?: number
  /** Of the processor, for wasm and for training, from 1 to 16; absent: one. One where the page is not isolated. */
  threads?: number
  /** Bytes of fetched weights that this browser may keep; absent: a share of its quota. */
  cacheBytes?: number
  publicName?: string
  /** STUN and TURN servers as RTCPeerConnection takes them; absent: those the origin names. */
  iceServers?: RTCIceServer[]
  /** `off`: peers are reached through the relay only. `forwarded`: as where data channels cannot leave the page. */
  webrtc?: 'auto' | 'forwarded' | 'off'
  /** 'kept': the identity and the weights stay in this browser for the next time; 'none': nothing does. */
  storage?: 'kept' | 'none'
  /** Milliseconds that the page may be held when it is closed, so that clients hear why from this tab (absent: 40) rather than
   * from its relay, a moment later. */
  goodbye?: number
  /** Everything a node says, as plain JSON: for logs. */
  onEvent?: (event: NodeEvent) => void
}

interface Running {
  asking: ReturnType<typeof setInterval>
  network: TypedWorker<PageToNetwork, NetworkToPage>
  node: TypedWorker<PageToNode, NodeToPage>
  endRtc: () => void
}

/** Hold the page until the network worker has had its time: a page that goes takes its workers along. */
function stayBusy (said: Int32Array | null, most: number): void {
  const start = performance.now()
  if (said === null) {
    while (performance.now() < start + Math.min(BYE_TIME, most));
    return
  }
  while (Atomics.load(said, 0) === 0 && performance.now() < start + most);
  const end = Math.min(performance.now() + BYE_LEAST, start + most)
  while (performance.now() < end);
}

function halfTheMemory (): number {
  const { deviceMemory = 4 } = navigator as { deviceMemory?: number } // GiB, where browsers say it
  return deviceMemory * 2 ** 29
}

export class Tab {
  readonly #options: TabOptions
  #running: Running | null = null
  #status: NodeEvent = { event: 'offline' }
  #peers: PeerReport[] = []
  #stopped: () => void = () => {}
  #stopping: Promise<void> | null = null
  #patience: ReturnType<typeof setTimeout> | undefined
  #attempt = 0
  #nearBits = 0
  #present = false // the relay may know of us, so there is something to leave

  constructor (options: TabOptions) {
    this.#options = options
  }

  /** Resolves once the workers run; what follows is told by events. */
  async start (): Promise<void> {
    if (this.#status.event !== 'offline' && this.#status.event !== 'error') throw new Error(`the node is ${this.#status.event} already; stop it first`)
    const attempt = ++this.#attempt
    this.#status = { event: 'starting' }
    this.#tell({ event: 'starting' })
    try {
      const { model, backend, threads } = this.#options
      const [relay, ...others] = [this.#options.relay].flat() as [string | URL, ...Array<string | URL>]
      const given = this.#options.iceServers === undefined ? null : readIceServers(this.#options.iceServers, 'the option iceServers')
      const [described, checked, beside] = await Promise.all([askOrigin(relay, model), preflight(backend, threads), askRelays(others)])
      const missing = checked.checks.find(check => check.required && !check.ok)
      if (missing !== undefined) throw new Problem('unfit', missing.message, { check: missing.name })
      if (attempt !== this.#attempt) return // stopped meanwhile
      checkBlocks(this.#options.blocks ?? '', described.model.num_blocks)
      if (this.#options.storage !== 'none') void askToKeep().catch(() => false) // a browser that refuses may still keep it
      const { ahead } = described
      this.#nearBits = described.nearBits
      if (ahead !== 0) this.#emit({ event: 'clock', ahead })
      this.#launch({
        ahead,
        origin: described.url,
        relays: [...new Set([...described.relays, ...beside])],
        model: described.model,
        blocks: this.#options.blocks ?? '',
        backend: checked.backend,
        threads: checked.threads,
        public_name: this.#options.publicName ?? '',
        weights: this.#options.weights ?? 'auto',
        memory: this.#options.memory ?? halfTheMemory(),
        ...(this.#options.storage === 'none' ? { cache: 0 } : this.#options.cacheBytes === undefined ? {} : { cache: this.#options.cacheBytes })
      }, described.workers, given ?? described.iceServers)
    } catch (error) {
      if (attempt === this.#attempt) this.#fail(problemOf(error))
    }
  }

  /** What it waits for does not come: end it, and say why. */
  giveUp (problem: Problem): void {
    this.#attempt++
    this.#fail(problem)
  }

  /**
   * Leave the swarm in order; resolves when everything has ended. The node says that it leaves and serves on for at
   * most `drain` seconds (90 unless said): until its sessions have ended and no client can come that has not heard of
   * it. Called again meanwhile, the shorter time counts; 0 ends it at once.
   */
  async stop ({ drain = DRAIN }: { drain?: number } = {}): Promise<void> {
    if (this.#stopping !== null) this.#ask(drain)
    this.#stopping ??= this.#leave(drain).finally(() => { this.#stopping = null })
    await this.#stopping
  }

  /** End a leave under way: who has not heard of it by now finds out. */
  cut (): void {
    this.#stopped()
  }

  async #leave (drain: number): Promise<void> {
    this.#attempt++
    if (this.#running !== null && this.#present) {
      await new Promise<void>(resolve => {
        this.#stopped = resolve
        this.#ask(drain)
      })
    }
    this.#end()
    if (this.#status.event !== 'offline') this.#tell({ event: 'offline' })
  }

  #ask (drain: number): void {
    this.#running?.node.post({ type: 'stop-node', drain })
    clearTimeout(this.#patience)
    this.#patience = setTimeout(this.#stopped, drain * 1000 + STOP_PATIENCE)
  }

  /** The page is being closed: say goodbye within this call. */
  bye (): void {
    if (this.#running === null) return
    const reason = 'server unavailable: the tab that served this was closed'
    const said = crossOriginIsolated ? new SharedArrayBuffer(4) : null
    this.#running.network.post({ type: 'bye', reason, ...(said === null ? {} : { said }) })
    stayBusy(said === null ? null : new Int32Array(said), this.#options.goodbye ?? BYE_MOST)
  }

  /** Something the node is to heed while it runs, now or as soon as it can. */
  tell (message: SetLimits): void {
    this.#running?.node.post(message)
  }

  /** The last state, and who is connected. */
  status (): NodeEvent {
    return { ...this.#status, peers: this.#peers }
  }

  #launch (config: NodeConfig, workers: Workers, iceServers: IceServer[]): void {
    const rpc = new MessageChannel()
    const rtc = new MessageChannel()
    const whileRunning = <Words extends unknown[]>(react: (...words: Words) => void) => (...words: Words): void => {
      if (this.#running === running) react(...words) // the last words of workers that were ended are dropped
    }
    const network = new TypedWorker<PageToNetwork, NetworkToPage>(
      workers.network, whileRunning(message => { this.#fromNetwork(message) }),
      whileRunning(reason => { this.#fail(new Problem('worker-broke', `the network worker broke: ${reason}`, { worker: 'network' })) })
    )
    const node = new TypedWorker<PageToNode, NodeToPage>(
      workers.node, whileRunning(message => { this.#fromNode(message) }),
      whileRunning(reason => { this.#fail(new Problem('worker-broke', `the node worker broke: ${reason}`, { worker: 'node' })) })
    )
    const asking = setInterval(() => { void this.#askForRelays(config.origin) }, RELAYS_EVERY)
    const running: Running = { asking, network, node, endRtc: hostRtc(rtc.port1, this.#options.webrtc === 'forwarded' || undefined) }
    this.#running = running
    this.#present = false
    const direct = this.#options.webrtc !== 'off' && typeof RTCPeerConnection === 'function'
    network.post({ type: 'start-network', identity: this.#options.storage === 'none' ? 'new' : 'kept', relays: config.relays, node: rpc.port1, rtc: rtc.port2, direct, ice_servers: iceServers, ahead: config.ahead, near_bits: this.#nearBits }, [rpc.port1, rtc.port2])
    node.post({ type: 'start-node', config, network: rpc.port2 }, [rpc.port2])
  }

  /** A relay that came up after us is heard of by the first. */
  async #askForRelays (origin: string): Promise<void> {
    const running = this.#running
    if (this.#peers.filter(({ kind }) => kind === 'relay').length >= SLOTS) return
    const relays = await askRelays([origin])
    if (running !== null && running === this.#running) running.network.post({ type: 'relays', relays })
  }

  #fromNetwork (message: NetworkToPage): void {
    if (message.type === 'identity') this.#status = { ...this.#status, peer_id: message.peer_id }
    else if (message.type === 'failed') this.#fail(new Problem(message.error, message.message))
    else if (message.type === 'peers') this.#emit({ event: 'peers', peers: this.#peers = message.peers })
    else this.#emit({ event: 'connection', connection: message.state, ...(message.reason === '' ? {} : { message: message.reason }) })
  }

  #fromNode (message: NodeToPage): void {
    if (message.type === 'state' && message.state === 'error') this.#fail(new Problem('left', message.message))
    else if (message.type === 'state') {
      this.#present ||= message.state !== 'starting'
      this.#tell({ event: message.state, blocks: message.blocks, backend: message.backend, weights: message.weights, ...(message.reasons === undefined ? {} : { reasons: message.reasons }) })
    } else if (message.type === 'serving') {
      const { sessions, tokens_done, requests_done, busy, leaving_in } = message
      const serving = { sessions, tokens_done, requests_done, busy, ...(leaving_in === 0 ? {} : { leaving_in }) }
      this.#status = { ...this.#status, ...serving }
      this.#emit({ event: 'serving', ...serving })
    } else if (message.type === 'progress') {
      const { type, ...progress } = message
      if (this.#status.event !== 'loading') this.#tell({ event: 'loading' })
      this.#emit({ event: type, ...progress })
    } else if (message.type === 'storage') {
      const { type, ...storage } = message
      this.#emit({ event: type, ...storage })
    } else if (message.type === 'threads') {
      this.#emit({ event: 'threads', threads: message.count, ...(message.message === '' ? {} : { message: message.message }) })
    } else if (message.type === 'receipt') {
      const { type, ...receipt } = message
      this.#emit({ event: type, receipt })
    } else if (message.type === 'failed') this.#fail(new Problem(message.error, message.message))
    else this.#stopped()
  }

  #fail ({ code, message, values }: Problem): void {
    this.#running?.network.post({ type: 'bye', reason: 'the node of this tab failed' })
    this.#end()
    this.#tell({ event: 'error', message, code, values })
  }

  #end (): void {
    const running = this.#running
    this.#running = null
    this.#peers = []
    this.#stopped()
    clearTimeout(this.#patience)
    if (running === null) return
    clearInterval(running.asking)
    running.node.end()
    running.endRtc()
    setTimeout(() => { running.network.end() }, BYE_TIME) // what it has to say first needs a moment
  }

  #tell (event: NodeEvent): void {
    const { peer_id, blocks, backend, weights } = this.#status
    this.#status = { ...(peer_id === undefined ? {} : { peer_id }), ...(blocks === undefined ? {} : { blocks }), ...(backend === undefined ? {} : { backend }), ...(weights === undefined ? {} : { weights }), ...event }
    this.#emit(this.#status)
  }

  #emit (event: NodeEvent): void {
    this.#options.onEvent?.(event)
  }
}
