// The contributor's page: what the SDK's node says, in words and figures, and its owner's wishes.
// Rule of the file: it puts the other files together; it starts nothing that nobody clicked.

import { createNode, type NodeEvent, planThreads } from '../sdk/index.ts'
import './chat.ts'
import { askOffer, type Offered, showChecks, showNoOffer, showOffer } from './consent.ts'
import { readStatus, showCoverage } from './coverage.ts'
import { History } from './history.ts'
import { LimitsForm, limitsOf } from './limits.ts'
import { notice, Watch } from './notices.ts'
import { Figures, isOver, showPeers, showProgress, showState } from './serving.ts'
import { element, label, NOTICES } from './words.ts'

const BEAT = 2000 // ms between two points of the chart
const KEEP_EVERY = 10_000 // ms between two entries into the history
const LOOK_EVERY = 10_000 // ms between two looks at the swarm, while the page is seen

const query = new URLSearchParams(location.search)
const wanted = query.get('backend')
const backend = wanted === 'wasm' || wanted === 'webgpu' ? wanted : undefined
const within = Number(query.get('drain') ?? 90) // seconds that finishing may take
const webrtc = query.get('webrtc') // off or forwarded, for who wants to compare
const threads = query.has('threads') ? Number(query.get('threads')) : planThreads().count

label()
let offered: Offered | null = null
let figures: Figures | null = null
let awake: WakeLockSentinel | null = null
const history = new History(() => { notice(NOTICES.storage) })
const form = new LimitsForm(choice => {
  node.setLimits(limitsOf(choice))
  void keepAwake()
})

const node = createNode({
  relay: location.origin,
  blocks: query.get('blocks') ?? '',
  publicName: query.get('name') ?? '',
  limits: limitsOf(form.choice),
  ...(query.has('weights') ? { weights: query.get('weights') as string } : {}),
  ...(query.has('threads') ? { threads } : {}),
  ...(backend === undefined ? {} : { backend }),
  ...(webrtc === 'off' || webrtc === 'forwarded' ? { webrtc } : {}),
  onEvent: (event: NodeEvent) => { dispatchEvent(new CustomEvent('kwaainet', { detail: event })) }
})
const watch = new Watch(() => !isOver(node.status()))

node.addEventListener('state', ({ detail }) => {
  showState(detail)
  watch.relay(detail.relay)
  watch.clock(detail.clockAhead)
  if (detail.state === 'serving' || detail.state === 'paused') figures ??= new Figures(threads)
  if (isOver(detail)) ended()
})
node.addEventListener('progress', ({ detail }) => { if (node.status().state === 'loading') showProgress(detail) })
node.addEventListener('peer', ({ detail }) => {
  showPeers(detail.peers)
  figures?.traffic.update(detail.peers)
})

function beat (): void {
  if (figures !== null) figures.beat(node.status())
}

function keep (): void {
  if (figures !== null) history.add(figures.since(node.status()))
}

function ended (): void {
  keep()
  figures = null
  watch.forget()
  showPeers([])
  void keepAwake()
}

/** As its owner wants it: the screen stays on while this tab contributes and is seen. */
async function keepAwake (): Promise<void> {
  const wish = form.choice.awake && !isOver(node.status()) && !document.hidden && 'wakeLock' in navigator
  if (wish && (awake === null || awake.released)) awake = await navigator.wakeLock.request('screen').catch(() => null)
  else if (!wish) {
    await awake?.release()
    awake = null
  }
}

async function look (): Promise<void> {
  if (document.hidden) return
  const response = await fetch('/status.json', { cache: 'no-store' }).catch(() => null)
  const health = response?.ok === true ? readStatus(await response.json().catch(() => null)) : null
  const { peerId, blocks, state } = node.status()
  const ours = offered !== null && blocks !== undefined && state === 'serving' ? { peer: peerId ?? '', model: offered.model, start: blocks[0], end: blocks[1] } : null
  showCoverage(health, new Map(offered === null ? [] : [[offered.model, offered.blocks]]), ours)
}

element('contribute').addEventListener('click', () => {
  form.keep()
  node.start().catch(() => {}) // an event tells why, too
  void keepAwake()
  element('pause').focus()
})
element('pause').addEventListener('click', () => {
  const { state, reasons = [] } = node.status()
  if (state === 'paused' && reasons.includes('asked')) node.resume()
  else node.pause()
})
element('finish').addEventListener('click', () => { void node.finish({ within }) })
element('stop').addEventListener('click', () => {
  void node.stop().then(() => { element('contribute').focus() })
})
document.addEventListener('visibilitychange', () => {
  void keepAwake()
  void look()
})
addEventListener('pagehide', keep)
setInterval(beat, BEAT)
setInterval(keep, KEEP_EVERY)
setInterval(() => { void look() }, LOOK_EVERY)

offered = await askOffer()
if (offered === null) showNoOffer()
else await Promise.all([showOffer(offered, threads), showChecks(backend, offered.relays), look()])
