// What <kwaai-node> shows: its parts, its words and its style, in a shadow tree.
// Rule of the file: texts only by textContent, style only by a constructable sheet, so that any Content-Security-Policy
// holds; every word is in WORDS, which an embedder may translate.

import type { NodeStatus } from './events.ts'

/** The English texts: what `words` of the element replaces. */
export const WORDS = {
  label: 'Contribute to KwaaiNet',
  about: 'This page can lend this device to people who generate text with a language model: a part of the model is downloaded and computed here, until you stop it or leave. The activations you compute pass through your device, and their words could be worked out; others see your network address. Nothing is loaded or stored before you agree.',
  until: 'You agreed until',
  agree: 'Agree and start',
  start: 'Start',
  pause: 'Pause',
  resume: 'Resume',
  finish: 'Finish',
  stop: 'Stop',
  withdraw: 'Withdraw consent and delete what is kept here',
  loading: 'Loading',
  idle: 'Not contributing.',
  preflight: 'Looking at this browser…',
  serving: 'Contributing',
  paused: 'Paused',
  draining: 'Finishing…',
  elsewhere: 'Another tab of this browser contributes; this one takes over when it ends.',
  stopped: 'Stopped. Thank you.',
  failed: 'Stopped by a problem.',
  block: 'block',
  blocks: 'blocks',
  tokens: 'tokens',
  asked: 'as you asked',
  battery: 'on battery',
  metered: 'on a metered connection',
  hidden: 'while hidden',
  hours: 'outside its hours',
  memory: 'too little memory allowed'
}
/** Every text of the element. */
export type Words = typeof WORDS

const STYLE = `
:host { display: block; font: var(--kwaai-font, 0.9375rem/1.5 system-ui, sans-serif); color: var(--kwaai-color, CanvasText); background: var(--kwaai-background, Canvas); color-scheme: light dark; border: 1px solid var(--kwaai-border, GrayText); border-radius: var(--kwaai-radius, 0.5rem); padding: var(--kwaai-padding, 0.75rem 1rem); max-inline-size: 32rem; box-sizing: border-box }
:host([theme=light]) { color-scheme: light }
:host([theme=dark]) { color-scheme: dark }
:host([hidden]), [hidden] { display: none !important }
p { margin: 0 0 0.5rem; overflow-wrap: anywhere }
[part=about] { font-size: 0.875em }
[part=problem] { border-inline-start: 0.25rem solid var(--kwaai-problem, #c33); padding-inline-start: 0.75rem }
progress { inline-size: 100%; accent-color: var(--kwaai-accent, auto) }
div { display: flex; flex-wrap: wrap; gap: 0.5rem }
button { font: inherit; min-block-size: 2.25rem; padding: 0.25rem 1rem; accent-color: var(--kwaai-accent, auto) }
`

export type Action = 'start' | 'pause' | 'resume' | 'finish' | 'stop' | 'withdraw'
const ACTIONS: Action[] = ['start', 'pause', 'resume', 'finish', 'stop', 'withdraw']
const OVER = ['idle', 'stopped', 'failed']
const RUNNING = ['preflight', 'loading', 'serving', 'paused']

let sheet: CSSStyleSheet | undefined

/** The shadow tree of one element. */
export class View {
  readonly #root: ShadowRoot
  readonly #state = part('p', 'state')
  readonly #about = part('p', 'about')
  readonly #problem = part('p', 'problem')
  readonly #bar = part('progress', 'progress') as HTMLProgressElement
  readonly #buttons = new Map<Action, HTMLButtonElement>()

  constructor (host: HTMLElement, act: (action: Action) => void) {
    this.#root = host.attachShadow({ mode: 'open', delegatesFocus: true })
    sheet ??= new CSSStyleSheet()
    sheet.replaceSync(STYLE)
    this.#root.adoptedStyleSheets = [sheet]
    this.#state.setAttribute('role', 'status')
    this.#problem.setAttribute('role', 'alert')
    this.#bar.max = 1
    const buttons = part('div', 'buttons')
    for (const action of ACTIONS) {
      const button = part('button', `button ${action}`) as HTMLButtonElement
      button.type = 'button'
      button.addEventListener('click', () => { act(action) })
      this.#buttons.set(action, button)
      buttons.append(button)
    }
    const panel = part('section', 'panel')
    panel.append(this.#about, this.#state, this.#bar, this.#problem, buttons)
    this.#root.append(panel)
  }

  /** `until`: the visitor has consented until then. */
  show (status: NodeStatus, words: Words, until: Date | null): void {
    const { state, message, progress } = status
    const over = OVER.includes(state)
    this.#root.querySelector('section')?.setAttribute('aria-label', words.label)
    this.#about.textContent = until === null ? words.about : `${words.until} ${until.toLocaleDateString()}.`
    this.#about.hidden = !over
    say(this.#state, describe(status, words))
    this.#problem.hidden = message === undefined
    say(this.#problem, message ?? '')
    this.#bar.hidden = state !== 'loading' && state !== 'preflight'
    this.#bar.setAttribute('aria-label', words.loading)
    if (progress !== undefined && progress.total > 0) this.#bar.value = progress.done / progress.total
    else this.#bar.removeAttribute('value')
    const paused = state === 'paused' && status.reasons?.includes('asked') === true
    this.#offer('start', over, until === null ? words.agree : words.start)
    this.#offer('pause', RUNNING.includes(state) && !paused, words.pause)
    this.#offer('resume', paused, words.resume)
    this.#offer('finish', state === 'serving' || state === 'paused', words.finish)
    this.#offer('stop', !over, words.stop)
    this.#offer('withdraw', over && until !== null, words.withdraw)
  }

  /** Show or hide a button; focus that would be lost goes to the first that is left. */
  #offer (action: Action, offered: boolean, text: string): void {
    const button = this.#buttons.get(action)!
    const focused = !offered && this.#root.activeElement === button
    button.textContent = text
    button.hidden = !offered
    if (focused) queueMicrotask(() => { [...this.#buttons.values()].find(each => !each.hidden)?.focus() })
  }
}

function part (tag: string, name: string): HTMLElement {
  const element = document.createElement(tag)
  element.setAttribute('part', name)
  return element
}

/** Only what is new, or a screen reader says it again. */
function say (element: HTMLElement, text: string): void {
  if (element.textContent !== text) element.textContent = text
}

function describe ({ state, blocks, work, reasons = [], progress, leavingIn }: NodeStatus, words: Words): string {
  if (state === 'loading' && progress !== undefined && progress.total > 1e5) return `${words.loading}: ${mega(progress.done)} / ${mega(progress.total)} MB`
  if (state === 'serving') return `${words.serving}: ${blocksOf(blocks, words)}, ${work.tokensDone} ${words.tokens}.`
  if (state === 'paused') return `${words.paused}: ${reasons.map(reason => words[reason]).join(', ')}.`
  if (state === 'loading') return `${words.loading}…`
  return leavingIn === undefined ? words[state] : `${words.draining} ${leavingIn} s`
}

/** Blocks `start` to `end`, without the second. */
function blocksOf ([start, end]: [number, number] = [0, 0], words: Words): string {
  return end - start === 1 ? `${words.block} ${start}` : `${words.blocks} ${start}–${end - 1}`
}

function mega (bytes: number): string {
  return (bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)
}
