// The swarm as a picture: above, how many servers hold each block; below, every server as a bar over its blocks.
// Rule of the file: what the relay says is anybody's word; it is bounded, and shown as text only.

import { element, made, shortName, SWARM } from './words.ts'

const MOST_BLOCKS = 512
const MOST_MODELS = 8
const MOST_SERVERS = 256
const MOST_LANES = 10 // rows of bars
const TALLEST = 4 // servers of a block that a column can show

/** Consecutive blocks that one server announces, without the second. */
export interface Server { peer: string, start: number, end: number, joining: boolean, gateway: boolean, name: string }
export type Hop = Pick<Server, 'peer' | 'start' | 'end'>

/** `counts`: servers of each block. `route`: a way that a request could take, none where a block has no server. */
export interface Model { name: string, counts: number[], servers: Server[], more: number, route: Hop[] }

export interface Swarm { models: Model[], peers: number, circuits: number, bytes: number, draining: boolean, problem: boolean }

/** What /swarm.json says, as far as it makes sense. */
export function readSwarm (document: unknown): Swarm {
  const { models, relay, problem } = (document ?? {}) as Record<string, any>
  const { peers, circuits, relayed_bytes: bytes, draining } = (relay ?? {}) as Record<string, unknown>
  const found = (Array.isArray(models) ? models : []).slice(0, MOST_MODELS).map(readModel).filter(model => model !== null)
  return { models: found, peers: number(peers), circuits: number(circuits), bytes: number(bytes), draining: draining === true, problem: typeof problem === 'string' && problem !== '' }
}

function readModel (value: any): Model | null {
  if (typeof value?.prefix !== 'string' || !Array.isArray(value.counts)) return null
  const counts = value.counts.slice(0, MOST_BLOCKS).map(number)
  const list = Array.isArray(value.servers) ? value.servers.slice(0, MOST_SERVERS) : []
  const servers = list.flatMap((one: any): Server[] => {
    const [start, end] = Array.isArray(one?.blocks) ? one.blocks : []
    if (typeof one?.peer !== 'string' || !isSpan(start, end, counts.length)) return []
    return [{ peer: one.peer, start, end, joining: one.state !== 'ONLINE', gateway: one.gateway === true, name: typeof one.name === 'string' ? one.name.slice(0, 40) : '' }]
  })
  const route = (Array.isArray(value.route) ? value.route.slice(0, MOST_BLOCKS) : []).flatMap((hop: any): Hop[] => {
    const [peer, start, end] = Array.isArray(hop) ? hop : []
    return typeof peer === 'string' && isSpan(start, end, counts.length) ? [{ peer, start, end }] : []
  })
  return { name: value.prefix, counts, servers, more: number(value.more), route }
}

/** Bars in as few rows as they need; those beyond `most` rows are left out. */
export function lanes<Bar extends { start: number, end: number }> (bars: readonly Bar[], most = MOST_LANES): Bar[][] {
  const rows: Bar[][] = []
  for (const bar of [...bars].sort((one, other) => one.start - other.start || other.end - one.end)) {
    const row = rows.find(row => (row.at(-1) as Bar).end <= bar.start)
    if (row !== undefined) row.push(bar)
    else if (rows.length < most) rows.push([bar])
  }
  return rows
}

/** `numbers` as ranges, such as "3–5, 9". */
export function rangesOf (numbers: readonly number[]): string {
  const ranges: Array<[number, number]> = []
  for (const one of numbers) {
    const last = ranges.at(-1)
    if (last !== undefined && last[1] === one - 1) last[1] = one
    else ranges.push([one, one])
  }
  return ranges.map(([first, last]) => first === last ? String(first) : `${first}–${last}`).join(', ')
}

/** The way that the chat's last message took through a model. */
export interface Chain { model: string, hops: Hop[] }

/** Draw it. `ours`: this tab's peer id; `took`: ms the relay took to answer. */
export function showSwarm (swarm: Swarm | null, took: number, ours: string, chain: Chain | null): void {
  const health = element('swarm-health')
  health.dataset.ok = String(swarm !== null && !swarm.draining)
  health.textContent = swarm === null ? SWARM.unreachable : swarm.draining ? SWARM.draining : SWARM.health(took, swarm.peers, swarm.circuits, swarm.bytes)
  if (swarm === null) return
  if (swarm.problem) health.textContent += ` ${SWARM.problem}`
  element('coverage').replaceChildren(...swarm.models.map(model => draw(model, ours, chain?.model === model.name ? chain.hops : [])))
}

function draw (model: Model, ours: string, chain: readonly Hop[]): HTMLElement {
  const { counts, servers, route } = model
  const answering = new Set(chain.map(({ peer }) => peer))
  const way = (hops: readonly Hop[]): string[] => hops.map(({ peer, start, end }) => SWARM.hop(peer === ours ? SWARM.ours : shortName(peer), start, end))
  const map = made('div')
  map.className = 'map'
  map.style.setProperty('--blocks', String(counts.length))
  map.append(...counts.map(column), ...axis(counts.length))
  const rows = lanes(servers)
  rows.forEach((row, index) => { map.append(...row.map(server => bar(server, index, ours, answering))) })
  const hidden = servers.length - rows.flat().length + model.more
  const peers = new Set(servers.filter(({ joining, gateway }) => !joining && !gateway).map(({ peer }) => peer)).size + model.more
  const gaps = rangesOf(counts.flatMap((servers, block) => servers === 0 ? [block] : []))
  const said = SWARM.model(model.name, peers, counts.length, gaps)
  map.role = 'img'
  map.ariaLabel = said
  const whole = made('div', '', made('h3', said), map)
  whole.className = 'model-map'
  if (hidden > 0) whole.append(note(SWARM.hidden(hidden)))
  if (servers.length > 0) whole.append(legend(servers, ours, answering))
  if (chain.length > 0) whole.append(note(SWARM.chain(way(chain))))
  if (route.length === 0) whole.append(note(servers.length > 0 ? SWARM.gap(gaps) : ours === '' ? SWARM.nobody : SWARM.nobodyNow))
  else if (chain.length === 0) whole.append(note(SWARM.route(way(route))))
  return whole
}

function column (servers: number, block: number): HTMLElement {
  const cell = made('span')
  cell.className = servers === 0 ? 'column gap' : 'column'
  cell.style.gridColumn = String(block + 1)
  cell.style.setProperty('--part', String(Math.min(servers, TALLEST) / TALLEST))
  cell.title = SWARM.block(block, servers)
  return cell
}

/** The number of every so manieth block. */
function axis (blocks: number): HTMLElement[] {
  const step = blocks <= 12 ? 1 : blocks <= 40 ? 5 : 10
  return Array.from({ length: Math.ceil(blocks / step) }, (_, index) => {
    const mark = made('span', String(index * step))
    mark.className = 'mark'
    mark.style.gridColumn = `${index * step + 1} / span ${Math.min(step, blocks - index * step)}`
    return mark
  })
}

function bar (server: Server, row: number, ours: string, answering: ReadonlySet<string>): HTMLElement {
  const { peer, start, end, joining, gateway, name } = server
  const line = made('span', peer === ours ? SWARM.oursShort : name === '' ? shortName(peer) : name)
  const kinds = ['bar', joining ? 'joining' : '', gateway ? 'gateway' : '', peer === ours ? 'ours' : '', answering.has(peer) ? 'answering' : '']
  line.className = kinds.filter(kind => kind !== '').join(' ')
  line.style.gridColumn = `${start + 1} / ${end + 1}`
  line.style.gridRow = String(row + 3)
  line.title = SWARM.server(name === '' ? shortName(peer) : `${name} ${shortName(peer)}`, start, end, joining, gateway)
  return line
}

function legend (servers: readonly Server[], ours: string, answering: ReadonlySet<string>): HTMLElement {
  const kinds: Array<[keyof typeof SWARM.legend, boolean]> = [
    ['ours', servers.some(({ peer }) => peer === ours)], ['answering', servers.some(({ peer }) => answering.has(peer))],
    ['joining', servers.some(({ joining }) => joining)], ['gateway', servers.some(({ gateway }) => gateway)]
  ]
  const list = made('ul', '', ...kinds.filter(([, there]) => there).map(([kind]) => {
    const key = made('span')
    key.className = `bar ${kind}`
    key.ariaHidden = 'true'
    return made('li', '', key, document.createTextNode(SWARM.legend[kind]))
  }))
  list.className = 'legend'
  list.hidden = list.children.length === 0
  return list
}

function note (text: string): HTMLElement {
  return Object.assign(made('p', text), { className: 'note' })
}

function isSpan (start: unknown, end: unknown, blocks: number): boolean {
  return Number.isInteger(start) && Number.isInteger(end) && 0 <= (start as number) && (start as number) < (end as number) && (end as number) <= blocks
}

function number (value: unknown): number {
  return typeof value === 'number' && Number.isFinite(value) && value >= 0 ? value : 0
}
