// What a node tells: its states, and the events by which an EventTarget says them, with their types.
// Rule of the file: types and plain data only; names are camelCase here and the workers' own below the SDK.

import type { Backend as WorkerBackend, ConnectionKind as WorkerKind, PeerReport } from '../worker/messages.ts'
import type { PauseReason as WorkerReason } from '../worker/node_messages.ts'
import type { Problem } from './problem.ts'

/** What computes: the graphics card, or the processor by WebAssembly. */
export type Backend = WorkerBackend

/** What a peer is: the relay itself, one reached through a circuit of the relay, or one reached directly by WebRTC. */
export type ConnectionKind = WorkerKind

/** Why a node is paused: it was asked to, or a limit forbids it to serve now. */
export type PauseReason = WorkerReason

/**
 * `idle`: never started. `preflight`: looking at what this browser can do. `loading`: Python, weights, the engine.
 * `serving`. `paused`: computing for nobody, `reasons` say why. `draining`: finishing what it serves.
 * `elsewhere`: another tab of this browser serves; this one takes over when that ends. `stopped`. `failed`: `message` says why.
 */
export type NodeState = 'idle' | 'preflight' | 'loading' | 'serving' | 'paused' | 'draining' | 'elsewhere' | 'stopped' | 'failed'

/** What a node may use. Every part may change while it runs, see `setLimits`; what is absent is as its default says. */
export interface Limits {
  /** The share of time in which it computes, above 0 and at most 1; default 1. */
  duty?: number
  /** Bytes that weights and sessions may take; default: half of what the browser says there is. */
  memoryBytes?: number
  /** Spans of the day, local time, in which it may serve; one that ends before it begins goes past midnight. Default: always. */
  hours?: Array<{ from: string, to: string }>
  /** On battery, as far as the browser says; default 'pause'. */
  onBattery?: 'pause' | 'continue'
  /** On a connection that is metered or asked to save data, as far as the browser says; default 'pause'. */
  onMetered?: 'pause' | 'continue'
  /** In a hidden tab; default 'continue' (browsers slow hidden pages, workers less). */
  whenHidden?: 'pause' | 'continue'
}

/**
 * `done` of `total` bytes of everything there is to load, total 0 while that is unknown; `stage` is what is waited for:
 * python, weights, build. `cached` of those done were kept here before; `rate` is bytes a second from the network.
 */
export interface Progress { stage: string, done: number, total: number, cached: number, rate: number, secondsLeft?: number }

/** Whether the weights stay for the next start: `needed` bytes in `room`; `message` says why not, and what to do. */
export interface Storage { kept: boolean, needed: number, room: number, message: string }

/** One connected peer, by what it is reached best; bytes are those of its calls since it connected. */
export interface Peer { id: string, kind: ConnectionKind, rttMs?: number, bytesIn: number, bytesOut: number }

/** Who is connected now, and the ids that have come and gone since this was last said. */
export interface PeerChange { peers: Peer[], joined: string[], left: string[] }

/** What the node does: open sessions; since it started, tokens computed, steps and prompts answered, and seconds that its engine computed. */
export interface Work { sessions: number, tokensDone: number, requestsDone?: number, busySeconds?: number }

/**
 * What this node computed for somebody: one session, or one request without a session, that has ended. It is the
 * node's own word about its own work, told to its own page; nobody else has signed or checked it.
 */
export interface Receipt {
  /** `session`: a text as it was generated; `forward` and `backward`: one request of somebody who evaluates or trains. */
  kind: 'session' | 'forward' | 'backward'
  /** The peer id of who asked, as its connection proved it. */
  peer: string
  model: string
  /** Those of the model that were computed, without the second. */
  blocks: [number, number]
  /** Positions that were computed, each row of a batch counted. */
  tokens: number
  /** Bytes of requests taken and of answers sent, before encryption. */
  bytesIn: number
  bytesOut: number
  started: Date
  ended: Date
  /** Why it ended before its time, such as a caller that vanished; absent where all went well. */
  error?: string
  /** ... and of what kind that is: `Paused` where its owner or a limit paused the node, which may go on with another session. */
  code?: string
}

/** Who serves in this browser, where this tab does not. */
export interface Elsewhere { peerId?: string, title: string, since: Date }

/** How a node is doing; what is not known, or does not apply, is absent. */
export interface NodeStatus {
  state: NodeState
  /** While loading: how far it is. */
  step?: 'starting' | 'reserving' | 'loading' | 'joining'
  /** While paused: it was asked to, or these limits forbid it. */
  reasons?: PauseReason[]
  /** Why it failed, for people. */
  message?: string
  /** ... and by its code, for those who say it in another language. */
  problem?: Pick<Problem, 'code' | 'values'>
  model?: string
  peerId?: string
  /** Those it serves, without the second. */
  blocks?: [number, number]
  backend?: Backend
  /** How weights are kept in memory, and why so. */
  weights?: string
  /** How many threads compute on the processor; `message` says why not as many as were asked for. */
  threads?: { count: number, message: string }
  /** Seconds that this machine's clock is ahead of the relay's, where it is wrong; the node lives by the relay's. */
  clockAhead?: number
  /** How the relay is reached. */
  relay?: 'connecting' | 'reserved' | 'lost'
  progress?: Progress
  storage?: Storage
  /** While draining: the seconds it may still take. */
  leavingIn?: number
  elsewhere?: Elsewhere
  /** When it began to serve. */
  since?: Date
  work: Work
  peers: Peer[]
  limits: Limits
}

/** The events of a node; each is a CustomEvent whose `detail` is of this type. */
export interface NodeEvents {
  /** Whenever a part of the status other than work, peers and progress has changed. */
  state: NodeStatus
  progress: Progress
  peer: PeerChange
  work: Work
  receipt: Receipt
  /** Why the node failed; its state is `failed` already. */
  error: Error
}

/** An EventTarget whose events have types. */
export class TypedEventTarget<Events extends object> extends EventTarget {
  /** Hear an event; each is a CustomEvent with a `detail`. */
  override addEventListener<Name extends keyof Events & string> (name: Name, listener: ((event: CustomEvent<Events[Name]>) => void) | null, options?: AddEventListenerOptions | boolean): void
  /** As every EventTarget has it. */
  override addEventListener (name: string, listener: EventListenerOrEventListenerObject | null, options?: AddEventListenerOptions | boolean): void
  override addEventListener (name: string, listener: unknown, options?: AddEventListenerOptions | boolean): void {
    super.addEventListener(name, listener as EventListener, options)
  }

  /** Hear it no more. */
  override removeEventListener<Name extends keyof Events & string> (name: Name, listener: ((event: CustomEvent<Events[Name]>) => void) | null, options?: EventListenerOptions | boolean): void
  /** As every EventTarget has it. */
  override removeEventListener (name: string, listener: EventListenerOrEventListenerObject | null, options?: EventListenerOptions | boolean): void
  override removeEventListener (name: string, listener: unknown, options?: EventListenerOptions | boolean): void {
    super.removeEventListener(name, listener as EventListener, options)
  }

  protected emit<Name extends keyof Events & string> (name: Name, detail: Events[Name]): void {
    this.dispatchEvent(new CustomEvent(name, { detail }))
  }
}

export function toPeer ({ peer, kind, rtt_ms: rtt, bytes_in: received, bytes_out: sent }: PeerReport): Peer {
  return { id: peer, kind, bytesIn: received, bytesOut: sent, ...(rtt === undefined ? {} : { rttMs: rtt }) }
}

export function changeOf (before: Peer[], peers: Peer[]): PeerChange {
  const [was, is] = [before, peers].map(list => new Set(list.map(({ id }) => id))) as [Set<string>, Set<string>]
  return { peers, joined: [...is].filter(id => !was.has(id)), left: [...was].filter(id => !is.has(id)) }
}
