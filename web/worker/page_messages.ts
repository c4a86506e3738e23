// Generated from kwaainet/browser/page_messages.py by build/messages.py; change it there.

/** The first message: which relay and model; ``webrtc`` off: always through the relay. */
export interface Connect {
  type: "connect"
  relay: string
  model?: string
  webrtc: "auto" | "off"
}

/** Load everything now; answered by ``done``. Otherwise the first completion does. */
export interface Load {
  type: "load"
  id: number
}

/** One message of a conversation. */
export interface Turn {
  role: string
  content: string
}

/** Complete a conversation; answered by ``text`` as it comes, then by one ``answered``. */
export interface Ask {
  type: "ask"
  id: number
  messages: Turn[]
  max_tokens?: number
  temperature?: number
  top_p?: number
  seed?: number
  stop?: string[]
}

/** Nobody wants the rest of what was asked for; nothing more is said of it. */
export interface Abort {
  type: "abort"
  id: number
}

/** End every answer and let go of all memory; answered by ``done``, the last message. */
export interface Disconnect {
  type: "disconnect"
  id: number
}

/** Bytes of what is being loaded; a total of 0 is not known yet. */
export interface Loading {
  type: "loading"
  stage: string
  done: number
  total: number
}

/** More of an answer. */
export interface Text {
  type: "text"
  id: number
  model: string
  created: number
  text: string
}

/** An answer has ended by itself. */
export interface Answered {
  type: "answered"
  id: number
  model: string
  created: number
  reason: "stop" | "length"
  prompt_tokens: number
  completion_tokens: number
}

/** What was asked for has been done. */
export interface Done {
  type: "done"
  id: number
}

/** It failed; ``error`` is the class of the failure. */
export interface Problem {
  type: "problem"
  id: number
  error: string
  message: string
}

export type PythonToSdk =
  | Connect
  | Load
  | Ask
  | Abort
  | Disconnect

export type SdkToPython =
  | Loading
  | Text
  | Answered
  | Done
  | Problem
