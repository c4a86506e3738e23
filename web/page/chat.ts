// The page's chat: a conversation through the swarm, and what one should know of it, in words.
// Rule of the file: nothing loads before the first message; what comes from outside is shown as text only.

import { type ClientEvent, createClient } from '../sdk/index.ts'
import { element, KINDS, shortName } from './words.ts'

const STAGES: Record<string, string> = { python: 'Python', weights: 'the first and last layer' }
const MAX_TOKENS = 256

const query = new URLSearchParams(location.search)
const push = query.get('push')
const form = element<HTMLFormElement>('chat-form')
const input = element<HTMLTextAreaElement>('chat-input')
const send = element<HTMLButtonElement>('chat-send')
const stop = element<HTMLButtonElement>('chat-stop')
const fresh = element<HTMLButtonElement>('chat-new')
const bar = element<HTMLProgressElement>('chat-progress')
const conversation: Array<{ role: string, content: string }> = []
let underWay: AbortController | null = null

const client = createClient({
  relay: location.origin,
  ...(query.get('webrtc') === 'off' ? { webrtc: 'off' } : {}),
  ...(push === 'on' || push === 'off' ? { push } : {}),
  onEvent: event => {
    show(event)
    dispatchEvent(new CustomEvent('kwaainet-chat', { detail: event }))
  }
})

function show (event: ClientEvent): void {
  if (event.event === 'state') showState(event.state, event.message)
  else if (event.event === 'progress') showProgress(event.stage, event.done, event.total)
  else if (event.event === 'chain') showChain(event.hops, event.lost)
  else if (event.event === 'connection' && event.connection === 'lost') say('The relay is lost, trying again…')
  else if (event.event === 'peers') showPeers()
}

function showState (state: string, message = ''): void {
  bar.hidden = state !== 'loading'
  bar.removeAttribute('value')
  say(state === 'loading' ? 'Loading…' : '')
  if (state === 'error') problem(message)
}

function showProgress (stage: string, done: number, total: number): void {
  if (bar.hidden) return
  const amount = total > 1e5 ? ` ${(done / 1e6).toFixed(0)} of ${(total / 1e6).toFixed(0)} MB` : ''
  say(`Loading ${STAGES[stage] ?? stage}${amount}…`)
  if (total > 0) bar.value = done / total
}

function showChain (hops: Array<{ peer: string }>, lost: string[]): void {
  if (lost.length > 0) note(`${lost.map(shortName).join(', ')} left; continued on ${hops.map(({ peer }) => shortName(peer)).join(', ')}.`)
  showPeers()
}

/** Who answers, and how each is connected. */
function showPeers (): void {
  const { hops } = client.status()
  element('chat-peers').replaceChildren(...hops.map(({ peer, start, end, connection }) => {
    const line = document.createElement('li')
    const time = connection?.rtt_ms === undefined ? '' : `, ${connection.rtt_ms.toFixed(1)} ms away`
    line.textContent = `${shortName(peer)}: blocks ${start}:${end}${connection === undefined ? '' : `, ${KINDS[connection.kind] ?? connection.kind}${time}`}`
    line.title = peer
    return line
  }))
}

function say (text: string): void {
  element('chat-status').textContent = text
}

function problem (text: string): void {
  element('chat-problem').hidden = text === ''
  element('chat-problem').textContent = text
}

/** One turn in the conversation that people see. */
function turn (who: string, text: string): HTMLElement {
  const article = document.createElement('article')
  const name = document.createElement('h3')
  const body = document.createElement('p')
  name.textContent = who
  body.textContent = text
  article.append(name, body)
  element('chat-log').append(article)
  return body
}

function note (text: string): void {
  const line = document.createElement('p')
  line.className = 'note'
  line.textContent = text
  element('chat-log').append(line)
}

async function answer (text: string): Promise<void> {
  const control = underWay = new AbortController()
  conversation.push({ role: 'user', content: text })
  const asked = turn('You', text)
  const reply = turn('Model', '')
  const article = reply.parentElement!
  article.setAttribute('aria-busy', 'true') // read out once it is whole
  let content = ''
  try {
    const chunks = await client.chat.completions.create({
      messages: conversation,
      stream: true,
      temperature: 0,
      max_tokens: Number(query.get('max_tokens') ?? MAX_TOKENS),
      signal: control.signal
    })
    for await (const { choices: [{ delta }] } of chunks) reply.textContent = content += delta.content ?? ''
    const rate = client.status().tokens_per_second
    say(rate === undefined ? 'Done.' : `Done, ${rate.toFixed(1)} tokens a second.`)
  } catch (error) {
    if (control.signal.aborted) say('Stopped.')
    else problem(error instanceof Error ? error.message : String(error))
  }
  article.removeAttribute('aria-busy')
  underWay = null
  if (content !== '') conversation.push({ role: 'assistant', content })
  else { // nothing came: as if nothing had been said
    conversation.pop()
    asked.parentElement!.remove()
    article.remove()
    input.value ||= text
  }
}

/** Which buttons make sense while an answer is under way, and while none is. */
function enable (answering: boolean): void {
  send.disabled = answering
  stop.disabled = !answering
  fresh.disabled = answering || conversation.length === 0
}

form.addEventListener('submit', event => {
  event.preventDefault()
  const text = input.value.trim()
  if (text === '' || underWay !== null) return
  problem('')
  input.value = ''
  enable(true)
  void answer(text).finally(() => {
    enable(false)
    input.focus()
  })
})
fresh.addEventListener('click', () => {
  conversation.length = 0
  element('chat-log').replaceChildren()
  problem('')
  say('')
  enable(false)
  input.focus()
})
stop.addEventListener('click', () => { underWay?.abort() })
input.addEventListener('keydown', event => {
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
    event.preventDefault()
    form.requestSubmit()
  }
})
