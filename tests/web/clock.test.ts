// A worker's time where its machine's clock is wrong.

import assert from 'node:assert/strict'
import { afterEach, test } from 'node:test'
import { setClock } from '../../web/bridge/clock.ts'

const RealDate = Date
const real = Date.now

afterEach(() => {
  globalThis.Date = RealDate
  Date.now = real
})

test('a clock that is right is left alone', () => {
  setClock(0)
  assert.equal(Date.now, real)
  assert.equal(Date, RealDate)
})

for (const ahead of [3600, -3600]) {
  test(`${ahead} s ahead, the relay's time counts, in whole milliseconds, and goes on when the clock is set right`, () => {
    let error = 1000 * ahead
    Date.now = () => real() + error
    setClock(ahead)
    assert.ok(Math.abs(Date.now() - real()) < 5000)
    assert.ok(Math.abs(new Date().getTime() - real()) < 5000)
    assert.equal(new Date(7).getTime(), 7)
    assert.ok(new Date() instanceof Date)
    assert.ok(Number.isInteger(Date.now()))
    error = 0
    assert.ok(Math.abs(Date.now() - real()) < 5000)
  })
}
