// For whom this tab has computed: its last receipts, the newest first.
// Rule of the file: they are of this visit and kept nowhere; ids came from outside and are shown as text only.

import type { Receipt } from '../sdk/index.ts'
import { element, made, RECEIPTS } from './words.ts'

const MOST = 5

export function showReceipt (receipt: Receipt): void {
  const list = element('receipts')
  const { peer, kind, tokens, started, ended, code } = receipt
  const line = made('li', RECEIPTS.line(ended, peer, kind, tokens, (ended.getTime() - started.getTime()) / 1000, code))
  line.title = peer
  list.prepend(line)
  while (list.children.length > MOST) list.lastElementChild?.remove()
  element('served').hidden = false
}
