// Generated from kwaainet/browser/node_messages.py by build/messages.py; change it there.

import type { Failed, LoadProgress, Model, NetworkGone, Stopped } from './messages.ts'

export type PauseReason =
  | "asked"
  | "hours"
  | "battery"
  | "metered"
  | "hidden"
  | "memory"

/** What the node is to do. ``blocks`` is START:END, auto:COUNT to have them chosen, or empty for all. ``weights`` is how they are kept in memory, in at most ``memory`` bytes where that can be chosen. ``cache`` is how many bytes of fetched weights this browser may keep; absent: a share of its quota. ``ahead``: seconds that this machine's clock is ahead of the relay's, 0 where it is right. */
export interface NodeConfig {
  origin: string
  relays: string[]
  model: Model
  blocks: string
  backend: "wasm" | "webgpu"
  threads: number
  public_name: string
  weights: string
  memory: number
  ahead: number
  cache?: number
}

/** Boot Pyodide and the node. */
export interface StartNode {
  type: "start-node"
  config: NodeConfig
  network: MessagePort
}

/** Leave the swarm, serving on for at most ``drain`` seconds; answered by ``stopped``. Said again meanwhile, the shorter time counts. */
export interface StopNode {
  type: "stop-node"
  drain: number
}

/** What the person at this machine allows its node, and how things are with the machine; all of it each time. ``paused``: Pause was pressed. ``duty`` is the share of the time the engine may compute, 0 to 1; ``memory`` what weights and caches may take, in bytes, 0 without a limit; ``hours`` pairs of minutes since local midnight, from and to, none for the whole day; ``utc_offset`` minutes local time is ahead. */
export interface SetLimits {
  type: "limits"
  paused: boolean
  duty: number
  memory: number
  hours: number[][]
  pause_on_battery: boolean
  pause_on_metered: boolean
  pause_when_hidden: boolean
  on_battery: boolean
  metered: boolean
  hidden: boolean
  utc_offset: number
}

/** Where the node stands; ``reasons`` are why it is paused, while it is. */
export interface StateChange {
  type: "state"
  state: "starting" | "reserving" | "loading" | "joining" | "online" | "paused" | "draining" | "offline" | "error"
  blocks: number[]
  backend: string
  weights: string
  message: string
  reasons?: ("asked" | "hours" | "battery" | "metered" | "hidden" | "memory")[]
}

/** Whether what was fetched is there at the next start, told once it is known and when that changes. ``needed`` bytes are this node's weights, ``room`` those the browser gives for them; ``message`` is for people: why they are not kept and what to do, empty where they are. */
export interface Storage {
  type: "storage"
  kept: boolean
  needed: number
  room: number
  message: string
}

/** What an online node does, told when it changes; ``leaving_in`` is seconds, 0 unless it drains. ``requests_done`` are steps and prompts, ``busy`` is how many seconds its engine has computed, both since it started; ``cache_left`` are tokens that sessions may still take. */
export interface Serving {
  type: "serving"
  sessions: number
  tokens_done: number
  requests_done: number
  busy: number
  cache_left: number
  leaving_in: number
}

/** A session or request that this node served has ended; see ``kwaainet.node.receipts``. */
export interface Receipt {
  type: "receipt"
  kind: "session" | "forward" | "backward"
  peer: string
  model: string
  blocks: number[]
  tokens: number
  bytes_in: number
  bytes_out: number
  started: number
  ended: number
  error: string
  code: string
}

/** How many threads compute on the processor; ``message`` says why not as many as were asked for. */
export interface Threads {
  type: "threads"
  count: number
  message: string
}

export type PageToNode =
  | StartNode
  | StopNode
  | SetLimits
  | NetworkGone

export type NodeToPage =
  | StateChange
  | LoadProgress
  | Storage
  | Threads
  | Serving
  | Receipt
  | Failed
  | Stopped
