// What is kept of which model in this browser, and when it was last used: an index beside the blobs in OPFS.
// Rule of the file: the folder's files are the truth. A row without its file counts for nothing, and a file without a
// row is of no model that is known; so whoever deletes files need not write the index, which only workers can.

export const FOLDER = 'blobs'
export const INDEX = 'index.json'
export const PART = '.part' // behind the digest of a blob that is not whole yet
const LOCK = 'kwaainet-kept' // held while the index is written

declare global {
  /** Of the worker library, which cannot be loaded beside the page's. */
  interface FileSystemFileHandle { createSyncAccessHandle: () => Promise<SyncAccessHandle> }
}
export interface SyncAccessHandle {
  getSize: () => number
  truncate: (size: number) => void
  write: (data: Uint8Array, options?: { at: number }) => number
  flush: () => void
  close: () => void
}

/** Whose a file is; `block` is null for what is of no block, such as the embedding. */
export interface Owner { model: string, block: number | null }

/** What is known of one file; `used` is unix milliseconds. */
export interface Row extends Owner { bytes: number, used: number }

const asked = new Set<{ what: object }>()

/**
 * The answer to `question`, with `what` held until it is there. Chromium 156 was seen to leave questions unanswered whose
 * handle nobody else had (a start stood still in 4 of some 35 visits, and in none of 60 since): a function that only
 * waits for an answer need not keep what it has asked.
 */
export async function ask<What extends object, Answer> (what: What, question: (what: What) => Promise<Answer>): Promise<Answer> {
  const held = { what }
  asked.add(held)
  try {
    return await question(what)
  } finally {
    asked.delete(held)
  }
}

/** The folder of blobs, made at first use. */
export async function openFolder (): Promise<FileSystemDirectoryHandle> {
  return await ask(await navigator.storage.getDirectory(), async root => await root.getDirectoryHandle(FOLDER, { create: true }))
}

/** The same if there is one: whoever only looks stores nothing. */
export async function findFolder (): Promise<FileSystemDirectoryHandle | null> {
  return await ask(await navigator.storage.getDirectory(), async root => await root.getDirectoryHandle(FOLDER)).catch(() => null)
}

/** Delete all there is in one pass, the index with it; false where a browser refuses: one of the files is being written. */
export async function emptyFolder (): Promise<boolean> {
  const root = await navigator.storage.getDirectory()
  const emptied = await ask(root, async () => { await root.removeEntry(FOLDER, { recursive: true }) }).then(() => true, () => false)
  if (emptied) await openFolder() // for workers that have it open: their handle is of whatever has this name
  return emptied
}

/** All files by name, with what is known of them. */
export async function readRows (folder: FileSystemDirectoryHandle): Promise<Map<string, Row>> {
  return await ask(folder, rowsOf)
}

async function rowsOf (folder: FileSystemDirectoryHandle): Promise<Map<string, Row>> {
  const known = await readIndex(folder)
  const rows = new Map<string, Row>()
  for await (const [name, handle] of folder.entries()) {
    if (name === INDEX || handle.kind !== 'file') continue
    const row = known[name]
    if (isRow(row)) rows.set(name, row)
    else {
      const file = await fileOf(handle as FileSystemFileHandle).catch(() => null) // it may go meanwhile
      if (file !== null) rows.set(name, { model: '', block: null, bytes: file.size, used: file.lastModified })
    }
  }
  return rows
}

/** Write `rows` into the index beside those that others have written; the later use counts. Only in workers. */
export async function writeRows (folder: FileSystemDirectoryHandle, rows: ReadonlyMap<string, Row>): Promise<void> {
  await navigator.locks.request(LOCK, async () => {
    const merged: Record<string, Row> = {}
    for (const [name, row] of await readRows(folder)) {
      const ours = rows.get(name)
      merged[name] = ours === undefined || (ours.used < row.used && row.model !== '') ? row : ours
    }
    const access = await accessTo(await folder.getFileHandle(INDEX, { create: true }))
    try {
      access.truncate(0)
      access.write(new TextEncoder().encode(JSON.stringify(merged)))
    } finally {
      access.close()
    }
  })
}

/** What `handle` is of, to be read. */
export async function fileOf (handle: FileSystemFileHandle): Promise<File> {
  return await ask(handle, async () => await handle.getFile())
}

/** The same to be written by nobody else meanwhile. Only in workers. */
export async function accessTo (handle: FileSystemFileHandle): Promise<SyncAccessHandle> {
  return await ask(handle, async () => await handle.createSyncAccessHandle())
}

async function readIndex (folder: FileSystemDirectoryHandle): Promise<Record<string, unknown>> {
  try {
    const file = await fileOf(await folder.getFileHandle(INDEX))
    return JSON.parse(await ask(file, async () => await file.text())) as Record<string, unknown>
  } catch {
    return {} // none yet, or one that was cut short: files are found without it
  }
}

function isRow (value: unknown): value is Row {
  const row = value as Partial<Row> | undefined
  return typeof row?.model === 'string' && typeof row.bytes === 'number' && typeof row.used === 'number' &&
    (row.block === null || typeof row.block === 'number')
}
