// The SDK for Python in somebody's page (Pyodide): whoever greets this script with a port is answered completions on it.
// Rule of the file: each message is one JSON text, declared in kwaainet.browser.page_messages; a port has one client.

import type { Ask, PythonToSdk, SdkToPython } from '../worker/page_messages.ts'
import { type Client, createClient } from './client.ts'
import { CompletionError } from './completion.ts'

const GREETING = 'kwaainet-python'

/** Serve one port until it says disconnect. */
export function answer (port: MessagePort): void {
  const asked = new Map<number, AbortController>()
  let client: Client | undefined
  const say = (message: SdkToPython): void => { port.postMessage(JSON.stringify(message)) }

  const ask = async ({ type, id, ...params }: Ask): Promise<void> => {
    const controller = new AbortController()
    asked.set(id, controller)
    try {
      const chunks = await connected(client).chat.completions.create({ ...params, stream: true, signal: controller.signal })
      for await (const { created, model, choices: [{ delta, finish_reason: reason }], usage } of chunks) {
        if (delta.content !== undefined && delta.content !== '') say({ type: 'text', id, model, created, text: delta.content })
        if (reason !== null && usage !== undefined) {
          say({ type: 'answered', id, model, created, reason, prompt_tokens: usage.prompt_tokens, completion_tokens: usage.completion_tokens })
        }
      }
    } finally {
      asked.delete(id)
    }
  }

  const heed = async (message: PythonToSdk): Promise<void> => {
    if (message.type === 'connect') {
      const { relay, model, webrtc } = message
      client = createClient({
        relay, webrtc, ...(model === undefined ? {} : { model }),
        onEvent: event => { if (event.event === 'progress') say({ type: 'loading', stage: event.stage, done: event.done, total: event.total }) }
      })
    } else if (message.type === 'load') {
      await connected(client).start()
      say({ type: 'done', id: message.id })
    } else if (message.type === 'ask') await ask(message)
    else if (message.type === 'abort') asked.get(message.id)?.abort()
    else {
      await client?.close()
      say({ type: 'done', id: message.id })
    }
  }

  port.onmessage = ({ data }: MessageEvent<string>) => {
    const message = JSON.parse(data) as PythonToSdk
    const id = 'id' in message ? message.id : 0
    heed(message).catch((error: unknown) => {
      const { name, message: text } = error instanceof Error ? error : new Error(String(error))
      if (name !== 'AbortError') say({ type: 'problem', id, error: error instanceof CompletionError ? error.type : name, message: text })
    })
  }
}

function connected (client: Client | undefined): Client {
  if (client === undefined) throw new CompletionError('UsageError', 'the first message must be connect')
  return client
}

// Only a page's own Python may ask; in a worker the one that made it is the only one that can.
addEventListener('message', ({ data, origin, ports: [port] }: MessageEvent) => {
  if (data === GREETING && port !== undefined && (origin === '' || origin === globalThis.location.origin)) answer(port)
})
