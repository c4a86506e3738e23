// What this browser has contributed, added up by day and kept in the page's own storage.
// Rule of the file: nothing is written before consent; what cannot be read is as if it were not there.

import { element, energy, duration, HISTORY_COLUMNS, made, size, WORDS } from './words.ts'

const KEY = 'kwaainet-history'
const MOST_DAYS = 62

/** One day: seconds online, tokens, requests, bytes in and out, watt hours. */
export interface Day { day: string, seconds: number, tokens: number, requests: number, received: number, sent: number, energy: number }

export type Amounts = Omit<Day, 'day'>
const AMOUNTS: Array<keyof Amounts> = ['seconds', 'tokens', 'requests', 'received', 'sent', 'energy']

/** The days of a stored text, those that make sense. */
export function readDays (text: string | null): Day[] {
  let found: unknown = null
  try { found = JSON.parse(text ?? '[]') } catch { return [] }
  if (!Array.isArray(found)) return []
  return found.filter((day): day is Day => typeof day?.day === 'string' && /^\d{4}-\d\d-\d\d$/.test(day.day) &&
    AMOUNTS.every(name => Number.isFinite(day[name]) && day[name] >= 0)).slice(-MOST_DAYS)
}

/** `days` with these amounts added to `today`; a day that lies in the future of a clock set back stays. */
export function add (days: Day[], today: string, more: Amounts): Day[] {
  const last = days.find(({ day }) => day === today)
  const rest = days.filter(({ day }) => day !== today)
  const sum = { day: today } as Day
  for (const name of AMOUNTS) sum[name] = (last?.[name] ?? 0) + Math.max(0, more[name])
  return [...rest, sum].sort((one, other) => one.day < other.day ? -1 : 1).slice(-MOST_DAYS)
}

export function dayOf (time: Date): string {
  return [time.getFullYear(), time.getMonth() + 1, time.getDate()].map(part => String(part).padStart(2, '0')).join('-')
}

/** The history of this browser. `refused` is told once if it cannot be kept. */
export class History {
  #refused: (() => void) | null

  constructor (refused: () => void) {
    this.#refused = refused
    element('history-head').append(...HISTORY_COLUMNS.map(name => Object.assign(made('th', name), { scope: 'col' })))
    element('history-delete').addEventListener('click', () => {
      localStorage.removeItem(KEY)
      this.show()
      element('history-title').focus()
    })
    this.show()
  }

  /** Other tabs of this browser add to it, too: it is read anew each time. */
  add (more: Amounts): void {
    try {
      localStorage.setItem(KEY, JSON.stringify(add(this.#read(), dayOf(new Date()), more)))
    } catch {
      this.#refused?.()
      this.#refused = null
    }
    this.show()
  }

  show (): void {
    const days = this.#read().reverse()
    element('history-note').textContent = WORDS[days.length === 0 ? 'historyEmpty' : 'historyNote'] ?? ''
    element('history-table').hidden = element('history-delete').hidden = days.length === 0
    element('history-rows').replaceChildren(...days.slice(0, 14).map(day => {
      const row = made('tr')
      const texts = [day.day, duration(day.seconds), String(day.tokens), String(day.requests), size(day.received), size(day.sent), energy(day.energy)]
      for (const text of texts) row.insertCell().textContent = text
      return row
    }))
  }

  #read (): Day[] {
    try { return readDays(localStorage.getItem(KEY)) } catch { return [] }
  }
}
