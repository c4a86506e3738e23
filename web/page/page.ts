// The contributor's page: what the SDK's node says, in words and figures, and its owner's wishes.
// Rule of the file: it puts the other files together; it starts nothing that nobody clicked.

import { createNode, type KwaaiNode, type NodeEvent, type NodeStatus, planThreads } from '../sdk/index.ts'
import { Awake } from './awake.ts'
import { offerChat } from './chat.ts'
import { askOffer, showChecks, showNoOffer, showOffer } from './consent.ts'
import { type Chain, readSwarm, showSwarm } from './coverage.ts'
import { History } from './history.ts'
import { removeKept, showKept } from './kept.ts'
import { Latest } from './latest.ts'
import { LimitsForm, limitsOf } from './limits.ts'
import { ModelChoice } from './models.ts'
import { notice, Watch, watchLeaving } from './notices.ts'
import { showReceipt } from './receipts.ts'
import { Restart } from './restart.ts'
import { Figures, isOver, showPeers, showProgress, showState } from './serving.ts'
import { element, NOTICES, problemIn } from './words.ts'

const BEAT = 2000 // ms between two points of the chart
const INDEXED = 1500 // ms after which the store has written down whose files are
const KEEP_EVERY = 10_000 // ms between two entries into the history
const NEWS = ['serving', 'paused', 'stopped'] // states that change the swarm, too
const LOOK_EVERY = 10_000 // ms between two looks at the swarm, while the page is seen

const GOODBYE = 400 // ms at most: this page is ours to hold, and a browser waits half a second for one that goes

const query = new URLSearchParams(location.search)
const wanted = query.get('backend')
const backend = wanted === 'wasm' || wanted === 'webgpu' ? wanted : undefined
const within = Number(query.get('drain') ?? 90) // seconds that finishing may take
const webrtc = query.get('webrtc') // off or forwarded, for who wants to compare
const threads = query.has('threads') ? Number(query.get('threads')) : planThreads().count

let figures: Figures | null = null
let serving = '' // the model of `node`
let chain: Chain | null = null // of the chat's last message
let waits = false // for a node that broke to start anew
const looks = new Latest() // at the swarm
const awake = new Awake()
const history = new History(() => { notice(NOTICES.storage) })
const form = new LimitsForm(choice => {
  node.setLimits(limitsOf(choice))
  void keepAwake()
})
const restart = new Restart(() => {
  waits = false
  begin()
})
let choice = new ModelChoice([], undefined, () => {})
let node = open('')
const watch = new Watch(() => !isOver(node.status()))
watchLeaving(() => !isOver(node.status()))

/** A node of `model`, empty: the relay's first; the one before has ended. */
function open (model: string): KwaaiNode {
  serving = model
  const opened = createNode({
    relay: [location.origin, ...query.getAll('relay')],
    model,
    blocks: query.get('blocks') ?? '',
    publicName: query.get('name') ?? '',
    limits: limitsOf(form.choice),
    goodbye: GOODBYE,
    ...(query.has('weights') ? { weights: query.get('weights') as string } : {}),
    ...(query.has('threads') ? { threads } : {}),
    ...(backend === undefined ? {} : { backend }),
    ...(webrtc === 'off' || webrtc === 'forwarded' ? { webrtc } : {}),
    onEvent: (event: NodeEvent) => { dispatchEvent(new CustomEvent('kwaainet', { detail: event })) }
  })
  let before = ''
  opened.addEventListener('state', ({ detail }) => {
    watch.state(detail)
    if (detail.state !== before && NEWS.includes(detail.state)) void look()
    before = detail.state
    if (detail.state === 'serving' || detail.state === 'paused') figures ??= new Figures(threads, () => form.choice.watts)
    if (detail.state === 'serving') {
      restart.served()
      setTimeout(() => { void showKept() }, INDEXED)
    }
    if (detail.state === 'failed') broke(detail)
    showState(detail, waits)
    choice.show(isOver(detail) ? null : serving)
    if (isOver(detail)) ended()
  })
  opened.addEventListener('progress', ({ detail }) => { if (opened.status().state === 'loading') showProgress(detail) })
  opened.addEventListener('peer', ({ detail }) => {
    showPeers(detail.peers)
    figures?.traffic.update(detail.peers)
  })
  opened.addEventListener('receipt', ({ detail }) => { showReceipt(detail) })
  return opened
}

/** Start the chosen model's node, as a click asked for it. */
function begin (): void {
  const model = choice.chosen?.model ?? ''
  if (model !== serving) node = open(model)
  node.start().catch(() => {}) // an event tells why, too
  void keepAwake()
}

function broke ({ problem = { code: '', values: {} } }: NodeStatus): void {
  const wait = restart.failed()
  waits = wait !== null
  if (wait !== null) notice(NOTICES.broke(problemIn(problem), wait))
}

function keep (): void {
  if (figures !== null) history.add(figures.since(node.status()))
}

function ended (): void {
  keep()
  figures = null
  element('figures').hidden = true
  watch.ended()
  showPeers([])
  void keepAwake()
  void showKept()
}

async function keepAwake (): Promise<void> {
  const wishes = form.choice
  const on = !isOver(node.status())
  await awake.hold({ screen: on && wishes.awake, unfrozen: on && wishes.unfrozen })
}

async function look (): Promise<void> {
  if (document.hidden) return
  void showKept() // whose a file is, is written down a little after it
  const asked = performance.now()
  const isNews = looks.ask()
  const response = await fetch('/swarm.json', { cache: 'no-store' }).catch(() => null)
  const took = performance.now() - asked
  const swarm = response?.ok === true ? readSwarm(await response.json().catch(() => null)) : null
  if (isNews()) showSwarm(swarm, took, isOver(node.status()) ? '' : node.status().peerId ?? '', chain)
}

element('contribute').addEventListener('click', () => {
  restart.forget()
  waits = false
  form.keep()
  begin()
})
element<HTMLButtonElement>('contribute').disabled = false // a click before would be lost
element('pause').addEventListener('click', () => {
  const { state, reasons = [] } = node.status()
  if (state === 'paused' && reasons.includes('asked')) node.resume()
  else node.pause()
})
element('finish').addEventListener('click', () => { void node.finish({ within }) })
element('stop').addEventListener('click', () => {
  restart.forget()
  waits = false
  void node.stop().then(() => { showState(node.status(), waits) })
})
element('switch').addEventListener('click', () => {
  restart.forget()
  void node.finish({ within: 0 }).then(begin)
})
element('kept-delete').addEventListener('click', () => { void removeKept({}) })
addEventListener('kwaainet-chat', event => {
  const { detail } = event as CustomEvent<{ event: string, model: string, hops?: Chain['hops'] }>
  if (detail.event !== 'chain') return
  chain = { model: detail.model === '' ? models[0]?.model ?? '' : detail.model, hops: detail.hops ?? [] } // empty: the first
  void look()
})
document.addEventListener('visibilitychange', () => {
  void keepAwake()
  void look()
})
addEventListener('pagehide', keep)
setInterval(() => { if (figures !== null) figures.beat(node.status()) }, BEAT)
setInterval(keep, KEEP_EVERY)
setInterval(() => { void look() }, LOOK_EVERY)

void showKept()
const { models, relays } = await askOffer()
choice = new ModelChoice(models, query.get('model') ?? form.choice.model, () => {
  const { chosen } = choice
  if (chosen === undefined) return
  form.model = chosen.model
  choice.show(isOver(node.status()) ? null : serving)
  void showOffer(chosen, threads)
  void showChecks(backend, chosen.bytes, relays)
})
offerChat(models.filter(({ chats }) => chats).map(({ model }) => model))
const { chosen } = choice
if (chosen === undefined) showNoOffer()
else await Promise.all([showOffer(chosen, threads), showChecks(backend, chosen.bytes, relays), look()])
