// What a host page's one line asks for: what applies reaches the frame's address, what does not is said aloud.

import assert from 'node:assert/strict'
import { test } from 'node:test'

const placed: any[] = []
const told: string[] = []

class FakeScript {
  readonly src = 'https://relay.example/embed.js?v=1'
  readonly dataset = {
    services: 'compute, storage,carbon', maxResources: 'cpu:20,memory:1024,storage:5000,gpu:9', privacyCompliant: 'gdpr', rewardSplit: '70/30', greenBonus: 'true', theme: 'dark', other: 'x'
  }

  after (frame: object): void { placed.push(frame) }
}

test('attributes apply to the frame or are ignored aloud', async () => {
  Object.assign(globalThis, {
    HTMLScriptElement: FakeScript,
    document: { currentScript: new FakeScript(), createElement: () => ({ style: {} }) },
    addEventListener () {}
  })
  console.info = (text: string) => { told.push(text) }
  await import('../../web/sdk/embed.ts')
  const address = new URL(placed[0].src)
  assert.equal(address.origin + address.pathname, 'https://relay.example/embed.html')
  assert.deepEqual(Object.fromEntries(new URLSearchParams(address.hash.slice(1))), { cpu: '20', memory: '1024', storage: '5000', theme: 'dark' })
  assert.equal(told.length, 6)
  for (const [index, about] of ['storage, carbon', 'gpu:9', 'data-privacy-compliant', 'data-reward-split', 'data-green-bonus', 'no such attribute'].entries()) {
    assert.ok(told[index]?.includes(about), `${told[index]} should name ${about}`)
  }
})
