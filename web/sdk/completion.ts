// Completions in the shape of OpenAI's API: what is asked, checked, and the answer as it comes.
// Rule of the file: no worker, no browser; an answer ends once, and whoever waits for more is then told.

import type { ChatMessage, Complete, Finished, Piece, Refused } from '../worker/chat_messages.ts'

/** What is to be completed, and how; in OpenAI's words. */
export interface CompletionParams {
  /** The conversation, oldest first. */
  messages: ChatMessage[]
  /** Chunks as they come, instead of the whole at the end. */
  stream?: boolean
  /** At most this many new tokens (default 256): servers keep room for all of them. */
  max_tokens?: number
  /** 0 is greedy; OpenAI's default is 1. */
  temperature?: number
  top_p?: number
  seed?: number
  /** The answer ends before any of these texts. */
  stop?: string | string[] | null
  /** Aborting ends the answer and its session at every server. */
  signal?: AbortSignal
}

/** `stop`: the model, or a stop text, ended it. `length`: as many tokens as were asked for. */
export type FinishReason = 'stop' | 'length'
/** Tokens of the conversation, of the answer, and of both. */
export interface Usage { prompt_tokens: number, completion_tokens: number, total_tokens: number }

/** A part of an answer as it comes. */
export interface ChatCompletionChunk {
  id: string
  object: 'chat.completion.chunk'
  created: number
  model: string
  choices: [{ index: 0, delta: { role?: 'assistant', content?: string }, finish_reason: FinishReason | null }]
  /** With the last chunk. */
  usage?: Usage
}

/** An answer. */
export interface ChatCompletion {
  id: string
  object: 'chat.completion'
  created: number
  model: string
  choices: [{ index: 0, message: { role: 'assistant', content: string }, finish_reason: FinishReason }]
  usage: Usage
}

/** The swarm gave no answer, or none to its end; `type` is the class of the failure. */
export class CompletionError extends Error {
  readonly type: string

  constructor (type: string, message: string) {
    super(message)
    this.name = 'CompletionError'
    this.type = type
  }
}

const DEFAULT_TOKENS = 256
const MOST_CHARACTERS = 1 << 20 // of a conversation

/** The order for the client worker; throws TypeError for parameters that make no sense. */
export function orderOf (id: number, params: CompletionParams): Complete {
  const { messages, max_tokens: most = DEFAULT_TOKENS, temperature = 1, top_p: share = 1, seed, stop } = params
  if (!Array.isArray(messages) || messages.length === 0 || !messages.every(isMessage)) throw new TypeError('messages must be a list of { role, content }, both texts')
  if (messages.reduce((sum, { content }) => sum + content.length, 0) > MOST_CHARACTERS) throw new TypeError(`the conversation is longer than ${MOST_CHARACTERS} characters`)
  if (!Number.isSafeInteger(most) || most < 1) throw new TypeError(`max_tokens is ${most}; give a whole number from 1 on`)
  if (!(temperature >= 0 && temperature <= 2)) throw new TypeError(`temperature is ${temperature}; give 0 to 2`)
  if (!(share > 0 && share <= 1)) throw new TypeError(`top_p is ${share}; give a number above 0 and at most 1`)
  if (seed !== undefined && !Number.isSafeInteger(seed)) throw new TypeError(`seed is ${seed}; give a whole number`)
  const stops = stop === undefined || stop === null ? [] : Array.isArray(stop) ? stop : [stop]
  if (!stops.every(text => typeof text === 'string')) throw new TypeError('stop must be a text or a list of texts')
  return {
    type: 'complete',
    id,
    messages: messages.map(({ role, content }) => ({ role, content })),
    max_tokens: most,
    temperature,
    top_p: share,
    stop: stops,
    ...(seed === undefined ? {} : { seed })
  }
}

function isMessage (value: unknown): value is ChatMessage {
  const message = value as Partial<ChatMessage> | null
  return typeof message?.role === 'string' && typeof message.content === 'string'
}

type Ended = { error: unknown } | null // null: in good order

/** One answer: chunks wait here until they are taken. */
export class Answer implements AsyncIterableIterator<ChatCompletionChunk> {
  readonly #frame: Pick<ChatCompletionChunk, 'id' | 'object' | 'created' | 'model'>
  readonly #cancel: () => void
  readonly #waiting: ChatCompletionChunk[] = []
  #ended: Ended | undefined
  #wake: () => void = () => {}

  /** `cancel` is called at most once, when the answer is given up before its end. */
  constructor (id: number, model: string, created: number, cancel: () => void) {
    this.#frame = { id: `chatcmpl-${id}`, object: 'chat.completion.chunk', created, model }
    this.#cancel = cancel
    this.#put({ role: 'assistant', content: '' }, null)
  }

  get over (): boolean {
    return this.#ended !== undefined
  }

  take (message: Piece | Finished | Refused): void {
    if (this.over) return
    if (message.type === 'piece') this.#put({ content: message.text }, null)
    else if (message.type === 'refused') this.#end({ error: new CompletionError(message.error, message.message) })
    else {
      const { prompt_tokens: prompt, completion_tokens: completion } = message
      this.#put({}, message.reason, { prompt_tokens: prompt, completion_tokens: completion, total_tokens: prompt + completion })
      this.#end(null)
    }
  }

  /** The client cannot go on. */
  fail (error: unknown): void {
    this.#end({ error })
  }

  /** Nobody wants the rest: whoever waits gets `reason`. */
  abort (reason: unknown): void {
    if (this.over) return
    this.#waiting.length = 0
    this.#end({ error: reason })
    this.#cancel()
  }

  async next (): Promise<IteratorResult<ChatCompletionChunk>> {
    while (this.#waiting.length === 0 && this.#ended === undefined) await new Promise<void>(resolve => { this.#wake = resolve })
    const value = this.#waiting.shift()
    if (value !== undefined) return { done: false, value }
    if (this.#ended?.error !== undefined) throw this.#ended.error
    return { done: true, value: undefined }
  }

  /** Leaving a `for await` early cancels the answer. */
  async return (): Promise<IteratorResult<ChatCompletionChunk>> {
    if (!this.over) {
      this.#end(null)
      this.#cancel()
    }
    this.#waiting.length = 0
    return { done: true, value: undefined }
  }

  [Symbol.asyncIterator] (): this {
    return this
  }

  /** All of it, once it has ended. */
  async whole (): Promise<ChatCompletion> {
    let content = ''
    for await (const { choices: [{ delta, finish_reason: reason }], usage } of this) {
      content += delta.content ?? ''
      if (reason !== null && usage !== undefined) {
        return { ...this.#frame, object: 'chat.completion', choices: [{ index: 0, message: { role: 'assistant', content }, finish_reason: reason }], usage }
      }
    }
    throw new CompletionError('StreamReset', 'the answer has no end')
  }

  #put (delta: ChatCompletionChunk['choices'][0]['delta'], reason: FinishReason | null, usage?: Usage): void {
    this.#waiting.push({ ...this.#frame, choices: [{ index: 0, delta, finish_reason: reason }], ...(usage === undefined ? {} : { usage }) })
    this.#wake()
  }

  #end (ended: Ended): void {
    this.#ended ??= ended
    this.#wake()
  }
}
