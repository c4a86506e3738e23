// The page's chat: a conversation through the swarm, and what one should know of it, in words.
// Rule of the file: nothing loads before the first message; what comes from outside is shown as text only.

import { type Client, type ClientEvent, createClient } from '../sdk/index.ts'
import { tell } from './heard.ts'
import { showProblem } from './problem.ts'
import { CHAT, element, made } from './words.ts'

const MAX_TOKENS = 256
const PATIENCE = 2000 // ms without a word until that is said

const query = new URLSearchParams(location.search)
const push = query.get('push')
const form = element<HTMLFormElement>('chat-form')
const input = element<HTMLTextAreaElement>('chat-input')
const send = element<HTMLButtonElement>('chat-send')
const stop = element<HTMLButtonElement>('chat-stop')
const again = element<HTMLButtonElement>('chat-again')
const fresh = element<HTMLButtonElement>('chat-new')
const bar = element<HTMLProgressElement>('chat-progress')
const conversation: Array<{ role: string, content: string }> = []
let underWay: AbortController | null = null
let cutShort = '' // what was asked when an answer broke off
let client = open('')

/** A client of `model`, empty: of the relay's first. */
function open (model: string): Client {
  const opened = createClient({
    relay: location.origin,
    model,
    ...(query.get('webrtc') === 'off' ? { webrtc: 'off' } : {}),
    ...(push === 'on' || push === 'off' ? { push } : {}),
    onEvent: event => {
      if (client !== opened) return // its last words
      show(event)
      dispatchEvent(new CustomEvent('kwaainet-chat', { detail: { ...event, model } }))
    }
  })
  return opened
}

/** Let the visitor choose among several models; another one is another conversation. */
export function offerChat (models: readonly string[]): void {
  const select = element<HTMLSelectElement>('chat-model')
  select.replaceChildren(...models.map(model => made('option', model)))
  element('chat-model-choice').hidden = models.length < 2
  select.addEventListener('change', () => {
    const before = client
    client = open(select.value)
    underWay?.abort()
    void before.close()
    startAnew()
    showPeers()
  })
}

function show (event: ClientEvent): void {
  if (event.event === 'state') showState(event.state, event.code, event.message)
  else if (event.event === 'progress') showProgress(event.stage, event.done, event.total)
  else if (event.event === 'chain') showChain(event.hops, event.lost, event.anew)
  else if (event.event === 'connection' && event.connection === 'lost') say(CHAT.lost)
  else if (event.event === 'peers') showPeers()
}

function showState (state: string, code = '', message = ''): void {
  bar.hidden = state !== 'loading'
  bar.removeAttribute('value')
  say(state === 'loading' ? CHAT.loading : '')
  if (state === 'error') problem({ code, message })
}

function showProgress (stage: string, done: number, total: number): void {
  if (bar.hidden) return
  say(CHAT.progress(stage, done, total), CHAT.loading)
  if (total > 0) bar.value = done / total
}

function showChain (hops: Array<{ peer: string }>, lost: string[], anew: boolean): void {
  const peers = hops.map(({ peer }) => peer)
  if (anew) note(lost.length > 0 ? CHAT.moved(lost, peers) : CHAT.back(peers))
  showPeers()
}

/** Who answers, and how each is connected. */
function showPeers (): void {
  const { hops } = client.status()
  element('chat-peers').replaceChildren(...hops.map(({ peer, start, end, connection }) => {
    const line = made('li', CHAT.hop(peer, start, end, connection?.kind, connection?.rtt_ms))
    line.title = peer
    return line
  }))
}

function say (text: string, heard = text): void {
  tell('chat-status', text, heard)
}

function problem (what: { code: string, message: string } | null): void {
  showProblem(element('chat-problem'), what)
}

/** One turn in the conversation that people see. */
function turn (who: string, text: string): HTMLElement {
  const article = document.createElement('article')
  const name = document.createElement('h3')
  const body = document.createElement('p')
  name.textContent = who
  body.textContent = text
  article.append(name, body)
  showLog(article)
  return body
}

function showLog (line: HTMLElement): void {
  const log = element('chat-log')
  log.hidden = false
  log.append(line)
  log.scrollTop = log.scrollHeight
}

function note (text: string): void {
  const line = document.createElement('p')
  line.className = 'note'
  line.textContent = text
  showLog(line)
}

/** Says about once a second how fast the answer comes, and when it does not. */
class Pace {
  #pieces = 0
  #first = 0
  #told = 0
  #last = performance.now()
  readonly #timer = setInterval(() => { if (bar.hidden && performance.now() - this.#last > PATIENCE) say(CHAT.waiting(client.status().hops.map(({ peer }) => peer))) }, PATIENCE / 4)

  end (): void {
    clearInterval(this.#timer)
  }

  piece (): void {
    const now = this.#last = performance.now()
    if (this.#pieces++ === 0) this.#first = this.#told = now
    if (now - this.#told < 1000) return
    this.#told = now
    say(CHAT.pace((this.#pieces - 1) * 1000 / (now - this.#first)), '')
  }
}

async function answer (text: string): Promise<void> {
  const control = underWay = new AbortController()
  conversation.push({ role: 'user', content: text })
  const asked = turn(CHAT.you, text)
  const reply = turn(CHAT.model, '')
  const article = reply.parentElement!
  article.setAttribute('aria-busy', 'true') // read out once it is whole
  let content = ''
  const pace = new Pace()
  try {
    const chunks = await client.chat.completions.create({
      messages: conversation,
      stream: true,
      temperature: 0,
      max_tokens: Number(query.get('max_tokens') ?? MAX_TOKENS),
      signal: control.signal
    })
    for await (const { choices: [{ delta }] } of chunks) {
      reply.textContent = content += delta.content ?? ''
      pace.piece()
    }
    say(CHAT.done(client.status().tokens_per_second))
  } catch (error) {
    if (control.signal.aborted) say(CHAT.stopped)
    else {
      const { code, type = code, message } = error as { code?: string, type?: string, message?: string }
      problem({ code: type ?? '', message: message ?? String(error) })
      say('')
      showPeers()
      if (content !== '' && article.isConnected) {
        note(CHAT.cut)
        cutShort = text
      }
    }
  }
  pace.end()
  article.removeAttribute('aria-busy')
  underWay = null
  if (!article.isConnected) return // another conversation has begun
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
  stop.disabled = stop.hidden = !answering
  again.disabled = again.hidden = answering || cutShort === ''
  fresh.disabled = fresh.hidden = answering || conversation.length === 0
}

form.addEventListener('submit', event => {
  event.preventDefault()
  const text = input.value.trim()
  if (text === '' || underWay !== null) return
  input.value = ''
  ask(text)
})
again.addEventListener('click', () => {
  conversation.splice(-2) // the question and what came of an answer, which people still see
  ask(cutShort)
})
function ask (text: string): void {
  cutShort = ''
  problem(null)
  enable(true)
  void answer(text).finally(() => {
    enable(false)
    input.focus()
  })
}
function startAnew (): void {
  conversation.length = 0
  cutShort = ''
  element('chat-log').replaceChildren()
  element('chat-log').hidden = true
  problem(null)
  say('')
  enable(false)
}
fresh.addEventListener('click', () => {
  startAnew()
  input.focus()
})
stop.addEventListener('click', () => { underWay?.abort() })
input.addEventListener('keydown', event => {
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
    event.preventDefault()
    form.requestSubmit()
  }
})
