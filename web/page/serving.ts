// While contributing: state, buttons, figures, connections. It shows what the SDK's node says and counts nothing twice.

import type { NodeStatus, Peer, Progress } from '../sdk/index.ts'
import { draw, Rate } from './chart.ts'
import { wattHours, watts } from './energy.ts'
import { tell } from './heard.ts'
import type { Amounts } from './history.ts'
import { showProblem } from './problem.ts'
import {
  BACKENDS, duration, element, elsewhere, energy, energyOf, FACTS, finishing, heldRelays, KINDS, loadingHeard, loadingOf, made, PEER_COLUMNS, RELAY, shortName, size, spanOf, stateOf,
  storageOf, threadsOf, TILES, weightsOf, WORDS
} from './words.ts'

const OVER = ['idle', 'stopped', 'failed']
const BUTTONS = ['pause', 'stop', 'finish', 'contribute'] // where the focus goes when the one that had it is gone
const WAITS = ['serving', 'paused', 'elsewhere', ...OVER]

export function isOver (status: NodeStatus): boolean {
  return OVER.includes(status.state)
}

/** Which buttons make sense, and what the state is in words; `waiting`: one that broke starts anew soon. */
export function showState (status: NodeStatus, waiting: boolean): void {
  const over = isOver(status)
  const { state, progress, leavingIn, elsewhere: other } = status
  const buttons = BUTTONS.map(id => element(id))
  const focused = buttons.find(button => button === document.activeElement) // a browser takes the focus off what is hidden
  element<HTMLButtonElement>('contribute').hidden = !over
  for (const id of ['pause', 'finish', 'stop']) element(id).hidden = over
  element('pause').hidden ||= state === 'draining' || state === 'elsewhere'
  element('finish').hidden ||= state !== 'serving'
  element('stop').hidden &&= !waiting
  if (focused?.hidden === true) buttons.find(button => !button.hidden)?.focus()
  element('buttons-note').hidden = element('finish').hidden
  element('pause').textContent = WORDS[state === 'paused' && status.reasons?.includes('asked') === true ? 'resume' : 'pause'] ?? ''
  element('before').hidden = !over
  element('while').hidden = over || state === 'elsewhere'
  if (state === 'elsewhere' && other !== undefined) say(elsewhere(other.peerId, other.since))
  else if (state === 'draining' && leavingIn !== undefined) say(finishing(status.work.sessions, leavingIn), stateOf(state))
  else if (state === 'loading' && progress !== undefined && status.step === 'loading') showProgress(progress)
  else say(stateOf(state === 'loading' ? status.step ?? state : state, status.reasons))
  const { code = '', values = {} } = status.problem ?? {}
  showProblem(element('problem'), state === 'failed' ? { code, values, message: status.message ?? '' } : null)
  const bar = element<HTMLProgressElement>('progress')
  bar.hidden = WAITS.includes(state) || state === 'draining'
  if (progress === undefined) bar.removeAttribute('value')
  showFacts(status)
}

export function showProgress ({ stage, done, total, cached, rate, secondsLeft }: Progress): void {
  say(loadingOf(stage, done, total, cached, rate, secondsLeft), loadingHeard(stage, done, total))
  if (total > 0) element<HTMLProgressElement>('progress').value = done / total
}

function say (text: string, heard = text): void {
  tell('state', text, heard)
}

function showFacts (status: NodeStatus): void {
  const { backend = '', weights = '', blocks, peerId = '', relay = '', storage, threads } = status
  const texts: Record<keyof typeof FACTS, string> = {
    backend: BACKENDS[backend] ?? '',
    threads: threads === undefined ? '' : threadsOf(threads.count, navigator.hardwareConcurrency),
    weights: readWeights(weights) ?? '',
    blocks: blocks === undefined ? '' : spanOf(...blocks),
    peer: peerId,
    relay: relay === 'reserved' ? heldRelays(status.peers.filter(({ kind }) => kind === 'relay').length) : RELAY[relay] ?? '',
    storage: storage === undefined ? '' : storageOf(storage.kept, storage.needed, storage.room)
  }
  const names = Object.keys(FACTS) as Array<keyof typeof FACTS>
  if (element('facts').children.length === 0) {
    element('facts').append(...names.flatMap(name => [made('dt', FACTS[name]), Object.assign(made('dd'), { id: name })]))
    element('peers-head').append(...PEER_COLUMNS.map(name => Object.assign(made('th', name), { scope: 'col' })))
  }
  for (const name of names) {
    const fact = element(name)
    fact.textContent = texts[name]
    fact.hidden = (fact.previousElementSibling as HTMLElement).hidden = texts[name] === ''
  }
}

/** How weights are kept, of what the node says of them (kwaainet.inference.weight_format), in the page's words. */
export function readWeights (text: string): string | undefined {
  const [, name, mega, exact] = /^(\w+) \((\d+) MB, (the file's numbers)?/.exec(text) ?? []
  return name === undefined ? undefined : weightsOf(name, Number(mega) * 1e6, exact !== undefined)
}

/** Who is connected: one row a peer, of texts that came from outside. */
export function showPeers (peers: Peer[]): void {
  element('connected').hidden = peers.length === 0
  element('peers').replaceChildren(...peers.map(({ id, kind, rttMs, bytesIn, bytesOut }) => {
    const row = made('tr')
    for (const text of [shortName(id), KINDS[kind] ?? kind, rttMs === undefined ? '–' : `${rttMs.toFixed(1)} ms`, size(bytesIn), size(bytesOut)]) row.insertCell().textContent = text
    row.cells[0]!.title = id
    return row
  }))
}

/** Sums what peers received and sent; a peer that comes anew counts from nothing. */
export class Traffic {
  #peers = new Map<string, [number, number]>()
  received = 0
  sent = 0

  update (peers: Peer[]): void {
    for (const { id, bytesIn, bytesOut } of peers) {
      const [before, sentBefore] = this.#peers.get(id) ?? [0, 0]
      this.received += bytesIn >= before ? bytesIn - before : bytesIn
      this.sent += bytesOut >= sentBefore ? bytesOut - sentBefore : bytesOut
    }
    this.#peers = new Map(peers.map(({ id, bytesIn, bytesOut }) => [id, [bytesIn, bytesOut]]))
  }
}

/** The figures of one run, from its first beat on. */
export class Figures {
  readonly traffic = new Traffic()
  readonly #tokens = new Rate()
  readonly #requests = new Rate()
  readonly #started = performance.now()
  readonly #threads: number
  readonly #watts: () => number | undefined
  #told: Amounts = { seconds: 0, tokens: 0, requests: 0, received: 0, sent: 0, energy: 0 }

  /** `own`: the watts that the contributor gave, if any. */
  constructor (threads: number, own: () => number | undefined) {
    this.#threads = threads
    this.#watts = own
  }

  /** Every two seconds or so. */
  beat (status: NodeStatus): void {
    const now = performance.now() / 1000
    const { work, blocks, backend } = status
    const tokens = this.#tokens.add(work.tokensDone, now)
    const requests = this.#requests.add(work.requestsDone ?? 0, now)
    const power = this.#power(status)
    const busy = work.busySeconds ?? 0
    const texts: Record<keyof typeof TILES, [string, string?]> = {
      tokens: [tokens.toFixed(1)],
      requests: [requests.toFixed(1)],
      all: [String(work.tokensDone)],
      blocks: blocks === undefined ? ['–'] : [String(blocks[1] - blocks[0]), spanOf(...blocks)],
      sessions: [String(work.sessions)],
      uptime: [duration(now - this.#started / 1000)],
      traffic: [size(this.traffic.received), size(this.traffic.sent)],
      energy: [energy(wattHours(busy, power))]
    }
    element('energy-note').textContent = energyOf(busy, power, backend === 'webgpu', this.#watts() !== undefined)
    element('tiles').replaceChildren(...(Object.keys(texts) as Array<keyof typeof TILES>).map(name => {
      const [text, more = ''] = texts[name]
      return made('div', '', made('dt', TILES[name]), made('dd', text, ...(more === '' ? [] : [made('small', more)])))
    }))
    draw(this.#tokens.samples)
    element('figures').hidden = false
  }

  /** What has come since this was asked last, for the history. */
  since (status: NodeStatus): Amounts {
    const { work } = status
    const now: Amounts = {
      seconds: (performance.now() - this.#started) / 1000,
      tokens: work.tokensDone,
      requests: work.requestsDone ?? 0,
      received: this.traffic.received,
      sent: this.traffic.sent,
      energy: wattHours(work.busySeconds ?? 0, this.#power(status))
    }
    const before = this.#told
    this.#told = now
    return Object.fromEntries(Object.entries(now).map(([name, value]) => [name, value - before[name as keyof Amounts]])) as unknown as Amounts
  }

  #power ({ backend, threads }: NodeStatus): number {
    return this.#watts() ?? watts(backend, threads?.count ?? this.#threads)
  }
}
