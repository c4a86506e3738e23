// Which connection carries a stream, who begins a direct one, and what happens when that fails.

import assert from 'node:assert/strict'
import test from 'node:test'
import { bestLink, isOurTurn, type Link, pauseAfter, Upgrades } from '../../web/bridge/direct.ts'
import { settle } from './stream_pair.ts'

interface NamedLink extends Link { name: string }

const link = (name: string, fields: Partial<Link> = {}): NamedLink => ({ name, direct: false, ours: true, idle: true, ...fields })
const circuit = link('circuit')
const theirCircuit = link('their circuit', { ours: false })
const direct = link('direct', { direct: true })
const theirDirect = link('their direct', { direct: true, ours: false })

/** A peer `b` with links that a test sets, and attempts that it settles. */
class Peer {
  links: NamedLink[] = []
  readonly attempts: Array<{ succeed: () => void, fail: () => void }> = []
  readonly closed: string[] = []
  now = 0
  readonly upgrades: Upgrades<NamedLink>

  constructor (self = 'a') {
    this.upgrades = new Upgrades(self, {
      links: () => this.links,
      connect: async () => {
        await new Promise<void>((resolve, reject) => {
          this.attempts.push({ succeed: () => { this.links.push(direct); resolve() }, fail: () => { reject(new Error('no way')) } })
        })
      },
      close: closed => { this.closed.push(closed.name) }
    }, () => this.now)
  }
}

test('a direct connection is best, and of two the one that the first id began, at both ends', () => {
  assert.equal(bestLink([], true), null)
  assert.equal(bestLink([circuit, theirCircuit], true), circuit)
  assert.equal(bestLink([circuit, theirDirect], true), theirDirect)
  assert.equal(bestLink([theirDirect, direct], true), direct)
  assert.equal(bestLink([theirDirect, direct], false), theirDirect)
})

test('who dialled begins; if both did, the first id; nobody where there is a direct one', () => {
  assert.equal(isOurTurn([circuit], false), true)
  assert.equal(isOurTurn([theirCircuit], true), false)
  assert.equal(isOurTurn([circuit, theirCircuit], true), true)
  assert.equal(isOurTurn([circuit, theirCircuit], false), false)
  assert.equal(isOurTurn([circuit, theirDirect], true), false)
  assert.equal(isOurTurn([], true), false)
})

test('a peer that speaks WebRTC is upgraded once, others are not', async () => {
  const peer = new Peer()
  peer.links = [circuit]
  peer.upgrades.identified('b', false)
  assert.equal(peer.attempts.length, 0)
  peer.upgrades.identified('b', true)
  peer.upgrades.changed('b')
  assert.equal(peer.attempts.length, 1, 'not again while the first is under way')
  peer.attempts[0]!.succeed()
  await settle()
  assert.equal(peer.upgrades.best('b'), direct)
  assert.equal(peer.attempts.length, 1)
})

test('a stream waits for the first direct connection, and not when it failed or cannot be', async () => {
  const peer = new Peer()
  peer.links = [circuit]
  let waited = false
  const waiting = peer.upgrades.settled('b', 60_000).then(() => { waited = true })
  peer.upgrades.identified('b', true)
  await settle()
  assert.equal(waited, false)
  peer.attempts[0]!.fail()
  await waiting
  await peer.upgrades.settled('b', 60_000)
  peer.upgrades.identified('c', false)
  await peer.upgrades.settled('c', 60_000)
})

test('a stream does not wait longer than its patience', async () => {
  const peer = new Peer()
  peer.links = [circuit]
  await peer.upgrades.settled('b', 1)
  await peer.upgrades.settled('b', 60_000) // one that was waited for in vain is not waited for again
  peer.links = []
  peer.upgrades.changed('b')
  peer.links = [circuit]
  let waited = false
  const waiting = peer.upgrades.settled('b', 60_000).then(() => { waited = true })
  await settle()
  assert.equal(waited, false, 'it may have come back another')
  peer.links = [circuit, theirDirect]
  peer.upgrades.changed('b')
  await waiting
})

test('after a failure it is tried again, each time later', async () => {
  const peer = new Peer()
  peer.links = [circuit]
  peer.upgrades.identified('b', true)
  for (let failures = 1; failures <= 3; failures++) {
    peer.attempts.at(-1)!.fail()
    await settle()
    peer.now += pauseAfter(failures) - 1
    peer.upgrades.tick()
    assert.equal(peer.attempts.length, failures)
    peer.now += 1
    peer.upgrades.tick()
    assert.equal(peer.attempts.length, failures + 1)
  }
  assert.equal(pauseAfter(1000), pauseAfter(1001), 'there is a longest pause')
})

test('a direct connection that is lost is made anew, but not at once', async () => {
  const peer = new Peer()
  peer.links = [circuit]
  peer.upgrades.identified('b', true)
  peer.attempts[0]!.succeed()
  await settle()
  peer.links = [circuit]
  peer.upgrades.changed('b')
  assert.equal(peer.attempts.length, 1)
  assert.equal(peer.upgrades.best('b'), circuit)
  peer.now += pauseAfter(1)
  peer.upgrades.tick()
  assert.equal(peer.attempts.length, 2)
})

test('of two direct connections the loser is closed by who began it, once nothing is on it', () => {
  const peer = new Peer('z')
  const busy = link('busy', { direct: true, idle: false })
  peer.links = [busy, theirDirect]
  peer.upgrades.identified('b', true)
  peer.upgrades.tick()
  assert.deepEqual(peer.closed, [])
  busy.idle = true
  peer.upgrades.tick()
  assert.deepEqual(peer.closed, ['busy'])
})

test('attempts under way at once are bounded', () => {
  const peer = new Peer()
  peer.links = [circuit]
  for (let number = 0; number < 100; number++) peer.upgrades.identified(`b${number}`, true)
  assert.equal(peer.attempts.length, 8)
})
