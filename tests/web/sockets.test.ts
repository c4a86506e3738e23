// What the network worker's sockets send, and what it knows of them when its page goes.

import assert from 'node:assert/strict'
import { afterEach, beforeEach, test } from 'node:test'
import { flushed, gatherSockets } from '../../web/bridge/sockets.ts'

class FakeSocket extends EventTarget {
  static readonly OPEN = 1
  readyState = FakeSocket.OPEN
  held = 0
  readonly words: unknown[]
  readonly sent: unknown[] = []

  constructor (...words: unknown[]) {
    super()
    this.words = words
  }

  get bufferedAmount (): number {
    return this.held
  }

  send (data: unknown): void {
    if (this.readyState !== FakeSocket.OPEN) throw new Error('not open')
    this.sent.push(data instanceof Uint8Array ? [...data] : data)
  }

  close (): void {
    this.sent.push('closed')
  }
}

const before = globalThis.WebSocket

beforeEach(() => {
  globalThis.WebSocket = FakeSocket as unknown as typeof WebSocket
  gatherSockets()
})

afterEach(() => { globalThis.WebSocket = before })

function open (...words: [string, string?]): FakeSocket & WebSocket {
  return new WebSocket(...words) as FakeSocket & WebSocket
}

const turn = async (): Promise<void> => { await new Promise(resolve => setImmediate(resolve)) }

test('it resolves once no open socket holds anything back', async () => {
  await flushed()
  const [one, other] = [open('ws://one'), open('ws://other', 'words')]
  assert.deepEqual(other.words, ['ws://other', 'words'])
  one.held = other.held = 9
  let done = false
  const waiting = flushed().then(() => { done = true })
  one.held = 0
  await new Promise(resolve => setTimeout(resolve, 20))
  assert.equal(done, false, 'the other one still holds something')
  other.dispatchEvent(new Event('close'))
  await waiting
})

test('what is gathered is held back, too', async () => {
  const socket = open('ws://one')
  socket.send(Uint8Array.of(1))
  await flushed()
  assert.deepEqual(socket.sent, [[1]])
})

test('what is sent within a turn is one message, in order', async () => {
  const socket = open('ws://one')
  socket.send(Uint8Array.of(1, 2))
  socket.send(Uint8Array.of(9, 3, 4, 9).subarray(1, 3))
  assert.deepEqual(socket.sent, [])
  assert.equal(socket.bufferedAmount, 4)
  await turn()
  assert.deepEqual(socket.sent, [[1, 2, 3, 4]])
  assert.equal(socket.bufferedAmount, 0)
  socket.send(Uint8Array.of(5))
  await turn()
  assert.deepEqual(socket.sent, [[1, 2, 3, 4], [5]])
})

test('no message is larger than a relay takes', async () => {
  const socket = open('ws://one')
  const piece = new Uint8Array(100_000)
  for (let count = 0; count < 5; count++) socket.send(piece)
  await turn()
  assert.deepEqual(socket.sent.map(message => (message as number[]).length), [200_000, 200_000, 100_000])
})

test('text, and the end, come after the bytes that were given before', () => {
  const socket = open('ws://one')
  socket.send(Uint8Array.of(1))
  socket.send('words')
  socket.send(Uint8Array.of(2))
  socket.close()
  assert.deepEqual(socket.sent, [[1], 'words', [2], 'closed'])
})

test('a socket that is not open says so at once', () => {
  const socket = open('ws://one')
  socket.readyState = 0
  assert.throws(() => { socket.send(Uint8Array.of(1)) }, /not open/)
})
