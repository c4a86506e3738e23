// Consent is for one relay, expires, and is not believed beyond what it can have been given for.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { consentUntil, giveConsent, withdrawConsent } from '../../web/sdk/consent.ts'

const DAY = 86_400_000
const RELAY = 'https://relay.example'
const kept = new Map<string, string>()
const storage = {
  getItem: (key: string) => kept.get(key) ?? null,
  setItem: (key: string, value: string) => { kept.set(key, value) },
  removeItem: (key: string) => { kept.delete(key) }
}

test('it lasts 90 days, for one relay, until it is withdrawn', () => {
  Object.assign(globalThis, { localStorage: storage })
  assert.equal(consentUntil(RELAY, 0), null)
  giveConsent(RELAY, 0)
  assert.deepEqual(consentUntil(RELAY, DAY), new Date(90 * DAY))
  assert.equal(consentUntil('https://other.example', DAY), null)
  assert.equal(consentUntil(RELAY, 90 * DAY), null, 'it has expired')
  withdrawConsent(RELAY)
  assert.equal(kept.size, 0)
})

test('a date that nobody can have agreed to is none, and a browser that keeps nothing asks each time', () => {
  Object.assign(globalThis, { localStorage: storage })
  kept.set(`kwaainet-consent:${RELAY}`, String(400 * DAY))
  assert.equal(consentUntil(RELAY, DAY), null)
  Object.assign(globalThis, { localStorage: { getItem () { throw new Error('denied') }, setItem () { throw new Error('denied') } } })
  giveConsent(RELAY, 0)
  assert.equal(consentUntil(RELAY, 0), null)
})
