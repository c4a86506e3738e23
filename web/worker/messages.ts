// Generated from kwaainet/browser/messages.py by build/messages.py; change it there.

export const MAX_UNARY_SIZE = 4194304

export const MAX_FRAME_SIZE = 67108864

export const FRAME_HEADER_SIZE = 9

export const STREAM_WINDOW = 1048576

export const MAX_REPORTED = 64

export type State =
  | "starting"
  | "reserving"
  | "loading"
  | "joining"
  | "online"
  | "paused"
  | "draining"
  | "offline"
  | "error"

export type PauseReason =
  | "asked"
  | "hours"
  | "battery"
  | "metered"
  | "hidden"
  | "memory"

export type Backend =
  | "wasm"
  | "webgpu"

export type ConnectionState =
  | "connecting"
  | "reserved"
  | "lost"

export type ConnectionKind =
  | "relay"
  | "circuit"
  | "webrtc"

export type FaultName =
  | "RpcError"
  | "StreamReset"
  | "Unreachable"
  | "ProtocolError"
  | "LimitExceeded"
  | "HandshakeError"
  | "CapacityError"

/** A STUN or TURN server, as RTCPeerConnection takes it. */
export interface IceServer {
  urls: string[]
  username?: string
  credential?: string
}

/** Take up the identity (the one this browser keeps, or one of the moment) and be ready; the Python worker says when to listen. ``direct``: connect to other tabs by WebRTC where that can be done. */
export interface StartNetwork {
  type: "start-network"
  identity: "kept" | "new"
  relays: string[]
  node: MessagePort
  rtc: MessagePort
  direct: boolean
  ice_servers: IceServer[]
}

/** The page goes away now: error frames first, then the farewell call. ``said`` is raised when the frames are on their way; only an isolated page has such a flag. */
export interface Bye {
  type: "bye"
  reason: string
  said?: SharedArrayBuffer
}

/** Who we are, as soon as it is known. */
export interface Identity {
  type: "identity"
  peer_id: string
}

/** How the relay is reached. ``addresses`` are ours through it; ``reason`` says why it was lost. */
export interface Connection {
  type: "connection"
  state: "connecting" | "reserved" | "lost"
  relay: string
  addresses: string[]
  reason: string
}

/** One connected peer: by what it is reached best, and bytes of its RPCs since it connected. ``rtt_ms`` is absent until it was measured. */
export interface PeerReport {
  peer: string
  kind: "relay" | "circuit" | "webrtc"
  rtt_ms?: number
  bytes_in: number
  bytes_out: number
}

/** Who is connected, said again whenever it has changed; the busiest ``MAX_REPORTED`` of them. */
export interface Peers {
  type: "peers"
  peers: PeerReport[]
}

/** A worker cannot go on; ``message`` is for people. */
export interface Failed {
  type: "failed"
  error: string
  message: string
}

/** Answer a protocol. Everything served must be said before ``listen``. */
export interface Serve {
  type: "serve"
  protocol: string
  kind: "unary" | "stream"
}

/** Reserve a slot on a relay; answered by ``result`` or ``fault``, lost slots are taken again. */
export interface Listen {
  type: "listen"
  id: number
}

/** A unary call to make when the page goes away. */
export interface Farewell {
  type: "farewell"
  peer: string
  protocol: string
  body: Uint8Array<ArrayBuffer>
}

/** Error frames to every served stream, then all connections end; answered by ``result``. */
export interface Leave {
  type: "leave"
  id: number
  reason: string
}

/** A unary RPC to ``peer``, or from it. */
export interface Call {
  type: "call"
  id: number
  peer: string
  protocol: string
  body: Uint8Array<ArrayBuffer>
}

/** The end of a ``call`` (``body``), a ``listen`` or ``leave``, or the answer to ``open``. */
export interface Result {
  type: "result"
  id: number
  body?: Uint8Array<ArrayBuffer>
}

/** A call or stream failed; the name is a class of ``kwaainet.errors``. */
export interface Fault {
  type: "fault"
  id: number
  error: "RpcError" | "StreamReset" | "Unreachable" | "ProtocolError" | "LimitExceeded" | "HandshakeError" | "CapacityError"
  message: string
}

/** A stream RPC to ``peer`` (answered by ``result`` once open), or from it. */
export interface Open {
  type: "open"
  id: number
  peer: string
  protocol: string
}

/** One message of a stream. */
export interface Data {
  type: "data"
  id: number
  body: Uint8Array<ArrayBuffer>
}

/** ``bytes`` of the other side's framed data have been taken. */
export interface Credit {
  type: "credit"
  id: number
  bytes: number
}

/** The caller has no more to send. */
export interface End {
  type: "end"
  id: number
}

/** The callee is done. */
export interface Close {
  type: "close"
  id: number
}

/** The caller gave up, or the stream broke. */
export interface Cancel {
  type: "cancel"
  id: number
  reason: string
}

/** A model's text settings: their address, bytes, and what ``fetch`` checks them by. */
export interface TextFile {
  url: string
  size: number
  integrity: string
}

/** The model an origin offers: addresses of its manifest, of the folder of its files and of its page. ``text`` is absent where it cannot be talked to. */
export interface Model {
  prefix: string
  num_blocks: number
  manifest: string
  files: string
  repository?: string
  text?: TextFile
}

/** What the node is to do. ``blocks`` is START:END, auto:COUNT to have them chosen, or empty for all. ``weights`` is how they are kept in memory, in at most ``memory`` bytes where that can be chosen. ``cache`` is how many bytes of fetched weights this browser may keep; absent: a share of its quota. */
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

/** The network worker died: every call and stream has failed. */
export interface NetworkGone {
  type: "network-gone"
  reason: string
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

/** How far loading is: ``done`` of ``total`` bytes of all there is to load, 0 while that is unknown. ``stage`` is what is waited for: ``python``, then ``weights``, then ``build``. ``cached`` of the bytes done were kept here before. ``rate`` is bytes a second from the network, smoothed, 0 when none came; ``seconds_left`` is absent while it cannot be told. */
export interface LoadProgress {
  type: "progress"
  stage: string
  done: number
  total: number
  cached: number
  rate: number
  seconds_left?: number
}

/** Whether what was fetched is there at the next start, told once it is known and when that changes. ``needed`` bytes are this node's weights, ``room`` those the browser gives for them; ``message`` is for people: why they are not kept and what to do, empty where they are. */
export interface Storage {
  type: "storage"
  kept: boolean
  needed: number
  room: number
  message: string
}

/** What an online node does, told when it changes; ``leaving_in`` is seconds, 0 unless it drains. */
export interface Serving {
  type: "serving"
  sessions: number
  tokens_done: number
  leaving_in: number
}

/** A session that this node served has ended: for whom, which blocks, how many tokens in what time. */
export interface Receipt {
  type: "receipt"
  peer: string
  blocks: number[]
  tokens: number
  seconds: number
}

/** The node has left. */
export interface Stopped {
  type: "stopped"
}

export type PageToNetwork =
  | StartNetwork
  | Bye

export type NetworkToPage =
  | Identity
  | Connection
  | Peers
  | Failed

export type NodeToNetwork =
  | Serve
  | Listen
  | Farewell
  | Leave
  | Call
  | Result
  | Fault
  | Open
  | Data
  | Credit
  | End
  | Close
  | Cancel

export type NetworkToNode =
  | Identity
  | Connection
  | Call
  | Result
  | Fault
  | Open
  | Data
  | Credit
  | End
  | Close
  | Cancel
  | NetworkGone

export type PageToNode =
  | StartNode
  | StopNode
  | SetLimits
  | NetworkGone

export type NodeToPage =
  | StateChange
  | LoadProgress
  | Storage
  | Serving
  | Receipt
  | Failed
  | Stopped
