// The form of limits: what is set holds at once, and is kept by this browser once its owner has contributed.
// Rule of the file: nothing is written before consent.

import type { Limits } from '../sdk/index.ts'
import { element, LIMITS, made } from './words.ts'

const KEY = 'kwaainet-limits'
const LEAST_DUTY = 10 // %
const MEGA = 1e6
const MOST_WATTS = 5000

/** What the form holds, as it is kept. */
export interface Choice extends Required<Pick<Limits, 'duty' | 'onBattery' | 'onMetered' | 'whenHidden'>>, Pick<Limits, 'memoryBytes' | 'hours'> { awake: boolean, unfrozen: boolean, model?: string, watts?: number }

export const DEFAULTS: Choice = { duty: 1, onBattery: 'pause', onMetered: 'pause', whenHidden: 'continue', awake: false, unfrozen: false }

/** A kept choice, those parts of it that make sense. */
export function readChoice (text: string | null): Choice {
  let found: Record<string, unknown> = {}
  try { found = (JSON.parse(text ?? '{}') ?? {}) as typeof found } catch { return { ...DEFAULTS } }
  const { duty, memoryBytes, hours, awake, unfrozen, model, watts } = found
  const pauses = Object.fromEntries((['onBattery', 'onMetered', 'whenHidden'] as const).filter(name => found[name] === 'pause' || found[name] === 'continue').map(name => [name, found[name]]))
  const [first] = Array.isArray(hours) ? hours as Array<Record<string, unknown> | null> : []
  return {
    ...DEFAULTS,
    ...pauses,
    ...(typeof duty === 'number' && duty >= LEAST_DUTY / 100 && duty <= 1 ? { duty } : {}),
    ...(Number.isSafeInteger(memoryBytes) && (memoryBytes as number) > 0 ? { memoryBytes: memoryBytes as number } : {}),
    ...(isTime(first?.from) && isTime(first.to) ? { hours: [{ from: first.from, to: first.to }] } : {}),
    ...(typeof model === 'string' ? { model } : {}),
    ...(isPower(watts) ? { watts } : {}),
    awake: awake === true,
    unfrozen: unfrozen === true
  }
}

function isPower (value: unknown): value is number {
  return typeof value === 'number' && value > 0 && value <= MOST_WATTS
}

function isTime (value: unknown): value is string {
  return typeof value === 'string' && /^([01]\d|2[0-3]):[0-5]\d$/.test(value)
}

/** The form on the page. `changed` hears of every change; `keep` writes them from then on. */
export class LimitsForm {
  #choice: Choice
  #kept = false
  readonly #changed: (choice: Choice) => void

  constructor (changed: (choice: Choice) => void) {
    this.#changed = changed
    let stored: string | null = null
    try { stored = localStorage.getItem(KEY) } catch { /* a browser that refuses storage has no choice kept */ }
    this.#kept = stored !== null
    this.#choice = readChoice(stored)
    element('limits-form').append(this.#duty(), this.#memory(), this.#hours(),
      this.#pauses('onBattery'), this.#pauses('onMetered'), this.#pauses('whenHidden'),
      this.#wish('unfrozen', typeof RTCPeerConnection === 'function'), this.#wish('awake', 'wakeLock' in navigator))
    this.#watts()
    element('limits-form').addEventListener('submit', event => { event.preventDefault() })
  }

  get choice (): Choice {
    return this.#choice
  }

  /** The model to serve from now on. */
  set model (model: string) {
    this.#set({ model })
  }

  /** From now on this browser keeps it: its owner has consented. */
  keep (): void {
    this.#kept = true
    this.#write()
  }

  #set (change: Partial<Choice>): void {
    this.#choice = { ...this.#choice, ...change }
    if (this.#kept) this.#write()
    this.#changed(this.#choice)
  }

  #write (): void {
    try { localStorage.setItem(KEY, JSON.stringify(this.#choice)) } catch { /* they hold until the tab is closed */ }
  }

  #duty (): HTMLElement {
    const [text, say, hint] = LIMITS.duty
    const input = Object.assign(made('input'), { id: 'duty', type: 'range', min: String(LEAST_DUTY), max: '100', step: '5', value: String(this.#choice.duty * 100) })
    const shown = made('output', say(this.#choice.duty * 100))
    shown.htmlFor.add('duty')
    input.ariaDescription = hint
    input.addEventListener('input', () => {
      shown.textContent = say(input.valueAsNumber)
      this.#set({ duty: input.valueAsNumber / 100 })
    })
    const row = made('div', '', input, shown)
    row.className = 'row'
    return field(text, input, hint, row)
  }

  #memory (): HTMLElement {
    const [text, hint] = LIMITS.memory
    const { memoryBytes } = this.#choice
    const input = Object.assign(made('input'), { id: 'memory', type: 'number', min: '1', step: '1', inputMode: 'numeric', value: memoryBytes === undefined ? '' : String(memoryBytes / MEGA) })
    input.addEventListener('change', () => {
      const { memoryBytes, ...rest } = this.#choice
      this.#choice = rest
      this.#set(input.validity.valid && input.value !== '' ? { memoryBytes: Math.round(input.valueAsNumber * MEGA) } : {})
    })
    return field(text, input, hint)
  }

  /** What the estimate of energy reckons with: beside the figure, as it limits nothing. */
  #watts (): void {
    const input = element<HTMLInputElement>('watts')
    input.value = this.#choice.watts?.toString() ?? ''
    input.addEventListener('change', () => {
      const { watts, ...rest } = this.#choice
      this.#choice = rest
      this.#set(isPower(input.valueAsNumber) ? { watts: input.valueAsNumber } : {})
    })
  }

  #hours (): HTMLElement {
    const [text, from, to, hint] = LIMITS.hours
    const [now] = this.#choice.hours ?? []
    const box = check('hours', now !== undefined)
    const times = ([['from', from, now?.from ?? '22:00'], ['to', to, now?.to ?? '06:00']] as const).map(([name, label, value]) => {
      const input = Object.assign(made('input'), { id: `hours-${name}`, type: 'time', value, ariaLabel: `${text} ${label}` })
      input.addEventListener('change', change)
      return input
    })
    const form = this
    function change (): void {
      const [first, last] = times.map(({ value }) => value)
      form.#set({ hours: box.checked && isTime(first) && isTime(last) ? [{ from: first, to: last }] : [] })
    }
    box.addEventListener('change', change)
    const row = made('div', '', box, labelled(box, text), times[0]!, made('span', to), times[1]!)
    row.className = 'row'
    return made('div', '', row, Object.assign(made('p', hint), { className: 'hint' }))
  }

  #pauses (name: 'onBattery' | 'onMetered' | 'whenHidden'): HTMLElement {
    const [text, hint] = LIMITS[name] as readonly [string, string?]
    const box = check(name, this.#choice[name] === 'pause')
    box.addEventListener('change', () => { this.#set({ [name]: box.checked ? 'pause' : 'continue' }) })
    return choice(box, text, hint)
  }

  /** A wish that this browser may know nothing of. */
  #wish (name: 'awake' | 'unfrozen', known: boolean): HTMLElement {
    const [text, hint] = LIMITS[name]
    const box = check(name, this.#choice[name])
    box.addEventListener('change', () => { this.#set({ [name]: box.checked }) })
    const whole = choice(box, text, hint)
    whole.hidden = !known
    return whole
  }
}

/** The SDK's limits of a choice. */
export function limitsOf ({ duty, memoryBytes, hours, onBattery, onMetered, whenHidden }: Choice): Limits {
  return { duty, hours: hours ?? [], onBattery, onMetered, whenHidden, ...(memoryBytes === undefined ? {} : { memoryBytes }) }
}

/** `row`: what holds the input, if it does not stand alone. */
function field (text: string, input: HTMLInputElement, hint: string, row: Node = input): HTMLElement {
  const whole = made('div', '', labelled(input, text), row, Object.assign(made('p', hint), { className: 'hint', id: `${input.id}-hint` }))
  input.setAttribute('aria-describedby', `${input.id}-hint`)
  whole.className = 'field'
  return whole
}

function check (id: string, checked: boolean): HTMLInputElement {
  return Object.assign(made('input'), { id, type: 'checkbox', checked })
}

function labelled (input: HTMLInputElement, text: string): HTMLLabelElement {
  return Object.assign(made('label', text), { htmlFor: input.id })
}

function choice (box: HTMLInputElement, text: string, hint = ''): HTMLElement {
  const words = made('div', '', labelled(box, text))
  if (hint !== '') {
    words.append(Object.assign(made('p', hint), { className: 'hint', id: `${box.id}-hint` }))
    box.setAttribute('aria-describedby', `${box.id}-hint`)
  }
  const whole = made('div', '', box, words)
  whole.className = 'choice'
  return whole
}
