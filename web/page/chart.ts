// Tokens a second over the last two minutes, as a line and as a sentence.

import { chartOf, element } from './words.ts'

const SAMPLES = 60
const EVERY = 2 // seconds
const WIDTH = 600
const HEIGHT = 120
const SPACE = 'http://www.w3.org/2000/svg'

/** Rates from totals: `add` is called every `EVERY` seconds or later, with the total so far. */
export class Rate {
  readonly #samples: number[] = []
  #last: { time: number, total: number } | null = null

  /** The rate since the last call, in units a second. */
  add (total: number, time: number): number {
    const before = this.#last
    this.#last = { time, total }
    if (before === null || time <= before.time) return 0
    const rate = Math.max(0, total - before.total) / (time - before.time)
    const missed = Math.min(SAMPLES, Math.max(1, Math.round((time - before.time) / EVERY))) // of a throttled page
    for (let index = 0; index < missed; index++) this.#samples.push(rate)
    this.#samples.splice(0, this.#samples.length - SAMPLES)
    return rate
  }

  get samples (): readonly number[] {
    return this.#samples
  }
}

export function draw (samples: readonly number[]): void {
  const chart = element<SVGElement>('chart')
  const most = Math.max(...samples, 0)
  const top = Math.max(most, 1) * 1.1
  const points = samples.map((value, index) => `${(SAMPLES - samples.length + index) * WIDTH / (SAMPLES - 1)},${HEIGHT - value / top * HEIGHT}`)
  const first = (SAMPLES - samples.length) * WIDTH / (SAMPLES - 1)
  const line = document.createElementNS(SPACE, 'polyline')
  const area = document.createElementNS(SPACE, 'polygon')
  line.setAttribute('points', points.join(' '))
  area.setAttribute('points', `${first},${HEIGHT} ${points.join(' ')} ${WIDTH},${HEIGHT}`)
  chart.replaceChildren(area, line)
  const said = chartOf(samples.at(-1) ?? 0, most, samples.reduce((sum, value) => sum + value, 0) / Math.max(1, samples.length))
  chart.setAttribute('aria-label', said)
  element('chart-caption').textContent = said
}
