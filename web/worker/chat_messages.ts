// Generated from kwaainet/browser/chat_messages.py by build/messages.py; change it there.

import type { Cancel, Failed, LoadProgress, Model, NetworkGone, Stopped } from './messages.ts'

/** What the client is to know. ``push``: servers pass a step on to the next one themselves; ``auto``: where that is sooner. */
export interface ClientConfig {
  origin: string
  relays: string[]
  model: Model
  push: "auto" | "on" | "off"
}

/** Boot Pyodide and the client. */
export interface StartClient {
  type: "start-client"
  config: ClientConfig
  network: MessagePort
}

/** End every answer and leave; answered by ``stopped``. */
export interface StopClient {
  type: "stop-client"
}

/** One turn of a conversation. */
export interface ChatMessage {
  role: string
  content: string
}

/** Answer a conversation: ``chain``, then ``piece`` after ``piece``, then ``finished`` or ``refused``. ``cancel`` ends it without a word more. Temperature 0 is greedy; without ``seed`` chance decides. */
export interface Complete {
  type: "complete"
  id: number
  messages: ChatMessage[]
  max_tokens: number
  temperature: number
  top_p: number
  stop: string[]
  seed?: number
}

/** Where the client stands. */
export interface ClientState {
  type: "client-state"
  state: "starting" | "loading" | "ready"
}

/** A server of a chain and the blocks it computes, ``end`` not included. */
export interface HopReport {
  peer: string
  start: number
  end: number
}

/** The servers that answer now; said again when one was lost and others took its place. */
export interface Chain {
  type: "chain"
  id: number
  hops: HopReport[]
}

/** More text; ``tokens`` counts all so far. */
export interface Piece {
  type: "piece"
  id: number
  text: string
  tokens: number
}

/** The end of an answer. ``decoding_ms`` is from the first token to the last. */
export interface Finished {
  type: "finished"
  id: number
  reason: "stop" | "length"
  prompt_tokens: number
  completion_tokens: number
  first_token_ms: number
  decoding_ms: number
}

/** There is no answer, or no more of it; ``error`` is a class of ``kwaainet.errors``. */
export interface Refused {
  type: "refused"
  id: number
  error: string
  message: string
}

export type PageToClient =
  | StartClient
  | StopClient
  | Complete
  | Cancel
  | NetworkGone

export type ClientToPage =
  | ClientState
  | LoadProgress
  | Chain
  | Piece
  | Finished
  | Refused
  | Failed
  | Stopped
