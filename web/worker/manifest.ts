// The blobs that a model's manifest names, for reading them before Python is there to ask.
// Rule of the file: nothing is believed here; Python reads the same text with every check, and asks by its own lights.

import type { Known } from '../bridge/store.ts'

interface Manifest { name: string, tensors: Record<string, { sha256: string, length: number }> }

/** All blobs, in the order of the blocks, what is of no block first. */
export function blobsOf (manifest: string): Known[] {
  const { name, tensors } = JSON.parse(manifest) as Manifest
  return Object.entries(tensors).map(([tensor, { sha256, length }]) => {
    const [, block] = tensor.match(/^model\.layers\.(\d+)\./) ?? []
    return { digest: sha256, length, model: name, block: block === undefined ? null : Number(block) }
  }).sort((a, b) => (a.block ?? -1) - (b.block ?? -1))
}

/** Those of START:END, or of all blocks; none where the blocks are yet to be chosen. */
export function blobsIn (blobs: readonly Known[], blocks: string): Known[] {
  const [, start = '0', end = 'Infinity'] = blocks.match(/^(\d+):(\d+)$/) ?? []
  if (blocks.startsWith('auto')) return []
  return blobs.filter(({ block }) => block !== null && block >= Number(start) && block < Number(end))
}
