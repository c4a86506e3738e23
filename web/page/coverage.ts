// The swarm as the relay sees it: which blocks have how many servers, and the way a request would take.
// Rule of the file: what the relay says is anybody's word; it is bounded, and shown as text only.

import { element, made, shortName, SWARM } from './words.ts'

const MOST_BLOCKS = 512
const MOST_MODELS = 8

/** One server of one model, its blocks without the second of the two. */
export interface Server { peer: string, model: string, start: number, end: number }

export interface Health { servers: Server[], peers: number, circuits: number, bytes: number }

/** What /status.json says, as far as it makes sense. */
export function readStatus (document: unknown): Health {
  const { announced, peers, circuits, relayed_bytes: bytes } = (document ?? {}) as Record<string, unknown>
  const servers: Server[] = []
  for (const [peer, list] of Object.entries((announced ?? {}) as Record<string, unknown>)) {
    for (const one of Array.isArray(list) ? list : []) {
      const [start, end] = Array.isArray(one?.blocks) ? one.blocks : []
      if (one?.state === 'ONLINE' && typeof one.prefix === 'string' && isBlock(start) && isBlock(end) && start < end) servers.push({ peer, model: one.prefix, start, end })
    }
  }
  return { servers, peers: number(peers), circuits: number(circuits), bytes: number(bytes) }
}

/** How many servers each of the blocks has. */
export function coverage (servers: Server[], blocks: number): number[] {
  return Array.from({ length: Math.min(blocks, MOST_BLOCKS) }, (_, block) => servers.filter(({ start, end }) => start <= block && block < end).length)
}

/** A chain with as few servers as can be, and where it ends: at the last block unless there is a gap. */
export function chain (servers: Server[], blocks: number): { hops: Server[], end: number } {
  const hops: Server[] = []
  let at = 0
  while (at < blocks) {
    const next = servers.filter(({ start, end }) => start <= at && at < end).sort((one, other) => other.end - one.end)[0]
    if (next === undefined) break
    hops.push({ ...next, start: at })
    at = next.end
  }
  return { hops, end: at }
}

export function showCoverage (health: Health | null, offered: Map<string, number>, ours: { peer: string, model: string, start: number, end: number } | null): void {
  element('swarm-health').textContent = health === null ? SWARM.unreachable : SWARM.health(health.peers, health.circuits, health.bytes)
  if (health === null) return
  const names = [...new Set([...offered.keys(), ...health.servers.map(({ model }) => model)])].slice(0, MOST_MODELS)
  element('coverage').replaceChildren(...names.map(name => {
    const servers = health.servers.filter(({ model }) => model === name)
    return map(name, servers, offered.get(name) ?? Math.max(...servers.map(({ end }) => end)), ours?.model === name ? ours : null)
  }))
  const [first] = offered
  if (health.servers.length === 0) element('route').textContent = SWARM.nobody
  else if (first !== undefined) showRoute(health.servers.filter(({ model }) => model === first[0]), first[1])
}

function map (name: string, servers: Server[], blocks: number, ours: { start: number, end: number } | null): HTMLElement {
  const counts = coverage(servers, blocks)
  const cells = counts.map((servers, block) => {
    const cell = made('li', '', made('b', String(servers)), document.createTextNode(String(block)))
    cell.dataset.servers = String(Math.min(servers, 3))
    cell.title = SWARM.block(block, servers)
    if (ours !== null && ours.start <= block && block < ours.end) cell.className = 'ours'
    return cell
  })
  const list = made('ul', '', ...cells)
  list.className = 'blocks'
  const peers = new Set(servers.map(({ peer }) => peer)).size
  const said = SWARM.model(name, peers, counts.filter(servers => servers === 0).length)
  list.ariaLabel = said
  const whole = made('div', '', made('h3', said), list, Object.assign(made('p', SWARM.legend), { className: 'note' }))
  whole.className = 'model-map'
  return whole
}

function showRoute (servers: Server[], blocks: number): void {
  const { hops, end } = chain(servers, blocks)
  const said = hops.map(({ peer, start, end }) => SWARM.hop(shortName(peer), start, end))
  element('route').textContent = SWARM.route(end < blocks ? [...said, SWARM.gap(end)] : said)
}

function isBlock (value: unknown): value is number {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) <= MOST_BLOCKS
}

function number (value: unknown): number {
  return typeof value === 'number' && Number.isFinite(value) ? value : 0
}
