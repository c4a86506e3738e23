// The limits of a node, checked, and how things are with this machine as far as the browser tells: battery, metered
// network, hidden page, local time. Whether that pauses a running node is decided in the node (kwaainet.node.limits).
// Rule of the file: what a browser does not tell limits nothing.

import type { PauseReason, SetLimits } from '../worker/node_messages.ts'
import type { Limits } from './events.ts'

const TIME = /^([01]\d|2[0-3]):([0-5]\d)$/
const CHOICES = ['pause', 'continue']
const MOST_HOURS = 16
const BATTERY_PATIENCE = 1000 // ms
const MINUTE = 60_000

interface Battery extends EventTarget { charging: boolean }
interface NetworkInformation extends EventTarget { saveData?: boolean, type?: string }
type Surroundings = Navigator & { getBattery?: () => Promise<Battery>, connection?: NetworkInformation }

/** How things are with the machine. `minute`: of the local day. */
export interface Facts { onBattery: boolean, metered: boolean, hidden: boolean, minute: number, utcOffset: number }

/** `changes` over `limits`, checked; throws a TypeError whose text is for people. */
export function readLimits (limits: Limits, changes: Limits = {}): Limits {
  const all = { ...limits, ...changes }
  const { duty, memoryBytes, hours = [] } = all
  if (duty !== undefined && !(duty > 0 && duty <= 1)) throw new TypeError(`limits.duty is ${duty}; give a number above 0 and at most 1`)
  if (memoryBytes !== undefined && !(Number.isSafeInteger(memoryBytes) && memoryBytes > 0)) throw new TypeError(`limits.memoryBytes is ${memoryBytes}; give a whole number of bytes`)
  if (!Array.isArray(hours) || hours.length > MOST_HOURS || !hours.every(({ from, to }) => TIME.test(from) && TIME.test(to))) {
    throw new TypeError(`limits.hours must be a list of at most ${MOST_HOURS} { from: "HH:MM", to: "HH:MM" }`)
  }
  for (const name of ['onBattery', 'onMetered', 'whenHidden'] as const) {
    const choice = all[name]
    if (choice !== undefined && !CHOICES.includes(choice)) throw new TypeError(`limits.${name} is ${choice}; give pause or continue`)
  }
  return all
}

/** What the node worker is told. */
export function limitsMessage (limits: Limits, facts: Facts, paused: boolean): SetLimits {
  const { duty = 1, memoryBytes = 0, onBattery = 'pause', onMetered = 'pause', whenHidden = 'continue' } = limits
  return {
    type: 'limits',
    paused,
    duty,
    memory: memoryBytes,
    hours: minutesOf(limits),
    pause_on_battery: onBattery === 'pause',
    pause_on_metered: onMetered === 'pause',
    pause_when_hidden: whenHidden === 'pause',
    on_battery: facts.onBattery,
    metered: facts.metered,
    hidden: facts.hidden,
    utc_offset: facts.utcOffset
  }
}

/** Why a node may not even load now: the same rules as a running node's, so that a metered line carries nothing. */
export function reasonsAgainst (limits: Limits, facts: Facts, paused: boolean): PauseReason[] {
  const { onBattery = 'pause', onMetered = 'pause', whenHidden = 'continue' } = limits
  const hours = minutesOf(limits)
  const within = hours.length === 0 || hours.some(([from = 0, to = 0]) => from < to ? from <= facts.minute && facts.minute < to : from <= facts.minute || facts.minute < to)
  const against: Array<[PauseReason, boolean]> = [
    ['asked', paused],
    ['hours', !within],
    ['battery', facts.onBattery && onBattery === 'pause'],
    ['metered', facts.metered && onMetered === 'pause'],
    ['hidden', facts.hidden && whenHidden === 'pause']
  ]
  return against.filter(([, holds]) => holds).map(([reason]) => reason)
}

function minutesOf ({ hours = [] }: Limits): number[][] {
  return hours.map(({ from, to }) => [from, to].map(time => {
    const [, hour, minute] = TIME.exec(time) ?? []
    return Number(hour) * 60 + Number(minute)
  }))
}

/** Watches the machine until `signal` aborts; `changed` is called whenever something may have changed, and each minute.
 * A battery that does not answer (Chromium's sometimes never does) is none, until it does. */
export async function watchMachine (signal: AbortSignal, changed: () => void): Promise<() => Facts> {
  const { getBattery, connection } = navigator as Surroundings
  let battery: Battery | null = null
  const answered = getBattery?.call(navigator).then(one => {
    battery = one
    if (signal.aborted) return
    one.addEventListener('chargingchange', changed, { signal })
    changed()
  }).catch(() => {})
  await Promise.race([answered, new Promise(resolve => setTimeout(resolve, BATTERY_PATIENCE))])
  if (!signal.aborted) {
    connection?.addEventListener?.('change', changed, { signal })
    document.addEventListener('visibilitychange', changed, { signal })
    const timer = setInterval(changed, MINUTE)
    signal.addEventListener('abort', () => { clearInterval(timer) })
  }
  return () => {
    const now = new Date()
    return {
      onBattery: battery?.charging === false,
      metered: connection?.saveData === true || connection?.type === 'cellular',
      hidden: document.hidden,
      minute: now.getHours() * 60 + now.getMinutes(),
      utcOffset: -now.getTimezoneOffset()
    }
  }
}
