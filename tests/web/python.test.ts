// What a page's Python says over its port reaches a client, and the answers come back as text.

import assert from 'node:assert/strict'
import { test } from 'node:test'

const ORIGIN = 'https://host.example'
const listeners: Array<(event: object) => void> = []
Object.assign(globalThis, {
  location: { origin: ORIGIN },
  addEventListener (_: string, listen: (event: object) => void) { listeners.push(listen) },
  fetch: async () => { throw new Error('no network') }
})
await import('../../web/sdk/python.ts')

class Port {
  readonly posted: any[] = []
  onmessage: ((event: { data: string }) => void) | null = null
  #wake: () => void = () => {}

  postMessage (text: string): void {
    this.posted.push(JSON.parse(text))
    this.#wake()
  }

  say (message: object): void { this.onmessage?.({ data: JSON.stringify(message) }) }

  async answers (count: number): Promise<any[]> {
    while (this.posted.length < count) await new Promise<void>(resolve => { this.#wake = resolve })
    return this.posted
  }
}

function greet (port: Port, event: object = {}): void {
  for (const listen of listeners) listen({ data: 'kwaainet-python', origin: ORIGIN, ports: [port], ...event })
}

test('only the greeting of this very page, with a port, is answered', () => {
  const port = new Port()
  for (const event of [{ origin: 'https://other.example' }, { data: 'hello' }, { ports: [] }]) greet(port, event)
  assert.equal(port.onmessage, null)
  greet(port)
  assert.notEqual(port.onmessage, null)
  const inWorker = new Port()
  greet(inWorker, { origin: '' })
  assert.notEqual(inWorker.onmessage, null)
})

test('problems are told by number and name, and what was aborted is not', async () => {
  const port = new Port()
  greet(port)
  port.say({ type: 'load', id: 1 })
  port.say({ type: 'connect', relay: 'https://relay.example', webrtc: 'off' })
  port.say({ type: 'load', id: 2 })
  port.say({ type: 'ask', id: 3, messages: [{ role: 'user', content: 'Hi' }], max_tokens: -1 })
  const told = await port.answers(3)
  assert.deepEqual(told.map(({ type, id, error }) => [type, id, error]).sort(), [['problem', 1, 'UsageError'], ['problem', 2, 'Error'], ['problem', 3, 'TypeError']])
  assert.match(told.find(({ id }) => id === 2).message, /relay\.example does not answer/)
  port.say({ type: 'ask', id: 4, messages: [{ role: 'user', content: 'Hi' }] })
  port.say({ type: 'abort', id: 4 })
  port.say({ type: 'disconnect', id: 5 })
  assert.deepEqual((await port.answers(4)).slice(3), [{ type: 'done', id: 5 }])
})
