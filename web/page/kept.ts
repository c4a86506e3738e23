// What this browser keeps of models, by model, and buttons that delete it.
// Rule of the file: it looks without storing anything; what a serving tab has in memory it goes on serving.

import { type CacheEntry, cacheEntries, clearCache } from '../sdk/index.ts'
import { Latest } from './latest.ts'
import { element, KEPT, made } from './words.ts'

/** One model: how many of its blocks, all bytes (with its first and last layer), the last use in unix ms. */
export interface KeptModel { model: string, blocks: number, bytes: number, lastUsed: number }

export function byModel (entries: readonly CacheEntry[]): KeptModel[] {
  const models = new Map<string, KeptModel>()
  for (const { model, block, bytes, lastUsed } of entries) {
    const before = models.get(model) ?? { model, blocks: 0, bytes: 0, lastUsed: 0 }
    models.set(model, { model, blocks: before.blocks + (block === null ? 0 : 1), bytes: before.bytes + bytes, lastUsed: Math.max(before.lastUsed, lastUsed) })
  }
  return [...models.values()]
}

let shown = ''
const looks = new Latest()

/** Show what is kept now; what is shown already stays, with whoever's focus is on it. */
export async function showKept (): Promise<void> {
  const isNews = looks.ask()
  const models = byModel(await cacheEntries().catch(() => []))
  if (!isNews() || shown === JSON.stringify(models)) return
  shown = JSON.stringify(models)
  element('kept-note').textContent = models.length === 0 ? KEPT.empty : KEPT.note
  element('kept-delete').hidden = models.length === 0
  element('kept-models').replaceChildren(...models.map(({ model, blocks, bytes, lastUsed }) => {
    const button = Object.assign(made('button', KEPT.remove), { type: 'button', ariaLabel: KEPT.removeOf(model) })
    button.addEventListener('click', () => { void removeKept({ model }) })
    return made('li', '', made('span', KEPT.model(model, blocks, bytes, new Date(lastUsed))), button)
  }))
}

/** Delete what is kept of a model, or of all. */
export async function removeKept (of: { model?: string }): Promise<void> {
  element('kept-note').textContent = KEPT.deleting
  const freed = await clearCache(of).catch(() => 0)
  await showKept()
  element('kept-note').textContent = KEPT.freed(freed)
  element('kept-title').focus()
}
