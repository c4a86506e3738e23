// Completions in OpenAI's shape: what is asked is checked, and an answer ends exactly once.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Answer, type ChatCompletionChunk, CompletionError, type CompletionParams, orderOf } from '../../web/sdk/completion.ts'

const HI = [{ role: 'user', content: 'Hi' }]
const FINISHED = { type: 'finished', id: 1, reason: 'stop', prompt_tokens: 3, completion_tokens: 2, first_token_ms: 1, decoding_ms: 1 } as const

const piece = (text: string) => ({ type: 'piece', id: 1, text, tokens: 1 }) as const

function answer (): { answer: Answer, cancelled: () => number } {
  let count = 0
  return { answer: new Answer(1, 'tiny', 12, () => { count++ }), cancelled: () => count }
}

async function all (chunks: AsyncIterable<ChatCompletionChunk>): Promise<ChatCompletionChunk[]> {
  const list = []
  for await (const chunk of chunks) list.push(chunk)
  return list
}

test('an order has OpenAI\'s defaults but a limit of its own', () => {
  assert.deepEqual(orderOf(7, { messages: HI }), { type: 'complete', id: 7, messages: HI, max_tokens: 256, temperature: 1, top_p: 1, stop: [] })
  const order = orderOf(7, { messages: HI, max_tokens: 3, temperature: 0, top_p: 0.5, seed: 5, stop: 'x' })
  assert.deepEqual([order.max_tokens, order.temperature, order.top_p, order.seed, order.stop], [3, 0, 0.5, 5, ['x']])
  assert.deepEqual(orderOf(7, { messages: HI, stop: null }).stop, [])
})

test('parameters that make no sense are named', () => {
  const wrong: Array<[object, RegExp]> = [
    [{ messages: [] }, /messages/], [{ messages: [{ role: 'user' }] }, /messages/], [{ messages: [null] }, /messages/],
    [{ messages: [{ role: 'user', content: 'x'.repeat(2 ** 20 + 1) }] }, /longer/],
    [{ max_tokens: 0 }, /max_tokens/], [{ max_tokens: 1.5 }, /max_tokens/], [{ temperature: -1 }, /temperature/], [{ temperature: NaN }, /temperature/],
    [{ top_p: 0 }, /top_p/], [{ top_p: 2 }, /top_p/], [{ seed: 0.5 }, /seed/], [{ stop: [1] }, /stop/]
  ]
  for (const [params, message] of wrong) assert.throws(() => orderOf(1, { messages: HI, ...params } as CompletionParams), { name: 'TypeError', message })
})

test('chunks come in order, the last one with usage', async () => {
  const { answer: chunks } = answer()
  chunks.take(piece('a'))
  const reading = all(chunks)
  chunks.take(piece('b'))
  chunks.take(FINISHED)
  chunks.take(piece('late'))
  const list = await reading
  assert.deepEqual(list.map(({ choices: [{ delta }] }) => delta), [{ role: 'assistant', content: '' }, { content: 'a' }, { content: 'b' }, {}])
  assert.deepEqual(list.map(({ choices: [{ finish_reason: reason }] }) => reason), [null, null, null, 'stop'])
  assert.deepEqual(list.at(-1)?.usage, { prompt_tokens: 3, completion_tokens: 2, total_tokens: 5 })
  assert.ok(list.every(({ id, object, created, model }) => id === 'chatcmpl-1' && object === 'chat.completion.chunk' && created === 12 && model === 'tiny'))
})

test('the whole answer at once', async () => {
  const { answer: chunks } = answer()
  chunks.take(piece('a'))
  chunks.take(piece('b'))
  chunks.take(FINISHED)
  assert.deepEqual(await chunks.whole(), {
    id: 'chatcmpl-1',
    object: 'chat.completion',
    created: 12,
    model: 'tiny',
    choices: [{ index: 0, message: { role: 'assistant', content: 'ab' }, finish_reason: 'stop' }],
    usage: { prompt_tokens: 3, completion_tokens: 2, total_tokens: 5 }
  })
})

test('a refusal comes after what was said before it', async () => {
  const { answer: chunks, cancelled } = answer()
  chunks.take(piece('a'))
  chunks.take({ type: 'refused', id: 1, error: 'Unreachable', message: 'nobody holds blocks 0:5' })
  await chunks.next()
  assert.equal((await chunks.next()).value?.choices[0].delta.content, 'a')
  await assert.rejects(chunks.next(), (error: unknown) => error instanceof CompletionError && error.type === 'Unreachable' && error.message === 'nobody holds blocks 0:5')
  chunks.abort(new Error('late'))
  assert.equal(cancelled(), 0)
})

test('an abort is told at once, and cancels once', async () => {
  const { answer: chunks, cancelled } = answer()
  await chunks.next()
  const next = chunks.next()
  chunks.abort(new Error('enough'))
  await assert.rejects(next, /enough/)
  chunks.abort(new Error('again'))
  chunks.take(piece('late'))
  await assert.rejects(chunks.next(), /enough/)
  assert.equal(cancelled(), 1)
})

test('leaving a loop early cancels the rest', async () => {
  const { answer: chunks, cancelled } = answer()
  for await (const { choices: [{ delta }] } of chunks) {
    assert.equal(delta.role, 'assistant')
    break
  }
  assert.equal(cancelled(), 1)
  assert.equal((await chunks.next()).done, true)
})

test('a client that fails ends its answers', async () => {
  const { answer: chunks } = answer()
  const whole = chunks.whole()
  chunks.fail(new Error('the network worker broke'))
  await assert.rejects(whole, /the network worker broke/)
})
