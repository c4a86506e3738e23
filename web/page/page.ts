// The contributor's page: two buttons, and what the SDK's node says, in words.

import { createNode, type NodeEvent, preflight } from '../sdk/index.ts'
import './chat.ts'
import { element, KINDS, shortName } from './words.ts'

const WORDS: Partial<Record<NodeEvent['event'], string>> = {
  starting: 'Starting…',
  reserving: 'Asking the relay for a place…',
  loading: 'Loading…',
  joining: 'Joining the swarm…',
  online: 'Online: this tab serves its blocks.',
  paused: 'Paused.',
  elsewhere: 'Another tab of this browser contributes; this one takes over when it ends.',
  draining: 'Finishing…',
  offline: 'Not contributing.',
  error: 'Stopped by a problem.'
}
const STAGES: Record<string, string> = { python: 'Python', weights: 'the weights', build: 'the engine' }
const CONNECTIONS: Record<string, string> = { connecting: 'connecting…', reserved: 'connected', lost: 'lost, trying again…' }

const query = new URLSearchParams(location.search)
const wanted = query.get('backend')
const backend = wanted === 'wasm' || wanted === 'webgpu' ? wanted : undefined
const drain = Number(query.get('drain') ?? 90) // seconds
const webrtc = query.get('webrtc') // off or forwarded, for who wants to compare
const contribute = element<HTMLButtonElement>('contribute')
const stop = element<HTMLButtonElement>('stop')

const node = createNode({
  relay: location.origin,
  blocks: query.get('blocks') ?? '',
  publicName: query.get('name') ?? '',
  ...(query.has('weights') ? { weights: query.get('weights') as string } : {}),
  ...(query.has('threads') ? { threads: Number(query.get('threads')) } : {}),
  ...(backend === undefined ? {} : { backend }),
  ...(webrtc === 'off' || webrtc === 'forwarded' ? { webrtc } : {}),
  onEvent: event => {
    show(event)
    dispatchEvent(new CustomEvent('kwaainet', { detail: event }))
  }
})

function show (event: NodeEvent): void {
  if (event.event === 'connection') element('relay').textContent = CONNECTIONS[event.connection ?? ''] ?? ''
  else if (event.event === 'progress') showProgress(event)
  else if (event.event === 'serving') showServing(event)
  else if (event.event === 'peers') showPeers(event.peers ?? [])
  else if (event.event === 'threads') element('threads').textContent = `${event.threads}${event.message === undefined ? '' : `: ${event.message}`}`
  else showState(event)
}

function showState (event: NodeEvent): void {
  const idle = event.event === 'offline' || event.event === 'error'
  contribute.disabled = !idle
  stop.disabled = idle
  element('state').textContent = WORDS[event.event] ?? event.event
  element('backend').textContent = idle ? '–' : event.backend ?? '–'
  element('weights').textContent = idle ? '–' : event.weights ?? '–'
  element('blocks').textContent = idle || event.blocks?.length !== 2 ? '–' : `${event.blocks[0]}:${event.blocks[1]}`
  element('peer').textContent = event.peer_id ?? '–'
  if (idle) element('relay').textContent = '–'
  if (idle) showPeers([])
  const problem = element('problem')
  problem.hidden = event.event !== 'error'
  problem.textContent = event.message ?? ''
  const bar = element<HTMLProgressElement>('progress')
  bar.hidden = idle || event.event === 'elsewhere' || event.event === 'online' || event.event === 'draining'
  bar.removeAttribute('value')
}

function showServing ({ sessions = 0, leaving_in }: NodeEvent): void {
  if (leaving_in === undefined) return
  element('state').textContent = `Finishing: ${sessions} session${sessions === 1 ? '' : 's'}, at most ${leaving_in} s. Stop again to leave at once.`
}

function showProgress ({ stage = '', done = 0, total = 0, cached = 0, rate = 0, seconds_left: left }: NodeEvent): void {
  const mega = (bytes: number): string => (bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)
  const speed = rate > 0 ? `, ${mega(rate)} MB/s` : ''
  const time = left === undefined ? '' : `, ${Math.ceil(left)} s left`
  const amount = total > 1e5 ? `: ${mega(done)} of ${mega(total)} MB${cached > 0 ? ` (${mega(cached)} MB were kept here)` : ''}${speed}${time}` : ''
  element('state').textContent = `Loading ${STAGES[stage] ?? stage}${amount}…`
  if (total > 0) element<HTMLProgressElement>('progress').value = done / total
}

/** Who is connected: one row a peer, of texts that came from outside. */
function showPeers (peers: NonNullable<NodeEvent['peers']>): void {
  element('connected').hidden = peers.length === 0
  element('peers').replaceChildren(...peers.map(({ peer, kind, rtt_ms: roundTrip, bytes_in: received, bytes_out: sent }) => {
    const row = document.createElement('tr')
    for (const text of [shortName(peer), KINDS[kind] ?? kind, roundTrip === undefined ? '–' : `${roundTrip.toFixed(1)} ms`, size(received), size(sent)]) {
      row.insertCell().textContent = text
    }
    row.cells[0]!.title = peer
    return row
  }))
}

function size (bytes: number): string {
  return bytes < 1e6 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(1)} MB`
}

contribute.addEventListener('click', () => { node.start().catch(() => {}) }) // an event tells why, too
let leaving = false
stop.addEventListener('click', () => {
  void node.finish({ within: leaving ? 0 : drain }).then(() => { leaving = false })
  leaving = true
})

const { checks } = await preflight(backend)
element('checks').replaceChildren(...checks.map(check => {
  const line = document.createElement('li')
  line.textContent = check.ok ? `${check.name}: yes${check.message !== '' && ['WebGPU', 'threads'].includes(check.name) ? ` (${check.message})` : ''}` : `${check.name}: no. ${check.message}`
  return line
}))
