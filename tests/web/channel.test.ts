// The channel transfers bodies; the window holds a sender back until its bytes are acknowledged.

import assert from 'node:assert/strict'
import test from 'node:test'
import { Channel, Receipts, Window } from '../../web/bridge/channel.ts'
import { type Data, STREAM_WINDOW } from '../../web/worker/messages.ts'
import { settle } from './stream_pair.ts'

test('a body is transferred, not copied, and messages queue until somebody listens', async () => {
  const { port1, port2 } = new MessageChannel()
  const near = new Channel<Data, Data>(port1)
  const far = new Channel<Data, Data>(port2)
  const body = Uint8Array.of(1, 2, 3)
  near.post({ type: 'data', id: 2, body })
  assert.equal(body.length, 0, 'the sender has lost the buffer')
  const message = await new Promise<Data>(resolve => { far.listen(resolve) })
  assert.deepEqual([...message.body], [1, 2, 3])
  port1.close()
})

test('a window lets one message pass however big, then waits for credit', async () => {
  const window = new Window()
  assert.equal(await window.take(5 * STREAM_WINDOW), true)
  let passed = false
  const waiting = window.take(1).then(open => { passed = open })
  await settle()
  assert.equal(passed, false)
  window.credit(3 * STREAM_WINDOW)
  await settle()
  assert.equal(passed, false, 'a part of the credit is not enough')
  window.credit(2 * STREAM_WINDOW)
  await waiting
  assert.equal(passed, true)
})

test('closing a window frees its waiter with a no', async () => {
  const window = new Window()
  await window.take(STREAM_WINDOW)
  const waiting = window.take(1)
  window.close()
  assert.equal(await waiting, false)
})

test('credit comes in lumps and loses nothing', () => {
  const receipts = new Receipts()
  let credited = 0
  let messages = 0
  for (let index = 0; index < 1000; index++) {
    const credit = receipts.add(10_000)
    credited += credit
    messages += credit > 0 ? 1 : 0
  }
  assert.ok(messages < 50, `${messages} messages of credit for 1000 of data`)
  assert.ok(10_000_000 - credited < STREAM_WINDOW / 4)
})
