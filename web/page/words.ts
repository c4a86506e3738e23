// Every word the page says, for translation, and how it writes numbers. WORDS are put into index.html when it is built, so
// that they are read before any script has come.
// Rule of the file: other files of the page have no sentences of their own.

import type { PauseReason } from '../sdk/index.ts'

export const LANGUAGE = 'en'

export const WORDS: Record<string, string> = {
  language: LANGUAGE,
  sections: 'Sections',
  swarmShort: 'Swarm',
  keptShort: 'Kept',
  whichModel: 'Which model',
  model: 'Model',
  swarmAsking: 'Asking the relay…',
  buttonsNote: 'Pause stops computing and keeps what is loaded. Finish serves on until nobody needs this tab. Stop ends it now; others take over.',
  served: 'Served lately',
  servedNote: 'By this tab, since the page was opened. Who asks is known by a peer id only.',
  kept: 'Kept in this browser',
  keptDelete: 'Delete all of it',
  title: 'Lend this tab to a language model',
  lead: 'Many machines run one model together, each a few of its layers. Yours can be one of them, for as long as you like.',
  contribute: 'Contribute',
  pause: 'Pause',
  resume: 'Resume',
  finish: 'Finish',
  stop: 'Stop',
  idle: 'Not contributing.',
  connections: 'Connections',
  watts: 'Watts that computing adds here, if you know:',
  details: 'Details',
  limits: 'Limits',
  limitsNote: 'They hold from the moment you change them, while contributing too.',
  swarm: 'The swarm',
  chat: 'Chat',
  chatNote: "Talk to the model that the swarm serves. Your first message loads Python, the model's vocabulary and its first and last layer into this tab; all blocks between them run on other people's machines, and the page says whose.",
  chatWarning: 'They see the numbers that your words become and could work the words out from them. Write nothing that must stay secret.',
  message: 'Message',
  send: 'Send',
  stopAnswer: 'Stop answering',
  newChat: 'New conversation',
  askAgain: 'Try again',
  conversation: 'Conversation',
  whoAnswers: 'Who answers',
  loadingChat: 'Loading the chat',
  loading: 'Loading',
  history: 'History',
  historyDelete: 'Delete the history',
  historyEmpty: 'Nothing yet. What you contribute will be added up here by day, in this browser only.',
  historyNote: 'Added up by day, kept in this browser only.',
  noOffer: 'The relay offers no model now. This page asks again when it is reloaded.',
  preflightAsking: 'Looking at what this browser can do…'
}

/** Before the click. */
export const OFFER = {
  runs: ['What runs', (model: string, blocks: number) => `A Python program in this tab computes the ${blocks} blocks of ${model}, or some of them, for people who generate text. It is kept apart from your files and other tabs by the browser.`],
  loads: ['What it loads', (bytes: number, kept: number) => `At most ${size(bytes)} of the model's weights, and about 15 MB of Python. ${kept > 1e6 ? `${size(kept)} are kept here from before.` : 'They stay in this browser, so the next start is short.'}`],
  uses: ['What it uses', (threads: number, memory: number) => `Your graphics card, or ${count(threads, 'core')} of your processor; at most ${size(memory)} of memory; electricity, and your network. The limits below can set less.`],
  seen: ['What others see', () => 'The relay and the peers you connect to see your network address. The numbers that pass through this tab are other people\'s prompts and answers in another form: activations can be inverted, which means that whoever serves blocks could work out words from them. That holds for you, and for what you write in the chat.']
} as const

export const STATES: Record<string, string> = {
  preflight: 'Starting…',
  starting: 'Starting…',
  reserving: 'Asking the relay for a place…',
  loading: 'Loading…',
  joining: 'Joining the swarm…',
  serving: 'Online: this tab serves its blocks.',
  draining: 'Leaving the swarm…',
  stopped: 'Not contributing.',
  idle: 'Not contributing.',
  failed: 'Stopped by a problem.'
}

const REASONS: Record<PauseReason, string> = {
  asked: 'you asked for it',
  hours: 'it is outside the hours you set',
  battery: 'this machine runs on its battery',
  metered: 'this connection is metered',
  hidden: 'this tab is hidden',
  memory: 'the weights alone take more memory than you allow'
}

/** `name` is the format, `bytes` what the weights take in memory; `exact`: none is rounded. */
export function weightsOf (name: string, bytes: number, exact: boolean): string {
  return `${WEIGHTS[name] ?? name}, ${size(bytes)}, ${exact ? 'no weight rounded' : 'rounded'}`
}

export function threadsOf (count: number, all: number): string {
  return `${count} of the processor's ${all}`
}

export function threadsTaken (count: number, all: number): string {
  return `this tab takes ${threadsOf(count, all)}`
}

/** Why weights do not stay for the next start; those that do are listed below, until somebody deletes them. */
export function storageOf (kept: boolean, needed: number, room: number): string {
  if (kept) return ''
  return needed > room ? `no, each start loads them again: they need ${size(needed)}, and this browser gives them ${size(room)}. Free space on the disk, or delete what is kept below.` : 'no, each start loads them again: this browser refuses to store them. An ordinary window, not a private one, may.'
}

const STALLS: Record<string, string> = {
  preflight: 'Asking this browser what it can do', reserving: 'Asking the relay for a place', joining: 'Joining the swarm',
  python: 'Loading Python', weights: 'Loading the weights', build: 'Preparing the engine'
}

const STAGES: Record<string, string> = { python: 'Python', weights: 'the weights' }

export const KINDS: Record<string, string> = { relay: 'relay', circuit: 'through the relay', webrtc: 'direct (WebRTC)' }

export const RELAY: Record<string, string> = { connecting: 'connecting…', lost: 'lost, trying again…' }
export const heldRelays = (held: number): string => held > 1 ? `connected to ${held}` : 'connected'

export const BACKENDS: Record<string, string> = { wasm: 'the processor (WASM)', webgpu: 'the graphics card (WebGPU)' }

const WEIGHTS: Record<string, string> = { stored: 'as the file has them', exact: 'as the file has them, and prompts as fine', float32: '32-bit floats', float16: '16-bit floats', q4: 'in 4 bits', q8: 'in 8 bits' }

export const FACTS = { backend: 'Backend', threads: 'Threads', weights: 'Weights', blocks: 'Blocks', peer: 'Peer id', relay: 'Relay', storage: 'Kept for next time' } as const

export const TILES = {
  blocks: 'blocks served', tokens: 'tokens a second', requests: 'requests a second', sessions: 'people served now', uptime: 'contributing for', traffic: 'received / sent', energy: 'energy, estimated', all: 'tokens in all'
} as const

export const PEER_COLUMNS = ['Peer', 'Way', 'Round trip', 'Received', 'Sent']
export const HISTORY_COLUMNS = ['Day', 'Time', 'Tokens', 'Requests', 'Received', 'Sent', 'Energy']

export const LIMITS = {
  duty: ['Share of the time to compute', (percent: number) => `${percent} %`, 'Between two computations it rests as long as this asks.'],
  memory: ['Memory, in MB', 'As much as half of what the browser says there is, unless you give a number. Sessions under way keep theirs.'],
  hours: ['Only between', 'from', 'to', 'By the clock of this machine.'],
  onBattery: ['Pause on battery'],
  onMetered: ['Pause on a metered connection', 'As far as this browser tells.'],
  whenHidden: ['Pause while this tab is hidden', 'Otherwise it serves on: browsers slow the timers of a hidden page, not the workers that compute. The figures here come late then.'],
  unfrozen: ['Do not let a hidden tab be frozen', 'Chrome and Edge may freeze a busy tab after five hidden minutes while they save energy. They leave one alone that has an open WebRTC channel; this opens one from the tab to itself. Other browsers, and phones, may still stop it: then it goes on when you look at it again.'],
  awake: ['Keep the screen awake while contributing', 'Works while this tab is visible. Without it the machine may sleep, and what it serves goes on elsewhere.']
} as const

/** Of the check of WebGPU: what is wrong. */
export const GRAPHICS: Record<string, string> = { absent: 'this browser has no WebGPU', 'no-adapter': 'WebGPU found no graphics adapter', software: 'the graphics adapter is emulated in software, slower than the processor' }

/** By the name of a check: what it is called, and how to mend it. */
export const CHECKS: Record<string, readonly [string, string]> = {
  'secure context': ['secure page', 'Open this page by https, or on this machine as localhost: browsers give others neither storage nor locks nor graphics.'],
  'WebAssembly SIMD': ['fast arithmetic (WebAssembly SIMD)', 'Use a current browser: this one cannot compute fast enough.'],
  'private file system': ['private files', 'Use an ordinary window, not a private one, or a current browser: weights are kept in its private file system.'],
  locks: ['locks between tabs', 'Use a current browser: without Web Locks two tabs would fight.'],
  WebRTC: ['direct connections (WebRTC)', 'Allow WebRTC in the settings or the extension that blocks it. Without it everything goes through the relay, which is slower.'],
  'WebRTC in workers': ['direct connections beside the page', 'Nothing to do: this page forwards them, a little slower. Chrome and Edge need not.'],
  WebGPU: ['graphics card (WebGPU)', 'To use the graphics card, switch on hardware acceleration in the settings, update browser and driver, or try Chrome or Edge.'],
  threads: ['several threads', 'The page is not isolated, so one thread computes. Open the relay\'s own address directly, not in a frame; a proxy between must pass the headers Cross-Origin-Opener-Policy and Cross-Origin-Embedder-Policy.'],
  memory: ['memory for all blocks', 'The weights are larger than half of this machine\'s memory. Close other programs, choose a smaller model, or serve a part: add ?blocks=auto:8 to the address.'],
  quota: ['room to keep weights', 'The browser gives this page little room: free space on the disk, leave a private window, or delete what is kept below. It works without, and loads again each time.'],
  relay: ['relay', 'Its WebSocket cannot be reached. Try another network, or switch off the proxy, VPN or filter that stops WebSockets; if others cannot reach it either, tell its operator.'],
  jspi: ['suspending WebAssembly (JSPI)', 'Nothing to do: it works without. A current Chrome or Edge has it.']
}

type Values = Readonly<Record<string, string>>
const DAMAGED = 'What was downloaded is damaged, or not what the relay promised. Try again; if it stays so, tell the operator of the relay.'
const ODD_PEER = 'A server did not answer as it should. Try again: another one may take its place.'
const OURS = 'This tab made a mistake. Reload the page; if it happens again, please report it with these details.'

/** By code, which is one of the SDK's or a class of the Python side's errors. What came with it in English stands under "Details". */
const PROBLEMS: Record<string, string | ((values: Values) => string)> = {
  'relay-address': 'This is not the address of a relay.',
  'relay-silent': 'The relay does not answer. Is this machine online, and the relay running?',
  'relay-foreign': 'What answers at this address is no relay of KwaaiNet, or one that is not set up yet.',
  'relay-undialable': 'The relay names no address that a browser can connect to. Tell its operator.',
  'relay-version': 'This page and the relay are of different versions. Reload the page.',
  'no-model': 'The relay offers no model now. Reload the page later.',
  'unknown-model': ({ model = '' }) => `The relay no longer offers ${model}. Reload the page.`,
  blocks: ({ blocks = '', most = '' }) => `The address of this page asks for the blocks ${blocks}, which this model does not have: give 0:${most} or a part of it, or auto:1 to auto:${most}.`,
  unfit: ({ check = '' }) => `This browser cannot contribute. ${CHECKS[check]?.[1] ?? ''}`,
  'worker-broke': ({ worker }) => worker === 'network' ? 'The part of this tab that talks to the network broke.' : 'The part of this tab that computes broke.',
  left: 'This tab left the swarm because of a problem.',
  stalled: ({ waits = '' }) => `${STALLS[waits] ?? 'Starting'} stood still for three minutes, so it was given up. Start again; if it happens again, reload the page.`,
  ConfigError: 'What was asked for cannot be done here: the text is too long, or a setting in the address of this page does not fit.',
  CapacityError: 'There is no room for more now. Try again in a moment.',
  Unavailable: 'No server has room now. Try again in a moment.',
  Paused: 'This tab is paused. Resume it, or look at its limits.',
  EngineError: 'The engine that computes failed here. Add ?backend=wasm to the address to use the processor.',
  DeviceLost: 'The graphics card was taken away from this tab. Start again; if it happens again, add ?backend=wasm to the address.',
  InputError: DAMAGED,
  ModelFileError: DAMAGED,
  Truncated: DAMAGED,
  IntegrityError: DAMAGED,
  UnsupportedModel: 'This model cannot be computed in this browser. Choose another, or add ?backend=wasm to the address.',
  RemoteError: ODD_PEER,
  ProtocolError: ODD_PEER,
  LimitExceeded: ODD_PEER,
  RequestError: ODD_PEER,
  HandshakeError: ODD_PEER,
  RpcError: ODD_PEER,
  Ailment: ODD_PEER,
  ApiError: ODD_PEER,
  ClockSkew: 'The clocks of this machine and of the swarm differ too much. Set the clock, then try again.',
  Unreachable: 'Nobody who serves this model can be reached. The map of the swarm shows which blocks have no server.',
  StreamReset: 'The connection ended before the answer did. Try again.',
  TimeoutError: 'No answer came in time. Try again.',
  MemoryError: 'There was not enough memory. Close other programs, or serve a part: add ?blocks=auto:8 to the address.',
  KwaaiNetError: OURS,
  LocalError: OURS,
  UsageError: OURS
}

export function problemIn ({ code, values = {} }: { code: string, values?: Values }): string {
  const words = PROBLEMS[code] ?? OURS
  return typeof words === 'string' ? words : words(values)
}

export const MODELS = {
  size: (blocks: number, bytes: number) => `${count(blocks, 'block')}, at most ${size(bytes)} to load`,
  change: (model: string) => `Serve ${model} instead`
} as const

/** `code`: why it ended before its time, if it did. */
export const RECEIPTS = {
  line: (at: Date, peer: string, kind: 'session' | 'forward' | 'backward', tokens: number, seconds: number, code: string | undefined) =>
    `${clock(at)} ${shortName(peer)}: ${kind === 'backward' ? 'training, ' : kind === 'forward' ? 'evaluating, ' : ''}${count(tokens, 'token')} in ${duration(seconds)}${code === undefined ? '' : code === 'Paused' ? ', until it was paused' : ' (ended early)'}`
} as const

export const KEPT = {
  empty: 'Nothing. Weights that this tab loads are kept here for its next start.',
  note: 'Weights that this tab has loaded, so that the next start is short. A tab that serves goes on when they are deleted.',
  model: (model: string, blocks: number, bytes: number, used: Date) => `${model === '' ? 'Of a model not yet or no longer known' : `${model}: ${blocks === 0 ? 'first and last layer' : count(blocks, 'block')}`}, ${size(bytes)}, last used ${used.toLocaleDateString(LANGUAGE)}`,
  remove: 'Delete',
  removeOf: (model: string) => `Delete what is kept of ${model === '' ? 'a model not yet or no longer known' : model}`,
  deleting: 'Deleting…',
  freed: (bytes: number) => `${size(bytes)} deleted.`
} as const

export const NOTICES = {
  lost: 'The relay was lost. Trying again; nothing needs to be done.',
  found: (seconds: number) => `Connected to the relay again after ${duration(seconds)}.`,
  slept: (seconds: number) => `This machine slept for ${duration(seconds)}. Going on.`,
  clock: (ahead: number) => `This machine's clock is ${duration(Math.abs(ahead))} ${ahead > 0 ? 'fast' : 'slow'}. The relay's time is used; set the clock when you can.`,
  offline: 'This machine has no network. Going on when it is back.',
  online: 'The network is back.',
  hidden: (seconds: number) => `This tab was hidden for ${duration(seconds)} and went on serving.`,
  frozen: (seconds: number) => `The browser froze this tab for ${duration(seconds)}. Going on. A limit below can prevent that.`,
  rebuilt: 'The engine was lost and built anew; sessions went on elsewhere.',
  moved: (blocks: string) => `Moved to blocks ${blocks}, where the swarm needs them more.`,
  left: 'This page was reloaded or left while it contributed; others took over. Click Contribute to go on.',
  broke: (what: string, seconds: number) => `${what} It starts anew in ${seconds} s; sessions went on elsewhere.`,
  storage: 'The history cannot be kept: this browser refuses storage.'
}

export const SWARM = {
  ours: 'this tab',
  oursShort: 'you',
  unreachable: 'The relay does not answer. Asking again.',
  draining: 'The relay is about to stop and takes nobody new.',
  problem: 'It cannot read the swarm now.',
  health: (took: number, peers: number, circuits: number, bytes: number) => `The relay answers in ${Math.round(took)} ms. It has ${count(peers, 'peer')}, passes on ${count(circuits, 'connection')} between them, and has carried ${size(bytes)}.`,
  nobody: 'Nobody serves this model now. Yours would be the first machine.',
  nobodyNow: 'Nobody takes requests for this model now.',
  block: (block: number, servers: number) => `block ${block}: ${count(servers, 'server')}`,
  model: (name: string, servers: number, blocks: number, gaps: string) => `${name}: ${count(servers, 'server')}, ${gaps === '' ? `all ${blocks} blocks are served` : `nobody serves ${blocksIn(gaps)}`}`,
  server: (name: string, start: number, end: number, joining: boolean, gateway: boolean) => `${name}: ${blocksOf(start, end)}${joining ? ', loading or paused' : ''}${gateway ? ', a gateway: it passes requests on' : ''}`,
  hidden: (servers: number) => `and ${count(servers, 'more server')}`,
  route: (hops: string[]) => `A request could go ${hops.join(', then ')}. Each client chooses its own way.`,
  chain: (hops: string[]) => `Your last message went ${hops.join(', then ')}.`,
  hop: (peer: string, start: number, end: number) => `to ${peer} for ${blocksOf(start, end)}`,
  gap: (gaps: string) => `No request gets through now: nobody serves ${blocksIn(gaps)}.`,
  legend: { ours: 'this tab', answering: 'answered your chat', joining: 'loading or paused', gateway: 'a gateway, which holds no blocks' }
} as const

export const CHAT = {
  you: 'You',
  model: 'Model',
  loading: 'Loading…',
  lost: 'The relay is lost, trying again…',
  stopped: 'Stopped.',
  waiting: (peers: string[]) => `Waiting for the next word${peers.length === 0 ? '' : ` from ${namesOf(peers)}`}. A server that is lost is replaced.`,
  cut: 'The answer broke off here.',
  pace: (rate: number) => `About ${pace(rate)} tokens a second…`,
  done: (rate: number | undefined) => rate === undefined ? 'Done.' : `Done, ${pace(rate)} tokens a second.`,
  progress: (stage: string, done: number, total: number) => `Loading ${stage === 'weights' ? 'the first and last layer' : STAGES[stage] ?? stage}${total > 1e5 ? ` ${size(done)} of ${size(total)}` : ''}…`,
  moved: (lost: string[], now: string[]) => `${namesOf(lost)} left; continued on ${namesOf(now)}.`,
  back: (now: string[]) => `Interrupted for a moment; continued on ${namesOf(now)}.`,
  hop: (peer: string, start: number, end: number, kind: string | undefined, roundTrip: number | undefined) =>
    `${shortName(peer)}: ${blocksOf(start, end)}${kind === undefined ? '' : `, ${KINDS[kind] ?? kind}${roundTrip === undefined ? '' : `, ${roundTrip.toFixed(1)} ms away`}`}`
}

export function stateOf (state: string, reasons: PauseReason[] = []): string {
  if (state === 'paused') return `Paused: ${reasons.map(reason => REASONS[reason]).join(', and ') || REASONS.asked}.`
  return STATES[state] ?? state
}

export function elsewhere (peer: string | undefined, since: Date): string {
  return `Another tab of this browser contributes${peer === undefined ? '' : ` as ${shortName(peer)}`}, since ${clock(since)}. This one takes over when it ends.`
}

export function finishing (sessions: number, seconds: number): string {
  return `Finishing: ${count(sessions, 'session')}, at most ${seconds} s. Stop ends it at once.`
}

export function loadingOf (stage: string, done: number, total: number, cached: number, rate: number, left: number | undefined): string {
  if (stage === 'build') return 'Preparing the engine…'
  const kept = cached > 0 ? ` (${size(cached)} were kept here)` : ''
  const speed = rate > 0 ? `, ${size(rate)}/s` : ''
  const time = left === undefined ? '' : `, ${duration(left)} left`
  return `Loading ${STAGES[stage] ?? stage}${total > 1e5 ? `: ${size(done)} of ${size(total)}${kept}${speed}${time}` : '…'}`
}

/** What is read out of it: the numbers change too often to be heard. */
export function loadingHeard (stage: string, done: number, total: number): string {
  if (stage === 'build') return 'Preparing the engine…'
  const percent = total > 0 ? Math.floor(4 * done / total) * 25 : 0
  return `Loading ${STAGES[stage] ?? stage}${percent > 0 ? `, ${percent} %` : '…'}`
}

export function preflightOf (backend: string, why: string, failed: number): string {
  const found = backend === 'webgpu' ? 'This browser can contribute with its graphics card (WebGPU).' : `This browser can contribute with its processor (WASM)${why === '' ? '' : `: ${why}`}.`
  return failed === 0 ? found : `${found} ${count(failed, 'thing')} could be better.`
}

export const CANNOT = 'This browser cannot contribute.'

export function checkOf (name: string, ok: boolean, message: string): string {
  return ok ? `${name}: yes${message === '' ? '' : ` (${message})`}` : `${name}: no. ${sentence(message)}`
}

export function chartOf (now: number, most: number, mean: number): string {
  return `Tokens a second over the last two minutes: now ${now.toFixed(1)}, most ${most.toFixed(1)}, on average ${mean.toFixed(1)}.`
}

/** What the figure of energy assumes; `own`: the watts are the contributor's. */
export function energyOf (seconds: number, watts: number, graphics: boolean, own: boolean): string {
  if (own) return `Energy is not measured: it is ${duration(seconds)} of computing at the ${watts} W you gave.`
  return `Energy is not measured: it is ${duration(seconds)} of computing at an assumed ${watts} W, ${graphics ? 'a guess between integrated and discrete graphics' : 'what a busy core adds to an idle machine (mean of server processors, Cloud Carbon Footprint)'}.`
}

function pace (rate: number): string {
  return rate.toFixed(rate < 1 ? 2 : 1)
}

/** Blocks `start` to `end`, without the second. */
export function spanOf (start: number, end: number): string {
  return end - start === 1 ? String(start) : `${start} to ${end - 1}`
}

function blocksOf (start: number, end: number): string {
  return `${end - start === 1 ? 'block' : 'blocks'} ${spanOf(start, end)}`
}

function blocksIn (ranges: string): string {
  return `${/[–,]/.test(ranges) ? 'blocks' : 'block'} ${ranges}`
}

function sentence (text: string): string {
  return text.slice(0, 1).toUpperCase() + text.slice(1)
}

const namesOf = (peers: string[]): string => peers.map(shortName).join(', ')

/** The end of a peer id, by which people tell peers apart. */
export function shortName (peer: string): string {
  return peer.length > 12 ? `…${peer.slice(-8)}` : peer
}

export function size (bytes: number): string {
  const [unit, factor] = bytes < 1e6 ? ['kB', 1e3] : bytes < 1e9 ? ['MB', 1e6] : ['GB', 1e9]
  const value = bytes / (factor as number)
  return `${value.toFixed(bytes > 0 && value < 10 ? 1 : 0)} ${unit}`
}

export function energy (wattHours: number): string {
  return wattHours < 1000 ? `${wattHours.toFixed(wattHours < 10 ? 2 : 0)} Wh` : `${(wattHours / 1000).toFixed(1)} kWh`
}

export function duration (seconds: number): string {
  const whole = Math.round(seconds)
  if (whole < 120) return `${whole} s`
  return whole < 7200 ? `${Math.round(whole / 60)} min` : `${Math.floor(whole / 3600)} h ${Math.round(whole % 3600 / 60)} min`
}

export function clock (time: Date): string {
  return time.toLocaleTimeString(LANGUAGE, { hour: '2-digit', minute: '2-digit', hour12: false })
}

export function count (number: number, thing: string): string {
  return `${number} ${thing}${number === 1 ? '' : 's'}`
}

export function element<T extends Element = HTMLElement> (id: string): T {
  const found = document.getElementById(id)
  if (found === null) throw new Error(`index.html has no #${id}`)
  return found as unknown as T
}

/** An element of `tag` that reads `text`. */
export function made<Tag extends keyof HTMLElementTagNameMap> (tag: Tag, text = '', ...children: Node[]): HTMLElementTagNameMap[Tag] {
  const one = document.createElement(tag)
  if (text !== '') one.textContent = text
  one.append(...children)
  return one
}
