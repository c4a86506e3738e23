// STUN and TURN servers are checked before anything is started.

import assert from 'node:assert/strict'
import test from 'node:test'
import { readIceServers } from '../../web/sdk/ice.ts'

test('what RTCPeerConnection takes is taken, and nothing more is kept', () => {
  const turn = { urls: ['turn:t.example:3478?transport=tcp', 'turns:t.example:5349'], username: 'u', credential: 'c' }
  assert.deepEqual(readIceServers([{ urls: 'stun:s.example:3478', more: 1 }, turn], 'it'), [{ urls: ['stun:s.example:3478'] }, turn])
  assert.deepEqual(readIceServers(undefined, 'it'), [])
  assert.deepEqual(readIceServers([], 'it'), [])
})

for (const [what, wrong] of Object.entries({
  'no list': { urls: 'stun:s' },
  'too many': Array.from({ length: 9 }, () => ({ urls: 'stun:s' })),
  'another scheme': [{ urls: 'http://s' }],
  'no address': [{ urls: [] }],
  'a number': [{ urls: 7 }],
  'null': [null],
  'a long address': [{ urls: `stun:${'s'.repeat(300)}` }],
  'TURN without a secret': [{ urls: 'turn:t:1', username: 'u' }]
})) {
  test(`${what} is refused with a reason`, () => {
    assert.throws(() => readIceServers(wrong, 'http://x/'), /http:\/\/x\/ (names|must give)/)
  })
}
