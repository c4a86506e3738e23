// A visitor's consent to contribute to one relay: kept in this browser until it expires or is withdrawn.
// Rule of the file: nothing is stored before `give`; a browser that keeps nothing asks each time.

const PREFIX = 'kwaainet-consent:'
const DAYS = 90
const DAY = 86_400_000 // ms

/** Until when the visitor has consented, or null. */
export function consentUntil (relay: string, now = Date.now()): Date | null {
  try {
    const until = Number(localStorage.getItem(PREFIX + relay))
    return until > now && until <= now + DAYS * DAY ? new Date(until) : null
  } catch {
    return null
  }
}

export function giveConsent (relay: string, now = Date.now()): void {
  try {
    localStorage.setItem(PREFIX + relay, String(now + DAYS * DAY))
  } catch { /* the visitor is asked again next time */ }
}

export function withdrawConsent (relay: string): void {
  try {
    localStorage.removeItem(PREFIX + relay)
  } catch { /* nothing was kept */ }
}
